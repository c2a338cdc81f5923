"""How many events a second the rule engine judges, on one core.

    python bench/detect_throughput.py [--rules PATH ...] [--events N]

Synthetic enriched batches (opens, connects, execs, forks, exits) with a given number of distinct
files, processes and addresses go through `Engine.process`; the time of making them is not
counted. Prints one line a case: rules, distinct strings, events a second, ns an event, findings.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from hullwatch.context.enriched import Enriched
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load_texts, read_files
from hullwatch.detect.scene import START, WALL, Scene
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.syscalls import op_of
from hullwatch.sensor.wire import EVENT, Class

ROOT = Path(__file__).resolve().parent.parent
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


def make(events: int, files: int, processes: int, addresses: int, seed: int = 1) -> list[Enriched]:
    """Batches over one scene. Dictionary ids and slots are drawn at random."""
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
        rows["obj"] = np.where(
            opens,
            paths[rng.integers(0, files, size)],
            np.where(connects, ends[rng.integers(0, addresses, size)], 0),
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
        image = images[rng.integers(0, processes, size)]
        batches.append(
            Enriched(
                Batch(events=rows, wall_offset=WALL - START),
                image,
                whose[image],
                tables=scene.tables(),
            )
        )
    return batches


def run(texts: list[tuple[str, str]], batches: list[Enriched], label: str) -> float:
    rules = load_texts(texts)
    engine = Engine(rules)
    total = sum(batch.batch.events.size for batch in batches)
    begun = time.process_time()
    findings = sum(len(engine.process(batch)) for batch in batches)
    spent = time.process_time() - begun
    rate = total / spent
    print(
        f"{label:<44} {len(engine.rules):>5} rules {rate:>12,.0f} events/s "
        f"{spent / total * 1e9:>7.0f} ns  {findings:>6} findings"
    )
    return rate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument(
        "--rules", nargs="*", default=[str(ROOT.parent / "shared/conformance/falco")]
    )
    chosen = options.parse_args()
    texts, _ = read_files(chosen.rules)
    if not texts:
        print("no rule files found; synthetic rules only")
    base = make(chosen.events, 2_000, 500, 200)
    for files, processes, addresses in (
        (100, 50, 20),
        (2_000, 500, 200),
        (20_000, 5_000, 2_000),
        (200_000, 20_000, 20_000),
    ):
        batches = make(chosen.events, files, processes, addresses)
        run(texts, batches, f"{files} files, {processes} processes, {addresses} ends")
    for count in (10, 100, 1_000):
        extra = [("".join(SYNTHETIC.format(n=n) for n in range(count)), "synthetic")]
        run(texts + extra, base, f"2000 files, 500 processes, +{count} synthetic")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak RSS {peak} MiB (with the batches)")


if __name__ == "__main__":
    main()
