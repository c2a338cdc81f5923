"""Which predicates hold for one event, object, process, container: bits, part by part.

Every predicate belongs to the part that decides it (`Where`), and that may differ by event
class: fd.rport is the server's of a connect and the client's of an accept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hullwatch.context.enriched import ProcessImage
from hullwatch.context.workload import Workload
from hullwatch.detect.column import Column, merged
from hullwatch.detect.fields import Type, Where
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.fields.field import ALL, Getter
from hullwatch.detect.program import Program
from hullwatch.detect.row import DEPENDS, Env, Event, Object, Row
from hullwatch.sensor.syscalls import OPS

__all__ = ["ClassPlan", "Parts"]

_MAX_PROGRAMS = 2048  # whose bits are remembered, with the programs themselves


@dataclass(slots=True)
class ClassPlan:
    """For one event class: the bits each part decides, and what is read of the event.

    quiet: field -> those of its bits that do not hold while it has its quiet value (or none).
    """

    bits: dict[Where, int] = field(default_factory=lambda: dict.fromkeys(Where, 0))
    events: list[Column] = field(default_factory=list)
    rows: list[Column] = field(default_factory=list)
    reads: frozenset[str] = frozenset()
    quiet: dict[str, int] = field(default_factory=dict)


def _only_addresses(column: Column) -> bool:
    return all(bound.field.addresses for bound in column.source.bounds)


def _is_text(column: Column) -> bool:
    source = column.source
    return source.apply is None and all(bound.field.text for bound in source.bounds)


# What the text of a connection, "1.2.3.4:40000->[...]", is made of (fields/network.py).
_ENDS = frozenset("0123456789abcdef.:->")


def _about_ends(column: Column) -> tuple[int, int]:
    """(may hold, always hold) where only the two ends of a connection decide the value."""
    source = column.source
    name = source.bounds[0].label
    plain = source.label in (name, f"tolower({name})", f"basename({name})")
    if not plain or source.type is not Type.STRING:
        return column.all_bits, 0
    return column.about(_ENDS)


def _reader(column: Column) -> tuple[Column, Getter, Any]:
    """The short way to an object's value: (column, getter, argument)."""
    source = column.source
    field_, arg = source.bounds[0].field, source.bounds[0].arg
    if source.apply is None and len(source.bounds) == 1 and field_.object is not None:
        return column, field_.object, arg
    return column, lambda obj, env, _: source.read(Where.OBJ, obj, env), None


def _image_reader(column: Column) -> tuple[Column, Getter, Any]:
    """The same for a process."""
    source = column.source
    field_, arg = source.bounds[0].field, source.bounds[0].arg
    if source.apply is None and len(source.bounds) == 1 and field_.image is not None:
        return column, field_.image, arg
    return column, lambda image, env, _: source.read(Where.IMAGE, image, env), None


class Parts:
    """The columns of a program by part."""

    def __init__(self, program: Program, env: Env) -> None:
        self.env = env
        self.plans: dict[int, ClassPlan] = {int(cls): ClassPlan() for cls in ALL}
        found: dict[Where, dict[str, Column]] = {where: {} for where in Where}
        self.mutable = 0
        for column, source in program.sources():
            bits = column.all_bits
            if source.mutable:
                self.mutable |= bits
            for cls, plan in self.plans.items():
                where = source.where(cls)
                if where is None:
                    continue
                plan.bits[where] |= bits
                found[where][source.label] = column
                if where is Where.EVENT:
                    plan.events.append(column)
                    plan.reads |= source.reads
                elif where is Where.ROW:
                    plan.rows.append(column)
                    if len(source.bounds) == 1 and source.apply is None:
                        field_ = source.bounds[0].field
                        if field_.quiet is not None:
                            plan.quiet[field_.name] = bits & ~column.bits(field_.quiet)
        objects = {**found[Where.OBJ], **found[Where.OBJ2]}
        self.objects = list(objects.values())
        self._of_ends = {id(one): _about_ends(one) for one in self.objects}
        self._of_address = [_reader(one) for one in self.objects]
        texts = [one for one in self.objects if not _only_addresses(one)]
        # Fields by many names, one value.
        self._text = merged([one for one in texts if _is_text(one)])
        self._of_text = [_reader(one) for one in texts if not _is_text(one)]
        self.images = list(found[Where.IMAGE].values())
        self._of_program = [_image_reader(one) for one in self.images if not one.source.own]
        self._of_own = [_image_reader(one) for one in self.images if one.source.own]
        self._programs: dict[tuple[Any, ...], int] = {}
        self.workloads = list(found[Where.WORKLOAD].values())
        self.names = list(found[Where.NAME].values())
        self.all = sum(predicate.bit for predicate in program.predicates.values())

    def event(self, event: Event) -> int:
        return self._sum(self.plans[event.cls].events, Where.EVENT, event)

    def object(self, obj: Object) -> tuple[int, int]:
        """(holds, depends): the second cannot be told from the object alone."""
        holds = depends = 0
        env = self.env
        readers = self._of_address
        if obj.address is None:
            readers = self._of_text
            if self._text is not None and obj.text:
                holds = self._text.fresh(obj.text)
        for column, get, arg in readers:
            value = get(obj, env, arg)
            if value is None:
                continue
            if value is DEPENDS:
                may, always = self._of_ends[id(column)]
                depends |= may
                holds |= always
            else:
                holds |= column.fresh(value)
        return holds, depends

    def image(self, image: ProcessImage | None) -> int:
        if image is None:
            return 0
        # All that the fields of _of_program read: the ten thousandth /bin/true is one look-up.
        key = (
            *(image.program, image.workload, image.uid, image.gid, image.euid, image.egid),
            *(image.cap_effective, image.cap_permitted),
        )
        holds = self._programs.get(key)
        if holds is None:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.clear()
            holds = self._programs[key] = self._ask(self._of_program, image)
        return holds | self._ask(self._of_own, image) if self._of_own else holds

    def _ask(self, readers: list[tuple[Column, Getter, Any]], image: ProcessImage) -> int:
        holds = 0
        env = self.env
        for column, get, arg in readers:
            value = get(image, env, arg)
            if value is not None:
                holds |= column.bits(value)
        return holds

    def workload(self, workload: Workload) -> int:
        return self._sum(self.workloads, Where.WORKLOAD, workload)

    def name(self, name: str | None) -> int:
        return self._sum(self.names, Where.NAME, name) if name else 0

    def truth(self, row: Row) -> tuple[int, int]:
        """(holds, fails) of every predicate for one event."""
        plan = self.plans.get(row.event.cls)
        if plan is None:
            return 0, self.all
        bits = plan.bits
        holds = self.event(row.event)
        unknown = bits[Where.ROW]
        for part, where in ((row.obj, Where.OBJ), (row.obj2, Where.OBJ2)):
            if part is not None:
                of_object, depends = self.object(part)
                holds |= of_object & bits[where]
                unknown |= depends & bits[where]
        holds |= self.image(row.image) & bits[Where.IMAGE]
        holds |= self.name(row.name) & bits[Where.NAME]
        if unknown:
            holds |= self.row(row, unknown)
        silent = 0
        if row.workload.state == "pending":
            silent = bits[Where.WORKLOAD]
        else:
            holds |= self.workload(row.workload) & bits[Where.WORKLOAD]
        return holds, self.all & ~holds & ~silent

    def row(self, row: Row, wanted: int) -> int:
        """Those of the wanted bits that hold for one event; `wanted` may be of any part."""
        holds = 0
        plan = self.plans[row.event.cls]
        for column in (*plan.rows, *self.objects):
            if column.all_bits & wanted:
                holds |= column.bits(column.source.read_row(row, self.env)) & wanted
        return holds

    def _sum(self, columns: list[Column], where: Where, part: Any) -> int:
        holds = 0
        env = self.env
        for column in columns:
            value = column.source.read(where, part, env)
            if value is not None:
                holds |= column.bits(value)
        return holds

    def breaks(self, column: str) -> tuple[list[int], bool]:
        """Where predicates on a number of the event change their mind, and whether all values
        must be told apart (the number is used as text)."""
        points: set[int] = set()
        exact = False
        for plan in self.plans.values():
            for one in plan.events:
                source = one.source
                if column not in source.reads:
                    continue
                if source.apply is not None or len(source.bounds) > 1:
                    exact = True
                elif source.type is Type.INT:
                    points.update(_constants(one))
                elif source.type is Type.STRING and source.label not in _BY_SIGN:
                    exact = True
        return sorted(points | {point + 1 for point in points}), exact

    def possible_events(
        self, cls: int, write: bool, family: int = 0, upper: bool | None = None
    ) -> tuple[int, int]:
        """(may hold, may fail) over all events of a class of which only this is known.

        family: AF_INET stands for AF_INET6 too (a socket of the second may carry addresses of
        the first); 0 where the object is no address. upper: of the writable layer, None: maybe.
        """
        holds = fails = 0
        ops = {0, *(OPS.index(name) for name in types_of(cls) if name in OPS)}
        for column in self.plans[cls].events:
            bits, source = column.all_bits, column.source
            if source.label in _WRITE_FLAG:
                samples = [column.bits(value) for value in _WRITE_FLAG[source.label][write]]
            elif upper is not None and source.label in _LAYER:
                samples = [column.bits(value) for value in _LAYER[source.label][upper]]
            elif family and source.reads <= _FLAGS:
                samples = [
                    column.bits(source.read(Where.EVENT, Event(cls, flags=flags), self.env))
                    for flags in _socket_flags(family)
                ]
            elif not source.reads:
                samples = [
                    column.bits(source.read(Where.EVENT, Event(cls, op), self.env)) for op in ops
                ]
            else:
                holds |= bits
                fails |= bits
                continue
            for sample in samples:
                holds |= sample
                fails |= bits & ~sample
        return holds, fails


_FLAGS = frozenset(("flags", "marks"))


def _socket_flags(family: int) -> list[int]:
    """Every family << 16 | type << 8 | protocol that fields of sockets tell apart."""
    families = (2, 10) if family == 2 else (family,)
    return [
        one << 16 | kind << 8 | protocol
        for one in families
        for kind in range(16)
        for protocol in (0, 1, 6, 17, 58, 255)
    ]


# evt.res is SUCCESS for every result that is not an error, and errors are kept apart anyway.
_BY_SIGN = frozenset(("evt.res",))
# The kernel's "for writing" is any access mode but O_RDONLY; O_ACCMODE itself is neither.
_Samples = dict[str, dict[bool, tuple[bool, ...]]]
_WRITE_FLAG: _Samples = {
    "evt.is_open_write": {True: (True, False), False: (False,)},
    "evt.is_open_read": {True: (True, False), False: (True,)},
}
# What is in no overlay is in neither layer.
_LAYER: _Samples = {
    "fd.is_upper_layer": {True: (True,), False: (False,)},
    "fd.is_lower_layer": {True: (False,), False: (True, False)},
}


def _constants(column: Column) -> set[int]:
    found: set[int] = set()
    for predicate in column.predicates:
        test = predicate.test
        if test.equal is not None:
            found.update(test.equal)
        elif test.unequal is not None:
            found.add(test.unequal)
        else:
            # An order: its constant is the last word of the predicate's text.
            found.update(
                int(word, 0)
                for word in predicate.text.replace(",", " ").split()
                if _is_number(word)
            )
    return found


def _is_number(word: str) -> bool:
    try:
        int(word, 0)
    except ValueError:
        return False
    return True
