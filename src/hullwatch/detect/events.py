"""The numbers of events, reduced to what rules can tell apart."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np

from hullwatch.detect.intern import KeyTable
from hullwatch.detect.parts import Parts
from hullwatch.detect.row import Event
from hullwatch.detect.signatures import Overflow
from hullwatch.sensor.wire import Class

__all__ = ["EventKeys"]

_U = np.uint64
_STAGE1 = 1 << 16
_EVENTS = 1 << 17


class EventKeys:
    """Rows to event numbers: equal numbers, same truth of every predicate on the event.

    A column that no predicate of the class reads is left out. Results and ports are told apart
    only at the values that predicates compare with; errors stay apart.
    events, holds: the first event of a number, and the bits that hold for it.
    """

    def __init__(self, parts: Parts) -> None:
        size = int(Class.CLASS_MAX)
        self.keep = {
            name: np.zeros(size, bool)
            for name in ("marks", "flags", "ret", "port", "num", "num2", "labels")
        }
        for cls, plan in parts.plans.items():
            for name in plan.reads:
                self.keep[name][cls] = True
        self.any = {name: bool(kept.any()) for name, kept in self.keep.items()}
        self.numbered = self.keep["num"] | self.keep["num2"]
        self.ret_breaks, self.ret_exact = _breaks(parts, "ret")
        self.port_breaks, self.port_exact = _breaks(parts, "port")
        self.first = KeyTable(_STAGE1, secrets.randbits(64))
        self.second = KeyTable(_EVENTS, secrets.randbits(64))
        self.third: dict[tuple[int, int, int, int], int] = {}
        self.events: list[Event] = []
        self.holds: list[int] = []

    def clear(self) -> None:
        self.first.clear()
        self.second.clear()
        self.third.clear()
        self.events.clear()
        self.holds.clear()

    def look(self, events: np.ndarray, make: Callable[[Event], int]) -> np.ndarray:
        """int32 event numbers; make(event) is called for a new one and returns its number."""
        cls = events["cls"]
        key = cls.astype(_U)
        key |= events["op"].astype(_U) << _U(8)
        if self.any["marks"]:
            key |= np.where(self.keep["marks"][cls], events["marks"], 0).astype(_U) << _U(16)
        if self.any["flags"]:
            key |= np.where(self.keep["flags"][cls], events["flags"], 0).astype(_U) << _U(32)
        first = self.first.look(key, lambda _: _next(self.first))
        key = first.astype(_U)
        if self.any["ret"]:
            ret = np.where(self.keep["ret"][cls], events["ret"], 0).astype(np.int64)
            if not self.ret_exact:
                ret = np.where(ret < 0, ret, np.searchsorted(self.ret_breaks, ret, "right"))
            key |= (ret + (1 << 31)).astype(_U) << _U(16)
        if self.any["port"]:
            port = np.where(self.keep["port"][cls], events["port"], 0)
            if not self.port_exact:
                port = np.searchsorted(self.port_breaks, port, "right")
            key |= port.astype(_U) << _U(48)
        numbered = self.numbered[cls]
        if self.any["labels"]:
            numbered = numbered | (self.keep["labels"][cls] & (events["labels"] != 0))
        if not numbered.any():
            return self.second.look(key, lambda at: self._make(events[at], (0, 0, 0), make))
        # Few classes have numbers that rules read, and few events are of those classes.
        plain = np.flatnonzero(~numbered)
        found = np.zeros(events.size, np.int32)
        found[plain] = self.second.look(
            key[plain], lambda at: self._make(events[plain[at]], (0, 0, 0), make)
        )
        for at in np.flatnonzero(numbered).tolist():
            event = events[at]
            of = int(event["cls"])
            num = int(event["num"]) if self.keep["num"][of] else 0
            num2 = int(event["num2"]) if self.keep["num2"][of] else 0
            labels = int(event["labels"]) if self.keep["labels"][of] else 0
            whole = (int(key[at]), num, num2, labels)
            known = self.third.get(whole)
            if known is None:
                known = self.third[whole] = self._make(event, (num, num2, labels), make)
            found[at] = known
        return found

    def _make(
        self, event: np.void, numbers: tuple[int, int, int], make: Callable[[Event], int]
    ) -> int:
        if len(self.events) >= _EVENTS - 1 or len(self.third) > _EVENTS // 4:
            raise Overflow
        made = Event(
            int(event["cls"]),
            int(event["op"]),
            int(event["marks"]),
            int(event["flags"]),
            int(event["ret"]),
            int(event["port"]),
            *numbers,
        )
        self.events.append(made)
        return make(made)


def _next(table: KeyTable) -> int:
    if table.full:
        raise Overflow
    return len(table.ids)


def _breaks(parts: Parts, column: str) -> tuple[np.ndarray, bool]:
    points, exact = parts.breaks(column)
    return np.array([point for point in points if point >= 0], np.int64), exact
