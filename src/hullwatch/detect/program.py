"""Rules compiled together: interned predicates, one tree a rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.column import Column, Predicate
from hullwatch.detect.errors import RuleError, Warning_, did_you_mean
from hullwatch.detect.fields import Bound, Type, Where
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.fields.field import ALL
from hullwatch.detect.known_calls import FALCO, LINUX
from hullwatch.detect.language.ast import (
    And,
    Check,
    Expr,
    FieldRef,
    Literal,
    Macro,
    Not,
    Operand,
    Or,
)
from hullwatch.detect.operators import Test, check_operator, compare, parse_value, test_of
from hullwatch.detect.results import FAILED_NAME, asking
from hullwatch.detect.row import Env, Event
from hullwatch.detect.source import Source, pair, source_of
from hullwatch.detect.tree import ALWAYS, NEVER, Tree, both, either, literal
from hullwatch.sensor.syscalls import OPS

__all__ = ["OBSERVED", "Program"]

_NO_ENV = Env(HostAccounts())  # fields that read nothing of an event ask no one either

OBSERVED: frozenset[str] = frozenset(name for cls in ALL for name in types_of(cls))


@dataclass(slots=True)
class Notes:
    """What compiling one condition brought up besides its tree."""

    warnings: list[Warning_] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    never: list[str] = field(default_factory=list)


class Program:
    """Columns by source, predicates by text; shared by all rules that are compiled into it."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.predicates: dict[tuple[str, ...], Predicate] = {}

    def tree(self, condition: Expr) -> tuple[Tree, Notes]:
        """The tree of an expanded condition as it is written; raises RuleError with the place."""
        notes = Notes()
        return self._expr(condition, True, notes), notes

    def compile(self, condition: Expr) -> tuple[Tree, Notes]:
        """The same as a rule's condition: of failed execs it holds only where it asks for them."""
        tree, notes = self.tree(condition)
        asked = asking(condition)
        if asked is condition:
            return tree, notes
        # See results.py. The predicate is ours, so the rule's notes do not name it.
        failed = Check(FieldRef("hw.class"), "=", (Literal(FAILED_NAME),))
        tree = both([tree, self._expr(failed, False, Notes())])
        if asked is not None:
            tree = either([tree, self._expr(asked, True, Notes())])
        return tree, notes

    def _expr(self, expr: Expr, positive: bool, notes: Notes) -> Tree:
        match expr:
            case Not(child):
                return self._expr(child, not positive, notes)
            case And(children):
                trees = [self._expr(child, positive, notes) for child in children]
                return both(trees) if positive else either(trees)
            case Or(children):
                trees = [self._expr(child, positive, notes) for child in children]
                return either(trees) if positive else both(trees)
            case Check():
                return self._check(expr, positive, notes)
            case Macro(name, place):
                raise RuleError(f"macro '{name}' was not expanded", place)

    def _check(self, check: Check, positive: bool, notes: Notes) -> Tree:
        try:
            source = source_of(check.left)
            for bound in source.bounds:
                self._look(bound, check, notes)
            if len(source.bounds) == 1 and source.bounds[0].field.parts:
                return self._parts(check, source.bounds[0], positive, notes)
            notes.sources.setdefault(source.label, source)
            if check.op == "exists":
                check_operator("exists", source.type, source.label)
                return self._literal(
                    source, "exists", (), "", test_of("exists", source.type, ()), positive
                )
            if len(check.right) == 1 and not isinstance(check.right[0], Literal):
                return self._fields(check, source, check.right[0], positive, notes)
            return self._values(check, source, positive, notes)
        except RuleError as problem:
            if problem.place.line == 0 and check.place.line:
                raise RuleError(
                    problem.message, check.place, item=problem.item, mend=problem.mend
                ) from None
            raise

    def _look(self, bound: Bound, check: Check, notes: Notes) -> None:
        if bound.field.deprecated:
            notes.warnings.append(Warning_(check.place, "", bound.field.deprecated))

    def _parts(self, check: Check, bound: Bound, positive: bool, notes: Notes) -> Tree:
        """fd.ip = x: either end is; fd.ip != x: there is an end, and no end is."""
        sides = [FieldRef(name, None, check.place) for name in bound.field.parts]
        if check.op == "!=" and not check.modifier:
            equal = Or(tuple(replace(check, left=side, op="=") for side in sides), check.place)
            there = Or(
                tuple(Check(side, "exists", place=check.place) for side in sides), check.place
            )
            return self._expr(And((Not(equal, check.place), there), check.place), positive, notes)
        sided = tuple(replace(check, left=side) for side in sides)
        return self._expr(Or(sided, check.place), positive, notes)

    def _fields(
        self, check: Check, left: Source, operand: Operand, positive: bool, notes: Notes
    ) -> Tree:
        right = source_of(operand)
        notes.sources.setdefault(right.label, right)
        check_operator(check.op, left.type, left.label)
        if check.op in ("glob", "iglob", "regex", "pmatch") or check.modifier:
            raise RuleError(f"operator '{check.op}' does not compare two fields", check.place)
        two = pair(left, right, check.place)
        run = compare(check.op)
        test = Test(lambda value: run(value[0], value[1]))
        return self._literal(two, check.op, (), "fields", test, positive)

    def _values(self, check: Check, source: Source, positive: bool, notes: Notes) -> Tree:
        check_operator(check.op, source.type, source.label)
        literals = tuple(value for value in check.right if isinstance(value, Literal))
        if not literals:
            return NEVER if positive else ALWAYS
        test = test_of(check.op, source.type, literals, check.modifier)
        if source.label == "evt.type":
            literals = self._types(check, literals, notes)
        if self._too_small(check, source, literals):
            return NEVER if positive else ALWAYS
        if check.op == "in" and len(literals) > 1:
            literals = tuple(sorted(literals, key=lambda one: one.text))
        return self._literal(
            source, check.op, tuple(one.text for one in literals), check.modifier, test, positive
        )

    def _types(
        self, check: Check, literals: tuple[Literal, ...], notes: Notes
    ) -> tuple[Literal, ...]:
        if check.op not in ("=", "in", "intersects", "!="):
            return literals
        for one in literals:
            if one.text in OBSERVED:
                continue
            if one.text not in LINUX and one.text not in FALCO:
                hint = did_you_mean(one.text, OBSERVED | LINUX)
                raise RuleError(f"'{one.text}' is no event type", one.place, mend=hint)
            notes.never.append(one.text)
            if check.op != "!=":
                said = f"evt.type {one.text} never matches: the sensor does not observe it"
                notes.warnings.append(Warning_(one.place, "", said))
        return literals

    def _too_small(self, check: Check, source: Source, literals: tuple[Literal, ...]) -> bool:
        """evt.num = 0 and the like: decided without any event."""
        least = source.bounds[0].field.minimum if source.apply is None else None
        if least is None or source.type is not Type.INT or check.modifier:
            return False
        values = [parse_value(one, Type.INT) for one in literals]
        if check.op in ("=", "in", "intersects", "<="):
            return all(value < least for value in values)
        return check.op == "<" and bool(values[0] <= least)

    def _literal(
        self,
        source: Source,
        op: str,
        values: tuple[str, ...],
        modifier: str,
        test: Test,
        positive: bool,
    ) -> Tree:
        key = (source.label, op, modifier, *values)
        found = self.predicates.get(key)
        if found is None:
            text = " ".join(
                part for part in (source.label, op, modifier, _shown(op, values)) if part
            )
            found = Predicate(1 << len(self.predicates), text, source, test)
            self.predicates[key] = found
            self.columns.setdefault(source.label, Column(source)).add(found)
        return literal(found.bit, positive)

    def sources(self) -> Iterator[tuple[Column, Source]]:
        for column in self.columns.values():
            yield column, column.source

    def by_class(self, cls: int, wanted: int = -1) -> tuple[int, int]:
        """(may hold, may fail) over the events of a class of which nothing else is known; only of
        columns with a wanted bit."""
        holds = fails = 0
        ops = {0, *(OPS.index(name) for name in types_of(cls) if name in OPS)}
        for column, source in self.sources():
            bits = column.all_bits
            if not bits & wanted:
                continue
            where = source.where(cls)
            if where is None:
                fails |= bits
            elif where is Where.EVENT and not source.reads:
                for op in ops:
                    sample = column.bits(source.read(where, Event(cls, op), _NO_ENV))
                    holds |= sample
                    fails |= bits & ~sample
            else:
                holds |= bits
                fails |= bits
        return holds, fails


def _shown(op: str, values: tuple[str, ...]) -> str:
    if op in ("in", "intersects", "pmatch"):
        return "(" + ", ".join(values[:8]) + (", ..." if len(values) > 8 else "") + ")"
    return ", ".join(values)
