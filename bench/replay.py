"""How fast a capture goes through context and detect: events a second on one core.

    python bench/replay.py [--capture FILE] [--rules PATH] [--scale X] [--profile]

Without --capture, storms are recorded first, as `hullwatch record` would (root). Three figures a
storm: read (decode the file), context, detect; CPU time of this process, so that a busy machine
matters little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from agent import falco_rules
from storms import STORMS, WORKLOADS

from hullwatch.context.enrich import Context
from hullwatch.context.recorded import RecordedResolver
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load
from hullwatch.sensor.capture import CaptureReader, CaptureWriter
from hullwatch.sensor.sensor import Sensor

SHARE = 0.1  # of a storm's operations, for a capture


def record(path: Path, name: str, scale: float, folder: Path) -> None:
    """One storm as a capture file."""
    program = folder / "storm"
    source = WORKLOADS / "storm.c"
    if not program.exists():
        subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
    storm = STORMS[name]
    count = max(1, int(storm.count * SHARE * scale))
    command = [str(program), storm.kind, str(count), "-", str(folder / name), str(storm.files or 1)]
    sensor = Sensor(record=True)
    try:
        sensor.start()
        writer = CaptureWriter(path, sensor.facts)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        ended = threading.Thread(target=child.wait)
        ended.start()
        while ended.is_alive() or sensor.wait(0.0):
            sensor.wait(0.05)
            time.sleep(0.01)
            writer.write(sensor.drain())
        writer.close()
    finally:
        sensor.close()


def replay(path: Path, rules: RuleSet) -> dict[str, float]:
    """Seconds of CPU by stage, events and findings of one capture."""
    context, engine = Context(RecordedResolver(), hold=False), Engine(rules)
    spent = dict.fromkeys(("read", "context", "detect"), 0.0)
    events = findings = 0
    reader = CaptureReader(path)
    begun = time.process_time()
    for batch, _ in reader:
        decoded = time.process_time()
        parts = context.enrich(batch)
        enriched = time.process_time()
        for part in parts:
            findings += len(engine.process(part))
        judged = time.process_time()
        spent["read"] += decoded - begun
        spent["context"] += enriched - decoded
        spent["detect"] += judged - enriched
        events += len(batch.events)
        begun = time.process_time()
    reader.close()
    return spent | {"events": events, "findings": findings}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--capture", type=Path)
    parser.add_argument("--rules", type=Path, default=falco_rules())
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", choices=STORMS, default=list(STORMS))
    parser.add_argument("--keep", type=Path, help="folder for the captures")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rules = load([chosen.rules])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        captures = {"capture": chosen.capture} if chosen.capture else {}
        if not captures:
            for name in chosen.only:
                captures[name] = folder / f"{name}.capture"
                if not captures[name].exists():
                    record(captures[name], name, chosen.scale, folder)
        if not chosen.json:
            print(f"{sum(rule.enabled for rule in rules.rules)} rules")
            print(f"{'capture':10} {'events':>9} {'events/s':>10}   ns each: read, context, detect")
        if chosen.profile:
            import cProfile
            import pstats

            profile = cProfile.Profile()
            for path in captures.values():
                profile.runcall(replay, path, rules)
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
            return
        for name, path in captures.items():
            found = replay(path, rules)
            total = found["read"] + found["context"] + found["detect"]
            rate = found["events"] / total
            rows.append({"capture": name, "rate": round(rate), **found})
            if not chosen.json:
                each = [found[k] / found["events"] * 1e9 for k in ("read", "context", "detect")]
                parts = " ".join(f"{ns:8.0f}" for ns in each)
                print(f"{name:10} {found['events']:>9} {rate:>10,.0f}   {parts}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if chosen.json:
        print(json.dumps({"rows": rows, "peak_rss_mib": peak}))
    else:
        print(f"peak RSS {peak} MiB")


if __name__ == "__main__":
    main()
