"""hw.call.*: the tool or model call that an event is of, and hw.signal.*: what was seen in one."""

from __future__ import annotations

from hullwatch.context.call import AMBIGUOUS
from hullwatch.detect.fields.field import Field, Type, Where, each, of_row
from hullwatch.detect.row import Row
from hullwatch.sensor.wire import Class

__all__ = ["FIELDS"]

S, N, B = Type.STRING, Type.INT, Type.BOOL
_SIGNAL = (int(Class.SIGNAL),)


def _one(row: Row, what: str) -> str | None:
    """Of one call; of several, what they agree in."""
    values = {str(getattr(call, what)) for call in row.calls}
    return (values.pop() or None) if len(values) == 1 else None


FIELDS: tuple[Field, ...] = (
    of_row("hw.span", N, lambda row, _, __: row.span or None, "id of the tool call"),
    of_row("hw.call.name", S, lambda row, _, __: _one(row, "name"), "the tool or model called"),
    of_row(
        "hw.call.server",
        S,
        lambda row, _, __: _one(row, "server"),
        "the MCP server of the tool, or the model's provider",
    ),
    of_row(
        "hw.call.kind", S, lambda row, _, __: _one(row, "kind"), "of the call: tool, model, task"
    ),
    of_row(
        "hw.call.source",
        S,
        lambda row, _, __: _one(row, "source"),
        "who told of the call: gateway, tap, otlp, context",
    ),
    of_row(
        "hw.call.status",
        S,
        lambda row, _, __: _one(row, "status"),
        "how the call ended: ok, error, cancelled, lost; nothing while it runs",
    ),
    of_row(
        "hw.call.ambiguous",
        B,
        lambda row, _, __: bool(row.span & AMBIGUOUS) if row.span else None,
        "several calls ran in the process at once, and this may be of any",
    ),
    Field(
        "hw.signal.kind",
        S,
        "what was seen between client and server: tool_changed, ...",
        each(Where.OBJ2, _SIGNAL),
        object=lambda obj, _, __: obj.text.partition(": ")[0] or None,
    ),
    Field(
        "hw.signal.detail",
        S,
        "the same, for people",
        each(Where.OBJ2, _SIGNAL),
        object=lambda obj, _, __: obj.text.partition(": ")[2] or None,
    ),
    Field(
        "hw.signal.subject",
        S,
        "what it is about: the name of a tool",
        each(Where.OBJ, _SIGNAL),
        object=lambda obj, _, __: obj.text or None,
    ),
)
