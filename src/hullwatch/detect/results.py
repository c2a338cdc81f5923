"""How rules see a call that failed though its evt.type says that something new runs.

A failed execve has Falco's evt.type, and its proc.* is the caller: `spawned_process` and the like
would fire as though the caller had just been started. So such an event meets a condition only by
way of a check that tells it from success: of the result, or of hw.class.
"""

from __future__ import annotations

from hullwatch.detect.language.ast import And, Check, Expr, FieldRef, Not, Operand, Or, Transform
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.wire import Class

__all__ = ["FAILED", "FAILED_NAME", "asking"]

FAILED = int(Class.EXEC_FAILED)
FAILED_NAME = CLASSES[FAILED].name
_FIELDS = ("evt.res", "evt.rawres", "evt.failed", "evt.arg.res", "evt.rawarg.res", "hw.class")


def asking(condition: Expr) -> Expr | None:
    """The ways to meet a condition that have such a check in them, as a condition.

    The very condition where every way has one; None where none has.
    """
    plain = _plain(condition, True)
    found = _ways(plain)
    return condition if found is plain else found


def _plain(expr: Expr, positive: bool) -> Expr:
    """The same with `not` before checks only."""
    match expr:
        case Not(child):
            return _plain(child, not positive)
        case And(children, place) | Or(children, place):
            kind = And if isinstance(expr, And) == positive else Or
            return kind(tuple(_plain(child, positive) for child in children), place)
    return expr if positive else Not(expr, expr.place)


def _ways(expr: Expr) -> Expr | None:
    match expr:
        case And(children, place):
            parts = [_ways(child) for child in children]
            if any(part is child for part, child in zip(parts, children, strict=True)):
                return expr
            # One of them has to ask, whichever it is; the others may hold in any way.
            ways = [
                And((*children[:at], part, *children[at + 1 :]), place)
                for at, part in enumerate(parts)
                if part is not None
            ]
            return Or(tuple(ways), place) if ways else None
        case Or(children, place):
            parts = [_ways(child) for child in children]
            if all(part is child for part, child in zip(parts, children, strict=True)):
                return expr
            found = tuple(part for part in parts if part is not None)
            return Or(found, place) if found else None
        case Not(child):
            return expr if _ways(child) is not None else None
        case Check(left, _, right):
            return expr if any(_asks(operand) for operand in (left, *right)) else None
    return None


def _asks(operand: Operand) -> bool:
    match operand:
        case Transform(_, args):
            return any(_asks(arg) for arg in args)
        case FieldRef(name, arg):
            return name in _FIELDS or f"{name}.{arg}" in _FIELDS
    return False
