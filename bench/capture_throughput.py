"""How fast captures are written and read, and how big they get.

    python bench/capture_throughput.py [--events N] [--json]

Three mixes, as bench/store_throughput.py has them: `repeat` (one storm: 100 objects, 20 processes),
`varied` (20,000 objects, 500 processes) and `execs` (every 20th event a process image and its
strings). One core does one thing: each figure is of one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

import numpy as np  # noqa: E402

from hullwatch.sensor.batch import Batch, String  # noqa: E402
from hullwatch.sensor.capture import CaptureReader, CaptureWriter  # noqa: E402
from hullwatch.sensor.tier import read_facts  # noqa: E402
from hullwatch.sensor.wire import EVENT, PROC, Class, StrKind  # noqa: E402

DRAIN = 5000
MIXES = {"repeat": (100, 20), "varied": (20_000, 500), "execs": (20_000, 500)}


def drains(mix: str, events: int) -> Iterator[Batch]:
    """Batches of DRAIN events, 10 ms apart."""
    objects, processes = MIXES[mix]
    random = np.random.default_rng(1)
    base, ident = 10**15, 2
    for number in range(events // DRAIN):
        rows = np.zeros(DRAIN, EVENT)
        start = base + number * 10_000_000
        rows["ts"] = start + np.sort(random.integers(0, 10_000_000, DRAIN))
        rows["cls"], rows["op"] = int(Class.OPEN), 2
        rows["proc"] = (10**9 + random.integers(0, processes, DRAIN)) << 22
        rows["cgroup"] = 4000 + rows["proc"] % 7
        rows["obj"] = rows["obj2"] = 2 + 2 * random.integers(0, objects, DRAIN)
        rows["num"] = rows["obj"] * 31
        rows["ret"], rows["tid"] = 3, rows["proc"] & 0x3FFFFF
        strings = []
        procs = np.zeros(0, PROC)
        if number == 0:
            strings = [
                String(2 + 2 * i, int(StrKind.PATH), 0, 30, f"/srv/data/part-{i:08}/file".encode())
                for i in range(objects)
            ]
            ident = 2 + 2 * objects
        if mix == "execs":
            procs = np.zeros(DRAIN // 20, PROC)
            procs["ts"], procs["proc"] = rows["ts"][::20], rows["proc"][::20]
            procs["argv"] = ident + 2 * np.arange(len(procs))
            strings += [
                String(ident + 2 * i, int(StrKind.ARGV), 0, 40, f"python3\0-m\0job\0{i}\0".encode())
                for i in range(len(procs))
            ]
            ident += 2 * len(procs)
        yield Batch(
            events=rows,
            procs=procs,
            strings=tuple(strings),
            drained=start + 10_000_000,
            tier="tracepoint",
        )


def measure(mix: str, events: int) -> dict[str, float]:
    made = list(drains(mix, events))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        writer = CaptureWriter(path, read_facts())
        start = time.process_time()
        for batch in made:
            writer.write(batch)
        writer.close()
        written = time.process_time() - start
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            reader = CaptureReader(path)
            count = sum(len(batch.events) for batch, _ in reader)
            reader.close()
            assert count == writer.events and not reader.torn
            best = min(best, time.process_time() - start)
        return {
            "events": count,
            "written_per_s": count / written,
            "read_per_s": count / best,
            "bytes_per_event": path.stat().st_size / count,
        }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {mix: measure(mix, options.events) for mix in MIXES}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'mix':8} {'events':>9} {'written/s':>12} {'read/s':>12} {'bytes/event':>12}")
    for mix, f in found.items():
        print(
            f"{mix:8} {f['events']:9,.0f} {f['written_per_s']:12,.0f} {f['read_per_s']:12,.0f}"
            f" {f['bytes_per_event']:12.1f}"
        )


if __name__ == "__main__":
    main()
