"""A rule on one event the plain way: the tree walked, every comparison made anew.

Shares the field table with the engine, and none of its predicates, columns, masks and tables.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from typing import Any

from hullwatch.detect.language.ast import (
    And,
    Check,
    Expr,
    FieldRef,
    Literal,
    Not,
    Or,
    Transform,
)
from hullwatch.detect.row import Env, Row
from hullwatch.detect.source import Source, field_value, source_of
from hullwatch.sensor.wire import Class


def meets(expr: Expr, row: Row, env: Env) -> bool:
    """Whether the event meets a rule's condition. A failed exec must do so by a check that asks."""
    if row.event.cls != Class.EXEC_FAILED:
        return holds(expr, row, env) is True
    return strength(expr, row, env, True) == ASKS


ASKS = 2
ASKING = {"evt.res", "evt.rawres", "evt.failed", "evt.arg.res", "evt.rawarg.res", "hw.class"}


def strength(expr: Expr, row: Row, env: Env, positive: bool) -> int:
    """0: does not hold (or is unknown); 1: holds; 2: holds, and by a check of the result."""
    match expr:
        case Not(child):
            return strength(child, row, env, not positive)
        case And(children) | Or(children):
            values = [strength(child, row, env, positive) for child in children]
            if isinstance(expr, And) == positive and 0 in values:
                return 0
            return max(values)
        case Check():
            if check(expr, row, env) is not positive:
                return 0
            return ASKS if any(field in ASKING for field in fields_of(expr)) else 1
    raise AssertionError(expr)


def fields_of(expr: Check) -> list[str]:
    found, operands = [], [expr.left, *expr.right]
    while operands:
        one = operands.pop()
        if isinstance(one, FieldRef):
            found.append(one.name if one.arg is None else f"{one.name}.{one.arg}")
            found.append(one.name)
        elif isinstance(one, Transform):
            operands += one.args
    return found


def holds(expr: Expr, row: Row, env: Env) -> bool | None:
    """None: unknown (what a pending container would decide)."""
    match expr:
        case And(children):
            values = [holds(child, row, env) for child in children]
            return False if False in values else None if None in values else True
        case Or(children):
            values = [holds(child, row, env) for child in children]
            return True if True in values else None if None in values else False
        case Not(child):
            value = holds(child, row, env)
            return None if value is None else not value
        case Check():
            return check(expr, row, env)
    raise AssertionError(expr)


def check(expr: Check, row: Row, env: Env) -> bool | None:
    if isinstance(expr.left, FieldRef):
        source = source_of(expr.left)
        parts = source.bounds[0].field.parts
        if parts:
            return two_ends(expr, [source_of(FieldRef(part)) for part in parts], row, env)
    source = source_of(expr.left)
    if pending(source, row):
        return None
    left = source.read_row(row, env)
    if expr.op == "exists":
        return left is not None and (not source.any or left != ())
    if expr.right and not isinstance(expr.right[0], Literal):
        other = source_of(expr.right[0])
        if pending(other, row):
            return None
        right = other.read_row(row, env)
        return left is not None and right is not None and apply(expr.op, left, right)
    literals = [one.text for one in expr.right if isinstance(one, Literal)]
    values = left if source.any else () if left is None else (left,)
    return any(
        compare(expr.op, expr.modifier, value, literals, source.type.name) for value in values or ()
    )


def pending(source: Source, row: Row) -> bool:
    if row.workload.state != "pending":
        return False
    return any("container." in bound.label or "k8s." in bound.label for bound in source.bounds)


def two_ends(expr: Check, sources: list[Source], row: Row, env: Env) -> bool:
    values = [value for source in sources if (value := source.read_row(row, env)) is not None]
    literals = [one.text for one in expr.right if isinstance(one, Literal)]
    kind = sources[0].type.name
    if expr.op == "exists":
        return bool(values)
    if expr.op == "!=":
        return bool(values) and not any(compare("=", "", value, literals, kind) for value in values)
    return any(compare(expr.op, expr.modifier, value, literals, kind) for value in values)


def typed(text: str, kind: str) -> Any:
    if kind == "INT":
        return int(text, 0)
    if kind == "BOOL":
        return text.lower() in ("true", "1")
    if kind == "IP":
        return ipaddress.ip_address(text)
    if kind == "NET":
        return ipaddress.ip_network(text, strict=False)
    return text


def compare(op: str, modifier: str, value: Any, literals: list[str], kind: str) -> bool:
    if modifier:
        outcomes = [compare(op, "", value, [literal], kind) for literal in literals]
        return {"anyof": any(outcomes), "allof": all(outcomes), "oneof": sum(outcomes) == 1}[
            modifier
        ]
    wanted = [typed(literal, kind) for literal in literals]
    if op in ("in", "intersects"):
        return any(apply("=", value, one) for one in wanted)
    if op == "pmatch":
        return any(below(value, one) for one in wanted)
    return apply(op, value, wanted[0])


def below(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern names, component by component, or lies below that."""
    have, want = path.split("/"), pattern.rstrip("/").split("/")
    pairs = zip(have, want, strict=False)
    return len(have) >= len(want) and all(fnmatch.fnmatchcase(a, b) for a, b in pairs)


def apply(op: str, left: Any, right: Any) -> bool:
    if isinstance(right, ipaddress.IPv4Network | ipaddress.IPv6Network):
        inside = left.version == right.version and left in right
        return inside if op == "=" else not inside
    match op:
        case "=":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "contains":
            return right in left
        case "icontains":
            return right.casefold() in left.casefold()
        case "startswith":
            return left.startswith(right)
        case "endswith":
            return left.endswith(right)
        case "glob":
            return fnmatch.fnmatchcase(left, right)
        case "iglob":
            return fnmatch.fnmatchcase(left.lower(), right.lower())
        case "regex":
            return re.fullmatch(right, left) is not None
    raise AssertionError(op)


__all__ = ["field_value", "holds"]
