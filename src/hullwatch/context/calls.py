"""Which calls there are, and which of them a span on an event means."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from hullwatch.context.call import AMBIGUOUS, Call
from hullwatch.sensor.batch import String
from hullwatch.sensor.wire import StrKind

__all__ = ["Calls"]

MAX_CALLS = 16_384
MAX_SETS = 16_384


class Calls:
    """Bounded: the oldest go first, of those that have ended and of those that run. One thread
    reads, any may tell.

    forgotten: calls that ran and had to make room.
    """

    def __init__(self, calls: int = MAX_CALLS, sets: int = MAX_SETS) -> None:
        self._limits = (calls, sets)
        self._running: OrderedDict[int, Call] = OrderedDict()
        self._ended: OrderedDict[int, Call] = OrderedDict()
        self._sets: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._changed: dict[int, Call] = {}
        self._new_sets: dict[int, tuple[int, ...]] = {}
        self._lock = threading.Lock()
        self.forgotten = 0
        self.heard: Callable[[Call], None] = lambda call: None
        """Told of each call before anything else is done with it, in the teller's thread."""

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def put(self, call: Call) -> None:
        """A call has begun, or something more is known of it."""
        self.heard(call)
        with self._lock:
            self._running.pop(call.id, None)
            self._ended.pop(call.id, None)
            held = self._ended if call.end else self._running
            held[call.id] = self._changed[call.id] = call
            while len(held) > self._limits[0]:
                held.popitem(last=False)
                self.forgotten += not call.end
            while len(self._changed) > 2 * self._limits[0]:  # nothing can be written
                del self._changed[next(iter(self._changed))]

    def get(self, ident: int) -> Call | None:
        return self._running.get(ident) or self._ended.get(ident)

    def learn(self, strings: Iterable[String]) -> None:
        """Sets of calls, as the kernel names them."""
        for string in strings:
            if string.kind == StrKind.CALLS:
                ours, *members = np.frombuffer(string.data, np.uint64).tolist() or [0]
                span = ours | string.id
                with self._lock:
                    self._sets[span] = self._new_sets[span] = tuple(members)
                    while len(self._sets) > self._limits[1]:
                        self._sets.popitem(last=False)

    def members(self, span: int) -> tuple[int, ...]:
        """Ids of the calls that a span may stand for: one, or the candidates; () for 0."""
        if not span & AMBIGUOUS:
            return (span,) if span else ()
        return self._sets.get(span, ())

    def of(self, span: int) -> tuple[Call, ...]:
        """The calls themselves, as far as they are known."""
        found = (self.get(one) for one in self.members(span))
        return tuple(one for one in found if one is not None)

    def changes(self) -> tuple[list[Call], dict[int, tuple[int, ...]]]:
        """Calls that are new or changed since the last time, and sets that are new."""
        with self._lock:
            changed, self._changed = self._changed, {}
            sets, self._new_sets = self._new_sets, {}
        return list(changed.values()), sets

    def unsaved(self, calls: Iterable[Call], sets: dict[int, tuple[int, ...]]) -> None:
        """These could not be kept: give them again, unless there is news of them."""
        with self._lock:
            self._changed = {one.id: one for one in calls} | self._changed
            self._new_sets = sets | self._new_sets

    def running(self) -> list[Call]:
        with self._lock:
            return list(self._running.values())

    def close(self, ident: int, end: int) -> None:
        """Nobody will tell how it ended."""
        call = self.get(ident)
        if call is not None and not call.end:
            self.put(msgspec.structs.replace(call, end=end, status="lost"))
