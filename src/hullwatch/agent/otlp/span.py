"""What one OTLP trace export holds, as far as it is looked at: spans, whatever form they came in.

Source: opentelemetry-proto 1.10, trace/v1/trace.proto and common/v1/common.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["MAX_KEY", "MAX_TEXT", "MAX_TIME", "Export", "Limits", "Span", "Unreadable", "Value"]
__all__ += ["joined", "span_of"]

MAX_TEXT = 256  # characters of a value or a name
MAX_KEY = 256  # bytes of an attribute's name
MAX_LIST = 16  # texts of a list (finish reasons, say)
MAX_TIME = 1 << 63  # ns: what the store takes

Value = str | int | float | bool


class Unreadable(ValueError):
    """Bytes that are no such export; says what and where."""


class Limits(NamedTuple):
    """What one message may cost. message: bytes as sent; inflated: bytes after gzip; objects: of
    a JSON text; attributes: of one span or resource, the others are counted."""

    message: int = 4 << 20
    inflated: int = 8 << 20
    spans: int = 8192
    attributes: int = 128
    objects: int = 100_000


class Span(NamedTuple):
    """Ids as bytes (16, 8 and 8; parent empty: none), times in unix ns. attributes: those that
    were asked for; skipped: names of the others; uncounted: how many were over the limit.
    resource: attributes of what sent it. failed: its status says so."""

    trace_id: bytes
    span_id: bytes
    parent: bytes
    name: str
    kind: int
    begin: int
    end: int
    failed: bool
    attributes: dict[str, Value]
    skipped: tuple[str, ...]
    uncounted: int
    resource: dict[str, Value]


class Export(NamedTuple):
    """rejected: spans that were over the limit, or whose ids or times make no sense."""

    spans: list[Span]
    rejected: int


def span_of(span: Span) -> Span | None:
    """The span, or None where its ids or times make no sense."""
    sane = (
        len(span.trace_id) == 16
        and len(span.span_id) == 8
        and len(span.parent) in (0, 8)
        and any(span.trace_id)
        and any(span.span_id)
        and 0 < span.begin <= span.end < MAX_TIME
    )
    return span._replace(parent=span.parent if any(span.parent) else b"") if sane else None


def joined(texts: Iterable[str]) -> str:
    """A list of texts as one attribute."""
    return ",".join(texts)[:MAX_TEXT]
