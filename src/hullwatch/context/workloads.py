"""Workload slots: one small integer a cgroup, for the columns of a batch."""

from __future__ import annotations

from hullwatch.context.resolver import WorkloadSource
from hullwatch.context.workload import Workload

__all__ = ["WorkloadTable"]

_MAX_SLOTS = 65536


class WorkloadTable:
    """Slot 0 is the host. A slot whose workload became known (or known better) is 'released' once,
    so that the next stage forgets what it had worked out about the former value."""

    def __init__(self, source: WorkloadSource) -> None:
        self._source = source
        self._slots: dict[int, int] = {0: 0}
        self._values: list[Workload] = [Workload(cgroup=0, cgroup_path="/", state="host")]
        self._changed: set[int] = set()
        self._gone: list[int] = []
        self._free: list[int] = []

    def workload(self, slot: int) -> Workload:
        return self._values[slot]

    def slot(self, cgroup: int) -> int:
        """The slot of a cgroup; asks the resolver the first time."""
        found = self._slots.get(cgroup)
        if found is None:
            value = self._source.lookup(cgroup)
            if self._free:
                found = self._free.pop()
                self._values[found] = value
            else:
                found = len(self._values)
                self._values.append(value)
            self._slots[cgroup] = found
        return found

    def refresh(self) -> tuple[tuple[int, ...], list[Workload]]:
        """(slots whose content changed, the new values) since the last call."""
        news = self._source.poll()
        for value in news:
            slot = self._slots.get(value.cgroup)
            if slot is not None:
                self._values[slot] = value
                self._changed.add(slot)
        for cgroup in self._gone[: max(0, len(self._slots) - _MAX_SLOTS)]:
            slot = self._slots.pop(cgroup, None)
            if slot:
                self._changed.add(slot)
                self._free.append(slot)
        changed = tuple(self._changed)
        self._changed.clear()
        return changed, news

    def forget(self, cgroup: int) -> None:
        """The cgroup is gone; its slot may be reused when there are too many."""
        self._gone.append(cgroup)
        if len(self._gone) > 2 * _MAX_SLOTS:
            del self._gone[:_MAX_SLOTS]
        self._source.forget(cgroup)

    def __len__(self) -> int:
        return len(self._slots)
