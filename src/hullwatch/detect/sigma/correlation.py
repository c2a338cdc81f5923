"""A Sigma correlation as a `sequence` of our language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sigma.correlations import (
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
    SigmaCorrelationRule,
    SigmaCorrelationType,
)
from sigma.rule import SigmaRule

from hullwatch.detect.errors import RuleError
from hullwatch.detect.language.ast import Expr, FieldRef, Or, show
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.sigma.condition import category_of, condition_of
from hullwatch.detect.sigma.documents import Document
from hullwatch.detect.sigma.rule import OFF, PRIORITIES, described, output_of, tags_of
from hullwatch.detect.sigma.values import mapped

__all__ = ["Base", "refers_to", "sequence_item"]

_TYPE = SigmaCorrelationType
_OP = SigmaCorrelationConditionOperator
_TEMPORAL = (_TYPE.TEMPORAL, _TYPE.TEMPORAL_ORDERED)
_COUNTS = (_TYPE.EVENT_COUNT, _TYPE.VALUE_COUNT)
_SHOWS = (
    "process=%proc.exepath command=%proc.exeline user=%user.name"
    " container=%container.name image=%container.image.repository"
)


class Base(NamedTuple):
    """A rule that a correlation names."""

    rule: SigmaRule
    document: Document


def refers_to(correlation: SigmaCorrelationRule) -> tuple[str, ...]:
    """Names or ids, in order."""
    return tuple(one.reference for one in correlation.rules or ())


def sequence_item(
    correlation: SigmaCorrelationRule, document: Document, bases: Mapping[str, Base]
) -> dict[str, Any]:
    """`- sequence: ...`; raises RuleError. bases: by name and by id."""
    named = [_base(name, document, bases) for name in refers_to(correlation)]
    if correlation.type in _COUNTS:
        steps = [_counted(correlation, document, named)]
    elif correlation.type in _TEMPORAL:
        steps = _in_time(correlation, document, named)
    else:
        kind = correlation.type.name.lower()
        raise RuleError(
            f"correlation type '{kind}' is not supported: sums and averages are not kept",
            document.place_of("type"),
            mend=f"one of {', '.join(one.name.lower() for one in (*_COUNTS, *_TEMPORAL))}",
        )
    item = {
        "sequence": correlation.title,
        "desc": described(correlation),
        # Without group-by everything counts together.
        "by": [
            _by(name, correlation, document, named, steps) for name in correlation.group_by or ()
        ]
        or ["host"],
        "within": _within(correlation),
        "ordered": correlation.type is _TYPE.TEMPORAL_ORDERED,
        "steps": steps,
        "output": output_of(correlation, _SHOWS),
        "priority": PRIORITIES[correlation.level],
        "tags": tags_of(correlation),
    }
    return item | {"enabled": False} if correlation.status in OFF else item


def _base(name: str, document: Document, bases: Mapping[str, Base]) -> Base:
    if name not in bases:
        raise RuleError(
            f"there is no rule '{name}', or it is a correlation or was refused itself",
            document.place_of("rules", name),
            mend="load it together with this file; a correlation of correlations is not supported",
        )
    return bases[name]


def _counted(
    correlation: SigmaCorrelationRule, document: Document, named: list[Base]
) -> dict[str, Any]:
    """One step that is met `count` times, by any of the rules."""
    conditions = [condition_of(*base) for base in named]
    whole: Expr = conditions[0] if len(conditions) == 1 else Or(tuple(conditions))
    step: dict[str, Any] = {
        "id": _step_id(0, named[0].rule),
        "condition": show(whole),
        "count": _count(correlation, document),
    }
    if correlation.type is _TYPE.VALUE_COUNT:
        assert isinstance(correlation.condition, SigmaCorrelationCondition)
        field = correlation.condition.fieldref
        if not isinstance(field, str):
            raise RuleError("values of one field are counted", document.place_of("condition"))
        step["distinct"] = _one_field(field, correlation, document, named)
    return step


def _count(correlation: SigmaCorrelationRule, document: Document) -> int:
    condition, place = correlation.condition, document.place_of("condition")
    assert isinstance(condition, SigmaCorrelationCondition)
    if condition.op in (_OP.LT, _OP.LTE, _OP.NEQ):
        raise RuleError(
            f"'{condition.op.name.lower()}' cannot be decided while events still come",
            place,
            mend="use gte, gt or eq",
        )
    if int(condition.count) != condition.count:
        raise RuleError("a count is a whole number", place)
    # `eq` is met on reaching the number: nobody waits whether more come.
    count = int(condition.count) + (condition.op is _OP.GT)
    if count < 1:
        raise RuleError("a count of 0 is met by nothing at all", place)
    return count


def _in_time(
    correlation: SigmaCorrelationRule, document: Document, named: list[Base]
) -> list[dict[str, Any]]:
    """One step for each rule; all of them have to be met."""
    condition, place = correlation.condition, document.place_of("condition")
    if not isinstance(condition, SigmaCorrelationCondition):
        raise RuleError(
            "a condition over the rules' names is not supported",
            place,
            mend="leave the condition out: all rules have to match",
        )
    if len(named) < 2:
        raise RuleError("a temporal correlation needs two rules", document.place_of("rules"))
    if _count(correlation, document) != len(named):
        raise RuleError(f"all {len(named)} rules have to match, not some of them", place)
    return [
        {"id": _step_id(at, base.rule), "condition": show(condition_of(*base))}
        for at, base in enumerate(named)
    ]


def _step_id(at: int, rule: SigmaRule) -> str:
    """A word: the rule's name where it has one."""
    word = re.sub(r"[^a-z0-9_]+", "_", (rule.name or "").lower()).strip("_")[:28]
    return f"{word}_{at + 1}" if word[:1].isalpha() else f"step_{at + 1}"


def _by(
    name: str,
    correlation: SigmaCorrelationRule,
    document: Document,
    named: list[Base],
    steps: list[dict[str, Any]],
) -> str | dict[str, str]:
    if len(steps) == 1:
        return _one_field(name, correlation, document, named)
    fields = [_field(name, correlation, document, base) for base in named]
    if len(set(fields)) == 1:
        return fields[0]
    return {step["id"]: field for step, field in zip(steps, fields, strict=True)}


def _one_field(
    name: str, correlation: SigmaCorrelationRule, document: Document, named: list[Base]
) -> str:
    fields = {_field(name, correlation, document, base) for base in named}
    if len(fields) > 1:
        raise RuleError(
            f"'{name}' is another field in each of the rules that are counted together",
            document.place_of("correlation", name),
            mend="count rules of one log source",
        )
    return fields.pop()


def _field(name: str, correlation: SigmaCorrelationRule, document: Document, base: Base) -> str:
    """Our field for a name in group-by, which may be an alias."""
    theirs = name
    for alias in correlation.aliases:
        if alias.alias == name:
            theirs = next(
                (
                    field
                    for rule, field in alias.mapping.items()
                    if rule.reference in (base.rule.name, str(base.rule.id))
                ),
                name,
            )
    place = document.place_of("correlation", name)
    try:
        ours = mapped(theirs, category_of(base.rule, base.document)).ours
    except RuleError as problem:
        raise RuleError(problem.message, place, mend=problem.mend) from None
    if not ours or not isinstance(getattr(parse(f"{ours} exists"), "left", None), FieldRef):
        raise RuleError(f"events cannot be grouped by '{theirs}'", place)
    return ours


def _within(correlation: SigmaCorrelationRule) -> str:
    span = correlation.timespan
    return span.spec if span.unit in "smhd" else f"{span.seconds}s"
