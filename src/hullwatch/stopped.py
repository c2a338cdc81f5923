"""What policies would have stopped, added up: a line for each workload, action and verdict."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

import msgspec

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import NO_PERMIT, Engine
from hullwatch.decide.question import Decision
from hullwatch.store.calls import names as calls_of

__all__ = ["Example", "Line", "Some", "Stopped", "Told"]

_MAX_LINES = 10_000


class Example(msgspec.Struct, frozen=True):
    """time: unix ns. process: its command line; of a call, who asked. calls: for which tool call it
    was done, in words; several where several ran at once."""

    time: int
    pid: int
    process: str
    object: str
    calls: tuple[str, ...] = ()


class Line(msgspec.Struct, kw_only=True):
    """What one workload would have been stopped from, by the same policies. effect: what they say;
    enforced: what is done as long as some of them only observe. policies: () where there are
    permits, and none holds. times: events; distinct: questions. first, last: unix ns."""

    effect: str
    enforced: str
    policies: tuple[str, ...]
    reason: str
    workload: str
    image: str
    action: str
    times: int = 0
    distinct: int = 0
    first: int = 0
    last: int = 0
    examples: list[Example] = []


class Told(NamedTuple):
    """A decision about one action."""

    who: str
    action: str
    decision: Decision


class Some(NamedTuple):
    """Events that are asked about alike. first, last: unix ns. Of the first: pid, process, object
    and span."""

    workload: Workload | None
    times: int
    first: int
    last: int
    pid: int
    process: str
    object: str
    span: int


class Stopped:
    """link: to the store's SQLite. examples: how many a line has. left_out: events of more lines
    than are kept."""

    def __init__(self, engine: Engine, link: sqlite3.Connection, examples: int) -> None:
        self._engine, self._link, self._examples = engine, link, examples
        self._lines: dict[tuple[object, ...], Line] = {}
        self.left_out = 0

    def lines(self) -> list[Line]:
        """Blocks, then challenges; the most frequent first."""
        found = self._lines.values()
        return sorted(found, key=lambda one: (one.effect, -one.times, one.workload, one.action))

    def add(self, told: Told, some: Some, fresh: bool) -> None:
        """fresh: its question was not asked before."""
        decision = told.decision
        key = decision.wanted, decision.effect, self.deciding(decision), told.who, told.action
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= _MAX_LINES:
                self.left_out += some.times
                return
            line = self._lines[key] = Line(
                effect=decision.wanted.value,
                enforced=decision.effect.value,
                policies=self.deciding(decision),
                reason=self._reason(decision),
                workload=told.who,
                image=(some.workload.image if some.workload else "") or "",
                action=told.action,
                first=some.first,
            )
        line.times += some.times
        line.distinct += fresh
        line.first, line.last = min(line.first, some.first), max(line.last, some.last)
        if fresh and len(line.examples) < self._examples:
            calls = calls_of(self._link, some.span) if some.span else []
            example = Example(some.first, some.pid, some.process, some.object, tuple(calls))
            line.examples.append(example)

    def deciding(self, decision: Decision) -> tuple[str, ...]:
        """Of the policies of a decision, those that say what is wanted."""
        policies = self._engine.policies
        return tuple(one for one in decision.policies if policies[one].does is decision.wanted)

    def _reason(self, decision: Decision) -> str:
        """Why that is wanted, which a decision says only where it is also done."""
        deciding = self.deciding(decision)
        if not deciding:
            return NO_PERMIT
        if decision.wanted is decision.effect:
            return decision.reason
        return self._engine.policies[deciding[0]].reason or f"policy {deciding[0]}"
