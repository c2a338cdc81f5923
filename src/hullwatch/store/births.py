"""Processes that began before a piece of history: who they were when it begins.

A process key holds when it started, so those that were there before are known by their keys alone.
Their rows (fork, exec, ids, exit) and their ancestors' are looked for in what was stored before,
newest first: a parent is older than its child. Of a process whose beginning is gone, what its
first row in the history says of it stands for the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hullwatch.sensor.events import classes_mask
from hullwatch.sensor.wire import Class
from hullwatch.store import restore
from hullwatch.store.piece import Piece

__all__ = ["Earlier", "NAMING", "PROCESS", "known_only"]

Ints = np.ndarray[Any, Any]
PROCESS = classes_mask((Class.EXEC, Class.TASK, Class.FORK, Class.EXIT, Class.SETID, Class.CAPSET))
NAMING = classes_mask((Class.DNS, Class.TLS, Class.CGROUP_RMDIR))
_FORK = int(Class.FORK)
_NAMES_KEPT = 3600 * 10**9  # ns: as context/names.py
_COLUMNS = ("class", "proc", "parent", "num", "num2", "mono")
_MAX_KEYS = 1 << 20
"""Processes that are looked for; there were fewer at any moment."""


class Earlier:
    """begin: CLOCK_BOOTTIME ns at which the history begins.

    `meet` what it holds, then `rows` of the segments before it, newest first.
    """

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self._keys = np.empty(0, np.uint64)
        self._born = np.empty(0, np.uint64)
        self._first: dict[int, tuple[int, int]] = {}  # key -> (segment, row) where it acts first

    def _before(self, keys: Ints) -> Ints:
        keys = np.unique(keys)
        began = (keys >> np.uint64(22)) << np.uint64(16)
        return keys[(keys != 0) & (began < np.uint64(max(self.begin, 0)))]

    def meet(self, seq: int, piece: Piece) -> None:
        """A segment of the history: whoever acts in it, or is a parent, was there before?"""
        table = piece.read(_COLUMNS)
        mono, proc = restore.numbers(table.column("mono")), restore.numbers(table.column("proc"))
        within = np.flatnonzero(mono >= self.begin)
        acting = self._before(proc[within])
        parents = self._before(restore.numbers(table.column("parent"))[within])
        self._keys = np.union1d(self._keys, np.union1d(acting, parents))[:_MAX_KEYS]
        # A key's time is cut to 65 µs: its fork may come right after `begin`.
        forks = within[restore.class_numbers(table)[within] == _FORK]
        children = self._before(restore.numbers(table.column("num"))[forks])
        self._born = np.union1d(self._born, children)
        fresh = acting[~np.isin(acting, np.fromiter(self._first, np.uint64, len(self._first)))]
        if not len(fresh):
            return
        rows = within[np.isin(proc[within], fresh)]
        rows = rows[np.argsort(mono[rows], kind="stable")]
        keys, at = np.unique(proc[rows], return_index=True)
        self._first |= {
            int(key): (seq, row) for key, row in zip(keys, rows[at].tolist(), strict=True)
        }

    def rows(self, piece: Piece) -> Ints:
        """Positions of the rows of an earlier segment (or of the earlier rows of the first) that
        make up these processes, of what each did first (a forked one becomes a copy of its parent
        then), and of answers that gave addresses a name still in use."""
        table = piece.read(_COLUMNS)
        cls = restore.class_numbers(table)
        mono = restore.numbers(table.column("mono"))
        before = mono < self.begin
        at = np.flatnonzero(PROCESS[cls] & before)
        everyone = restore.numbers(table.column("proc"))
        kind, proc = cls[at], everyone[at]
        num, parent = (restore.numbers(table.column(name))[at] for name in ("num", "parent"))
        forks, births = kind == _FORK, restore.BIRTH[kind]
        child = np.where(forks, num, proc)
        above = np.where(forks, proc, np.where(births, parent, 0))
        while True:
            known = np.isin(child, self._keys)
            more = np.setdiff1d(above[known & (above != 0)], self._keys)
            if not len(more) or len(self._keys) > _MAX_KEYS:
                break
            self._keys = np.union1d(self._keys, more)
        self._born = np.union1d(self._born, child[known & (forks | births)])
        kept = _NAMES_KEPT
        naming = np.flatnonzero(NAMING[cls] & before)
        if len(naming):
            ttl = restore.numbers(table.column("num2"))[naming].astype(np.float64) * 1e9
            ttl[cls[naming] != int(Class.DNS)] = 0
            naming = naming[mono[naming] + np.maximum(ttl, kept) > self.begin]
        acting = np.flatnonzero(before & np.isin(everyone, self._keys))
        acting = acting[np.argsort(mono[acting], kind="stable")]
        acting = acting[np.unique(everyone[acting], return_index=True)[1]]
        return np.union1d(np.union1d(at[known], naming), acting)

    def strangers(self) -> dict[int, list[int]]:
        """Segment -> rows in it where a process acts first whose beginning was not found."""
        found: dict[int, list[int]] = {}
        born = set(self._born.tolist())
        for key, (seq, row) in self._first.items():
            if key not in born:
                found.setdefault(seq, []).append(row)
        return found


def known_only(table: pa.Table) -> pa.Table:
    """Rows whose process was known when they were stored, and which do not tell it themselves."""
    cls = restore.class_numbers(table)
    there = table.column("name").is_valid().combine_chunks().to_numpy(zero_copy_only=False)
    return table.take(pa.array(np.flatnonzero(there & ~restore.BIRTH[cls])))
