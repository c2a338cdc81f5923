"""The left (or right) side of a check: a field, or a field through transformers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hullwatch.detect.errors import RuleError
from hullwatch.detect.fields import Bound, Type, Where, resolve
from hullwatch.detect.language.ast import FieldRef, Literal, Operand, Transform
from hullwatch.detect.row import Depends, Env, Row

__all__ = ["Source", "pair", "source_of"]

Step = Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A value made of one or more fields.

    bounds: the fields it reads. apply: from their values (all present) to the value; None
    where the value is that of the one field. any: the value is a tuple, one match is enough.
    """

    label: str
    type: Type
    bounds: tuple[Bound, ...]
    apply: Step | None = None
    any: bool = False

    def where(self, cls: int) -> Where | None:
        """The part that decides the value in events of a class; None: there is no value."""
        parts = [bound.field.where.get(cls) for bound in self.bounds]
        if None in parts:
            return None
        if len(set(parts)) == 1 and parts[0] not in (Where.OBJ, Where.OBJ2):
            return parts[0]
        return parts[0] if len(parts) == 1 else Where.ROW

    @property
    def mutable(self) -> bool:
        return any(bound.field.mutable for bound in self.bounds)

    @property
    def own(self) -> bool:
        return any(bound.field.own for bound in self.bounds)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset().union(*(bound.field.reads for bound in self.bounds))

    def read(self, where: Where, part: Any, env: Env) -> Any:
        """The value that a part decides; None for no value, DEPENDS for ask the row."""
        values = []
        for bound in self.bounds:
            getter = _GETTERS[where](bound)
            value = getter(part, env, bound.arg) if getter else None
            if value is None or isinstance(value, Depends):
                return value
            values.append(value)
        return self._made(values)

    def read_row(self, row: Row, env: Env) -> Any:
        """The value of one whole event."""
        values = []
        for bound in self.bounds:
            value = field_value(bound, row, env)
            if value is None:
                return None
            values.append(value)
        return self._made(values)

    def _made(self, values: list[Any]) -> Any:
        return values[0] if self.apply is None else self.apply(tuple(values))


_GETTERS: dict[Where, Callable[[Bound], Any]] = {
    Where.EVENT: lambda bound: bound.field.event,
    Where.OBJ: lambda bound: bound.field.object,
    Where.OBJ2: lambda bound: bound.field.object,
    Where.IMAGE: lambda bound: bound.field.image,
    Where.WORKLOAD: lambda bound: bound.field.workload,
    Where.NAME: lambda bound: bound.field.domain,
    Where.ROW: lambda bound: bound.field.row,
}
_PARTS: dict[Where, Callable[[Row], Any]] = {
    Where.EVENT: lambda row: row.event,
    Where.OBJ: lambda row: row.obj,
    Where.OBJ2: lambda row: row.obj2,
    Where.IMAGE: lambda row: row.image,
    Where.WORKLOAD: lambda row: row.workload,
    Where.NAME: lambda row: row.name,
    Where.ROW: lambda row: row,
}


def field_value(bound: Bound, row: Row, env: Env) -> Any:
    """One field of one event: what outputs print and what the plain evaluation compares."""
    where = bound.field.where.get(row.event.cls)
    if where is None:
        return None
    part = _PARTS[where](row)
    getter = _GETTERS[where](bound)
    if part is None or getter is None:
        return None
    value = getter(part, env, bound.arg)
    if isinstance(value, Depends):
        return bound.field.row(row, env, bound.arg) if bound.field.row else None
    return value


def source_of(operand: Operand) -> Source:
    """Resolve an operand; raises RuleError with the place of what is wrong."""
    if isinstance(operand, Literal):
        raise RuleError("expected a field", operand.place)
    if isinstance(operand, FieldRef):
        bound = resolve(operand)
        return Source(bound.label, bound.field.type, (bound,), None, bound.any)
    if operand.name == "concat":
        return _concat(operand)
    if operand.name == "join":
        return _join(operand)
    if len(operand.args) != 1:
        raise RuleError(f"'{operand.name}' takes one argument", operand.place)
    inner = source_of(operand.args[0])
    if operand.name == "val":
        return inner
    if inner.any and operand.name != "len":
        raise RuleError(f"'{operand.name}' does not fit a field of many values", operand.place)
    _no_parts(inner, operand)
    kind, step = _SIMPLE[operand.name]
    if inner.type is not Type.STRING:
        raise RuleError(
            f"'{operand.name}' needs text, but {inner.label} is a {inner.type.value}", operand.place
        )
    return Source(f"{operand.name}({inner.label})", kind, inner.bounds, _then(inner.apply, step))


def _no_parts(inner: Source, operand: Transform) -> None:
    if any(bound.field.parts for bound in inner.bounds):
        raise RuleError(
            f"{inner.label} has two values and cannot be transformed",
            operand.place,
            mend=f"use {' or '.join(inner.bounds[0].field.parts)}",
        )


def _then(first: Step | None, second: Callable[[Any], Any]) -> Step:
    def run(values: tuple[Any, ...]) -> Any:
        value = values[0] if first is None else first(values)
        return None if value is None else second(value)

    return run


def _b64(text: str) -> str | None:
    try:
        return base64.b64decode(text.encode(), validate=True).decode("utf-8", "backslashreplace")
    except (binascii.Error, ValueError):
        return None


def _basename(text: str) -> str:
    return text.rpartition("/")[2]


_SIMPLE: dict[str, tuple[Type, Callable[[Any], Any]]] = {
    "tolower": (Type.STRING, str.lower),
    "toupper": (Type.STRING, str.upper),
    "b64": (Type.STRING, _b64),
    "basename": (Type.STRING, _basename),
    "len": (Type.INT, len),
}


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _concat(operand: Transform) -> Source:
    if len(operand.args) < 2:
        raise RuleError("'concat' takes two or more arguments", operand.place)
    bounds: list[Bound] = []
    pieces: list[str | tuple[slice, Step | None]] = []
    labels: list[str] = []
    for arg in operand.args:
        if isinstance(arg, Literal):
            pieces.append(arg.text)
            labels.append(repr(arg.text))
            continue
        inner = source_of(arg)
        if inner.any:
            raise RuleError("'concat' does not fit a field of many values", operand.place)
        _no_parts(inner, operand)
        pieces.append((slice(len(bounds), len(bounds) + len(inner.bounds)), inner.apply))
        bounds += inner.bounds
        labels.append(inner.label)
    if not bounds:
        raise RuleError("'concat' needs at least one field", operand.place)

    def run(values: tuple[Any, ...]) -> str | None:
        out: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                out.append(piece)
                continue
            span, step = piece
            value = step(values[span]) if step else values[span][0]
            if value is None:
                return None
            out.append(_as_text(value))
        return "".join(out)

    return Source(f"concat({', '.join(labels)})", Type.STRING, tuple(bounds), run)


def _join(operand: Transform) -> Source:
    texts = [arg for arg in operand.args if isinstance(arg, Literal)]
    fields = [arg for arg in operand.args if not isinstance(arg, Literal)]
    if len(texts) != 1 or len(fields) != 1:
        raise RuleError("'join' takes a separator and a field of many values", operand.place)
    inner = source_of(fields[0])
    if not inner.any:
        raise RuleError(
            f"'join' needs a field of many values, and {inner.label} has one", operand.place
        )
    text = texts[0].text
    return Source(
        f"join({text!r}, {inner.label})",
        Type.STRING,
        inner.bounds,
        lambda values: text.join(_as_text(value) for value in values[0]),
    )


def pair(left: Source, right: Source, place: Any) -> Source:
    """Both sides of a comparison of two fields, as one value of two."""
    for side in (left, right):
        if side.any or any(bound.field.parts for bound in side.bounds):
            raise RuleError(
                f"{side.label} has many values and cannot be compared to a field", place
            )
    if {left.type, right.type} == {Type.IP, Type.NET} or left.type is not right.type:
        raise RuleError(
            f"{left.label} is a {left.type.value} but {right.label} is a {right.type.value}", place
        )
    count = len(left.bounds)

    def run(values: tuple[Any, ...]) -> tuple[Any, Any] | None:
        a = left.apply(values[:count]) if left.apply else values[0]
        b = right.apply(values[count:]) if right.apply else values[count]
        return None if a is None or b is None else (a, b)

    return Source(f"{left.label}, {right.label}", left.type, left.bounds + right.bounds, run)
