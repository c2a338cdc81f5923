"""What policies in force cost those who are held to them:

    python bench/guard.py [--calls N] [--rounds N] [--json]          (root)

A process in a cgroup and mount namespace of its own, as a container has them, calls exec, open and
connect: without a sensor; with one and no set; while a set is in force that does not hold it; and
held to 10, 100 and 1,000 policies. What is allowed, then what is blocked. The last two take turns
within a round; ratios are to what is not held. Then a decision in the kernel: what a connect
takes longer than the median one that is not held, so that its p99 has the connect's own in it; and
how long it takes until a set, and a container of a new kind, has its answers.
`bench/decisions.py` shows this beside what asks Cedar and what waits for people.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from figures import Figures, Kind, cut, in_turns, note

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
    ("use-secret", "Secret", 'resource has kind && resource.kind == "kind{n}"'),
)
# Of each kind one that stops what the calls named `blocked` do.
STOPS = (
    'resource.name == "forbidden"',
    'resource.name == "198.51.100.9"',
    'resource.path like "*/forbidden-file"',
    'resource has ip && resource.ip.isInRange(ip("198.51.100.0/24"))',
    'resource has kind && resource.kind == "wallet"',
)
BASE = "no policy holds it"
CALLS = tuple(
    Kind(name, "µs")
    for name in (
        *("exec", "exec, blocked", "open", "open, blocked"),
        *("connect TCP", "connect UDP", "connect UDP, blocked"),
    )
)
DECISION = Kind("a decision in the kernel", "ns")
APPLIED = Kind("a set that is applied, until its answers are there", "ms")
NEW = Kind("a container of a new kind, until its answers are there", "ms")
DECIDED = "connect UDP"  # does nothing else that takes time
BLOCKS = 4  # of the calls of a round: with and without policies take turns in them
WORKER = r"""
import json, os, socket, sys, time
folder, count = sys.argv[1], int(sys.argv[2])
server = socket.create_server(("127.0.0.1", 0), backlog=512)
near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))

def spawn(name):
    try:
        pid = os.posix_spawn(f"{folder}/{name}", [name], {})
    except PermissionError:
        return True
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


class Times:
    """ns of each call; and what was stopped, each time."""

    def __init__(self) -> None:
        self.ns: dict[str, list[float]] = {}
        self.stopped = {kind.name for kind in CALLS}

    def add(self, found: dict[str, dict[str, Any]]) -> None:
        for call, one in found.items():
            self.ns.setdefault(call, []).extend(one["ns"])
            if not one["stopped"]:
                self.stopped.discard(call)


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


def turn(group: Path, folder: Path, count: int, kinds: int, figures: Figures) -> None:
    """One round. kinds: new containers for each number of policies."""
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
    cgroup = group.stat().st_ino
    some = count // BLOCKS

    def watch() -> None:
        sensor.drain()
        guarding.tick()

    def bare(into: Times) -> None:
        into.add(measured(group, folder, some, lambda: None))

    def base(into: Times) -> None:
        guarding.gone([cgroup])
        until(lambda: guarding.stats()["guarded"] == 0, watch)
        into.add(measured(group, folder, some, watch))

    def held(into: Times) -> None:
        guarding.found([container(0, cgroup)])
        until(lambda: guarding.stats()["guarded"] == 1, watch)
        into.add(measured(group, folder, some, watch))

    without = Times()
    for _ in range(BLOCKS):
        bare(without)
    try:
        sensor.start()
        sensor.drain()
        figures.head["tier"] = sensor.facts.tier.value
        idle = Times()
        for _ in range(BLOCKS):
            idle.add(measured(group, folder, some, watch))
        guarding.start()
        for size in SIZES:
            way = f"{size:,} policies"
            note(f"  {way}")
            follow.next = engine = policies(size)
            version = engine.version
            until(lambda version=version: guarding.stats()["version"] == version, watch)  # type: ignore[misc]
            if unheld := guarding.stats()["unheld"]:
                raise SystemExit(f"not held: {unheld}")
            times, others = Times(), Times()
            for _ in range(BLOCKS):
                base(others)
                held(times)
            unstopped(times, figures)
            if size == SIZES[0]:
                tell("no sensor", without, others, figures)
                tell("no set in force", idle, others, figures)
            tell(BASE, others, others, figures)
            tell(way, times, others, figures)
            usual = cut(others.ns[DECIDED]).p50
            figures.add(DECISION, way, cut(times.ns[DECIDED]).beyond(usual))
            figures.add(APPLIED, way, cut([guarding.filled * 1e9]))
            figures.add(NEW, way, cut([filled(guarding, cgroup, n) for n in range(kinds)]))
            guarding.gone([cgroup])
    finally:
        guarding.close()
        sensor.close()


def filled(guarding: Guarding, cgroup: int, number: int) -> float:
    """ns until a container is held. Those of a round have names, and so answers, of their own."""
    began = time.perf_counter_ns()
    other = container(number + 1, cgroup + number + 1)
    guarding.found([other])
    until(lambda: guarding.stats()["guarded"] == 2, lambda: None, 0.0005)
    took = time.perf_counter_ns() - began
    guarding.gone([other.cgroup])
    until(lambda: guarding.stats()["guarded"] == 1, lambda: None)
    return took


def unstopped(times: Times, figures: Figures) -> None:
    """What policies ought to stop, and do not here, is not measured."""
    for kind in CALLS:
        if kind.name.endswith("blocked") and kind.name not in times.stopped:
            tier = figures.head["tier"]
            why = f"nothing stops it on the {tier} tier; in a guest: tests/vm/run.py"
            figures.missing[kind.name] = why


def tell(way: str, times: Times, base: Times, figures: Figures) -> None:
    """Of one round. base: what took turns with it."""
    for kind in CALLS:
        if kind.name not in figures.missing:
            figures.add(kind, way, cut(times.ns[kind.name]), cut(base.ns[kind.name]))


def until(done: Callable[[], bool], watch: Callable[[], object], pause: float = 0.02) -> None:
    limit = time.monotonic() + 600
    while not done():
        if time.monotonic() > limit:
            raise SystemExit("it did not come into force within ten minutes")
        watch()
        time.sleep(pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000, help="opens and connects a turn")
    parser.add_argument("--kinds", type=int, default=5, help="of new containers a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = Figures()
    with place() as (group, folder):
        once = partial(turn, group, folder, options.calls, options.kinds, figures)
        in_turns(options.rounds, [("policies in the kernel", once)])
    figures.show(options.rounds, options.json)


if __name__ == "__main__":
    main()
