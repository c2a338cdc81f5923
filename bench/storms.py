"""Storms with and without Hullwatch, side by side with bpftrace: what watching costs, what is lost.

    make bench  |  python bench/storms.py [--rounds N] [--scale X] [--only STORM ...] [--modes ...]

Every storm runs in a cgroup of its own, so that what was stored, counted and lost can be held
against what was done: nothing may be missing, and of process events nothing lost at all; the exit
status is 1 otherwise. The modes take turns within a round, and every ratio is to the run without
anything in the same round; the median of the rounds is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent import ROOT, Agent, Process, falco_rules
from mark import verdicts
from rival import Bpftrace

from hullwatch.sensor.tier import cgroup2_root

WORKLOADS = Path(__file__).parent / "workloads"


class Storm(NamedTuple):
    """count: operations. expect: events an operation makes; over: those of the program itself."""

    kind: str
    count: int
    files: int
    expect: dict[str, int]
    over: dict[str, int]


VITAL = {"exec", "fork", "exit"}
STORMS = {
    "exec": Storm("exec", 20_000, 0, {"exec": 1, "fork": 1, "exit": 1}, {"exit": 1}),
    "open1": Storm("open", 2_000_000, 1, {"open": 1}, {}),
    "open20k": Storm("open", 2_000_000, 20_000, {"open": 1}, {}),
    "connect": Storm("connect", 50_000, 0, {"connect": 1, "accept": 1, "flow": 2}, {}),
    "fork": Storm("fork", 200_000, 0, {"fork": 1, "exit": 1}, {"exit": 1}),
}
MODES = ("none", "detect", "own", "record", "bpftrace-count", "bpftrace-print")


@contextlib.contextmanager
def cgroup(name: str) -> Iterator[tuple[Path, int]]:
    """A cgroup and its id."""
    path = Path(cgroup2_root()) / f"bench-{name}-{os.getpid()}"
    path.mkdir()
    try:
        yield path, path.stat().st_ino
    finally:
        path.rmdir()


def blow(program: Path, storm: Storm, count: int, group: Path, files: Path) -> dict[str, float]:
    command = [str(program), storm.kind, str(count), str(group / "cgroup.procs")]
    if storm.files:
        command += [str(files / str(storm.files)), str(storm.files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def subject(mode: str, folder: Path) -> Process | None:
    if mode in ("detect", "own", "record"):
        rules = ROOT / "rules" if mode == "own" else falco_rules()
        if rules is not None and mode != "own":
            rules = rules / "falco_rules.yaml"
        return Agent(folder, record=mode == "record", rules=[rules] if rules else ())
    return Bpftrace(folder, count=mode.endswith("count")) if mode != "none" else None


def one(mode: str, name: str, count: int, program: Path, files: Path) -> dict[str, Any]:
    """One storm under one mode: figures per operation, and the account of events."""
    storm = STORMS[name]
    with tempfile.TemporaryDirectory() as scratch, cgroup(name) as (group, ident):
        watcher = subject(mode, Path(scratch))
        before = watcher.cpu() if watcher else 0.0
        ran = blow(program, storm, count, group, files)
        figures: dict[str, Any] = {
            "wall_us": ran["wall_ns"] / count / 1e3,
            "work_cpu_us": ran["cpu_ns"] / count / 1e3,
        }
        if watcher is None:
            return figures
        watcher.settle()
        watcher.alive()
        figures["agent_cpu_us"] = (watcher.cpu() - before) / count * 1e6
        figures["rss_mib"] = watcher.rss()
        watcher.stop()
        if isinstance(watcher, Agent):
            stored, counted, lost = watcher.kept(ident)
        else:
            assert isinstance(watcher, Bpftrace)
            stored, counted, lost = watcher.kept(ident), Counter(), Counter()
            if mode.endswith("count"):
                stored, counted = counted, stored
    done = {cls: storm.expect[cls] * count + storm.over.get(cls, 0) for cls in storm.expect}
    lost_of = Counter[str]()
    for (_, cls), number in lost.items():
        lost_of[cls] += number
    figures |= {
        "done": sum(done.values()),
        "stored": sum(stored[cls] for cls in done),
        "counted": sum(counted[cls] for cls in done),
        "lost": {f"{stage}/{cls}": number for (stage, cls), number in sorted(lost.items())},
        "missing": {
            cls: gap
            for cls, number in done.items()
            if (gap := number - stored[cls] - counted[cls] - lost_of[cls])
        },
        "vital_lost": sum(abs(done[cls] - stored[cls]) for cls in VITAL & done.keys()),
    }
    return figures


def middle(runs: list[dict[str, Any]], key: str) -> float | None:
    found = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(found) if found else None


def sums(runs: list[dict[str, Any]], key: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run.get(key) or {})
    return dict(total)


def summary(name: str, runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row a mode: medians of the rounds; ratio and added time against `none` of that round."""
    rows = []
    for mode, of in runs.items():
        row: dict[str, Any] = {"storm": name, "mode": mode, "rounds": len(of)}
        for key in ("wall_us", "work_cpu_us", "agent_cpu_us"):
            row[key] = middle(of, key)
        pairs = list(zip(of, runs.get("none", of), strict=False))
        row["ratio"] = statistics.median(a["wall_us"] / b["wall_us"] for a, b in pairs)
        row["added_us"] = statistics.median(a["wall_us"] - b["wall_us"] for a, b in pairs)
        row["added_cpu_us"] = statistics.median(
            a["work_cpu_us"] - b["work_cpu_us"] for a, b in pairs
        )
        row["rss_mib"] = max((run["rss_mib"] for run in of if "rss_mib" in run), default=None)
        for key in ("done", "stored", "counted", "vital_lost"):
            row[key] = sum(run.get(key, 0) for run in of)
        row["lost"], row["missing"] = sums(of, "lost"), sums(of, "missing")
        rows.append(row)
    return rows


COLUMNS = (
    ("storm", "{}", 8),
    ("mode", "{}", 15),
    ("wall_us", "{:.2f}", 9),
    ("ratio", "{:.2f}", 6),
    ("added_us", "{:+.2f}", 9),
    ("added_cpu_us", "{:+.2f}", 12),
    ("agent_cpu_us", "{:.2f}", 12),
    ("rss_mib", "{:.0f}", 7),
    ("stored", "{}", 9),
    ("counted", "{}", 9),
    ("lost", "{}", 5),
    ("missing", "{}", 7),
)


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        cells = []
        for key, form, width in COLUMNS:
            value = row[key]
            if isinstance(value, dict):
                value = ",".join(f"{what}={n}" for what, n in value.items()) or 0
            cells.append(("-" if value is None else form.format(value)).rjust(width))
        print(" ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the operations of a storm")
    parser.add_argument("--only", nargs="*", choices=STORMS, default=list(STORMS))
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    modes = [mode for mode in chosen.modes if "bpftrace" not in mode or Bpftrace.there()]
    failed = False
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "storm"
        source = WORKLOADS / "storm.c"
        subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
        if not chosen.json:
            print(f"{platform.release()}, {os.cpu_count()} CPUs, rounds {chosen.rounds}")
            print(" ".join(key.rjust(width) for key, _, width in COLUMNS), flush=True)
        for name in chosen.only:
            count = max(1, int(STORMS[name].count * chosen.scale))
            runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for _ in range(chosen.rounds):
                for mode in modes:
                    runs[mode].append(one(mode, name, count, program, Path(folder)))
            rows = summary(name, runs)
            found += rows
            if not chosen.json:
                show(rows)
            for row in rows:
                if "bpftrace" not in row["mode"] and (row["missing"] or row["vital_lost"]):
                    failed = True
    if chosen.json:
        print(json.dumps(found))
    elif lines := verdicts(found):
        print("\ndetect mode against the mark (bench/mark.py):", *lines, sep="\n  ")
    if failed and not chosen.json:
        print("events are missing, or vital ones were lost: see the table")
    sys.exit(failed)


if __name__ == "__main__":
    main()
