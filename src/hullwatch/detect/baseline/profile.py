"""The profile of one image: what it has done, by kind and name, and what of it was accepted.

Of one group of names (a directory) the earliest `fold` are kept by name, the others as one entry
for the group. So what is kept depends on what was seen and when, not on the order of learning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from hullwatch.detect.baseline.kinds import KINDS, Kind
from hullwatch.detect.baseline.known import LEARNING as STILL_LEARNING
from hullwatch.detect.baseline.known import LOCKED, Known
from hullwatch.detect.baseline.objects import ANY, group_of, within
from hullwatch.detect.baseline.table import Kept, Table

__all__ = ["LEARNING", "Profile"]

LEARNING = 600 * 10**9
"""ns after an image's first event in which nothing counts as first seen."""
CONTAINERS = 256
"""Containers of an image that are told apart; the next are not counted."""


_EDITIONS = itertools.count(1)


def _by_kind() -> list[dict[str, int]]:
    return [{} for _ in KINDS]


@dataclass(slots=True, eq=False)
class Profile:
    """image: the key. name: the image's reference, for people. first: of its first event, unix ns,
    0: none yet. locked: unix ns, None: not locked. accepted: (kind, pattern), see `within`.
    revision: of the stored row that this was read from. edition: another one where other things
    are known, or judged otherwise; known: of one that was asked for."""

    image: str
    name: str = ""
    first: int = 0
    learning: int = LEARNING
    locked: int | None = None
    accepted: frozenset[tuple[str, str]] = frozenset()
    revision: int = 0
    containers: dict[str, int] = field(default_factory=dict)
    entries: list[dict[str, int]] = field(default_factory=_by_kind)
    groups: list[dict[str, int]] = field(default_factory=_by_kind)
    changed: bool = True
    edition: int = field(default_factory=lambda: next(_EDITIONS))
    known: Known | None = None

    def edited(self) -> None:
        self.edition = next(_EDITIONS)

    def container(self, ident: str) -> int:
        """The bit of a container; 0 for one too many."""
        at = self.containers.get(ident)
        if at is None:
            if len(self.containers) >= CONTAINERS:
                return 0
            at = self.containers[ident] = len(self.containers)
            self.changed = True
        return 1 << at

    def ids(self, containers: int) -> tuple[str, ...]:
        return tuple(ident for ident, at in self.containers.items() if containers >> at & 1)

    def begun(self, moment: int) -> None:
        """It did something at that time."""
        if not self.first or moment < self.first:
            self.first, self.changed = moment, True
            self.edited()

    def __len__(self) -> int:
        return sum(map(len, self.entries))

    def all(self) -> Iterator[int]:
        for held in self.entries:
            yield from held.values()

    # --- asking ---------------------------------------------------------------------------

    def state(self, wall: int | None = None) -> str:
        """learning or locked; wall: unix ns, None: now."""
        locked = self.locked is not None and (wall is None or self.locked <= wall)
        return LOCKED if locked else STILL_LEARNING

    def find(self, kind: Kind, name: str) -> int | None:
        """The entry that a name is kept under, None if there is none."""
        held = self.entries[kind.number]
        found = held.get(name)
        if found is None:
            found = held.get(group_of(kind.name, name), held.get(ANY))
        return found

    def accepts(self, kind: Kind, name: str) -> bool:
        return any(of == kind.name and within(one, of, name) for of, one in self.accepted)

    def drifts(self, kind: Kind, name: str, first: int) -> bool:
        """Whether something first seen then is outside the locked profile."""
        return self.locked is not None and first > self.locked and not self.accepts(kind, name)

    # --- learning -------------------------------------------------------------------------

    def place(
        self, table: Table, kind: Kind, name: str, moment: int, room: bool
    ) -> tuple[int, tuple[int, int] | None]:
        """The entry for a name seen at a time; and where another had to make way, that entry and
        the one it was folded into: the caller frees it.

        room: whether there may be more entries; where not, the name goes under ANY.
        """
        held, counted = self.entries[kind.number], self.groups[kind.number]
        found = held.get(name)
        if found is not None:
            return found, None
        group = group_of(kind.name, name)
        folded = held.get(group)
        if folded is None and counted.get(group, 0) < kind.fold:
            if not room or len(held) >= kind.most:
                return self._whole(table, kind, moment), None
            counted[group] = counted.get(group, 0) + 1
            return self._make(table, kind, name, moment), None
        if folded is not None and moment >= table.first[folded]:
            return folded, None
        youngest = self._youngest(table, kind, group)
        if youngest is None or moment >= table.first[held[youngest]]:
            if folded is None:
                folded = self._make(table, kind, group, moment)
            return folded, None
        # It is older than one that has a place by name.
        gone = held.pop(youngest)
        if folded is None:
            folded = self._make(table, kind, group, int(table.first[gone]))
        table.fold(gone, folded)
        return self._make(table, kind, name, moment), (gone, folded)

    def _youngest(self, table: Table, kind: Kind, group: str) -> str | None:
        held = self.entries[kind.number]
        names = [one for one in held if one != group and group_of(kind.name, one) == group]
        return max(names, key=lambda one: (table.first[held[one]], one), default=None)

    def _whole(self, table: Table, kind: Kind, moment: int) -> int:
        found = self.entries[kind.number].get(ANY)
        return self._make(table, kind, ANY, moment) if found is None else found

    def _make(self, table: Table, kind: Kind, name: str, moment: int) -> int:
        drift = self.drifts(kind, name, moment)
        at = table.add(Kept(self.image, kind.number, name), moment, drift)
        self.entries[kind.number][name] = at
        self.edited()
        return at

    def judge(self, table: Table) -> None:
        """Work out anew what is drift: it was locked, unlocked, or more was accepted."""
        self.edited()
        for held, kind in zip(self.entries, KINDS, strict=True):
            for name, at in held.items():
                table.drift[at] = self.drifts(kind, name, int(table.first[at]))
