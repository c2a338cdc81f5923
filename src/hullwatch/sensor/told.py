"""Events that are told, not observed, among the kernel's by their time: calls, signals, and what
the doorkeeper stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.wire import EVENT, StrKind

__all__ = ["Told", "ToldQueue"]

MAX_WAITING = 10_000


class Told(NamedTuple):
    """ts: CLOCK_BOOTTIME ns. proc, cgroup: of who told; 0: not known. text, text2: the objects."""

    ts: int
    cls: int
    proc: int
    cgroup: int
    tid: int
    span: int
    text: str
    text2: str
    num: int = 0
    num2: int = 0
    flags: int = 0
    ret: int = 0
    labels: int = 0


class ToldQueue:
    """Any thread may `put`; one `take`s. refused: told when too many waited."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._waiting: deque[Told] = deque()
        self._limit = limit
        self.refused = 0

    def put(self, one: Told) -> bool:
        if len(self._waiting) >= self._limit:
            self.refused += 1
            return False
        self._waiting.append(one)
        return True

    def take(self, make_string: Callable[[int, bytes], int]) -> np.ndarray:
        """EVENT[n]; make_string gives the id of a text."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        rows = np.zeros(len(taken), EVENT)
        count = 0
        for one in taken:
            row = rows[count]
            try:
                self._fill(row, one, make_string)
            except (OverflowError, ValueError):  # a number that no event can hold
                self.refused += 1
                rows[count] = 0
            else:
                count += 1
        return rows[:count]

    @staticmethod
    def _fill(row: np.void, one: Told, make_string: Callable[[int, bytes], int]) -> None:
        row["ts"], row["cls"], row["span"] = one.ts, one.cls, one.span
        row["proc"], row["cgroup"], row["tid"] = one.proc, one.cgroup, one.tid
        row["obj"] = make_string(StrKind.TEXT, one.text.encode("utf-8", "replace"))
        row["obj2"] = make_string(StrKind.TEXT, one.text2.encode("utf-8", "replace"))
        row["num"], row["num2"] = one.num, one.num2
        row["flags"], row["ret"], row["labels"] = one.flags, one.ret, one.labels
