"""What it costs to be asked about opens and execs: `python bench/permit.py` (root, runc).

A container opens one file, and one that a policy names, and runs a program, again and again. µs an
operation, the median of rounds that take turns: not guarded; guarded, and no policy could hold for
it, so that nothing is marked; guarded by a policy about another file, and the opens that it blocks.
`cpu` is the answering process's own, µs an event.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from hullwatch.permits.doorkeeper import Doorkeeper  # noqa: E402
from hullwatch.permits.messages import Counts  # noqa: E402
from support import images  # noqa: E402
from support.runc import Container, Runc  # noqa: E402

OPENS = """
import os, time
def cost(path):
    began = time.perf_counter_ns()
    for _ in range({count}):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            pass
    return (time.perf_counter_ns() - began) / {count} / 1000
def runs():
    began = time.perf_counter_ns()
    for _ in range({count} // 50):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {{}}), 0)
    return (time.perf_counter_ns() - began) / ({count} // 50) / 1000
print(cost("/etc/hostname"), cost("/etc/named"), runs())
"""
NAMES = ("open", "open, named", "exec")
HEAD = 'forbid (principal, action in [Action::"open-read", Action::"exec"], resource) when {'
STATES = {
    "not guarded": "",
    "no policy for it": f'{HEAD} context has kind && context.kind == "other" }};',
    "guarded": f'{HEAD} resource.path == "/etc/named" }};',
}


class Guarded:
    """The container under a set of policies."""

    def __init__(self, container: Container, policies: str, folder: Path) -> None:
        self.counts = Counts({})
        self.keeper = Doorkeeper(folder)
        self.keeper.policies([(policies, "bench.cedar")])
        self.keeper.watch(container.id, "bench", container.cgroups()[""])
        self.until(lambda: bool(self.counts.version and self.counts.guarded))

    def until(self, question: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not question():
            if time.monotonic() > deadline:
                raise TimeoutError("the doorkeeper does not answer")
            for message in self.keeper.take():
                if isinstance(message, Counts):
                    self.counts = message
            time.sleep(0.01)

    def cpu(self) -> float:
        """s of the process that answers."""
        fields = Path(f"/proc/{self.counts.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(container: Container, state: str, count: int, folder: Path) -> dict[str, float]:
    guarded = Guarded(container, STATES[state], folder) if STATES[state] else None
    try:
        before = guarded.cpu() if guarded else 0.0
        done = container.exec(["python3", "-c", OPENS.format(count=count)], seconds=600)
        found = dict(zip(NAMES, map(float, done.stdout.split()), strict=True))
        if guarded and state == "guarded":
            guarded.until(lambda: guarded.counts.counts["events"] >= 2 * count)
            spent = guarded.cpu() - before
            found["cpu"] = 1e6 * spent / guarded.counts.counts["events"]
        return found
    finally:
        if guarded:
            guarded.keeper.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds: dict[str, dict[str, list[float]]] = {state: {} for state in STATES}
    with tempfile.TemporaryDirectory() as folder, Runc(images.build(images.PYTHON)) as runc:
        container = runc.start(["sleep", "3600"], name="bench")
        (container.bundle.rootfs / "etc/named").write_text("x")
        for _ in range(options.rounds):
            for state, found in rounds.items():
                measured = measure(container, state, options.count, Path(folder))
                for name, value in measured.items():
                    found.setdefault(name, []).append(value)
    for state, found in rounds.items():
        row = {name: round(statistics.median(values), 2) for name, values in found.items()}
        if options.json:
            print(json.dumps({"state": state, **row}))
        else:
            print(
                f"{state:<20}" + "".join(f"  {name} {value:>8.2f}" for name, value in row.items())
            )


if __name__ == "__main__":
    main()
