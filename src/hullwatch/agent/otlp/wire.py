"""An ExportTraceServiceRequest in protobuf: bytes in, spans out.

An attribute's value is looked at only if its name was asked for: content is never decoded. There
is no recursion: of nested values only a list of texts is understood.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

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
from hullwatch.context.protobuf import Malformed, fields

__all__ = ["read"]

_Attributes = tuple[dict[str, Value], tuple[str, ...], int]


def read(
    data: bytes | memoryview,
    wanted: Collection[str],
    wanted_of_resource: Collection[str],
    limits: Limits = Limits(),
) -> Export:
    """wanted: names of attributes to keep. Raises Unreadable."""
    spans: list[Span] = []
    rejected = 0
    try:
        for group in _messages(memoryview(data), 1):
            found = [view for part in _messages(group, 1) for view in _messages(part, 1)]
            resource = _attributes(found, wanted_of_resource, limits.attributes)[0]
            for view in (view for scope in _messages(group, 2) for view in _messages(scope, 2)):
                if len(spans) + rejected >= limits.spans:
                    rejected += 1
                    continue
                span = span_of(_span(view, resource, wanted, limits))
                if span is None:
                    rejected += 1
                else:
                    spans.append(span)
    except Malformed as error:
        raise Unreadable(f"protobuf: {error}") from None
    return Export(spans, rejected)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of one field that holds messages."""
    for number, _, value in fields(data):
        if number == wanted:
            yield _view(value)


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise Malformed("a number where a message should be")
    return value


def _span(
    data: memoryview, resource: dict[str, Value], wanted: Collection[str], limits: Limits
) -> Span:
    ids = {1: b"", 2: b"", 4: b""}
    times = {7: 0, 8: 0}
    name, kind, failed = "", 0, False
    attributes: list[memoryview] = []
    for number, wire, value in fields(data):
        if number in ids:
            ids[number] = bytes(_view(value)[:17])  # one more than there should be shows
        elif number in times:
            times[number] = _fixed64(wire, value)
        elif number == 5:
            name = _text(_view(value))
        elif number == 6 and isinstance(value, int):
            kind = value
        elif number == 9:
            attributes.append(_view(value))
        elif number == 15:
            failed = any(code == 2 for n, _, code in fields(_view(value)) if n == 3)
    kept, skipped, uncounted = _attributes(attributes, wanted, limits.attributes)
    return Span(
        trace_id=ids[1],
        span_id=ids[2],
        parent=ids[4],
        name=name,
        kind=kind,
        begin=times[7],
        end=times[8],
        failed=failed,
        attributes=kept,
        skipped=skipped,
        uncounted=uncounted,
        resource=resource,
    )


def _attributes(found: list[memoryview], wanted: Collection[str], most: int) -> _Attributes:
    kept: dict[str, Value] = {}
    skipped: list[str] = []
    for pair in islice(found, most):
        key, value = "", None
        for number, _, part in fields(pair):
            if number == 1:
                key = str(_view(part)[:MAX_KEY], "utf-8", "replace")
            elif number == 2:
                value = _view(part)
        if key in wanted and value is not None and (plain := _plain(value)) is not None:
            kept[key] = plain
        else:
            skipped.append(key)
    return kept, tuple(skipped), max(len(found) - most, 0)


def _plain(data: memoryview) -> Value | None:
    """An AnyValue; None if it is empty, bytes, a map, or a list of other things than texts."""
    value: Value | None = None
    for number, wire, part in fields(data):
        if number == 1:
            value = _text(_view(part))
        elif number in (2, 3) and isinstance(part, int):
            signed = part - (1 << 64) if part >= 1 << 63 else part
            value = bool(part) if number == 2 else signed
        elif number == 4 and wire == 1:
            (value,) = struct.unpack("<d", _view(part))
        elif number == 5:
            value = _list(_messages(_view(part), 1))
    return value


def _list(values: Iterable[memoryview]) -> str | None:
    texts = (
        _text(_view(part))
        for value in islice(values, MAX_LIST)
        for number, _, part in fields(value)
        if number == 1
    )
    return joined(text for text in texts if text) or None


def _text(data: memoryview) -> str:
    return str(data[: 4 * MAX_TEXT], "utf-8", "replace")[:MAX_TEXT]


def _fixed64(wire: int, value: int | memoryview) -> int:
    if wire != 1 or isinstance(value, int):
        raise Malformed("a time that is no fixed64")
    return int.from_bytes(value, "little")
