"""From exec to finding on screen: p50 and p99, idle and under load.

    python bench/latency.py [--count N] [--pause S] [--load STORM] [--json]

A program that nobody else runs is started again and again; one rule is about it. Time runs from
before the spawn until a subscriber of the control socket (`hullwatch findings --follow` is one) has
read the finding; by then it is in the database as well. Under load a storm of opens and one of
execs go on meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from agent import Agent
from storms import WORKLOADS

from hullwatch.control import ControlError, follow

NAME = "hwprobe-"  # with a number after it, within the 15 bytes of a comm
RULE = f"""
- rule: Probe
  desc: the program that this measurement starts
  condition: evt.type in (execve, execveat) and proc.name startswith {NAME}
  output: "%proc.name %proc.args"
  priority: NOTICE
"""


def measure(agent: Agent, probe: Path, count: int, pause: float) -> list[float]:
    """Seconds from posix_spawn to the finding, one an exec."""
    arrived: dict[str, float] = {}
    ready = threading.Event()

    def listen() -> None:
        try:
            for finding in follow(agent.store / "control.sock", "findings"):
                if finding is None:
                    ready.set()
                    continue
                arrived.setdefault(finding["output"].split()[-1], time.monotonic())
        except ControlError:
            return

    threading.Thread(target=listen, daemon=True).start()
    ready.wait(10)
    begun: dict[str, float] = {}
    for number in range(count):
        # A program of its own each time: repeats fold into one finding.
        own = probe.with_name(f"{NAME}{number}")
        os.link(probe, own)
        mark = f"n{os.getpid()}-{number}"
        begun[mark] = time.monotonic()
        os.waitpid(os.posix_spawn(own, [str(own), mark], os.environ), 0)
        own.unlink()
        time.sleep(pause)
    until = time.monotonic() + 10
    while len(arrived) < count and time.monotonic() < until:
        time.sleep(0.05)
    missing = begun.keys() - arrived.keys()
    if missing:
        some = ", ".join(sorted(missing)[:5])
        raise SystemExit(f"{len(missing)} of {count} findings did not arrive: {some}")
    return [arrived[mark] - begun[mark] for mark in begun]


def quantiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(times) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        storm = folder / "storm"
        subprocess.run(["gcc", "-O2", "-o", str(storm), str(WORKLOADS / "storm.c")], check=True)
        probe = folder / NAME
        shutil.copy("/bin/true", probe)
        rules = folder / "probe.yaml"
        rules.write_text(RULE)
        agent = Agent(folder, rules=[rules])
        try:
            for load in ("idle", "load"):
                storms = []
                if load == "load":
                    endless = str(1 << 40)
                    files = [str(folder / "files"), "20000"]
                    for command in (["open", endless, "-", *files], ["exec", endless]):
                        storms.append(
                            subprocess.Popen([str(storm), *command], stdout=subprocess.DEVNULL)
                        )
                    time.sleep(3.0)
                try:
                    times = measure(agent, probe, chosen.count, chosen.pause)
                finally:
                    for one in storms:
                        one.kill()
                        one.wait()
                found.append({"when": load, "execs": len(times), **quantiles(times)})
                if not chosen.json:
                    print(
                        "{when:5} {execs} execs: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, "
                        "max {max_ms:.1f} ms".format_map(found[-1]),
                        flush=True,
                    )
        finally:
            agent.stop()
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
