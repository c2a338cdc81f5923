"""Baselines: what each image normally executes, reads, writes, contacts, listens at and asks for.

`observe` learns from enriched batches: one array look-up an event, and work only for what a
container does for the first time. An entry keeps the event's own time, so a question about an
event of time t has one answer, live, in a replay and in a back-test:
first seen: the entry's first time is not before t; drift: it is after the lock.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np

from hullwatch.context.enriched import Enriched, Tables
from hullwatch.context.workload import Workload
from hullwatch.detect.baseline.kinds import (
    BY_NAME,
    KINDS,
    NONE,
    SECOND,
    Kind,
    are_sure,
    kind_numbers,
    kind_of,
    kind_of_action,
    named,
)
from hullwatch.detect.baseline.known import LEARNING, LOCKED, NOTHING, Known
from hullwatch.detect.baseline.objects import ANY, is_unix
from hullwatch.detect.baseline.profile import Profile
from hullwatch.detect.baseline.table import NEVER, Table
from hullwatch.detect.baseline.values import Changes, EntryRow, ProfileRow
from hullwatch.detect.intern import KeyTable, SlotTable
from hullwatch.detect.row import Row, object_of

__all__ = ["DRIFT", "FIRST_SEEN", "Baselines", "image_key", "object_name"]

MAX_IMAGES = 256
MAX_ENTRIES = 40_000
_IDLE = 3600 * 10**9  # ns without an event after which an image may make room for others
_SEEN = 1 << 17  # (container, kind, object) that need no more than a look-up
_WHOSE = 1 << 16
FIRST_SEEN, DRIFT = "hw.first_seen", "hw.drift"
_BOTH = frozenset((FIRST_SEEN, DRIFT))
_U = np.uint64
_CONNECT = BY_NAME["connect"].number
_SECOND = np.zeros(1 << 16, bool)
_SECOND[list(SECOND)] = True


def image_key(workload: Workload) -> str:
    """Whose profile it is: the digest, else the image, else the name; '' on the host, and while
    it is not known whose container it is."""
    if workload.state != "resolved":
        return ""
    return workload.image_digest or workload.image or workload.name or ""


class Baselines:
    """All profiles. Bounded; what is dropped is counted in `lost`.

    generation: raised when something known may have become unknown, or is judged otherwise: what
    was answered before is void.
    """

    def __init__(self, images: int = MAX_IMAGES, entries: int = MAX_ENTRIES) -> None:
        self.limits = (images, entries)
        self.profiles: dict[str, Profile] = {}
        self.table = Table()
        self._lock = threading.RLock()  # `known` is for any thread
        self.generation = 0
        self.lost: Counter[str] = Counter()
        self._seen = KeyTable(_SEEN, secrets.randbits(64))
        self._slots = SlotTable()
        self._pending: set[int] = set()
        self._whose: list[tuple[Profile, int]] = []  # number - 1 -> profile, container's bit
        self._numbers: dict[tuple[str, str], int] = {}
        self._moved: dict[int, int] = {}
        self._gone: list[tuple[str, str, str]] = []
        self._dropped: list[str] = []

    # --- learning -------------------------------------------------------------------------

    def observe(self, enriched: Enriched) -> np.ndarray:
        """Learn from a batch. bool[n]: events for which first_seen or drift holds."""
        with self._lock:
            return self._observe(enriched)

    def _observe(self, enriched: Enriched) -> np.ndarray:
        events, tables = enriched.batch.events, enriched.tables
        novel = np.zeros(len(events), bool)
        last = int(events["ts"][-1]) + int(enriched.batch.wall_offset) if len(events) else 0
        self._make_room(last)
        self._slots.forget(enriched.released_workloads)
        self._slots.forget(self._pending)
        self._pending.clear()
        if tables is None or not len(events):
            return novel
        kinds = kind_numbers(events)
        obj = np.where(_SECOND[events["cls"]], events["obj2"], events["obj"])
        rows = np.flatnonzero((kinds != NONE) & (obj != 0))
        whose = self._slots.look(enriched.workload[rows], lambda slot: self._number(tables, slot))
        rows, whose = rows[whose > 0], whose[whose > 0]
        if not rows.size:
            return novel
        numbered = self._whose  # as it is now: it may be begun anew below
        kinds, obj = kinds[rows], obj[rows]
        times = events["ts"][rows].astype(np.int64) + int(enriched.batch.wall_offset)
        key = whose.astype(_U) << _U(36) | kinds.astype(_U) << _U(32) | obj.astype(_U)

        def enter(at: int, name: str | None = None) -> int:
            entry = object_of(tables.dictionary, int(obj[at]))
            kind = KINDS[kinds[at]]
            return self._enter(int(whose[at]), kind, named(kind, entry, name), int(times[at]))

        named_rows = self._named(enriched.names, rows, kinds)
        entries = np.empty(rows.size, np.int32)
        plain = np.ones(rows.size, bool)
        plain[list(named_rows)] = False
        at_all = np.flatnonzero(plain)
        entries[at_all] = self._seen.look(key[at_all], lambda at: enter(int(at_all[at])))
        done: dict[tuple[int, str], int] = {}
        for at, name in named_rows.items():
            found = done.get((int(key[at]), name))
            if found is None:
                found = done[int(key[at]), name] = enter(at, name)
            entries[at] = found
        if self._moved:
            entries = np.array([self._moved.get(one, one) for one in entries.tolist()], np.int32)
            self._settle_moved()
        known = entries >= 0
        rows, entries, times, whose = rows[known], entries[known], times[known], whose[known]
        certain = are_sure(events[rows])
        self._be_sure(entries[certain], times[certain])
        older = self.table.touch(entries, times)
        for at in older.tolist():
            self._older(at)
        first = self.table.first[entries] >= times
        if first.any():  # while an image is learnt, nothing is
            first &= times > _learnt(numbered, whose)[whose]
        novel[rows] = first | self.table.drift[entries]
        return novel

    def _be_sure(self, entries: np.ndarray, times: np.ndarray) -> None:
        """Of what was done for certain, at these times."""
        table = self.table
        earlier = entries[times < table.sure[entries]]
        np.minimum.at(table.sure, entries, times)
        for at in np.unique(earlier).tolist():
            table.fresh[at] = True
            self.profiles[table.of(at).image].edited()

    def _named(self, names: dict[int, str], rows: np.ndarray, kinds: np.ndarray) -> dict[int, str]:
        """Destinations that go by a domain name, which may change while the address stays:
        index into rows -> name."""
        if not names:
            return {}
        found = (
            (at, names.get(int(rows[at]))) for at in np.flatnonzero(kinds == _CONNECT).tolist()
        )
        return {at: name for at, name in found if name}

    def _number(self, tables: Tables, slot: int) -> int:
        """A container as a number; 0: it has no baseline (the host, or not known)."""
        workload = tables.workloads.workload(slot)
        if workload.state == "pending":
            self._pending.add(slot)
            return 0
        image = image_key(workload)
        if not image:
            return 0
        ident = (workload.container_id or str(workload.cgroup))[:12]
        found = self._numbers.get((image, ident))
        if found is None:
            profile = self._profile(image, workload.image or workload.name or "")
            if profile is None or len(self._whose) >= _WHOSE - 1:
                return 0
            self._whose.append((profile, profile.container(ident)))
            found = self._numbers[image, ident] = len(self._whose)
        return found

    def _profile(self, image: str, name: str) -> Profile | None:
        found = self.profiles.get(image)
        if found is None:
            if len(self.profiles) >= self.limits[0]:
                self.lost["images_refused"] += 1
                return None
            found = self.profiles[image] = Profile(image)
        if name and found.name != name:
            found.name, found.changed = name, True
        return found

    def _enter(self, whose: int, kind: Kind, name: str, moment: int) -> int:
        """The entry of what a container does, maybe for the first time; -1: it has no name."""
        if not name:
            return -1
        profile, bit = self._whose[whose - 1]
        at = self._place(profile, kind, name, moment)
        kept = self.table.of(at)
        if bit & ~kept.containers:
            kept.containers |= bit
            self.table.fresh[at] = True
        return at

    def _place(self, profile: Profile, kind: Kind, name: str, moment: int) -> int:
        known = profile.entries[kind.number].get(name)
        if known is not None:
            return known
        profile.begun(moment)
        room = self.table.used < self.limits[1]
        at, moved = profile.place(self.table, kind, name, moment, room)
        kept = self.table.of(at)
        if moved is not None:
            gone = self.table.of(moved[0])
            self._moved[moved[0]] = moved[1]
            self._gone.append((profile.image, kind.name, gone.name))
        if kept.name != name:
            self.lost["names_folded" if kept.name != ANY else "names_without_room"] += 1
        return at

    def _older(self, at: int) -> None:
        kept = self.table.of(at)
        profile = self.profiles[kept.image]
        first = int(self.table.first[at])
        profile.begun(first)
        drift = profile.drifts(KINDS[kept.kind], kept.name, first)
        if drift != self.table.drift[at]:
            self.table.drift[at] = drift
            profile.edited()

    def _make_room(self, now: int) -> None:
        """Before a batch, as entries must not go while it is handled. now: its time, unix ns."""
        if self._seen.full or len(self._whose) >= _WHOSE - 1:
            self._forget_short_cuts()
        images, entries = self.limits
        while len(self.profiles) >= images or self.table.used >= entries:
            idle = [one for one in self.profiles.values() if one.locked is None]
            oldest = min(idle, key=self._last, default=None)
            # Of images that are all in use none is forgotten for another's names: it would learn
            # them anew, and the other would be next.
            if oldest is None or (len(self.profiles) < images and now - self._last(oldest) < _IDLE):
                return
            self.lost["images_evicted"] += 1
            self._dropped.append(oldest.image)
            self.drop(oldest.image)

    def _last(self, profile: Profile) -> int:
        return max((int(self.table.last[at]) for at in profile.all()), default=0)

    def _forget_short_cuts(self) -> None:
        self._seen.clear()
        self._slots.clear()
        self._whose = []
        self._numbers.clear()

    def learn(self, row: EntryRow) -> None:
        """Take in what was seen at another time: from history, or from the store. Learning the
        same twice changes nothing."""
        with self._lock:
            self._learn(row)

    def _learn(self, row: EntryRow) -> None:
        profile = self._profile(row.image, "")
        if profile is None or not row.name:
            return
        at = self._place(profile, BY_NAME[row.kind], row.name, row.first)
        self._settle_moved()
        table, kept = self.table, self.table.of(at)
        table.first[at] = min(int(table.first[at]), row.first)
        table.last[at] = max(int(table.last[at]), row.last)
        table.count[at] = max(int(table.count[at]), row.count)
        for ident in row.containers:
            kept.containers |= profile.container(ident)
        table.fresh[at] = True
        sure = NEVER if row.tried else row.first if row.sure is None else row.sure
        if sure < table.sure[at]:
            table.sure[at] = sure
            profile.edited()
        self._older(at)

    def _settle_moved(self) -> None:
        if self._moved:
            for at in self._moved:
                self.table.free(at)
            self._moved.clear()
            self._forget_short_cuts()

    # --- asking ---------------------------------------------------------------------------

    def of(self, workload: Workload) -> Profile | None:
        return self.profiles.get(image_key(workload))

    def quiet(
        self, cls: int, write: bool, obj: int, workload: int, tables: Tables
    ) -> frozenset[str]:
        """Fields of which is known that they will not be true, whatever event of this kind comes.

        Never of an IP address: a program may ask for another name of it and connect in the same
        millisecond, which is another destination, before anybody could tell the kernel.
        """
        kind = kind_of_action(cls, write)
        profile = self.of(tables.workloads.workload(workload))
        if kind is None or profile is None:
            return _BOTH
        unlocked = frozenset((DRIFT,)) if profile.locked is None else frozenset[str]()
        entry = object_of(tables.dictionary, obj)
        if kind.number == _CONNECT and entry.address is not None and entry.address.ip is not None:
            return unlocked
        at = profile.find(kind, named(kind, entry))
        if at is None:
            return unlocked
        return frozenset((FIRST_SEEN,)) if self.table.drift[at] else _BOTH

    def first_seen(self, row: Row, wall: int) -> bool | None:
        """Whether the image had not done this before, learning time aside. None: no baseline."""
        profile, kind = self.of(row.workload), kind_of(row.event)
        if profile is None or kind is None or not (name := object_name(kind, row)):
            return None
        if wall <= profile.first + profile.learning:
            return False
        at = profile.find(kind, name)
        return at is None or int(self.table.first[at]) >= wall

    def drift(self, row: Row, wall: int) -> bool | None:
        """Whether the image's profile is locked, and this is not in it."""
        profile, kind = self.of(row.workload), kind_of(row.event)
        if profile is None or kind is None or not (name := object_name(kind, row)):
            return None
        at = profile.find(kind, name)
        if at is None:
            return profile.drifts(kind, name, wall)
        return profile.drifts(kind, name, min(int(self.table.first[at]), wall))

    def told(self, row: Row, wall: int) -> tuple[str, bool | None]:
        """What policies are told of an event: the state of the image's baseline at its time, and
        whether that does not have it. None: no baseline is about such a thing, or as with a Unix
        socket it is about what the caller wrote."""
        profile, kind = self.of(row.workload), kind_of(row.event)
        if profile is None:
            return NOTHING.state, None
        state = profile.state(wall)
        name = object_name(kind, row) if kind is not None else ""
        if kind is None or not name or is_unix(name):
            return state, None
        at = profile.find(kind, name)
        first = int(self.table.sure[at]) if at is not None else NEVER
        if state == LOCKED:
            return state, profile.drifts(kind, name, min(first, wall))
        return state, first >= wall > profile.first + profile.learning

    def state(self, workload: Workload, wall: int) -> str:
        """none, learning or locked, at that time."""
        profile = self.of(workload)
        return NOTHING.state if profile is None else profile.state(wall)

    def known(self, workload: Workload, edition: int = -1) -> Known | None:
        """The same for what is yet to be done, for any thread; None: it is of that edition."""
        with self._lock:
            profile = self.of(workload)
            if edition == (NOTHING.edition if profile is None else profile.edition):
                return None
            if profile is None:
                return NOTHING
            if profile.known is None or profile.known.edition != profile.edition:
                profile.known = self._known(profile)
            return profile.known

    def _known(self, profile: Profile) -> Known:
        sure = self.table.sure
        names = {
            kind.name: frozenset(
                name
                for name, at in held.items()
                if sure[at] != NEVER and not profile.drifts(kind, name, int(sure[at]))
            )
            for kind, held in zip(KINDS, profile.entries, strict=True)
        }
        if profile.state() == LOCKED:
            return Known(profile.image, profile.edition, LOCKED, 0, names, profile.accepted)
        settled = profile.first + profile.learning
        return Known(profile.image, profile.edition, LEARNING, settled, names)

    def fleet(self, row: Row, wall: int) -> int | None:
        """How many images have ever done this, up to a time; the event's own is one of them."""
        mine, kind = self.of(row.workload), kind_of(row.event)
        if mine is None or kind is None or not (name := object_name(kind, row)):
            return None
        found = 1
        for profile in self.profiles.values():
            at = None if profile is mine else profile.find(kind, name)
            found += at is not None and int(self.table.first[at]) <= wall
        return found

    # --- locking, and the store -----------------------------------------------------------

    def judge(self, image: str, locked: int | None, accepted: Iterable[tuple[str, str]]) -> None:
        """Lock (unix ns) or unlock (None) a profile, with what a person accepted besides."""
        with self._lock:
            self._judge(image, locked, accepted)

    def _judge(self, image: str, locked: int | None, accepted: Iterable[tuple[str, str]]) -> None:
        profile = self._profile(image, "")
        if profile is None:
            return
        profile.locked, profile.accepted = locked, frozenset(accepted)
        profile.judge(self.table)
        profile.changed = True
        self.generation += 1

    def drop(self, image: str) -> None:
        """Forget an image."""
        with self._lock:
            self._drop(image)

    def _drop(self, image: str) -> None:
        self._settle_moved()
        profile = self.profiles.pop(image, None)
        if profile is None:
            return
        for at in profile.all():
            self.table.free(at)
        self._forget_short_cuts()
        self.generation += 1

    def load(self, profile: ProfileRow, entries: Iterable[EntryRow]) -> None:
        """Put what the store has in the place of what is known of an image."""
        with self._lock:
            self._load(profile, entries)

    def _load(self, profile: ProfileRow, entries: Iterable[EntryRow]) -> None:
        self.drop(profile.image)
        made = self._profile(profile.image, profile.name)
        if made is None:
            return
        made.learning, made.revision = profile.learning, profile.revision
        made.locked, made.accepted = profile.locked, frozenset(profile.accepted)
        for row in sorted(entries, key=lambda one: one.first):
            if row.kind in BY_NAME:
                self.learn(row)
        made.first = profile.first or made.first
        made.judge(self.table)
        made.changed = False
        for at in made.all():
            self.table.fresh[at] = self.table.stale[at] = False

    def changes(self, counts: bool = True) -> Changes:
        """What the store does not have yet. counts: also entries of which only numbers grew."""
        table = self.table
        wanted = table.fresh | table.stale if counts else table.fresh
        entries = [self.row(at) for at in np.flatnonzero(wanted).tolist()]
        profiles = [profile_row(one) for one in self.profiles.values() if one.changed]
        return Changes(tuple(profiles), tuple(entries), tuple(self._gone), tuple(self._dropped))

    def saved(self, changes: Changes) -> None:
        """These are in the store; nothing may have been observed since they were made."""
        for row in changes.entries:
            profile = self.profiles.get(row.image)
            at = profile.entries[BY_NAME[row.kind].number].get(row.name) if profile else None
            if at is not None:
                self.table.fresh[at] = self.table.stale[at] = False
        for one in changes.profiles:
            if one.image in self.profiles:
                self.profiles[one.image].changed = False
        self._gone.clear()
        self._dropped.clear()

    def row(self, at: int) -> EntryRow:
        kept, table = self.table.of(at), self.table
        ids = self.profiles[kept.image].ids(kept.containers)
        numbers = (int(table.first[at]), int(table.last[at]), int(table.count[at]))
        sure = int(table.sure[at]) if table.sure[at] != NEVER else 0
        return EntryRow(kept.image, KINDS[kept.kind].name, kept.name, *numbers, ids, sure)

    def stats(self) -> dict[str, int]:
        """For `status`."""
        locked = sum(one.locked is not None for one in self.profiles.values())
        return {
            "images": len(self.profiles),
            "locked": locked,
            "entries": self.table.used,
            **self.lost,
        }


def _learnt(numbered: list[tuple[Profile, int]], whose: np.ndarray) -> np.ndarray:
    """By number of container: until when its image is learnt, unix ns. Only of those in whose."""
    until = np.zeros(len(numbered) + 1, np.int64)
    for number in np.flatnonzero(np.bincount(whose)).tolist():
        profile = numbered[number - 1][0]
        until[number] = profile.first + profile.learning
    return until


def object_name(kind: Kind, row: Row) -> str:
    """What a baseline calls the object of one event."""
    obj = row.obj2 if row.event.cls in SECOND else row.obj
    return named(kind, obj, row.name)


def profile_row(profile: Profile) -> ProfileRow:
    return ProfileRow(
        profile.image,
        profile.name,
        profile.first,
        profile.learning,
        profile.locked,
        tuple(sorted(profile.accepted)),
        profile.revision,
    )
