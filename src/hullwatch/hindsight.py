"""Policies over stored history: what `hullwatch policy backtest` asks.

Stored events and calls become the questions that are asked at request time (questions.py), and a
set of policies answers: what it would have stopped, in which workload, and where history does not
know enough. The store groups events by what the policies read, so each distinct question is asked
once. Policies that only observe are taken at their word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hullwatch import questions
from hullwatch.context.call import Call
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.question import Effect
from hullwatch.decide.schema import CONTEXT
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.known import LEARNING
from hullwatch.detect.row import Event, Object
from hullwatch.detect.row import Row as RuleRow
from hullwatch.questions import Act, Actor, Asked
from hullwatch.sensor.dictionary import address_of
from hullwatch.sensor.events import BY_NAME
from hullwatch.sensor.labels import names_of
from hullwatch.sensor.wire import Class
from hullwatch.stopped import Some, Stopped, Told
from hullwatch.store import actions, baselines, counted
from hullwatch.store.query import Reader
from hullwatch.store.tables import unsigned

__all__ = ["Counted", "Hindsight", "Report", "Unknown"]

_SLICE = 500_000  # events that are grouped at once
_MAX_DECIDED = 100_000  # distinct questions that are remembered
_MAX_COUNTED = 200
_OTHERS = "(others)"  # what the store folds the rest of an hour's objects into
_ENDS = (int(Class.CONNECT), int(Class.SEND))
_NET = (*_ENDS, int(Class.LISTEN))

Cgroups = frozenset[tuple[int, int]]
Names = dict[tuple[int, int, str], list[tuple[int, str]]]
"""(boot, cgroup, address) -> names that DNS told, each with when first (unix µs)."""


class Unknown(msgspec.Struct, frozen=True):
    """Attributes that a policy reads and history never has: as if they were missing."""

    policy: str
    attributes: tuple[str, ...]


class Counted(msgspec.Struct, frozen=True, order=True):
    """Events that were counted, not kept, asked by object and workload alone: the effect is what
    may have been."""

    count: int
    effect: str
    policies: tuple[str, ...]
    workload: str
    action: str
    objects: tuple[str, ...]


class Report(msgspec.Struct, kw_only=True):
    """events, calls: what was read. asked: questions about them; distinct: those that differ.

    left_out: events of further lines. failed: policy to how many events it could not be evaluated
    for. lost: events whose object did not arrive. strangers: events of containers that were never
    looked up. repeats: counted as being like one that was kept; only_counted: of which none was.
    reading, asking: seconds. first, last: unix ns.
    """

    policies: int = 0
    version: str = ""
    events: int = 0
    calls: int = 0
    asked: int = 0
    distinct: int = 0
    first: int = 0
    last: int = 0
    left_out: int = 0
    failed: dict[str, int] = {}
    unknown: list[Unknown] = []
    lost: int = 0
    strangers: int = 0
    repeats: int = 0
    only_counted: int = 0
    counted: list[Counted] = []
    losses: dict[str, int] = {}
    warnings: tuple[str, ...] = ()
    reading: float = 0.0
    asking: float = 0.0


class Hindsight:
    """Open with StoreMissing or StoreError; `run` may raise QueryError.

    since, until: unix ns. cgroups: (boot, cgroup) that are asked about; None: all containers, and
    the calls of agents outside. examples: how many a line has.
    """

    def __init__(
        self,
        store: Path,
        engine: Engine,
        since: int | None = None,
        until: int | None = None,
        cgroups: Cgroups | None = None,
        examples: int = 3,
    ) -> None:
        self._engine = engine
        self._since, self._until = since or 0, until or time.time_ns()
        self._cgroups = cgroups
        policies = engine.policies.values()
        self._actions = {action for one in policies for action in one.actions}
        self._words: set[str] = set().union(
            *(CONTEXT.keys() | {"upper"} if one.reads is None else one.reads for one in policies)
        )
        self._classes = questions.classes_of(self._actions)
        self._decided: dict[object, tuple[Told, ...]] = {}
        self._reader = Reader(store, timeout=600)
        self.stopped = Stopped(engine, self._reader.catalog.link, examples)
        self._workloads = self._read_workloads()
        self._baselines = self._read_baselines()
        self.report = Report(policies=len(engine.policies), version=engine.version)

    def close(self) -> None:
        self._reader.close()

    def run(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Report:
        """Ask about all of it; progress(events read, about how many there are) is called often."""
        report = self.report
        report.unknown = [*_unknown(self._engine)]
        self._ask_calls()
        if self._classes:
            self._ask_events(progress)
        holes = counted.holes(self._reader.catalog, self._since, self._until)
        report.losses = {f"{stage} {cls}": count for (stage, cls), count in holes.losses.items()}
        report.left_out = self.stopped.left_out
        report.warnings = tuple(self._reader.warnings)
        return report

    # --- what is there --------------------------------------------------------------------

    def _read_workloads(self) -> dict[tuple[int, int], Workload]:
        decode = msgspec.json.Decoder(Workload).decode
        found = {}
        for boot, cgroup, body in self._reader.catalog.rows(
            "SELECT boot, cgroup, body FROM workloads"
        ):
            try:
                found[boot, unsigned(cgroup)] = decode(body)
            except msgspec.DecodeError:
                continue  # its events are those of a stranger
        return found

    def _read_baselines(self) -> Baselines | None:
        """Where a policy reads them. Entries have the time of their first event, so that what was
        new at the time is new again."""
        if self._words.isdisjoint(("first_seen", "baseline")) or not self._has("baselines"):
            return None
        link, found = self._reader.catalog.link, Baselines()
        for row in baselines.profiles(link):
            found.load(row, baselines.entries_of(link, row.image))
        return found

    def _has(self, table: str) -> bool:
        """Whether the store is not from before there was such a table."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(self._reader.catalog.rows(sql, table))

    def _slices(self) -> Iterator[tuple[int, int, int]]:
        """Spans of time (from, to: unix µs) that fit in memory, and about how many events."""
        segments = self._reader.catalog.segments(self._since, self._until)
        begin, end, rows = self._since // 1000, self._until // 1000 + 1, 0
        for segment in sorted(segments, key=lambda one: one.max_time or self._until):
            rows += segment.rows
            edge = (segment.max_time or self._until) // 1000 + 1
            if rows >= _SLICE and begin < edge < end:
                yield begin, edge, rows
                begin, rows = edge, 0
        yield begin, end, rows

    def _query(self, sql: str, keys: Iterable[tuple[int, int]], begin: int, end: int) -> Any:
        """Rows, as dicts."""
        began = time.monotonic()
        boots, cgroups = zip(*keys, strict=True) if keys else ((), ())
        found = self._reader.query(sql, list(boots), list(cgroups), begin, end).table.to_pylist()
        self.report.reading += time.monotonic() - began
        return found

    # --- asking ---------------------------------------------------------------------------

    def _ask_events(self, progress: Callable[[int, int], None]) -> None:
        mine = [
            key
            for key, workload in self._workloads.items()
            if workload.state != "host" and (self._cgroups is None or key in self._cgroups)
        ]
        whole = self._since // 1000, self._until // 1000 + 1
        names: Names = {}
        if not set(_ENDS).isdisjoint(self._classes):
            for row in self._query(actions.names(), mine, *whole):
                key = row["boot"], row["cgroup"], _ip(row["address"])
                names.setdefault(key, []).append((row["first"], row["name"]))
        calls = self._calls()
        by_program = questions.classes_of(self._actions & {"privilege", "load-plugin"})
        sql = actions.done(self._classes, self._words, by_program)
        slices = list(self._slices())
        of, done = sum(rows for _, _, rows in slices), 0
        for begin, end, rows in slices:
            found = self._query(sql, mine, begin, end)
            began = time.monotonic()
            for row in found:
                self._ask_event(row, names, calls)
            self.report.asking += time.monotonic() - began
            done += rows
            progress(done, of)
        if self._cgroups is None:
            sql = actions.strangers(self._classes)
            self.report.strangers = self._query(sql, [*self._workloads], *whole)[0]["n"]
        self._say_counted(self._query(actions.counted(self._classes), mine, *whole), names)

    def _ask_event(
        self, row: dict[str, Any], names: Names, calls: dict[int, Call], again: bool = False
    ) -> None:
        """again: the first of these events was asked about already."""
        cls, text, one = int(BY_NAME[row["class"]].cls), row["object"], row["first_of"]
        if not text and questions.needs_object(cls):
            self.report.lost += row["n"]
            return
        workload = self._workloads[row["boot"], row["cgroup"]]
        actor = Actor(
            workload,
            row["program"] or "",
            row["parent"] or "",
            row["comm"] or "",
            row["uid"],
            names_of(row["labels"] or 0),
            calls.get(row["span"] or 0),
            *self._normal(row, cls, workload, again),
        )
        if actor.first_seen and row["n"] > 1:
            self._ask_event({**row, "n": row["n"] - 1}, names, calls, again=True)
            row["n"] = 1
        told = (row["said"],) if row["said"] else _told(names, row, cls, row["last"])
        more = (
            *(row["access"] or 0, row["command"] or "", told, row["upper"], row["directory"]),
            bool(row["setuid"]),
        )
        act = Act(cls, text, actor, *more)
        moment, first = row["quarter"], row["first"] * 1000
        about = one["pid"], one["process"] or "", text, one["span"] or 0
        some = Some(workload, row["n"], first, row["last"] * 1000, *about)
        self.report.events += row["n"]
        for_ = (actor.call.name, actor.call.server) if actor.call else None
        said = actor._replace(workload=None, call=None)  # type: ignore[arg-type]  # by others here
        key = row["boot"], row["cgroup"], cls, text, said, for_, more, moment
        self._count(key, questions.asked(act), moment, some)

    def _normal(
        self, row: dict[str, Any], cls: int, workload: Workload, again: bool
    ) -> tuple[str, bool | None]:
        """State of the image's baseline at that time, and whether it had never seen the like."""
        if self._baselines is None:
            return "", None
        cls = int(Class.CONNECT) if cls == Class.TLS else cls  # it is of that connection
        event = Event(cls, flags=row["access"] or 0)
        obj = Object(row["object"], address_of(row["object"]) if cls in _NET else None)
        state, new = self._baselines.told(
            RuleRow(event, obj, None, None, workload, name=row["dest"]), row["first"] * 1000
        )
        return state, new and not (again and state == LEARNING) if new is not None else None

    def _ask_calls(self) -> None:
        if self._actions.isdisjoint(("tool-call", "model-call")) or not self._has("calls"):
            return
        began = time.monotonic()
        by_moment = not self._words.isdisjoint(("hour", "weekday"))
        rows = self._reader.catalog.link.execute(
            f"SELECT boot, cgroup, pid, {_CALL} FROM calls"
            " WHERE begun >= ? AND begun <= ? AND kind IN ('tool', 'model')",
            (self._since, self._until),
        )
        for boot, cgroup, pid, *row in rows:
            whose = boot, unsigned(cgroup or 0)
            if self._cgroups is not None and whose not in self._cgroups:
                continue
            call = _call(row)
            moment = call.begin // 10**9 // actions.QUARTER if by_moment else None
            said = call.kind, call.name, call.server, call.client, questions.said_of_call(call)
            workload = self._workloads.get(whose)
            about = pid or 0, call.client, f"{call.server}/{call.name}", call.id
            some = Some(workload, 1, call.begin, call.begin, *about)
            self.report.calls += 1
            state = ""
            if self._baselines is not None and workload is not None:
                state = self._baselines.state(workload, call.begin)
            asked = questions.asked_of_call(call, workload, state)
            self._count((whose, *said, state, moment), asked, moment, some)
        self.report.asking += time.monotonic() - began

    def _calls(self) -> dict[int, Call]:
        """Tool calls by their spans, where a policy reads them."""
        if self._words.isdisjoint(("tool_call", "server")) or not self._has("calls"):
            return {}
        rows = self._reader.catalog.rows(f"SELECT {_CALL} FROM calls WHERE kind = 'tool'")
        return {row[0]: _call(row) for row in rows}

    # --- adding up ------------------------------------------------------------------------

    def _count(self, key: object, asked: Iterable[Asked], moment: int | None, some: Some) -> None:
        """asked: read only where the key is new."""
        report = self.report
        report.first = min(report.first or some.first, some.first)
        report.last = max(report.last, some.last)
        found = self._decided.get(key)
        fresh = found is None
        if found is None:
            found = tuple(self._decide(asked, moment))
            if len(self._decided) >= _MAX_DECIDED:
                self._decided.clear()
            self._decided[key] = found
        report.asked += some.times * len(found)
        report.distinct += fresh * len(found)
        for told in found:
            for policy in told.decision.failed:
                report.failed[policy] = report.failed.get(policy, 0) + some.times
            if told.decision.wanted is not Effect.ALLOW:
                self.stopped.add(told, some, fresh)

    def _decide(self, asked: Iterable[Asked], moment: int | None = None) -> Iterator[Told]:
        """Of the actions that a policy speaks of."""
        now = None if moment is None else datetime.fromtimestamp(moment * actions.QUARTER)
        for one in asked:
            first = one.questions[0]
            if first.action in self._actions:
                decision = self._engine.decide_any(one.questions, listed=one.listed, now=now)
                yield Told(first.principal.id, first.action, decision)

    def _say_counted(self, rows: list[dict[str, Any]], names: Names) -> None:
        """Of what the kernel counted: how much is like what was kept, and what the policies say of
        the rest by all that is known of it."""
        report = self.report
        found: dict[tuple[Any, ...], tuple[int, list[str]]] = {}
        for row in rows:
            if row["kept"] or not row["object"]:
                report.repeats += row["n"]
                continue
            report.only_counted += row["n"]
            if row["object"] == _OTHERS:
                continue
            for key in self._said(row, names):
                count, objects = found.get(key, (0, []))
                found[key] = count + row["n"], objects
                if len(objects) < 3:
                    objects.append(row["object"])
        made = [
            Counted(count, effect, policies, who, action, tuple(objects))
            for (effect, policies, who, action), (count, objects) in found.items()
        ]
        report.counted = sorted(made, reverse=True)[:_MAX_COUNTED]

    def _said(self, row: dict[str, Any], names: Names) -> set[tuple[Any, ...]]:
        """What would be stopped of an object that was only counted. Whether it was read or written
        is not known."""
        cls = int(BY_NAME[row["class"]].cls)
        actor = Actor(self._workloads[row["boot"], row["cgroup"]])
        told = _told(names, row, cls, self._until // 1000)
        found = set()
        for access in (0, 1) if cls == Class.OPEN else (0,):
            act = Act(cls, row["object"], actor, access, names=told)
            for one in self._decide(questions.asked(act)):
                wanted = one.decision.wanted
                if wanted is not Effect.ALLOW:
                    by = self.stopped.deciding(one.decision)
                    found.add((wanted.value, by, one.who, one.action))
        return found


_CALL = "id, kind, source, begun, name, server, client, body"


def _call(row: Sequence[Any]) -> Call:
    """Of these columns."""
    ident, kind, source, begun, name, server, client, body = row
    return Call(
        id=ident,
        kind=kind,
        source=source,
        begin=begun,
        name=name or "",
        server=server or "",
        client=client or "",
        attributes=msgspec.json.decode(body or "{}"),
    )


def _ip(text: str) -> str:
    """The address of an end as text; IPv4 also where it came mapped in IPv6."""
    address = address_of(text)
    if address is None or address.ip is None:
        return text
    return str(getattr(address.ip, "ipv4_mapped", None) or address.ip)


def _told(names: Names, row: dict[str, Any], cls: int, until: int) -> tuple[str, ...]:
    """The names that a destination had until then (unix µs)."""
    if cls not in _ENDS:
        return ()
    known = names.get((row["boot"], row["cgroup"], _ip(row["object"])), ())
    return tuple(name for first, name in known if first <= until)


def _unknown(engine: Engine) -> Iterator[Unknown]:
    for policy in engine.policies.values():
        missing = questions.never_told(policy.actions, policy.reads)
        if missing:
            yield Unknown(policy.id, missing)
