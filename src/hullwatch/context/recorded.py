"""The resolver of a replay: the values that were recorded with the capture, and no others."""

from collections.abc import Callable, Iterable

import numpy as np

from hullwatch.context.workload import Creator, Workload

__all__ = ["RecordedResolver"]


class RecordedResolver:
    """Answers from recorded values; ``add`` takes more as the capture goes on.

    find: asked for a cgroup that is not among them, where all of them would be too many.
    """

    def __init__(
        self,
        values: Iterable[Workload] = (),
        find: Callable[[int], Workload | None] = lambda cgroup: None,
    ) -> None:
        self._find = find
        self._values: dict[int, Workload] = {}
        self._changed: dict[int, Workload] = {}
        self._missing: set[int] = set()
        self.add(values)

    def add(self, values: Iterable[Workload]) -> None:
        """Later values of a cgroup replace earlier ones."""
        for value in values:
            self._values[value.cgroup] = self._changed[value.cgroup] = value

    def submit(self, cgroup: int, path: str, creator: Creator | None) -> None:
        """What was learnt of it when it was recorded stands."""

    def lookup(self, cgroup: int) -> Workload:
        value = self._values.get(cgroup) or self._find(cgroup)
        if value is not None:
            return value
        if len(self._missing) < 65_536:
            self._missing.add(cgroup)
        return Workload(
            cgroup=cgroup, cgroup_path="", state="unknown", reason="not in the recording"
        )

    def poll(self) -> list[Workload]:
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def forget(self, cgroup: int) -> None:
        """Kept: a recording may be asked again."""

    def began(self, procs: np.ndarray) -> None:
        """What was learnt with it stands."""

    def ended(self, keys: list[int]) -> None:
        """The same."""

    def stats(self) -> dict[str, int]:
        return {"values": len(self._values), "missing": len(self._missing)}
