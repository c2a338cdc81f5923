"""How many events a second the rule engine judges, on one core, and what that depends on.

    python bench/detect_throughput.py [--rules PATH ...] [--events N] [--only CASE ...]

Synthetic enriched batches (opens, connects, execs, forks, exits) with a given number of distinct
files, processes and addresses go through `Engine.process`; the time of making them is not
counted. CPU time of this process; ratios are to the first line of a case.

    rules      none, each set of content, all of it, and all with 10, 100, 1,000 synthetic rules
    distinct   more and more distinct strings, the same number of events
    repeats    more and more events, the same distinct strings
    scans      each process with four destinations of its own, or with any of all
    flood      strings that are never seen again, without end: time and memory
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from hullwatch.context.enriched import Enriched
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load
from hullwatch.detect.scene import START, WALL, Scene
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.syscalls import op_of
from hullwatch.sensor.wire import EVENT, Class

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "conformance"
CONTENT = {"falco": SHARED / "falco", "sigma": SHARED / "sigma", "own": ROOT / "rules"}
SYNTHETIC = """
- rule: synthetic {n}
  desc: a path and a process that nothing has
  condition: >
    evt.type in (open, openat) and fd.name startswith /srv/area{n}/ and container.id != host
    and not proc.name in (worker{n}, helper{n}) and proc.aname[2] != systemd
  output: synthetic %fd.name %proc.name
  priority: NOTICE
"""
TCP = 2 << 16 | 1 << 8 | 6
BATCH = 16_384
MIX = (
    (Class.OPEN, 0.60),
    (Class.CONNECT, 0.20),
    (Class.EXEC, 0.02),
    (Class.FORK, 0.06),
    (Class.EXIT, 0.12),
)


def make(
    events: int, files: int, processes: int, addresses: int, seed: int = 1, scan: bool = False
) -> list[Enriched]:
    """Batches over one scene. Dictionary ids and slots are drawn at random.

    scan: a process connects to any address, else to four of its own.
    """
    rng = np.random.default_rng(seed)
    scene = Scene()
    containers = [
        scene.container(image=f"ghcr.io/acme/app{n}:1", name=f"app{n}") for n in range(20)
    ]
    tops = [scene.process("python3", workload=slot) for slot in (0, *containers)]
    images = np.array(
        [
            scene.process(
                f"tool{n % 97}", parent=tops[n % len(tops)], argv=(f"tool{n % 97}", str(n))
            )
            for n in range(processes)
        ],
        np.int32,
    )
    whose = np.array([image.workload for image in scene.images], np.int32)
    folders = ("/usr/lib/x86_64-linux-gnu", "/srv/data", "/home/app/.cache", "/etc/ssl", "/tmp")
    paths = np.array(
        [scene.string(f"{folders[n % len(folders)]}/d{n % 31}/file{n}") for n in range(files)],
        np.uint32,
    )
    ends = np.array(
        [
            scene.address(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:443")
            for n in range(addresses)
        ],
        np.uint32,
    )
    client = scene.address("10.0.0.7")
    classes = np.array([int(cls) for cls, _ in MIX])
    shares = np.array([share for _, share in MIX])
    batches = []
    for start in range(0, events, BATCH):
        size = min(BATCH, events - start)
        rows = np.zeros(size, EVENT)
        cls = rng.choice(classes, size, p=shares)
        rows["cls"] = cls
        rows["ts"] = START + 1000 * np.arange(start, start + size)
        opens, connects = cls == Class.OPEN, cls == Class.CONNECT
        who = rng.integers(0, processes, size)
        end = rng.integers(0, addresses, size) if scan else 7 * who + rng.integers(0, 4, size)
        rows["obj"] = np.where(
            opens,
            paths[rng.integers(0, files, size)],
            np.where(connects, ends[end % addresses], 0),
        )
        rows["obj2"] = np.where(connects, client, 0)
        rows["port"] = np.where(connects, rng.integers(32_768, 61_000, size), 0)
        rows["flags"] = np.where(
            opens, rng.choice([0o2000000, 0o2000000, 0o1101, 0o2], size), np.where(connects, TCP, 0)
        )
        rows["ret"] = np.where(opens, rng.integers(3, 400, size), 0)
        rows["ret"][rng.random(size) < 0.05] = -2
        for of, call in (
            (Class.OPEN, "openat"),
            (Class.CONNECT, "connect"),
            (Class.EXEC, "execve"),
        ):
            rows["op"][cls == of] = op_of(call)
        image = images[who]
        batches.append(
            Enriched(
                Batch(events=rows, wall_offset=WALL - START),
                image,
                whose[image],
                tables=scene.tables(),
            )
        )
    return batches


class Case:
    """Lines of one question. The first line's time is what the others are compared with."""

    def __init__(self, name: str, question: str) -> None:
        print(f"\n== {name}: {question}")
        print(f"{'':<44} {'rules':>6} {'events/s':>12} {'ns':>7} {'ratio':>6} {'findings':>9}")
        self.first = 0.0

    def line(self, label: str, rules: RuleSet, batches: list[Enriched]) -> None:
        engine = Engine(rules)
        total = sum(batch.batch.events.size for batch in batches)
        begun = time.process_time()
        findings = sum(len(engine.process(batch)) for batch in batches)
        spent = (time.process_time() - begun) / total * 1e9
        self.first = self.first or spent
        print(
            f"{label:<44} {len(engine.rules):>6} {1e9 / spent:>12,.0f} {spent:>7.0f}"
            f" {spent / self.first:>6.2f} {findings:>9}"
        )


def by_rules(paths: dict[str, Path], folder: Path, events: int) -> None:
    case = Case("rules", "the time against the number of rules")
    batches = make(events, 2_000, 500, 200)
    case.line("no rules", load([]), batches)
    for name, path in paths.items():
        case.line(name, load([path]), batches)
    if len(paths) > 1:
        case.line("all of these", load(paths.values()), batches)
    for count in (10, 100, 1_000):
        made = folder / f"synthetic{count}.yaml"
        made.write_text("".join(SYNTHETIC.format(n=n) for n in range(count)))
        case.line(f"all, +{count} synthetic", load([*paths.values(), made]), batches)


def by_distinct(rules: RuleSet, events: int) -> None:
    case = Case("distinct", "the time against distinct strings, the events being as many")
    for files, processes, addresses in (
        (100, 50, 20),
        (2_000, 500, 200),
        (20_000, 5_000, 2_000),
        (200_000, 20_000, 20_000),
    ):
        label = f"{files:,} files, {processes:,} processes, {addresses:,} ends"
        case.line(label, rules, make(events, files, processes, addresses))


def by_repeats(rules: RuleSet, events: int) -> None:
    case = Case("repeats", "the time of one event against how often each is repeated")
    for share in (16, 4, 1):
        case.line(f"{events // share:,} events", rules, make(events // share, 2_000, 500, 200))


def by_scans(rules: RuleSet, events: int) -> None:
    case = Case("scans", "the time where every process connects to every address")
    for scan in (False, True):
        label = "any of 200 addresses" if scan else "four destinations a process"
        case.line(label, rules, make(events, 2_000, 500, 200, scan=scan))


def flood(rules: RuleSet) -> None:
    """Every open is of another file. Ids go up and old ones are forgotten, as the sensor's epochs
    do it; so does the dictionary, which is not the engine's and is counted with it."""
    print("\n== flood: files never seen again")
    print(f"{'files so far':>14} {'ns an event':>12} {'RSS MiB':>9} {'tables begun anew':>18}")
    engine = Engine(rules)
    scene = Scene()
    container = scene.container(image="ghcr.io/acme/app:1", name="app")
    process = scene.process("python3", workload=container)
    size, base = 40_000, 0
    for turn in range(25):
        texts = [f"/srv/data/{turn}/{n}/file{n * 7919 % 10_007}" for n in range(size)]
        rows = np.zeros(size, EVENT)
        rows["obj"] = [scene.string(text) for text in texts]
        rows["cls"], rows["op"], rows["ret"] = int(Class.OPEN), op_of("openat"), 3
        rows["ts"] = START + turn * 10**9 + 1000 * np.arange(size)
        scene.forget_strings(base)
        batch = Batch(events=rows, wall_offset=WALL - START, dict_base=base)
        base = int(rows["obj"][0])
        whose = np.full(size, container, np.int32)
        made = Enriched(batch, np.full(size, process, np.int32), whose, tables=scene.tables())
        begun = time.process_time()
        engine.process(made)
        spent = (time.process_time() - begun) / size * 1e9
        if turn % 6 == 0:
            print(f"{size * (turn + 1):>14,} {spent:>12.0f} {rss():>9.1f} {engine.resets:>18}")


def rss() -> float:
    """MiB, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = ("rules", "distinct", "repeats", "scans", "flood")
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--rules", nargs="*", type=Path, help="default: Falco, Sigma and the pack")
    options.add_argument("--only", nargs="*", choices=cases, default=cases)
    chosen = options.parse_args()
    paths = {path.name: path for path in chosen.rules} if chosen.rules else dict(CONTENT)
    for name in [name for name, path in paths.items() if not path.exists()]:
        print(f"{name}: no rules at {paths.pop(name)}; left out")
    everything = load(paths.values())
    for error in everything.errors:
        print(f"refused: {error}")
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (
            ("flood", lambda: flood(everything)),  # first: memory of others would hide its own
            ("rules", lambda: by_rules(paths, Path(folder), chosen.events)),
            ("distinct", lambda: by_distinct(everything, chosen.events)),
            ("repeats", lambda: by_repeats(everything, chosen.events)),
            ("scans", lambda: by_scans(everything, chosen.events)),
        ):
            if name in chosen.only:
                run()


if __name__ == "__main__":
    main()
