"""What waits for SQLite: small, bounded, and merged while it waits."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable

from hullwatch.context.workload import Workload
from hullwatch.store.segments import Bounds
from hullwatch.store.state import OTHERS, CountRow, LossRow, State

__all__ = ["Backlog"]

FINDINGS = 10_000
WORKLOADS = 10_000
COUNTS = 50_000
LOSSES = 10_000
NOTICES = 200


class Backlog:
    """losses are keyed by (stage, class, cgroup); cgroups beyond the bound fold into 0."""

    def __init__(self) -> None:
        self.losses: Counter[tuple[str, str, int]] = Counter()
        self.counts: Counter[tuple[int, str, str]] = Counter()
        self.workloads: dict[int, Workload] = {}
        self.findings: dict[str, bytes] = {}
        self.notices: deque[tuple[int, int, str, str]] = deque(maxlen=NOTICES)
        self.seals: list[tuple[int, int, Bounds]] = []

    def __bool__(self) -> bool:
        return bool(self.losses or self.counts or self.workloads or self.notices or self.seals)

    def lose(self, stage: str, cls: str, cgroup: int, count: int) -> None:
        key = (stage, cls, cgroup)
        known = key in self.losses or len(self.losses) < LOSSES
        self.losses[key if known else (stage, cls, 0)] += count

    def count(self, rows: Iterable[CountRow]) -> None:
        for row in rows:
            full = len(self.counts) >= COUNTS
            self.counts[(row.cgroup, row.cls, OTHERS if full else row.object)] += row.count

    def workload(self, workload: Workload) -> None:
        if workload.cgroup in self.workloads or len(self.workloads) < WORKLOADS:
            self.workloads[workload.cgroup] = workload
        else:
            self.lose("store", "workload", 0, 1)

    def finding(self, ident: str, data: bytes) -> bool:
        """The newest state of one; False: no room."""
        if ident not in self.findings and len(self.findings) >= FINDINGS:
            return False
        self.findings[ident] = data
        return True

    def notice(self, kind: str, text: str) -> None:
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.notices.append((time.time_ns(), boottime, kind, text))

    def put(self, state: State) -> None:
        """All of it in one transaction; kept as it was when that fails (sqlite3.Error)."""
        with state.transaction(durable=bool(self.seals)) as link:
            state.put_workloads(self.workloads.values())
            state.add_losses(LossRow(*key, count) for key, count in self.losses.items())
            state.add_counts(CountRow(*key, count) for key, count in self.counts.items())
            link.executemany(
                "INSERT INTO notices (time, mono, kind, text) VALUES (?,?,?,?)", self.notices
            )
            reading = state.last_reading()
            for seq, size, found in self.seals:
                link.execute(
                    "UPDATE segments SET state='sealed', rows=?, bytes=?, min_time=?, max_time=?,"
                    " min_mono=?, max_mono=?, cgroups=?, lived=? WHERE seq=? AND state='open'",
                    (found.rows, size, *found[1:], reading.lived if reading else 0, seq),
                )
        self.workloads.clear()
        self.losses.clear()
        self.counts.clear()
        self.notices.clear()
        self.seals.clear()
