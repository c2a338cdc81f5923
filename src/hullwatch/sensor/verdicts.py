"""The verdict map: what user space has answered, kept in the kernel.

key (scope, action, object) -> count | report | byproc. Scope is a container's cgroup id or, where
the answer depends on the program, a process image's scope. A change of rules bumps the generation:
every old answer is void at once and the map refills.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.wire import VERDICT_KEY, VERDICT_VALUE, Verdict

__all__ = ["Counted", "Verdicts", "image_scope"]

_KEY = struct.Struct("<QII")
_VALUE = struct.Struct("<IIQ")
_MASK = (1 << 64) - 1
assert _KEY.size == VERDICT_KEY.itemsize and _VALUE.size == VERDICT_VALUE.itemsize


def image_scope(proc: int, exec_id: int) -> int:
    """The scope of one program run by one process, as kernel/common.h computes it."""
    return (proc ^ ((exec_id + 1) * 0x9E3779B97F4A7C15)) & _MASK


class Counted(NamedTuple):
    """`count` more events of `action` on object `obj` in `scope` were counted, not sent."""

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
        self._counts: dict[bytes, int] = {}
        self.written = 0
        self.refused = 0

    def put(self, scope: int, obj: int, action: int, verdict: int) -> None:
        key = _KEY.pack(scope, obj, action)
        try:
            self._map.update(key, _VALUE.pack(verdict, self._generation, 0))
            self.written += 1
        except BpfError:
            # The event is then reported again, and the answer tried again.
            self.refused += 1
        self._counts.pop(key, None)

    def void_all(self) -> None:
        """Forget every answer: the rules have changed."""
        self._generation += 1
        self._programs.set(generation=self._generation)

    def counted(self) -> Iterator[Counted]:
        """Growth of each count since the last call. Reads the whole map: about a µs an entry."""
        seen: dict[bytes, int] = {}
        for key, value in self._map.items():
            verdict, _, count = _VALUE.unpack(value)
            if verdict != Verdict.COUNT or not count:
                continue
            seen[key] = count
            # An entry that was evicted and made anew starts from 0 again.
            more = count - min(self._counts.get(key, 0), count)
            if more:
                scope, obj, action = _KEY.unpack(key)
                yield Counted(scope, obj, action, more)
        self._counts = seen
