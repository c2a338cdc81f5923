"""One Sigma comparison, `field: value` after its modifiers, as a condition of our language.

Sigma ignores case unless told otherwise: text is compared in lower case (`tolower`, once for each
distinct text), and a value in the middle of which a wildcard stands becomes a glob.
"""

from __future__ import annotations

from collections.abc import Sequence

from sigma.types import (
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
    SigmaType,
    SpecialChars,
)

from hullwatch.detect.errors import RuleError, did_you_mean
from hullwatch.detect.fields import TABLE, Type
from hullwatch.detect.language.ast import (
    Check,
    Expr,
    FieldRef,
    Literal,
    Not,
    Operand,
    Or,
    Transform,
)
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.operators import test_of
from hullwatch.detect.sigma.fields import NOT_RECORDED, Category, Mapped
from hullwatch.detect.source import source_of

__all__ = ["comparison", "mapped"]

_ANY = SpecialChars.WILDCARD_MULTI
_ORDER = {"LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_GLOB_SPECIAL = frozenset("\\*?[](){}|+@!")
Side = FieldRef | Transform


def mapped(name: str, category: Category) -> Mapped:
    """What a Sigma field is here; raises RuleError without a place."""
    found = category.fields.get(name)
    if found is not None:
        return found
    if name in TABLE:
        return Mapped(name)
    if name in NOT_RECORDED:
        raise RuleError(f"field '{name}' is not available: {NOT_RECORDED[name]}")
    known = (*category.fields, *TABLE)
    mend = did_you_mean(name, known) or f"one of {', '.join(category.fields)}"
    raise RuleError(f"unknown field '{name}'", mend=mend)


def comparison(name: str, value: SigmaType, category: Category) -> Expr:
    """The condition for one field and one value; raises RuleError without a place."""
    field = mapped(name, category)
    if isinstance(value, SigmaExpansion):
        # What one value was expanded to (windash, base64offset) is alternatives.
        return Or(tuple(comparison(name, one, category) for one in value.values))
    if field.words:
        return _word(name, value, field)
    side = _side(field.ours)
    kind = source_of(side).type
    match value:
        case SigmaNull():
            return Not(Check(side, "exists"))
        case SigmaExists():
            there = Check(side, "exists")
            return there if value.exists else Not(there)
        case SigmaFieldReference():
            return _field_to_field(side, kind, value, category)
        case SigmaCIDRExpression():
            if not field.network:
                raise RuleError(f"'{name}' is no address, so it cannot be compared with a network")
            return _tried(_side(field.network), "=", str(value.network))
        case SigmaTimestampPart():
            raise RuleError("parts of a time (minute, hour, day ...) cannot be compared")
        case SigmaCompareExpression():
            return _order(name, side, kind, value)
        case SigmaRegularExpression():
            return _tried(_as_text(side, kind), "regex", _pattern(value))
        case SigmaString():
            return _string(side, kind, value)
        case SigmaNumber():
            return _tried(side, "=", _number(name, value.number))
        case SigmaBool():
            return _string(side, kind, SigmaString(str(value.boolean).lower()))
    raise RuleError(f"values of the kind {type(value).__name__} are not supported")


def _side(text: str) -> Side:
    check = parse(f"{text} exists")
    assert isinstance(check, Check)
    return check.left


def _tried(side: Side, op: str, text: str) -> Check:
    """The check, if its operator and value fit; raises RuleError."""
    literal = Literal(text, quoted=True)
    test_of(op, source_of(side).type, (literal,))
    return Check(side, op, (literal,))


def _word(name: str, value: SigmaType, field: Mapped) -> Expr:
    said = str(value.boolean if isinstance(value, SigmaBool) else value).lower()
    if said not in field.words:
        raise RuleError(
            f"'{said[:80]}' is no value of '{name}'", mend=f"one of {', '.join(field.words)}"
        )
    return parse(field.words[said])


def _number(name: str, number: float) -> str:
    if int(number) != number:
        raise RuleError(f"'{name}' is never {number}: it holds whole numbers or text")
    return str(int(number))


def _order(name: str, side: Side, kind: Type, value: SigmaCompareExpression) -> Expr:
    if kind is not Type.INT:
        raise RuleError(f"'{name}' is no number, so it has no order")
    text = _number(name, value.number.number)
    return Check(side, _ORDER[value.op.name], (Literal(text),))


def _pattern(value: SigmaRegularExpression) -> str:
    """Sigma's pattern may match anywhere, ours matches the whole value."""
    if value.contains_placeholder():
        raise RuleError("a placeholder in a regular expression has no value here")
    flags = "".join(sorted(value.sigma_to_re_flag[flag] for flag in value.flags))
    return f"(?s:.*)(?{flags}:{value.regexp.to_plain(regex=True)})(?s:.*)"


def _field_to_field(side: Side, kind: Type, value: SigmaFieldReference, category: Category) -> Expr:
    other = mapped(value.field, category)
    if other.words:
        raise RuleError(f"'{value.field}' cannot be compared with another field")
    right = _side(other.ours)
    op = {
        (False, False): "=",
        (True, False): "startswith",
        (False, True): "endswith",
        (True, True): "contains",
    }[value.starts_with, value.ends_with]
    if kind is not source_of(right).type or op != "=":
        side, right = _as_text(side, kind), _as_text(right, source_of(right).type)
        kind = Type.STRING
    if kind is Type.STRING:
        return Check(_folded(side), op, (_folded(right),))
    return Check(side, op, (Transform("val", (right,)),))


def _folded(side: Side) -> Transform:
    return Transform("tolower", (side,))


def _as_text(side: Side, kind: Type) -> Side:
    """A number or address as text, for patterns of parts of it."""
    return side if kind is Type.STRING else Transform("concat", (Literal("", True), side))


def _string(side: Side, kind: Type, value: SigmaString) -> Expr:
    parts = value.s
    if any(isinstance(part, Placeholder) for part in parts):
        names = ", ".join(f"%{part.name}%" for part in parts if isinstance(part, Placeholder))
        raise RuleError(
            f"placeholder {names} has no value here", mend="write the values themselves"
        )
    if not parts:
        # Nothing here tells an empty text from none.
        empty = Not(Check(side, "exists"))
        if kind is not Type.STRING:
            return empty
        return Or((empty, Check(side, "=", (Literal("", True),))))
    if all(part is _ANY for part in parts):
        return Check(side, "exists")
    if kind is not Type.STRING and not value.contains_special():
        return _tried(side, "=", str(parts[0]))
    text: Operand = _as_text(side, kind)
    assert not isinstance(text, Literal)
    if not isinstance(value, SigmaCasedString):
        text, parts = _folded(text), [p.lower() if isinstance(p, str) else p for p in parts]
    op, literal = _operator(parts)
    return _tried(text, op, literal)


def _operator(parts: Sequence[object]) -> tuple[str, str]:
    """The cheapest operator that says the same as a text with wildcards, and its value."""
    before, after = parts[0] is _ANY, parts[-1] is _ANY
    inner = parts[before : len(parts) - after]
    if len(inner) == 1 and isinstance(inner[0], str):
        op = {(0, 0): "=", (0, 1): "startswith", (1, 0): "endswith", (1, 1): "contains"}
        return op[before, after], inner[0]
    return "glob", "".join(_glob(part) for part in parts)


def _glob(part: object) -> str:
    if isinstance(part, str):
        return "".join("\\" + char if char in _GLOB_SPECIAL else char for char in part)
    return "*" if part is _ANY else "?"
