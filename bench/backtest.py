"""How fast a back-test goes, beside the replay of a capture of the same events: events a second.

    python bench/backtest.py [--events N] [--rules PATH] [--profile] [--json]

One world of processes makes the events (opens of 5,000 files; one in 100 an exec of a new process);
they are written as a capture and into a store, which is then compacted. Both go through context and
detect with the same rules, in processes of their own; CPU time, as a machine may be busy.
`policies` asks the sets that ship, and a list of what may be read, about the containers of the same
store: events and distinct questions a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
BATCH = 2_000
EXECS = 100  # one event in so many is an exec of a new process: fork, exec, exit


def make(folder: Path, count: int) -> None:
    """capture and store/ of the same events."""
    from hullwatch.context.enrich import Context
    from hullwatch.context.recorded import RecordedResolver
    from hullwatch.sensor.capture import CaptureWriter
    from hullwatch.sensor.tier import Facts, Tier
    from hullwatch.sensor.wire import EVENT, Class
    from hullwatch.store.compact import compact
    from hullwatch.store.retention import Limits
    from hullwatch.store.state import Session
    from hullwatch.store.writer import Settings, Writer
    from support.streams import WORKLOADS, Stream

    rng = np.random.default_rng(1)
    stream = Stream(1, processes=200)
    stream.offset = time.time_ns() - stream.clock
    paths = [f"/srv/data/{at % 97}/part-{at:05d}.bin".encode() for at in range(5_000)]
    facts = Facts(Tier.TRACEPOINT, "", "", True, None, "")
    capture = CaptureWriter(folder / "capture", facts)
    settings = Settings(compaction=False, flush_rows=65_536)
    store = Writer(folder / "store", Session(tier="tracepoint", mode="record"), settings)
    store.put_workloads(WORKLOADS)
    context = Context(RecordedResolver(WORKLOADS), hold=False)
    made = 0
    while made < count:
        for _ in range(BATCH // EXECS):
            parent = int(stream.rng.choice(list(stream.living)[:200]))
            stream._fork(parent)
            child = next(reversed(stream.living))
            stream._image(Class.EXEC, child, stream.clock + 1)
            stream.clock += 2
            stream.event(Class.EXIT, child, stream.clock)
            del stream.living[child]
        opens = np.zeros(BATCH, EVENT)
        opens["ts"] = stream.clock + np.cumsum(rng.integers(500, 20_000, BATCH)).astype(np.uint64)
        stream.clock = int(opens["ts"][-1]) + 1
        opens["cls"], opens["op"] = int(Class.OPEN), 2
        keys = np.array(list(stream.living)[:200], np.uint64)
        opens["proc"] = keys[np.minimum(rng.zipf(1.3, BATCH), len(keys)) - 1]
        groups = np.array([stream.living[key] for key in keys.tolist()], np.uint64)
        opens["cgroup"] = groups[
            np.searchsorted(keys, opens["proc"], sorter=np.argsort(keys)) % 200
        ]
        opens["tid"] = (opens["proc"] & np.uint64(0x3FFFFF)).astype(np.uint32)
        picked = np.minimum(rng.zipf(1.2, BATCH), len(paths)) - 1
        ids = {at: stream.string(paths[at]) for at in np.unique(picked).tolist()}
        opens["obj"] = [ids[at] for at in picked.tolist()]
        opens["ret"], opens["num"] = rng.integers(3, 60, BATCH), opens["obj"]
        stream.events.append(opens)
        batch = stream.take()
        capture.write(batch, WORKLOADS if not made else ())
        for enriched in context.enrich(batch):
            store.write(enriched)
        made += len(batch.events)
    capture.close()
    store.close()
    compact(folder / "store", Limits())


def one(kind: str, folder: Path, rules: Path, profile: bool) -> dict[str, Any]:
    from hullwatch.detect.engine import Engine
    from hullwatch.detect.ruleset import load
    from hullwatch.replay import Capture, Replay
    from hullwatch.store.history import History

    loaded = load([rules])
    before = time.process_time()
    sources: list[Any] = (
        [Capture(folder / "capture")] if kind == "replay" else History(folder / "store").runs()
    )
    events = findings = 0

    def run() -> None:
        nonlocal events, findings
        for source in sources:
            engine, replay = Engine(loaded), Replay(source, loaded)
            for enriched in replay.enriched():
                findings += sum(one.count for one in engine.match(enriched))
            events += replay.events

    if profile:
        import cProfile
        import pstats

        made = cProfile.Profile()
        made.runcall(run)
        pstats.Stats(made, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    else:
        run()
    spent = time.process_time() - before
    # Not getrusage: its peak is the parent's, too.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    return {"events": events, "matches": findings, "rate": round(events / spent), "rss_mib": peak}


READS = """permit (principal == Workload::"agent", action == Action::"open-read", resource)
when { resource.path like "/srv/data/1*" && context has program };"""


def asked(folder: Path) -> dict[str, Any]:
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.source import read_files
    from hullwatch.hindsight import Hindsight

    texts, problems = read_files([ROOT / "policies"])
    engine = Engine.of([*texts, (READS, "reads.cedar")], problems)
    before = time.process_time()
    run = Hindsight(folder / "store", engine)
    report = run.run()
    spent = time.process_time() - before
    run.close()
    return {
        "events": report.events,
        "asked": report.asked,
        "distinct": report.distinct,
        "rate": round(report.events / spent),
        "distinct_rate": round(report.distinct / report.asking),
        "seconds": round(report.reading + report.asking, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rules", type=Path, default=ROOT / "rules")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        made = (
            asked(chosen.folder)
            if chosen.part == "policies"
            else one(chosen.part, chosen.folder, chosen.rules, chosen.profile)
        )
        print(json.dumps(made))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.events)
        found = {}
        for part in ("replay", "backtest", "policies"):
            command = [sys.executable, __file__, "--part", part, "--folder", folder]
            command += ["--rules", str(chosen.rules), *["--profile"] * chosen.profile]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[part] = json.loads(done.stdout)
    same = all(found["replay"][name] == found["backtest"][name] for name in ("events", "matches"))
    ratio = round(found["backtest"]["rate"] / found["replay"]["rate"], 2)
    if chosen.json:
        print(json.dumps(found | {"ratio": ratio, "same": same}))
        return
    for part in ("replay", "backtest"):
        row = found[part]
        print(f"{part:9} {row['events']:>9} events {row['rate']:>10,} a second", end="")
        print(f"  {row['matches']} matches, peak {row['rss_mib']} MiB")
    print(f"ratio     {ratio}; the same events and matches: {'yes' if same else 'NO'}")
    row = found["policies"]
    print(f"policies  {row['events']:>9} events {row['rate']:>10,} a second", end="")
    print(f"  {row['asked']:,} questions, {row['distinct']:,} distinct,", end="")
    print(f" {row['distinct_rate']:,} of these a second; {row['seconds']} s")
    sys.exit(not same)


if __name__ == "__main__":
    main()
