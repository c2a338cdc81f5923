"""A call: what an agent asked a tool or a model to do, and how that ended.

One type for all sources, whoever saw it: the gateway, the tap, OTLP, or the workload itself.
Names of attributes are OTel's (`agent/semconv.py`). Content is never in it: sizes, keyed hashes,
kinds.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

__all__ = ["AMBIGUOUS", "Call", "Kind", "Signal", "Source", "Status", "new_id"]

Kind = Literal["tool", "model", "task"]
Source = Literal["gateway", "tap", "otlp", "context"]
Status = Literal["", "ok", "error", "cancelled", "lost"]
"""'' while it runs; error: the tool or model said so; lost: nobody saw how it ended."""

AMBIGUOUS = 1 << 63
"""A span with this bit is not one call but a set of them: several ran in one process."""
MAX_TEXT = 256  # characters of a name or an attribute
MAX_ATTRIBUTES = 48

Value = str | int | float | bool


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """id: the span, 1 to 2**63-1. begin, end: unix ns; end 0: it runs. name: of the tool, the
    model that was asked for, or the task. server: the MCP server's name, or the provider.
    error: a word or code, never content. attributes: by their names in OTel. parent: the call in
    which this one was made, 0: none known. pid, cgroup: of the process that told of it, on the
    host; 0: not known."""

    id: int
    kind: Kind
    source: Source
    name: str
    begin: int
    end: int = 0
    status: Status = ""
    error: str = ""
    server: str = ""
    client: str = ""
    parent: int = 0
    pid: int = 0
    cgroup: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    attributes: dict[str, Value] = {}


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something seen in what is said between client and server that a person should know: a tool
    that changed, text like an injection, a secret in an argument. kind: a word such as
    `tool_changed`; subject: what it is about (a tool's name); detail: for people, no content.
    call: the call it was seen in, 0: none. held: it was stopped until somebody decides."""

    kind: str
    subject: str
    detail: str
    time: int
    server: str = ""
    call: int = 0
    held: bool = False
    attributes: dict[str, Value] = {}


def new_id() -> int:
    """A span id, as random as OTel's."""
    return secrets.randbits(63) or 1
