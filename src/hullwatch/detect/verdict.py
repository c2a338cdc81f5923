"""What the kernel may keep to itself: rules asked with most of the event unknown.

"Possibly true" mode: whatever is not known may hold and may fail. Where no rule can then hold,
the kernel only counts. Things that may change while a process lives (ids, capabilities) and
things of the single event (result, flags, time, ports) are never taken as known. What an image
is known to do is taken as known: it becomes unknown again only where a baseline is locked or
forgotten, and then every verdict is void (`Baselines.generation`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from hullwatch.context.enriched import ProcessImage, Tables
from hullwatch.context.workload import Workload
from hullwatch.detect.fields import Where
from hullwatch.detect.row import Object, object_of
from hullwatch.detect.signatures import Overflow
from hullwatch.sensor.wire import Class

if TYPE_CHECKING:
    from hullwatch.detect.engine import Engine

__all__ = ["BYPROC", "COUNT", "REPORT", "Verdicts"]

COUNT, REPORT, BYPROC = "count", "report", "byproc"
_MEMO = 1 << 18
_OPEN = int(Class.OPEN)


# Every domain name that an address has in a container; None: not known, so any.
Names = tuple[str, ...] | None


class _Action(NamedTuple):
    """upper: of the writable layer; None where that is not known."""

    cls: int
    write: bool
    family: int
    upper: bool | None


class Verdicts:
    """Answers for one engine, remembered by signature: any number of objects, few answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parts = engine.parts
        self._events: dict[_Action, tuple[int, int]] = {}
        self._answers: dict[tuple[_Action, int, int, Names, int], str] = {}
        self._image_answers: dict[tuple[_Action, int, int, int, Names, int], str] = {}

    def clear(self) -> None:
        self._answers.clear()
        self._image_answers.clear()

    def of(
        self,
        cls: int,
        write: bool,
        obj: int,
        workload: int,
        tables: Tables,
        names: Names = None,
        upper: bool | None = None,
    ) -> str:
        seen, whose = self._signatures(obj, workload, tables)
        never = self._never(cls, write, obj, workload, tables)
        action = _action(cls, write, object_of(tables.dictionary, obj), upper)
        key = (action, seen, whose, names, never)
        found = self._answers.get(key)
        if found is None:
            _bound(self._answers)
            engine = self.engine
            found = self._answers[key] = self._answer(
                key[0], engine.objects.parts[seen], engine.workloads.parts[whose], names, never
            )
        return found

    def of_image(
        self,
        cls: int,
        write: bool,
        obj: int,
        image: int,
        workload: int,
        tables: Tables,
        names: Names = None,
        upper: bool | None = None,
    ) -> str:
        seen, whose = self._signatures(obj, workload, tables)
        never = self._never(cls, write, obj, workload, tables)
        engine = self.engine
        # The bits, not a signature: asking must not fill the engine's table of processes.
        process = engine.image_bits(tables, image) & ~self.parts.mutable
        action = _action(cls, write, object_of(tables.dictionary, obj), upper)
        key = (action, seen, whose, process, names, never)
        found = self._image_answers.get(key)
        if found is None:
            _bound(self._image_answers)
            found = self._image_answers[key] = self._answer_for(
                action,
                engine.objects.parts[seen],
                engine.workloads.parts[whose],
                names,
                process,
                never,
            )
        return found

    def may_match(
        self,
        cls: int,
        write: bool,
        obj: Object | str,
        workload: Workload | None = None,
        image: ProcessImage | None = None,
    ) -> bool:
        thing = Object(obj) if isinstance(obj, str) else obj
        seen = self.parts.object(thing)
        whose = (0, self.parts.all)
        if workload is not None and workload.state != "pending":
            whose = (self.parts.workload(workload), 0)
        action = _action(cls, write, thing)
        if image is None:
            return self._answer(action, seen, whose, None) != COUNT
        return self._answer_for(action, seen, whose, None, self.parts.image(image)) != COUNT

    def which(self, cls: int, obj: Object | None, workload: Workload) -> tuple[int, ...]:
        """The rules (places in the engine's list) that may hold for some event of which only this
        is known. obj None: any object."""
        everything = (0, self.parts.all)
        seen = everything if obj is None else self.parts.object(obj)
        whose = everything
        if workload.state != "pending":
            whose = (self.parts.workload(workload), 0)
        found: set[int] = set()
        for write in (False, True) if cls == _OPEN else (False,):
            holds, fails = self._known(_action(cls, write, obj or Object("")), seen, whose, None, 0)
            process = self.parts.plans[cls].bits[Where.IMAGE]
            found |= set(
                self.engine.ask(self.engine.by_class[cls], holds | process, fails | process)
            )
        return tuple(sorted(found))

    def _never(self, cls: int, write: bool, obj: int, workload: int, tables: Tables) -> int:
        """Bits that will not hold, as the image's baseline knows such events."""
        bits = self.parts.plans[cls].quiet
        if not bits:
            return 0
        quiet = self.engine.baselines.quiet(cls, write, obj, workload, tables)
        return sum(bits[field] for field in quiet if field in bits)

    def _signatures(self, obj: int, workload: int, tables: Tables) -> tuple[int, int]:
        engine = self.engine
        try:
            return engine.object_signature(tables, obj), engine.workload_signature(tables, workload)
        except Overflow:
            engine.reset()
            return engine.object_signature(tables, obj), engine.workload_signature(tables, workload)

    def _known(
        self,
        action: _Action,
        seen: tuple[int, int],
        whose: tuple[int, int],
        names: Names,
        never: int,
    ) -> tuple[int, int]:
        """(may hold, may fail) without what the process decides."""
        cls = action.cls
        bits = self.parts.plans[cls].bits
        event = self._events.get(action)
        if event is None:
            event = self._events[action] = self.parts.possible_events(*action)
        holds, fails = event
        absent = self.parts.all & ~sum(bits.values())
        unknown = bits[Where.ROW] | bits[Where.OBJ2]
        unknown |= seen[1] & bits[Where.OBJ] | whose[1] & bits[Where.WORKLOAD]
        certain = seen[0] & bits[Where.OBJ] | whose[0] & bits[Where.WORKLOAD]
        decided = (bits[Where.OBJ] | bits[Where.WORKLOAD]) & ~unknown
        of_name = fails_name = bits[Where.NAME]
        if names is not None:
            of_name = 0
            for name in names:
                of_name |= self.parts.name(name) & bits[Where.NAME]
        holds |= certain | unknown & ~never | of_name
        return holds, fails | decided & ~certain | unknown | fails_name | absent

    def _answer(
        self,
        action: _Action,
        seen: tuple[int, int],
        whose: tuple[int, int],
        names: Names,
        never: int = 0,
    ) -> str:
        engine = self.engine
        holds, fails = self._known(action, seen, whose, names, never)
        process = self.parts.plans[action.cls].bits[Where.IMAGE]
        rules = engine.ask(engine.by_class[action.cls], holds | process, fails | process)
        if not rules:
            return COUNT
        # Without any answer from the process: does a rule get by without one?
        return REPORT if engine.ask(rules, holds, fails) else BYPROC

    def _answer_for(
        self,
        action: _Action,
        seen: tuple[int, int],
        whose: tuple[int, int],
        names: Names,
        process: int,
        never: int = 0,
    ) -> str:
        engine = self.engine
        holds, fails = self._known(action, seen, whose, names, never)
        bits = self.parts.plans[action.cls].bits[Where.IMAGE]
        changing = bits & self.parts.mutable
        stable = process & bits & ~changing
        holds |= stable | changing
        fails |= bits & ~stable
        return REPORT if engine.ask(engine.by_class[action.cls], holds, fails) else COUNT


def _action(cls: int, write: bool, obj: Object, upper: bool | None = None) -> _Action:
    family = obj.address.family if obj.address is not None else 0
    family = socket.AF_INET if family == socket.AF_INET6 else family
    return _Action(cls, write and cls == _OPEN, int(family), upper)


def _bound(memo: dict) -> None:
    if len(memo) >= _MEMO:
        memo.clear()
