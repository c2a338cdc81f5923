"""How fast the store takes events, how big they get, how long questions take, and what it costs.

    python bench/store_throughput.py [--rows N] [--json]

Three mixes: `repeat` (one storm: 100 objects, 20 processes), `varied` (20,000 objects, 500
processes, uneven, as a busy node has them) and `execs` (every row a new process with a command
line of its own). Each runs in a process of its own, so that RSS is that of the writer alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
BATCH = 10_000
QUERIES = {
    "count": "SELECT count(*) FROM events",
    "top objects": "SELECT object, count(*) n FROM events GROUP BY 1 ORDER BY n DESC LIMIT 10",
    "one process": "SELECT * FROM events WHERE pid = 1003 ORDER BY mono LIMIT 100",
    "search": "SELECT count(*) FROM events WHERE object LIKE '%999%'",
}


def rss() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def batches(mix: str) -> Any:
    """Endless Enriched batches of BATCH rows."""
    import numpy as np

    from support.enriched import Builder

    rng = np.random.default_rng(1)
    builder = Builder()
    if mix == "execs":
        while True:
            for number in range(BATCH):
                process = builder.process(
                    1000 + number % 30000, name="true", argv=("true", f"--job={builder.clock}")
                )
                builder.event("exec", process, "/usr/bin/true", num2=process.slot)
            yield builder.build()
    paths, images = {"repeat": (100, 20), "varied": (20_000, 500)}[mix]
    base = builder.many(BATCH, paths=paths, images=images)
    for at in range(paths if mix == "varied" else 0):
        builder.intern(f"/srv/models/shard-{at:05d}/weights-{at * 7919 % 10007}.safetensors")
    moment = int(base.batch.events["ts"][0])
    while True:
        events = base.batch.events.copy()
        events["ts"] = moment + np.cumsum(rng.integers(500, 20_000, BATCH)).astype(np.uint64)
        moment = int(events["ts"][-1])
        image = base.image
        if mix == "varied":
            pick = np.minimum(rng.zipf(1.3, BATCH), images) - 1
            image = base.image[:images][pick]
            events["proc"] = base.batch.events["proc"][:images][pick]
            events["obj"] = np.minimum(rng.zipf(1.2, BATCH), paths)
            events["num"] = events["obj"].astype(np.uint64) * 2654435761
            events["ret"] = rng.integers(3, 60, BATCH)
            events["cls"] = rng.choice(np.array([10, 10, 10, 12, 19, 31], np.uint16), BATCH)
        yield replace(base, batch=replace(base.batch, events=events), image=image)


def one(mix: str, rows: int, root: Path) -> dict[str, Any]:
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    from hullwatch.store.writer import Settings, Writer

    source = batches(mix)
    kept = [next(source) for _ in range(min(10, rows // BATCH))] if mix != "execs" else []
    writer = Writer(root, settings=Settings(compaction=False))
    writer.write(kept[0] if kept else next(source))
    writer.flush()
    before, peak, spent, cpu = rss(), 0.0, 0.0, 0.0
    for number in range(rows // BATCH):
        enriched = kept[number % len(kept)] if kept else next(source)
        begin, used = time.perf_counter(), time.process_time()
        writer.write(enriched)
        spent += time.perf_counter() - begin
        cpu += time.process_time() - used
        peak = max(peak, rss())
    begin = time.perf_counter()
    writer.flush()
    spent += time.perf_counter() - begin
    stats = writer.stats()
    writer.close()
    return {
        "mix": mix,
        "rows": rows,
        "rows_per_s": round(rows / spent),
        "cpu_us_per_row": round(cpu / rows * 1e6, 3),
        "rss_before_mib": round(before, 1),
        "rss_peak_mib": round(peak, 1),
        "tail_bytes_per_event": round(stats.bytes / stats.events, 2),
    }


def after(root: Path, rows: int) -> dict[str, Any]:
    """Compaction and questions, as their own processes do them."""
    import resource

    from hullwatch.store.compact import compact
    from hullwatch.store.query import Reader
    from hullwatch.store.retention import Limits

    begin = time.perf_counter()
    compact(root, Limits())
    spent = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in (root / "segments").iterdir())
    found: dict[str, Any] = {
        "compact_rows_per_s": round(rows / spent),
        "compact_rss_mib": round(peak, 1),
        "bytes_per_event": round(size / rows, 2),
    }
    begin = time.perf_counter()
    with Reader(root) as reader:
        found["open_ms"] = round((time.perf_counter() - begin) * 1000, 1)
        for name, sql in QUERIES.items():
            begin = time.perf_counter()
            reader.hunt(sql)
            found[f"{name} ms"] = round((time.perf_counter() - begin) * 1000, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--mix", choices=("repeat", "varied", "execs"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        found = (
            one(args.mix, args.rows, args.root)
            if args.part == "write"
            else after(args.root, args.rows)
        )
        print(json.dumps(found))
        return
    for mix in (args.mix,) if args.mix else ("repeat", "varied", "execs"):
        rows = args.rows if mix != "execs" else min(args.rows, 100_000)
        with tempfile.TemporaryDirectory() as folder:
            shown: dict[str, Any] = {}
            for part in ("write", "after"):
                command = [sys.executable, __file__, "--part", part, "--mix", mix]
                command += ["--rows", str(rows), "--root", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                shown |= json.loads(done.stdout)
        if args.json:
            print(json.dumps(shown))
        else:
            print("\n".join(f"{key:<22} {value}" for key, value in shown.items()), end="\n\n")


if __name__ == "__main__":
    main()
