"""A Hullwatch agent as a benchmark's subject: started, watched from outside, asked what it kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hullwatch.control import ControlError, ask
from hullwatch.store.query import Reader

__all__ = ["Agent", "Process", "cpu_seconds", "falco_rules"]

ROOT = Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")


def falco_rules() -> Path | None:
    """Falco's stable rules where the conformance data lies beside the project; else None."""
    path = ROOT.parent / "shared" / "conformance" / "falco"
    return path if path.is_dir() else None


def cpu_seconds(pid: int) -> float:
    """CPU of a process, its threads (to the ns) and the children it has waited for."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent += int((task / "schedstat").read_text().split()[0])
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return spent / 1e9 + sum(map(int, after_name[13:15])) / TICK


def peak_rss(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Process:
    """Something that watches while a storm blows. CPU and memory are read while it lives."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as file:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=env
            )

    def cpu(self) -> float:
        return cpu_seconds(self.child.pid)

    def rss(self) -> float:
        return peak_rss(self.child.pid)

    def settle(self) -> None:
        time.sleep(1.0)

    def alive(self) -> None:
        if self.child.poll() is not None:
            raise SystemExit(f"{self.child.args!r} ended early:\n{self.log.read_text()[-2000:]}")

    def stop(self, sign: int = signal.SIGTERM) -> None:
        if self.child.poll() is None:
            self.child.send_signal(sign)
        try:
            self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.send_signal(signal.SIGABRT)  # Python then says where it is
            self.child.wait()
            said = self.log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"{self.child.args!r} did not stop:\n{said}") from None


class Agent(Process):
    """`hullwatch up` in a process of its own, with a fresh store at folder/store."""

    def __init__(self, folder: Path, *, record: bool = False, rules: Sequence[Path] = ()) -> None:
        self.store = folder / "store"
        command = [sys.executable, "-m", "hullwatch", "up", "--json", "--store", str(self.store)]
        if record:
            command.append("--record")
        for path in rules:
            command += ["--rules", str(path)]
        env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONFAULTHANDLER": "1"}
        super().__init__(command, folder / "agent.log", env)
        until = time.monotonic() + 60
        while not self.status().get("events"):
            self.alive()
            if time.monotonic() > until:
                raise SystemExit(f"the agent did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        time.sleep(1.0)  # the first compaction, which finds nothing

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = ask(self.store / "control.sock")
        except ControlError:
            return {}
        return found

    def settle(self) -> None:
        """Until what the kernel sent has been read; counts are taken once a second."""
        for _ in range(600):
            if max(self.status()["rings"].values()) == 0:
                break
            time.sleep(0.1)
        time.sleep(1.5)

    def kept(self, cgroup: int) -> tuple[Counter[str], Counter[str], Counter[tuple[str, str]]]:
        """Events stored, counted and lost, by class (and stage), of a cgroup. After `stop`."""
        stored: Counter[str] = Counter()
        counted: Counter[str] = Counter()
        lost: Counter[tuple[str, str]] = Counter()
        with Reader(self.store) as reader:
            for name, to in (("events", stored), ("counts", counted)):
                what = "count(*)" if name == "events" else "sum(count)"
                sql = f"SELECT class, {what} AS n FROM {name} WHERE cgroup = {cgroup} GROUP BY 1"
                for row in reader.hunt(sql).table.to_pylist():
                    to[row["class"]] += int(row["n"])
            sql = f"SELECT stage, class, sum(count) AS n FROM losses WHERE cgroup IN ({cgroup}, 0)"
            for row in reader.hunt(f"{sql} GROUP BY 1, 2").table.to_pylist():
                lost[row["stage"], row["class"]] += int(row["n"])
        return stored, counted, lost
