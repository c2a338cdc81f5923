"""Spans of frameworks as calls: which spans are calls, and what is kept of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.otlp.names import (
    CANCELLED,
    KEPT,
    KINDS,
    NAMES_OF,
    PARENT_SPAN_ID,
    PROVIDERS,
    SPAN_ID,
    TRACE_ID,
    Name,
)
from hullwatch.agent.otlp.received import NOBODY, Peer, Received, Where
from hullwatch.agent.otlp.span import Span, Value
from hullwatch.context.call import Call, Kind, Status

__all__ = ["calls_of", "id_of", "kind_of", "received", "where_of"]

_ANCESTORS = 64  # spans that are no calls, between a call and the call that made it
_MAX_PID = 1 << 22  # PID_MAX_LIMIT
_WORD = re.compile(r"[\w.:/\-]{1,128}", re.ASCII)
_CONTAINER = re.compile(r"[0-9A-Za-z_.\-]{1,128}")
_PREFIX = re.compile(r"(?:execute_tool|tools/call|invoke_agent|chat|embeddings) (?=\S)")


def id_of(span_id: bytes) -> int:
    """OTel's 8 bytes as Call.id: without the highest bit; 0 only for none."""
    number = int.from_bytes(span_id) & (1 << 63) - 1
    return number or int(bool(span_id))


def kind_of(span: Span) -> Kind | None:
    """None: the span is no call."""
    said = span.attributes
    for name, kinds in KINDS:
        value = said.get(name)
        if isinstance(value, str) and (kind := kinds.get(value.lower())):
            return kind
    if semconv.TOOL_NAME in said:
        return "tool"
    if semconv.REQUEST_MODEL in said and (semconv.PROVIDER in said or "gen_ai.system" in said):
        return "model"
    return None


def calls_of(spans: Iterable[Span]) -> list[tuple[Span, Call]]:
    """The calls among the spans of one export, in its order."""
    known = {(span.trace_id, span.span_id): span for span in spans}
    kinds = {key: kind_of(span) for key, span in known.items()}
    found = []
    for key, span in known.items():
        if kind := kinds[key]:
            found.append((span, _call(span, kind, _parent(span, known, kinds))))
    return found


def received(spans: Iterable[Span], peer: Peer = NOBODY) -> list[Received]:
    made = []
    for span, call in calls_of(spans):
        where = where_of(span.resource, peer)
        if where.host_pid:
            call = msgspec.structs.replace(call, pid=where.host_pid)
        made.append(Received(call, where))
    return made


def where_of(resource: dict[str, Value], peer: Peer = NOBODY) -> Where:
    def text(name: str) -> str:
        value = resource.get(name, "")
        return value if isinstance(value, str) else ""

    pid = _number(resource.get("process.pid", 0)) or 0
    container = text("container.id")
    return Where(
        pid=pid if 0 < pid <= _MAX_PID else 0,
        container_id=container if _CONTAINER.fullmatch(container) else "",
        pod_uid=text("k8s.pod.uid"),
        host=text("host.name"),
        service=text("service.name"),
        peer=peer,
    )


def _parent(
    span: Span,
    known: dict[tuple[bytes, bytes], Span],
    kinds: dict[tuple[bytes, bytes], Kind | None],
) -> bytes:
    """The nearest call above, or the last span above that this export does not hold: a parent ends,
    and is sent, after its children."""
    for _ in range(_ANCESTORS):
        key = (span.trace_id, span.parent)
        if not span.parent or key not in known or kinds[key]:
            return span.parent
        span = known[key]
    return b""


def _call(span: Span, kind: Kind, parent: bytes) -> Call:
    attributes = _attributes(span)
    error = _error(span, attributes)
    attributes[TRACE_ID] = span.trace_id.hex()
    attributes[SPAN_ID] = span.span_id.hex()
    if parent:
        attributes[PARENT_SPAN_ID] = parent.hex()
    provider = attributes.get(semconv.PROVIDER, "")
    address = attributes.get(semconv.SERVER_ADDRESS, "")
    return Call(
        id=id_of(span.span_id),
        kind=kind,
        source="otlp",
        name=_name(span, kind, attributes),
        begin=span.begin,
        end=span.end,
        status=_status(span, error),
        error=error,
        server=str(provider if kind == "model" else address),
        client=str(span.resource.get("service.name", "")),
        parent=id_of(parent),
        attributes=attributes,
    )


def _name(span: Span, kind: Kind, attributes: dict[str, Value]) -> str:
    for name in NAMES_OF[kind]:
        value = attributes.get(name) or span.attributes.get(name)
        if value:
            return str(value)
    return _PREFIX.sub("", span.name, count=1) or kind


def _attributes(span: Span) -> dict[str, Value]:
    kept: dict[str, Value] = {}
    for row in KEPT:
        value = _typed(span, row)
        if value is not None:
            kept[row.name] = value
    provider = kept.get(semconv.PROVIDER)
    if isinstance(provider, str):
        kept[semconv.PROVIDER] = PROVIDERS.get(provider.lower(), provider.lower())
    return kept


def _typed(span: Span, row: Name) -> Value | None:
    """The first of its names that holds a value of its type."""
    for name in (row.name, *row.also):
        value = span.attributes.get(name)
        if value is None:
            continue
        made: Value | None = None
        if row.type is str:
            made = str(value)
        elif row.type is int:
            made = _number(value)
        elif row.type is float:
            made = _real(value)
        elif isinstance(value, bool):
            made = value
        if made is not None:
            return made
    return None


def _real(value: Value) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if real and math.isfinite(float(value)) else None


def _number(value: Value) -> int | None:
    """JavaScript has only doubles, and some write numbers as texts."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return value
    return None


def _error(span: Span, attributes: dict[str, Value]) -> str:
    """A word or a code: what is no such thing may be content, and is not kept."""
    said = attributes.pop(semconv.ERROR_TYPE, "")
    if not span.failed and not said:
        return ""
    word = str(said)
    word = word if _WORD.fullmatch(word) else "error"
    attributes[semconv.ERROR_TYPE] = word
    return word


def _status(span: Span, error: str) -> Status:
    if error and error.rpartition(".")[2].lower() in CANCELLED:
        return "cancelled"
    return "error" if span.failed or error else "ok"
