"""What policies in force cost those who are held to them, and how long a decision takes:

    python bench/guard.py [--calls N] [--rounds N] [--json]          (root)

A process in a cgroup and mount namespace of its own, as a container has them, calls exec, open and
connect: without a sensor, with one and no policy, and with 10, 100 and 1,000 policies that the
kernel holds it to; what is allowed, then what is blocked. All take turns within a round, and each
ratio is to the run without a sensor in the same round; medians of the rounds are shown. Then how
long decisions take: by the kernel (what a connect takes longer than with a sensor and no policy),
when a kind of container comes that is new, when a set is applied, and by the engine that the
gateway asks. What cannot be measured here is named, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decide import question, texts

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Log
from hullwatch.guarding import Guarding
from hullwatch.sensor.pins import Pins
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.tier import cgroup2_root

SIZES = (10, 100, 1_000)
KINDS = (
    ("exec", "Binary", 'resource.name == "program{n}"'),
    # Tells containers apart.
    (
        *("connect", "Host"),
        'resource.name like "*.host{n}.example" && context has container'
        ' && context.container != "other{n}"',
    ),
    ("open-read", "Path", 'resource.path like "/srv/area{n}/*"'),
    ("connect", "Address", 'resource has ip && resource.ip.isInRange(ip("10.{a}.{b}.0/24"))'),
)
# Of each kind one that stops what the calls named `blocked` do.
STOPS = (
    'resource.name == "forbidden"',
    'resource.name == "198.51.100.9"',
    'resource.path like "*/forbidden-file"',
    'resource has ip && resource.ip.isInRange(ip("198.51.100.0/24"))',
)
CALLS = (
    *("exec", "exec, blocked", "open", "open, blocked"),
    *("connect TCP", "connect UDP", "connect UDP, blocked"),
)
WORKER = r"""
import json, os, socket, sys, time
folder, count = sys.argv[1], int(sys.argv[2])
server = socket.create_server(("127.0.0.1", 0), backlog=512)
near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))

def spawn(name):
    pid = os.posix_spawn(f"{folder}/{name}", [name], {})
    return os.waitpid(pid, 0)[1] != 0

def opened(name):
    try:
        os.close(os.open(f"{folder}/{name}", os.O_RDONLY))
    except PermissionError:
        return True
    return False

def tcp():
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    began = time.perf_counter_ns()
    link.connect(server.getsockname())
    took = time.perf_counter_ns() - began
    link.close()
    server.accept()[0].close()
    return took

def datagram(link, address):
    try:
        link.connect((address, 9))
    except OSError as error:
        return isinstance(error, PermissionError)
    return False

calls = {
    "exec": (count // 20, lambda: spawn("allowed")),
    "exec, blocked": (count // 20, lambda: spawn("forbidden")),
    "open": (count, lambda: opened("allowed-file")),
    "open, blocked": (count, lambda: opened("forbidden-file")),
    "connect UDP": (count, lambda: datagram(near, "127.0.0.1")),
    "connect UDP, blocked": (count, lambda: datagram(far, "198.51.100.9")),
}
found = {}
for name, (times, call) in calls.items():
    took, stopped = [], 0
    for _ in range(times):
        began = time.perf_counter_ns()
        stopped += call()
        took.append(time.perf_counter_ns() - began)
    found[name] = {"ns": took, "stopped": stopped == times, "passed": not stopped}
found["connect TCP"] = {"ns": [tcp() for _ in range(count // 4)], "stopped": False, "passed": True}
print(json.dumps(found))
"""


class Set:
    """What the agent follows: one set after the other."""

    problem = ""

    def __init__(self) -> None:
        self.next: Engine | None = None
        self.none = False

    def follow(self) -> Engine | None:
        found, self.next = self.next, None
        return found


def policies(size: int) -> Engine:
    made = [
        f'@id("p{n}") forbid (principal, action == Action::"{action}", resource is {kind})'
        f" when {{ {STOPS[n] if n < len(STOPS) else condition.format(n=n, a=n >> 8, b=n & 255)} }};"
        for n in range(size)
        for action, kind, condition in (KINDS[n % len(KINDS)],)
    ]
    return Engine.of([("\n".join(made), "bench.cedar")])


def container(number: int, cgroup: int) -> Workload:
    return Workload(
        cgroup=cgroup,
        cgroup_path="/bench",
        state="resolved",
        container_id=f"{number:064x}",
        name=f"bench-{number}",
    )


@contextmanager
def place() -> Iterator[tuple[Path, Path]]:
    """A cgroup, and a folder with what is run and opened."""
    group = Path(cgroup2_root()) / f"bench-guard-{os.getpid()}"
    group.mkdir()
    try:
        with tempfile.TemporaryDirectory() as folder:
            program = Path("/bin/true").resolve().read_bytes()
            for name in ("allowed", "forbidden"):
                (Path(folder) / name).write_bytes(program)
                (Path(folder) / name).chmod(0o755)
                (Path(folder) / f"{name}-file").write_text("x")
            yield group, Path(folder)
    finally:
        group.rmdir()


def measured(
    group: Path, folder: Path, count: int, watch: Callable[[], object]
) -> dict[str, dict[str, Any]]:
    """Each call's times, in ns. watch: what an agent does meanwhile."""

    def join() -> None:
        (group / "cgroup.procs").write_text("0")

    command = ["unshare", "--mount", sys.executable, "-c", WORKER, str(folder), str(count)]
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=said, preexec_fn=join)
        while child.poll() is None:
            watch()
            time.sleep(0.02)
        if child.returncode:
            raise SystemExit(f"the calls ended with {child.returncode}")
        said.seek(0)
        found: dict[str, dict[str, Any]] = json.load(said)
        return found


def turn(group: Path, folder: Path, count: int, rows: dict[str, list[Any]]) -> str:
    """One round; the tier."""
    rows.setdefault("none", []).append(measured(group, folder, count, lambda: None))
    sensor = Sensor()
    follow = Set()
    guarding = Guarding(
        sensor.guard,
        follow,
        lambda: Log(folder / "log"),
        (),
        Pins(dict),  # nothing is to outlive this
        lambda one: None,
        lambda *_: None,
    )
    try:
        sensor.start()
        sensor.drain()

        def watch() -> None:
            sensor.drain()
            guarding.tick()

        rows.setdefault("no policy", []).append(measured(group, folder, count, watch))
        guarding.start()
        cgroup = group.stat().st_ino
        guarding.found([container(0, cgroup)])
        for size in SIZES:
            follow.next = engine = policies(size)
            until(lambda engine=engine: guarding.stats()["version"] == engine.version, watch)
            stats = guarding.stats()
            if stats["unheld"]:
                raise SystemExit(f"not held: {stats['unheld']}")
            rows.setdefault(f"{size:,} policies", []).append(measured(group, folder, count, watch))
            rows.setdefault("filled", []).append((size, stats["answers"], guarding.filled))
            began = time.perf_counter()
            other = container(1, cgroup + 1)
            guarding.found([other])
            until(lambda: guarding.stats()["guarded"] == 2, watch, 0.0005)
            rows.setdefault("new kind", []).append((size, time.perf_counter() - began))
            guarding.gone([other.cgroup])
            until(lambda: guarding.stats()["guarded"] == 1, watch)
        return sensor.facts.tier.value
    finally:
        guarding.close()
        sensor.close()


def until(done: Callable[[], bool], watch: Callable[[], object], pause: float = 0.02) -> None:
    limit = time.monotonic() + 120
    while not done():
        if time.monotonic() > limit:
            raise SystemExit("it did not come into force within two minutes")
        watch()
        time.sleep(pause)


def cuts(times: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    found = statistics.quantiles(times, n=100, method="inclusive")
    return found[49], found[98]


def asked(size: int, count: int) -> dict[str, tuple[float, float]]:
    """µs of a decision of the engine, as the gateway asks it."""
    engine = Engine.of([("\n".join(texts(size)), "bench.cedar")])
    found: dict[str, tuple[float, float]] = {}
    for name in ("asked", "cached"):
        took = []
        for number in range(count):
            one = question(number)
            began = time.perf_counter_ns()
            engine.decide(one)
            took.append((time.perf_counter_ns() - began) / 1000)
        found[name] = cuts(took)
    return found


def summary(rows: dict[str, list[Any]], tier: str) -> dict[str, Any]:
    modes = [mode for mode in rows if mode not in ("filled", "new kind")]
    calls: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for call in CALLS:
        held = [mode for mode in modes if mode.endswith("policies")]
        if call.endswith("blocked") and not all(
            one[call]["stopped"] for mode in held for one in rows[mode]
        ):
            missing[call] = f"nothing stops it on the {tier} tier; in a guest: tests/vm/run.py"
            continue
        calls[call] = {}
        for mode in modes:
            both = [cuts(one[call]["ns"]) for one in rows[mode]]
            ratios = [
                cut[0] / cuts(base[call]["ns"])[0]
                for cut, base in zip(both, rows["none"], strict=True)
            ]
            calls[call][mode] = {
                "p50_us": round(statistics.median(cut[0] for cut in both) / 1000, 2),
                "p99_us": round(statistics.median(cut[1] for cut in both) / 1000, 2),
                "ratio": round(statistics.median(ratios), 3),
            }
    decisions: dict[str, Any] = {}
    for mode in (mode for mode in modes if mode.endswith("policies")):
        added = [
            cuts(one["connect UDP"]["ns"])[0] - cuts(base["connect UDP"]["ns"])[0]
            for one, base in zip(rows[mode], rows["no policy"], strict=True)
        ]
        decisions[f"kernel, {mode}, ns"] = round(statistics.median(added))
    for size in SIZES:
        answers, took = zip(*((a, s) for n, a, s in rows["filled"] if n == size), strict=True)
        decisions[f"a set of {size:,} applied, ms"] = round(statistics.median(took) * 1e3, 1)
        decisions[f"a set of {size:,}, answers"] = answers[0]
        new = [took for n, took in rows["new kind"] if n == size]
        decisions[f"a new kind of container, {size:,} policies, ms"] = round(
            statistics.median(new) * 1e3, 1
        )
    missing["held until approved"] = "an approval holds calls at the gateway: bench/gateway.py"
    return {"tier": tier, "calls": calls, "decisions": decisions, "not measured": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000, help="opens and connects a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, list[Any]] = {}
    tier = ""
    with place() as (group, folder):
        for _ in range(options.rounds):
            tier = turn(group, folder, options.calls, rows)
    found = summary(rows, tier)
    engine = {size: asked(size, 2_000) for size in SIZES}
    for size, by in engine.items():
        for name, (p50, p99) in by.items():
            found["decisions"][f"engine, {size:,} policies, {name}, µs p50"] = round(p50, 1)
            found["decisions"][f"engine, {size:,} policies, {name}, µs p99"] = round(p99, 1)
    if options.json:
        print(json.dumps(found))
        return
    print(f"tier {found['tier']}; µs: p50, p99 (ratio of p50 to none)")
    for call, modes in found["calls"].items():
        print(call)
        for mode, row in modes.items():
            print(f"  {mode:<16} {row['p50_us']:>9.2f} {row['p99_us']:>9.2f} ({row['ratio']:.3f})")
    print("decisions")
    for name, value in found["decisions"].items():
        print(f"  {name:<52} {value:>10,}")
    for name, why in found["not measured"].items():
        print(f"not measured: {name}: {why}")


if __name__ == "__main__":
    main()
