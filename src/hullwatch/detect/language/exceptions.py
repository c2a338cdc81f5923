"""Exceptions of a rule as conditions that it must not meet.

As falco's rule_loader_compiler.cpp builds them: one field: ``field comp (v1, v2)``; several:
for each tuple ``(f1 c1 v1 and f2 c2 v2)``, joined by ``or``.
"""

from __future__ import annotations

from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.language.ast import Expr
from hullwatch.detect.language.grammar import LIST_OPS, MODIFIERS, parse
from hullwatch.detect.language.items import Entry, ExceptionItem
from hullwatch.detect.language.strings import quote

__all__ = ["exception_condition"]


def exception_condition(item: ExceptionItem) -> Expr | None:
    """What the exception excludes; None when it has no values."""
    if not item.values:
        return None
    try:
        return parse(_text(item), lambda _: item.place)
    except RuleError as problem:
        raise problem.of(f"exception {item.name!r}") from None


def _text(item: ExceptionItem) -> str:
    if isinstance(item.fields, str):
        values = []
        for value, place in item.values:
            if isinstance(value, list):
                raise RuleError(f"the values of exception '{item.name}' must be text", place)
            values.append(_word(value))
        return f"{item.fields} {item.comps} ({', '.join(values)})"
    alternatives = [_tuple(item, value, place) for value, place in item.values]
    return " or ".join(f"({' and '.join(parts)})" for parts in alternatives)


def _tuple(item: ExceptionItem, values: Entry, place: Place) -> list[str]:
    fields, comps = item.fields, item.comps
    assert isinstance(fields, list) and isinstance(comps, list)
    if not isinstance(values, list) or len(values) != len(fields):
        raise RuleError(
            f"each value of exception '{item.name}' must be a list of {len(fields)}", place
        )
    return [
        f"{one} {comp} {_value(str(comp), value)}"
        for one, comp, value in zip(fields, comps, values, strict=True)
    ]


def _value(comp: str, value: Entry) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(_word(each) for each in value) + ")"
    words = comp.split()
    if words[0] in LIST_OPS or words[-1] in MODIFIERS:
        return value if value.startswith("(") else f"({_word(value)})"
    return _word(value)


def _word(value: Entry) -> str:
    """A value as it must stand in a condition; one that brings its own quotes keeps them."""
    if isinstance(value, list):
        raise RuleError("values may be nested only once")
    return value if value[:1] in ("'", '"') else quote(value)
