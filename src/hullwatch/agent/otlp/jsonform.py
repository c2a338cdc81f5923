"""An ExportTraceServiceRequest in JSON: bytes in, spans out.

Ids are hex, 64-bit numbers may be texts, names are in camelCase (OTLP specification 1.10, "JSON
Protobuf Encoding"). As in wire.py, a value is decoded only if its name was asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from hullwatch.agent.otlp.span import (
    MAX_KEY,
    MAX_LIST,
    MAX_TEXT,
    Export,
    Limits,
    Span,
    Unreadable,
    Value,
    joined,
    span_of,
)

__all__ = ["read"]

_NULL = msgspec.Raw(b"null")


class _Pair(msgspec.Struct):
    key: str = ""
    value: msgspec.Raw = _NULL


class _Attributes(msgspec.Struct):
    attributes: list[_Pair] = []


class _Status(msgspec.Struct):
    code: int | str = 0


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    name: str = ""
    kind: int | str = 0
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[_Pair] = []
    status: _Status | None = None


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Group(msgspec.Struct, rename="camel"):
    resource: _Attributes | None = None
    scope_spans: list[_Scope] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_Group] = []


class _Texts(msgspec.Struct, rename="camel"):
    values: list[_Any] = []


class _Any(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | int | str | None = None
    array_value: _Texts | None = None


_request = msgspec.json.Decoder(_Request)
_any = msgspec.json.Decoder(_Any)


def read(
    data: bytes | memoryview,
    wanted: Collection[str],
    wanted_of_resource: Collection[str],
    limits: Limits = Limits(),
) -> Export:
    """wanted: names of attributes to keep. Raises Unreadable."""
    # Each object is a value in memory, and "{}," is three bytes: counted before any is made.
    if bytes(data).count(b"{") > limits.objects:
        raise Unreadable(f"JSON: more than {limits.objects} objects")
    spans: list[Span] = []
    rejected = 0
    try:
        for group in _request.decode(data).resource_spans:
            pairs = group.resource.attributes if group.resource else []
            resource = _kept(pairs, wanted_of_resource, limits.attributes)[0]
            for one in (one for scope in group.scope_spans for one in scope.spans):
                if len(spans) + rejected >= limits.spans:
                    rejected += 1
                    continue
                span = span_of(_span(one, resource, wanted, limits))
                if span is None:
                    rejected += 1
                else:
                    spans.append(span)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable(f"JSON: {error}") from None
    return Export(spans, rejected)


def _span(one: _Span, resource: dict[str, Value], wanted: Collection[str], limits: Limits) -> Span:
    kept, skipped, uncounted = _kept(one.attributes, wanted, limits.attributes)
    return Span(
        trace_id=_id(one.trace_id),
        span_id=_id(one.span_id),
        parent=_id(one.parent_span_id),
        name=one.name[:MAX_TEXT],
        kind=_number(one.kind) or 0,
        begin=_number(one.start_time_unix_nano) or 0,
        end=_number(one.end_time_unix_nano) or 0,
        failed=one.status is not None and one.status.code in (2, "2", "STATUS_CODE_ERROR"),
        attributes=kept,
        skipped=skipped,
        uncounted=uncounted,
        resource=resource,
    )


def _kept(
    pairs: list[_Pair], wanted: Collection[str], most: int
) -> tuple[dict[str, Value], tuple[str, ...], int]:
    kept: dict[str, Value] = {}
    skipped: list[str] = []
    for pair in pairs[:most]:
        plain = _plain(_any.decode(pair.value)) if pair.key in wanted else None
        if plain is not None:
            kept[pair.key] = plain
        else:
            skipped.append(pair.key[:MAX_KEY])
    return kept, tuple(skipped), max(len(pairs) - most, 0)


def _plain(value: _Any) -> Value | None:
    if value.string_value is not None:
        return value.string_value[:MAX_TEXT]
    if value.bool_value is not None:
        return value.bool_value
    if value.int_value is not None:
        return _number(value.int_value)
    if value.double_value is not None:
        return _float(value.double_value)
    if value.array_value is not None:
        texts = (one.string_value or "" for one in value.array_value.values[:MAX_LIST])
        return joined(text[:MAX_TEXT] for text in texts if text) or None
    return None


def _id(text: str) -> bytes:
    """b'?' for what is no id, as it has a length that no id has."""
    try:
        return bytes.fromhex(text) if len(text) <= 32 else b"?"
    except ValueError:
        return b"?"


def _number(value: Any) -> int | None:
    """A 64-bit number, that may be written as a text."""
    if isinstance(value, str):
        digits = value[1:] if value.startswith("-") else value
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            return None
        value = int(value)
    return value if -(1 << 63) <= value < 1 << 64 else None


def _float(value: float | str) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
