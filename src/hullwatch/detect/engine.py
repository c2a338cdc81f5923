"""The rule engine: enriched batches in, findings out.

Each part of an event (its numbers, its object, its process, its container) is reduced to the
bits of the predicates that hold for it, and equal bits to one small *signature*. A rule is then
asked once for each combination of signatures ever seen, whatever the number of events, processes
and files; a batch is gathers and look-ups of integers. See ARCHITECTURE.md, "Ask once".

Two steps, so that processes are only looked at where an event's own side can match:
1. event x object x container: which rules are still possible, whatever the process?
2. that x process x destination name: which rules hold, and which must see the single event?
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import numpy as np

from hullwatch.context.enriched import Enriched, ProcessImage, Tables
from hullwatch.context.workload import Workload
from hullwatch.detect.accounts import Accounts, HostAccounts
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.events import EventKeys
from hullwatch.detect.fields import Where
from hullwatch.detect.finding import Finding, Match
from hullwatch.detect.fold import Folder
from hullwatch.detect.intern import KeyTable, SlotTable
from hullwatch.detect.parts import Parts
from hullwatch.detect.row import Env, Event, Object, Row, object_of, row_of
from hullwatch.detect.ruleset import Rule, RuleSet
from hullwatch.detect.sequence.sequences import Sequences
from hullwatch.detect.signatures import Overflow, Signatures
from hullwatch.detect.suppress import Suppression, Suppressions
from hullwatch.detect.verdict import Verdicts
from hullwatch.sensor.wire import Class

__all__ = ["Engine"]

_OPEN, _SETID, _CAPSET = int(Class.OPEN), int(Class.SETID), int(Class.CAPSET)
_U = np.uint64
# Widths of a step-1 key: event 22, object 14, second object 14, container 14 bits.
_SIGNATURES = 1 << 14
_COMBINATIONS = 1 << 17
_RowOf = Callable[[int], Row]


class _Ask(NamedTuple):
    """Rules that the single event decides, and the bits of them that it has to be asked for."""

    rules: tuple[int, ...]
    wanted: int


class _Outcome(NamedTuple):
    """Of one combination: rules that hold, and those that are open, for events that may be new to
    a baseline and for those that are known to it."""

    sure: tuple[int, ...]
    novel: _Ask
    known: _Ask
    holds: int
    fails: int
    unknown: int


class Engine:
    """Runs the enabled rules of a set. Not thread-safe; one per stream of batches.

    accounts: names of users and groups; this host's by default. baselines: what images normally
    do; `process` adds to it.
    """

    def __init__(
        self,
        rules: RuleSet,
        accounts: Accounts | None = None,
        baselines: Baselines | None = None,
    ) -> None:
        self.ruleset = rules
        self.baselines = baselines if baselines is not None else Baselines()
        self.rules: list[Rule] = [rule for rule in rules.rules if rule.enabled] + rules.steps
        self.env = Env(
            accounts if accounts is not None else HostAccounts.read(), baselines=self.baselines
        )
        self.parts = Parts(rules.program, self.env)
        self.folder = Folder()
        self.sequences = Sequences(self.rules)
        self.suppressions = Suppressions(rules, (), self.env)
        self.seen = 0  # events so far
        self.resets = 0
        self.objects = Signatures(_SIGNATURES)
        self.images = Signatures(_SIGNATURES)
        self.workloads = Signatures(_SIGNATURES)
        self.names = Signatures(_SIGNATURES)
        self._object_slots = SlotTable()
        self._image_slots = SlotTable()
        self._workload_slots = SlotTable()
        self._pending_slots: set[int] = set()
        self._first = KeyTable(_COMBINATIONS, secrets.randbits(64))
        self._second = KeyTable(_COMBINATIONS, secrets.randbits(64))
        self._events = EventKeys(self.parts)
        self._event_live: list[tuple[int, ...]] = []
        self._live = np.zeros(1024, bool)
        self._possible: list[tuple[int, ...]] = []
        self._first_key: list[tuple[int, int, int, int]] = []
        self._possible_any = np.zeros(1024, bool)
        self._outcomes: list[_Outcome] = []
        self._outcome_any = np.zeros(1024, bool)
        self._outcome_loud = np.zeros(1024, bool)  # also for what its image is known to do
        self._reads_object2 = np.zeros(int(Class.CLASS_MAX), bool)
        for cls, plan in self.parts.plans.items():
            self._reads_object2[cls] = bool(plan.bits[Where.OBJ2])
        self.by_class: dict[int, tuple[int, ...]] = {
            cls: tuple(at for at, rule in enumerate(self.rules) if cls in rule.classes)
            for cls in self.parts.plans
        }
        self.verdicts = Verdicts(self)

    # Batches

    def process(self, enriched: Enriched) -> list[Finding]:
        """Findings of one batch, new or with new counts (see Folder). Batches go in order."""
        return self.folder.fold(self.judge(enriched), self.env)

    def judge(self, enriched: Enriched) -> list[Match]:
        """What is to be told of one batch, before folding: rules that match, and sequences that
        became complete; what is suppressed says by which. Batches go in order."""
        self.env.wall_offset = int(enriched.batch.wall_offset)
        novel = self.baselines.observe(enriched)
        matches = self.sequences.advance(self.match(enriched, novel), self.env)
        return self.suppressions.mark(matches)

    def suppress(self, given: Iterable[Suppression]) -> None:
        """From now on these, and no others; `suppressions.errors` says which cannot be used."""
        self.suppressions = Suppressions(self.ruleset, given, self.env)

    def match(self, enriched: Enriched, novel: np.ndarray | None = None) -> list[Match]:
        """The matches of one batch: one per rule (or step of a sequence), process and object.

        novel: bool[n] as `Baselines.observe` gives it; without, each event may be.
        """
        events = enriched.batch.events
        self.env.wall_offset = int(enriched.batch.wall_offset)
        self._prepare(enriched)
        if not events.size or enriched.tables is None:
            return []
        try:
            found = self._match(enriched, enriched.tables, novel)
        except Overflow:
            self.reset()
            try:
                found = self._match(enriched, enriched.tables, novel)
            except Overflow:
                # More distinct behaviour in one batch than the tables hold: slow, not wrong.
                self.reset()
                found = self._plainly(enriched)
        self.seen += int(events.size)
        return found

    def reset(self) -> None:
        """Forget everything that was worked out. Results do not change, only the work is redone."""
        self.resets += 1
        for table in (self.objects, self.images, self.workloads, self.names):
            table.clear()
        for slots in (self._object_slots, self._image_slots, self._workload_slots):
            slots.clear()
        self._pending_slots.clear()
        self._first.clear()
        self._second.clear()
        self._events.clear()
        for held in (self._event_live, self._possible, self._first_key, self._outcomes):
            held.clear()
        self.verdicts.clear()

    def _prepare(self, enriched: Enriched) -> None:
        self._image_slots.forget(enriched.released_images)
        self._workload_slots.forget(enriched.released_workloads)
        self._workload_slots.forget(self._pending_slots)
        self._pending_slots.clear()
        self._object_slots.forget_below(int(enriched.batch.dict_base))
        events = enriched.batch.events
        if events.size and self.parts.mutable:
            cls = events["cls"]
            changed = (cls == _SETID) | (cls == _CAPSET)
            if changed.any():
                self._image_slots.forget(np.unique(enriched.image[changed]).tolist())

    def _match(self, enriched: Enriched, tables: Tables, novel: np.ndarray | None) -> list[Match]:
        batch = enriched.batch
        events = batch.events
        ids = self._events.look(events, self._new_event)
        rows = np.flatnonzero(self._live[ids])
        if not rows.size:
            return []
        chosen = events[rows]
        obj = chosen["obj"]
        obj2 = self._second_objects(chosen, obj)
        workload = enriched.workload[rows]

        key = ids[rows].astype(_U)
        objects = self._object_slots.look(obj, lambda ident: self._object(tables, ident))
        key |= objects.astype(_U) << _U(22)
        if obj2 is not None:
            second = self._object_slots.look(obj2, lambda ident: self._object(tables, ident))
            key |= second.astype(_U) << _U(36)
        whose = self._workload_slots.look(workload, lambda slot: self._workload(tables, slot))
        key |= whose.astype(_U) << _U(50)
        first = self._first.look(key, lambda at: self._combine_first(int(key[at])))
        keep = np.flatnonzero(self._possible_any[first])
        if not keep.size:
            return []

        rows, first = rows[keep], first[keep]
        images = enriched.image[rows]
        key2 = first.astype(_U)
        key2 |= self._image_slots.look(images, lambda s: self._image(tables, s)).astype(_U) << _U(
            24
        )
        if self.parts.names and enriched.names:
            key2 |= self._name_signatures(enriched, rows) << _U(44)
        result = self._second.look(key2, lambda at: self._combine_second(int(key2[at])))
        some = self._outcome_any[result]
        if novel is not None:
            some &= self._outcome_loud[result] | novel[rows]
        keep = np.flatnonzero(some)
        if not keep.size:
            return []
        return self._collect(enriched, rows[keep], result[keep], novel)

    def _second_objects(self, chosen: np.ndarray, obj: np.ndarray) -> np.ndarray | None:
        cls = chosen["cls"]
        reads = self._reads_object2[cls]
        if not reads.any():
            return None
        obj2 = np.where(reads, chosen["obj2"], 0)
        # The sensor gives the caller's text only where it differs from the kernel's path.
        return np.where(reads & (cls == _OPEN) & (obj2 == 0), obj, obj2)

    def _name_signatures(self, enriched: Enriched, rows: np.ndarray) -> np.ndarray:
        found = np.zeros(rows.size, _U)
        names = enriched.names
        if len(names) < rows.size:
            at = np.searchsorted(rows, list(names))
            pairs = zip(at.tolist(), names.items(), strict=True)
            hits = [(i, name) for i, (row, name) in pairs if i < rows.size and rows[i] == row]
        else:
            hits = [(i, names[row]) for i, row in enumerate(rows.tolist()) if row in names]
        for i, name in hits:
            found[i] = self.names.of(self.parts.name(name))
        return found

    # What is new

    def _new_event(self, event: Event) -> int:
        plan = self.parts.plans.get(event.cls)
        if plan is None:  # a class that this version does not know
            self._event_live.append(())
            self._events.holds.append(0)
            return len(self._event_live) - 1
        holds = self.parts.event(event)
        decided = plan.bits[Where.EVENT]
        rest = sum(plan.bits[where] for where in Where if where is not Where.EVENT)
        rules = self.ask(self.by_class[event.cls], holds | rest, self.parts.all & ~holds | rest)
        ident = len(self._event_live)
        self._event_live.append(rules)
        self._events.holds.append(holds & decided)
        self._live = _put(self._live, ident, bool(rules))
        return ident

    def _object(self, tables: Tables, ident: int) -> int:
        if not ident:
            return self.objects.of(0)
        holds, depends = self.parts.object(object_of(tables.dictionary, ident))
        return self.objects.of(holds, depends)

    def _workload(self, tables: Tables, slot: int) -> int:
        workload = tables.workloads.workload(slot)
        if workload.state == "pending":
            self._pending_slots.add(slot)
            return self.workloads.of(0, self.parts.all)
        return self.workloads.of(self.parts.workload(workload))

    def object_signature(self, tables: Tables, ident: int) -> int:
        return self._object_slots.one(ident, lambda i: self._object(tables, i))

    def workload_signature(self, tables: Tables, slot: int) -> int:
        if slot in self._pending_slots:
            return self._workload(tables, slot)  # may be known by now
        return self._workload_slots.one(slot, lambda i: self._workload(tables, i))

    def image_bits(self, tables: Tables, slot: int) -> int:
        """What holds for a process; as of now, so ids may change later."""
        number = self._image_slots.one(slot, lambda i: self._image(tables, i))
        return self.images.parts[number][0]

    def _image(self, tables: Tables, slot: int) -> int:
        return self.images.of(self.parts.image(tables.processes.image(slot)))

    def _combine_first(self, key: int) -> int:
        event, obj, obj2, whose = key & 0x3FFFFF, key >> 22 & 0x3FFF, key >> 36 & 0x3FFF, key >> 50
        ident = _room(self._possible)
        self._first_key.append((event, obj, obj2, whose))
        holds, fails, unknown = self._known(event, obj, obj2, whose)
        plan = self.parts.plans[self._events.events[event].cls]
        later = plan.bits[Where.IMAGE] | plan.bits[Where.NAME] | unknown
        rules = self.ask(self._event_live[event], holds | later, fails | later)
        self._possible.append(rules)
        self._possible_any = _put(self._possible_any, ident, bool(rules))
        return ident

    def _known(self, event: int, obj: int, obj2: int, whose: int) -> tuple[int, int, int]:
        """(holds, fails, only the row can tell) without the process and the name.

        What a pending container decides is in none of the three: it neither holds nor fails.
        """
        bits = self.parts.plans[self._events.events[event].cls].bits
        holds = self._events.holds[event]
        one, one_open = self.objects.parts[obj]
        two, two_open = self.objects.parts[obj2]
        of_workload, pending = self.workloads.parts[whose]
        holds |= one & bits[Where.OBJ] | two & bits[Where.OBJ2]
        holds |= of_workload & bits[Where.WORKLOAD]
        unknown = bits[Where.ROW] | one_open & bits[Where.OBJ] | two_open & bits[Where.OBJ2]
        silent = pending & bits[Where.WORKLOAD]
        fails = self.parts.all & ~holds & ~unknown & ~silent
        return holds, fails, unknown

    def _combine_second(self, key: int) -> int:
        first, image, name = key & 0xFFFFFF, key >> 24 & 0xFFFFF, key >> 44
        ident = _room(self._outcomes)
        event, obj, obj2, whose = self._first_key[first]
        holds, fails, unknown = self._known(event, obj, obj2, whose)
        bits = self.parts.plans[self._events.events[event].cls].bits
        more = self.images.parts[image][0] & bits[Where.IMAGE]
        more |= self.names.parts[name][0] & bits[Where.NAME]
        holds |= more
        fails &= ~more
        sure: list[int] = []
        undecided: list[int] = []
        for at in self._possible[first]:
            tree = self.rules[at].tree
            if tree.ask(holds, fails):
                sure.append(at)
            elif unknown and tree.ask(holds | unknown, fails | unknown):
                undecided.append(at)
        never = sum(self.parts.plans[self._events.events[event].cls].quiet.values())
        quiet = self.ask(tuple(undecided), holds | unknown & ~never, fails | unknown)
        novel, known = self._asking(undecided, unknown), self._asking(quiet, unknown & ~never)
        self._outcomes.append(_Outcome(tuple(sure), novel, known, holds, fails, unknown))
        self._outcome_any = _put(self._outcome_any, ident, bool(sure or undecided))
        self._outcome_loud = _put(self._outcome_loud, ident, bool(sure or quiet))
        return ident

    def _asking(self, rules: Iterable[int], unknown: int) -> _Ask:
        wanted = 0
        for at in rules:
            wanted |= self.rules[at].tree.bits()
        return _Ask(tuple(rules), wanted & unknown)

    def ask(self, rules: tuple[int, ...], holds: int, fails: int) -> tuple[int, ...]:
        return tuple(at for at in rules if self.rules[at].tree.ask(holds, fails))

    # Matches

    def _collect(
        self,
        enriched: Enriched,
        rows: np.ndarray,
        result: np.ndarray,
        novel: np.ndarray | None,
    ) -> list[Match]:
        events = enriched.batch.events
        images = enriched.image[rows]
        workloads = enriched.workload[rows]
        objects = events["obj"][rows]
        apart = [events[column][rows] for column in {*self.suppressions.apart, "span"}]
        order = np.lexsort((rows, *apart, workloads, objects, images, result))
        columns = [one[order] for one in (result, images, objects, workloads, *apart)]
        new = np.ones(order.size, bool)
        if order.size > 1:
            new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], order.size)
        row = self._rows(enriched)
        found: list[Match] = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            outcome = self._outcomes[int(columns[0][start])]
            members = rows[order[start:end]]
            for at in outcome.sure:
                found += self._matches(enriched, row, at, members)
            if outcome.novel.rules:
                for at, some in self._single(row, members, outcome, novel).items():
                    found += self._matches(enriched, row, at, np.array(some))
        found.sort(key=lambda match: match.row.ts)
        return found

    def _rows(self, enriched: Enriched) -> _RowOf:
        """Rows of a batch by place, each made once."""
        return cache(lambda at: self.row(enriched, at))

    def _matches(
        self, enriched: Enriched, row: _RowOf, at: int, members: np.ndarray
    ) -> list[Match]:
        """Events of one process and object that meet a rule, as one match; for some steps of
        sequences as one each."""
        rule = self.rules[at]
        if rule.per_event and members.size > 1:
            return [
                one
                for member in members.tolist()
                for one in self._matches(enriched, row, at, np.array([member]))
            ]
        times = enriched.batch.events["ts"][members]
        kept = times.astype(np.int64) if rule.step else None
        return [Match(rule, row(int(members[0])), members.size, int(times[-1]), kept)]

    def _single(
        self,
        row: _RowOf,
        members: np.ndarray,
        outcome: _Outcome,
        novel: np.ndarray | None,
    ) -> dict[int, list[int]]:
        """Rules that depend on the single event: each event is asked. Rows by rule."""
        found: dict[int, list[int]] = {}
        for member in members.tolist():
            ask = outcome.novel if novel is None or novel[member] else outcome.known
            if not ask.rules:
                continue
            more = self.parts.row(row(member), ask.wanted)
            holds = outcome.holds | more
            fails = outcome.fails | outcome.unknown & ~more
            for at in ask.rules:
                if self.rules[at].tree.ask(holds, fails):
                    found.setdefault(at, []).append(member)
        return found

    def _plainly(self, enriched: Enriched) -> list[Match]:
        """Every rule on every event, without tables."""
        found: list[Match] = []
        row = self._rows(enriched)
        for at in range(enriched.batch.events.size):
            holds, fails = self.parts.truth(row(at))
            for index in self.by_class.get(row(at).event.cls, ()):
                if self.rules[index].tree.ask(holds, fails):
                    found += self._matches(enriched, row, index, np.array([at]))
        return found

    def row(self, enriched: Enriched, at: int) -> Row:
        """One event of a batch with everything that belongs to it."""
        return row_of(enriched, at, self.seen + at + 1)

    # Feedback to the kernel: see verdict.py

    def verdict(
        self,
        cls: int,
        write: bool,
        obj: int,
        workload: int,
        tables: Tables,
        names: tuple[str, ...] | None = None,
        upper: bool | None = None,
    ) -> str:
        """'count', 'report' or 'byproc' for all events of a class on an object in a container.

        names: every domain name the address has in this container, where that is known; the
        answer then holds until there is another. upper: whether the file is of the writable layer;
        None: not known.
        """
        return self.verdicts.of(cls, write, obj, workload, tables, names, upper)

    def verdict_for_image(
        self,
        cls: int,
        write: bool,
        obj: int,
        image: int,
        workload: int,
        tables: Tables,
        names: tuple[str, ...] | None = None,
        upper: bool | None = None,
    ) -> str:
        """'count' or 'report', with the process image known too."""
        return self.verdicts.of_image(cls, write, obj, image, workload, tables, names, upper)

    def may_match(
        self,
        cls: int,
        write: bool,
        obj: Object | str,
        workload: Workload | None = None,
        image: ProcessImage | None = None,
    ) -> bool:
        """Whether any rule can hold for some event of which only this is known."""
        return self.verdicts.may_match(cls, write, obj, workload, image)


def _room(held: list) -> int:
    if len(held) >= _COMBINATIONS:
        raise Overflow
    return len(held)


def _put(array: np.ndarray, at: int, value: bool) -> np.ndarray:
    if at >= array.size:
        grown = np.zeros(array.size * 2, bool)
        grown[: array.size] = array
        array = grown
    array[at] = value
    return array
