"""The verdict map: what user space has answered, kept in the kernel.

key (scope, action, object) -> count | report | byproc. Scope is a container's cgroup id or, where
the answer depends on the program, a process image's scope. A change of rules bumps the generation:
every old answer is void at once and the map refills.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.wire import VERDICT_KEY, VERDICT_VALUE

__all__ = ["Counted", "Verdicts", "image_scope"]

_KEY = struct.Struct("<QII")
_VALUE = struct.Struct("<IIQ")
_MASK = (1 << 64) - 1
assert _KEY.size == VERDICT_KEY.itemsize and _VALUE.size == VERDICT_VALUE.itemsize


def image_scope(proc: int, exec_id: int) -> int:
    """The scope of one program run by one process, as kernel/common.h computes it."""
    return (proc ^ ((exec_id + 1) * 0x9E3779B97F4A7C15)) & _MASK


class Counted(NamedTuple):
    """`count` more events of `action` on object `obj` in `scope` were counted, not sent.

    Either no rule can match them, or they were like one sent less than a second before. Of the
    latter the object is known (not 0) only where the kernel had an answer about it.
    """

    scope: int
    obj: int
    action: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants


class Verdicts:
    """Writes answers; reads back how often each counted one was used."""

    def __init__(self, programs: Programs) -> None:
        self._map = programs.object.map("verdicts")
        self._programs = programs
        self._generation = int(programs.settings["generation"][0])
        # What was read last: mixed keys in order, and their counts.
        self._before = (np.empty(0, np.uint64), np.empty(0, np.uint64))
        self._carried: list[Counted] = []
        self.written = 0
        self.refused = 0

    def put(self, scope: int, obj: int, action: int, verdict: int) -> None:
        """Give an answer. One that stands already keeps its count."""
        key = _KEY.pack(scope, obj, action)
        value = _VALUE.pack(verdict, self._generation, 0)
        try:
            if not self._map.add(key, value):
                old = self._map.lookup(key)
                if old is not None:
                    stands, generation, count = _VALUE.unpack(old)
                    if (stands, generation) == (verdict, self._generation):
                        return
                    value = _VALUE.pack(verdict, self._generation, count)
                self._map.update(key, value)
            self.written += 1
        except BpfError:
            # The event is then reported again, and the answer tried again.
            self.refused += 1

    def void_all(self) -> None:
        """Forget every answer: the rules have changed."""
        self._carried += list(self.counted())
        self._generation += 1
        self._programs.set(generation=self._generation)

    def carry(self, counted: Counted) -> None:
        """What was counted elsewhere, for the next `counted`."""
        self._carried.append(counted)

    def counted(self) -> Iterator[Counted]:
        """Growth of each count since the last call. Reads the whole map: ms when it is full."""
        yield from self._carried
        self._carried = []
        keys, values = self._map.table(VERDICT_KEY, VERDICT_VALUE)
        used = values["count"] > 0
        keys, counts = keys[used], values["count"][used]
        mixed = keys["scope"] * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= (keys["obj"].astype(np.uint64) << np.uint64(32) | keys["action"]) * np.uint64(
            0xC2B2AE3D27D4EB4F
        )
        order = np.argsort(mixed)
        keys, counts, mixed = keys[order], counts[order], mixed[order]
        known, before = self._before
        self._before = (mixed, counts)
        more = counts.copy()
        if len(known):
            at = np.minimum(np.searchsorted(known, mixed), len(known) - 1)
            # An entry that was evicted and made anew starts from 0 again.
            same = (known[at] == mixed) & (before[at] <= counts)
            more[same] -= before[at][same]
        for i in np.flatnonzero(more).tolist():
            key = keys[i]
            yield Counted(int(key["scope"]), int(key["obj"]), int(key["action"]), int(more[i]))
