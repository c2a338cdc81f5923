"""Cgroups that the kernel cuts off from every network (kernel/cut.h)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.programs import Programs

__all__ = ["Cut"]


class Cut:
    """Ends with the programs: who was cut off when the agent ends is not any more."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._map = programs.object.map("cut_off")
        self.cgroups: frozenset[int] = frozenset()

    def hold(self, cgroups: Iterable[int]) -> frozenset[int]:
        """Cut off these and what is below them, and no others; those that are cut off now.

        Fewer than asked for: there is no room (1,024).
        """
        wanted = frozenset(cgroups)
        for cgroup in self.cgroups - wanted:
            self._map.delete(struct.pack("<Q", cgroup))
        held = set(self.cgroups & wanted)
        for cgroup in wanted - self.cgroups:
            try:
                self._map.update(struct.pack("<Q", cgroup), b"\1")
            except BpfError as error:
                if error.errno != errno.E2BIG:
                    raise
            else:
                held.add(cgroup)
        self.cgroups = frozenset(held)
        self._programs.set(cut=int(bool(held)))
        return self.cgroups
