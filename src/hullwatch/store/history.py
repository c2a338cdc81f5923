"""The store's history as the sensor's batches: what a back-test runs its rules over.

One `Run` is one run of the agent: its stages began with nothing then, and do so again. A run gives
the batches of a span of time in order, so that `replay.Replay` takes it as it takes a capture; one
segment is in memory at a time, and what of the next ones lies before its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.wire import EVENT, PROC, Class
from hullwatch.store import restore
from hullwatch.store.batches import Part, cuts, merged, part_of
from hullwatch.store.births import NAMING, PROCESS, Earlier, known_only
from hullwatch.store.catalog import Catalog
from hullwatch.store.piece import Gone, Piece
from hullwatch.store.restore import BIRTH, EVENT_COLUMNS, IMAGE_COLUMNS, Interned
from hullwatch.store.segments import Segment, wanted
from hullwatch.store.tables import signed

__all__ = ["About", "History", "Run"]

Ints = np.ndarray[Any, Any]
_ALWAYS = 1 << 62
_OPEN_ROWS = 10_000  # a tail that is being written says only at its end how many it has
_decode = msgspec.json.Decoder(Workload).decode


class About(NamedTuple):
    """The agent's run: unix ns and CLOCK_BOOTTIME ns of its start; digest of its rules."""

    session: int
    boot: int
    started: int
    mono: int
    tier: str = ""
    kernel: str = ""
    mode: str = ""
    rules: str = ""


class History:
    """Open with StoreMissing or StoreError. since, until: unix ns. cgroups: (boot, cgroup) whose
    events are wanted; of others, only what processes are made of."""

    def __init__(
        self,
        root: Path | str,
        since: int | None = None,
        until: int | None = None,
        cgroups: frozenset[tuple[int, int]] | None = None,
    ) -> None:
        self.catalog = Catalog(root)
        self.since, self.until, self.cgroups = since, until, cgroups

    def close(self) -> None:
        self.catalog.close()

    def runs(self) -> list[Run]:
        """In the order of time; those that left nothing in the span are not there."""
        owners = dict(self.catalog.rows("SELECT seq, session FROM segments"))
        told = {
            row[0]: About(*(value if value is not None else kind() for value, kind in zip(
                row, (int, int, int, int, str, str, str, str), strict=True)))
            for row in self.catalog.rows(
                "SELECT session, boot, started, mono, tier, kernel, mode, rules FROM sessions"
            )
        }  # fmt: skip
        held: dict[int, list[Segment]] = {}
        for segment in self.catalog.segments():
            held.setdefault(owners.get(segment.seq) or 0, []).append(segment)
        runs = []
        for session, segments in held.items():
            chosen = wanted(segments, self.since, self.until)
            if chosen:
                about = told.get(session) or About(session, chosen[0].boot, 0, 0)
                earlier = [one for one in segments if one.seq < chosen[0].seq]
                runs.append(Run(self, about, chosen, earlier))
        return sorted(runs, key=lambda run: run.about.session)


class Run:
    """Iterate once for the batches. Those with events before `begin` only tell who was there.

    rows, of: read so far, and about how many there are. events: given so far from `begin` on.
    partial: processes of which not all is stored; partial_until: the last of them, unix ns.
    strangers: processes whose beginning is gone. gone: what could not be read, in words.
    first, last: unix ns of the events given.
    """

    torn = ""

    def __init__(
        self, history: History, about: About, segments: list[Segment], earlier: list[Segment]
    ) -> None:
        self._history, self._segments, self._earlier = history, segments, earlier
        self.about = about
        self.tier = about.tier
        self.resolver = RecordedResolver(find=self._workload)
        self.rows = self.events = self.partial = self.partial_until = self.strangers = 0
        self.first = self.last = 0
        self.of = sum(one.rows or _OPEN_ROWS for one in segments)
        self.gone: list[str] = []
        self.begin = self.end = 0
        self._next_id = 1
        cgroups = history.cgroups
        self._cgroups = (
            None
            if cgroups is None
            else np.array([cgroup for boot, cgroup in cgroups if boot == about.boot], np.uint64)
        )

    def close(self) -> None:
        """Nothing is held between batches."""

    def _workload(self, cgroup: int) -> Workload | None:
        rows = self._history.catalog.rows(
            "SELECT body FROM workloads WHERE boot=? AND cgroup=?", self.about.boot, signed(cgroup)
        )
        try:
            return _decode(rows[0][0]) if rows else None
        except msgspec.DecodeError:
            return None

    def __iter__(self) -> Iterator[Batch]:
        self._bounds()
        if self.begin:
            yield from self._before()
        yield from self._within()

    # -- the span --------------------------------------------------------------------------

    def _offset(self, segment: Segment) -> int:
        if segment.min_time is not None and segment.min_mono is not None:
            return segment.min_time - segment.min_mono
        return self.about.started - self.about.mono

    def _bounds(self) -> None:
        """begin, end: CLOCK_BOOTTIME ns. begin 0: all that the run stored is there."""
        since, until, segments = self._history.since, self._history.until, self._segments
        last = segments[-1]
        self.end = _ALWAYS if until is None else max(until - self._offset(last), 0)
        if since is not None and self.about.started < since:
            self.begin = max(since - self._offset(segments[0]), 1)
        elif not self._has_snapshot(segments[0]):
            self.begin = max(segments[0].min_mono or 1, 1)

    def _has_snapshot(self, segment: Segment) -> bool:
        try:
            with Piece(self._history.catalog, segment) as piece:
                classes = restore.class_numbers(piece.read(("class",)))
        except Gone:
            return False  # said when it is read
        return bool((classes == int(Class.TASK)).any())

    # -- before it -------------------------------------------------------------------------

    def _before(self) -> Iterator[Batch]:
        earlier = Earlier(self.begin)
        catalog = self._history.catalog
        for segment in self._segments:
            with self._reading(segment) as piece:
                if piece is not None:
                    earlier.meet(segment.seq, piece)
        interned = Interned(self._next_id)
        parts: list[Part] = []
        for segment in reversed([*self._earlier, *self._segments]):
            if segment.min_mono is not None and segment.min_mono >= self.begin:
                continue
            with self._reading(segment) as piece:
                if piece is not None and len(at := earlier.rows(piece)):
                    parts.append(self._load(piece, interned, at))
        began = min((int(part.events["ts"][0]) for part in parts), default=self.begin)
        for segment in self._segments:
            rows = earlier.strangers().get(segment.seq)
            if rows:
                with Piece(catalog, segment) as piece:
                    table = known_only(piece.read(IMAGE_COLUMNS, np.array(rows)))
                    procs, partial = restore.procs_of(table, interned, max(began - 1, 1))
                self.strangers += partial
                offsets = np.full(len(procs), self._offset(segment), np.int64)
                parts.append(part_of(interned.first, restore.task_events(procs), offsets, procs))
        self._next_id = interned.next
        if parts:
            yield from self._cut(merged(parts), interned.strings)

    # -- in it -----------------------------------------------------------------------------

    def _within(self) -> Iterator[Batch]:
        waiting: list[Part] = []
        strings: list[Any] = []
        for number, segment in enumerate(self._segments):
            with self._reading(segment) as piece:
                if piece is not None:
                    interned = Interned(self._next_id)
                    waiting.append(self._load(piece, interned))
                    self._next_id = interned.next
                    strings += interned.strings
                    self.rows += segment.rows or _OPEN_ROWS
            if not waiting:
                continue
            later = [one.min_mono or 0 for one in self._segments[number + 1 :]]
            both = [part.split(min(later, default=_ALWAYS)) for part in waiting]
            waiting = [rest for _, rest in both if len(rest.events)]
            yield from self._cut(merged([now for now, _ in both]), strings)
            strings = []

    def _reading(self, segment: Segment) -> _Reading:
        return _Reading(self, segment)

    def _load(self, piece: Piece, interned: Interned, at: Ints | None = None) -> Part:
        """Rows of the span that are wanted, or those at these positions."""
        table = piece.read(EVENT_COLUMNS, at)
        positions = np.arange(len(table)) if at is None else at
        if at is None:
            mono = restore.numbers(table.column("mono"))
            keep = (mono >= self.begin) & (mono <= self.end)
            if self._cgroups is not None:
                cls = restore.class_numbers(table)
                cgroup = restore.numbers(table.column("cgroup"))
                keep &= np.isin(cgroup, self._cgroups) | PROCESS[cls] | NAMING[cls]
            if not keep.all():
                positions = np.flatnonzero(keep)
                table = table.take(positions).unify_dictionaries()
        events = restore.events_of(table, interned)
        offsets = restore.offsets_of(table) if len(table) else np.empty(0, np.int64)
        births = positions[BIRTH[events["cls"]]]
        procs = np.empty(0, PROC)
        if len(births):
            procs, partial = restore.procs_of(piece.read(IMAGE_COLUMNS, births), interned)
            if partial:
                self.partial += partial
                self.partial_until = max(self.partial_until, int((events["ts"] + offsets).max()))
        return part_of(interned.first, events, offsets, procs)

    def _cut(self, part: Part, strings: list[Any]) -> Iterator[Batch]:
        events, offsets = part.events, part.offsets
        given = int(np.searchsorted(events["ts"], np.uint64(self.begin)))
        if len(events) > given:
            self.first = self.first or int(events["ts"][given]) + int(offsets[given])
            self.last = int(events["ts"][-1]) + int(offsets[-1])
        self.events += len(events) - given
        born = np.concatenate(([0], np.cumsum(BIRTH[events["cls"]])))
        new: tuple[Any, ...] = tuple(strings)
        for begin, end in cuts(events, offsets, given):
            yield Batch(
                events=events[begin:end],
                procs=part.procs[born[begin] : born[end]],
                strings=new,
                dict_base=part.first_id,
                wall_offset=int(offsets[begin]),
                drained=int(events["ts"][end - 1]),
                tier=self.tier,
            )
            new = ()
        if new:
            yield Batch(events=np.empty(0, EVENT), strings=new, dict_base=part.first_id,
                        tier=self.tier)  # fmt: skip


class _Reading:
    """`with` an open Piece, or None for one that is gone, which the run then says."""

    def __init__(self, run: Run, segment: Segment) -> None:
        self._run, self._segment = run, segment
        self._piece: Piece | None = None

    def __enter__(self) -> Piece | None:
        try:
            self._piece = Piece(self._run._history.catalog, self._segment)
        except Gone as error:
            self._say(str(error))
        return self._piece

    def __exit__(self, kind: type | None, error: object, trace: object) -> bool:
        if self._piece is not None:
            self._piece.__exit__()
            if self._piece.torn:
                self._say(f"{self._segment.file}: {self._piece.torn} events unreadable")
        if isinstance(error, Gone):
            self._say(str(error))
            return True
        return False

    def _say(self, text: str) -> None:
        if text not in self._run.gone:
            self._run.gone.append(text)
