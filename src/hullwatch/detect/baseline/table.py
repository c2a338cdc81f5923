"""The numbers of all entries, as columns: a batch of events is counted without a loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["NEVER", "Kept", "Table"]

NEVER = np.iinfo(np.int64).max


@dataclass(slots=True)
class Kept:
    """What an entry is about. containers: one bit for each of its image's containers."""

    image: str
    kind: int
    name: str
    containers: int = 0


class Table:
    """An entry is an index. first, last: unix ns; drift: the profile is locked and this not in it;
    fresh: not stored at all yet; stale: stored with older numbers; sure: unix ns, the first time
    that it was done for certain, and not only tried; NEVER."""

    def __init__(self) -> None:
        self.kept: list[Kept | None] = []
        self._free: list[int] = []
        self.first = np.zeros(1024, np.int64)
        self.last = np.zeros(1024, np.int64)
        self.count = np.zeros(1024, np.int64)
        self.drift = np.zeros(1024, bool)
        self.fresh = np.zeros(1024, bool)
        self.stale = np.zeros(1024, bool)
        self.sure = np.full(1024, NEVER)
        self.used = 0

    def add(self, kept: Kept, first: int, drift: bool) -> int:
        if self._free:
            at = self._free.pop()
            self.kept[at] = kept
        else:
            at = len(self.kept)
            self.kept.append(kept)
            if at >= self.first.size:
                self._grow()
        self.first[at] = self.last[at] = first
        self.count[at] = 0
        self.drift[at] = drift
        self.fresh[at], self.stale[at], self.sure[at] = True, False, NEVER
        self.used += 1
        return at

    def free(self, at: int) -> None:
        self.kept[at] = None
        self.drift[at] = self.fresh[at] = self.stale[at] = False
        self._free.append(at)
        self.used -= 1

    def of(self, at: int) -> Kept:
        found = self.kept[at]
        assert found is not None
        return found

    def touch(self, entries: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Count events. Returns the entries that turn out to be older than was known."""
        older = entries[times < self.first[entries]]
        np.minimum.at(self.first, entries, times)
        np.maximum.at(self.last, entries, times)
        np.add.at(self.count, entries, 1)
        self.stale[entries] = True
        if older.size:
            older = np.unique(older)
            self.fresh[older] = True
        return older

    def fold(self, at: int, into: int) -> None:
        """One entry's numbers into another's; the first is the caller's to free."""
        self.first[into] = min(self.first[into], self.first[at])
        self.last[into] = max(self.last[into], self.last[at])
        self.count[into] += self.count[at]
        self.of(into).containers |= self.of(at).containers
        self.fresh[into] = True
        self.sure[into] = min(self.sure[into], self.sure[at])

    def _grow(self) -> None:
        for name in ("first", "last", "count", "drift", "fresh", "stale", "sure"):
            old = getattr(self, name)
            grown = np.zeros(2 * old.size, old.dtype)
            grown[: old.size] = old
            setattr(self, name, grown)
