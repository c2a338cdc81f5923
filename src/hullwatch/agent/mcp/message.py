"""JSON-RPC messages as MCP sends them: bytes in, a view of what matters out. Nothing is re-encoded.

Source: JSON-RPC 2.0; MCP 2024-11-05 to 2025-11-25 (batches: 2025-03-26 only) and 2026-07-28.
Bounded: whoever calls gives at most MAX_MESSAGE bytes; what is larger has `peek`. Never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

__all__ = [
    "MAX_MESSAGE",
    "NAMED_BY",
    "PEEK",
    "Key",
    "Message",
    "Reading",
    "error_response",
    "field",
    "fields",
    "first_of",
    "key_of",
    "peek",
    "read",
    "text",
]

MAX_MESSAGE = 8 << 20  # bytes that are parsed; larger messages are peeked at
MAX_BATCH = 256
PEEK = 4096  # bytes at either end of a large message

Kind = Literal["request", "notification", "result", "error", "invalid"]
Sender = Literal["client", "server"]
Key = str | int | None
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose parameter says what they are about (2026-07-28: Mcp-Name)."""
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"


class Message(NamedTuple):
    """id: as it was written; key: what tells ids apart (None: no usable id). name: of the tool,
    the prompt or the resource. version: of the protocol, if this message says it. params, result
    and error are JSON as it was written, empty where there is none."""

    kind: Kind
    id: bytes = b""
    key: Key = None
    method: str = ""
    name: str = ""
    version: str = ""
    params: bytes = b""
    result: bytes = b""
    error: bytes = b""
    modern: bool = False


class Reading(NamedTuple):
    """What a line or body holds. problem: why it could not be read. doubled: keys that are there
    twice, or spelt so that another parser would take them for one of these: two readers may see
    two different messages."""

    messages: tuple[Message, ...] = ()
    batch: bool = False
    problem: str = ""
    doubled: tuple[str, ...] = ()


class _Envelope(msgspec.Struct):
    jsonrpc: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_BATCH = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()
_BROKEN = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError)


def read(raw: bytes, doubles: bool = True, sender: Sender = "client") -> Reading:
    """One line or body. doubles: look for keys that are there twice, of those that decide what a
    client calls, or what a server asks of its model."""
    try:
        if not raw.isascii():
            raw.decode()
        batch = raw.lstrip()[:1] == b"["
        parts = _BATCH.decode(raw) if batch else [msgspec.Raw(raw)]
        if len(parts) > MAX_BATCH:
            return Reading(batch=True, problem="batch of more than 256")
        seen = [_ENVELOPE.decode(part) for part in parts]
        messages = tuple(map(_message, seen))
        if sender == "server" and any(map(_mixed, seen)):
            return Reading(messages, batch, "several kinds of message in one")
        return Reading(messages, batch, "", _doubled(raw, sender) if doubles else ())
    except UnicodeDecodeError:
        return Reading(problem="not UTF-8")
    except RecursionError:
        return Reading(problem="nested too deeply")
    except msgspec.ValidationError:
        return Reading(problem="not an object")
    except (msgspec.DecodeError, ValueError):
        return Reading(problem="not JSON")


def _mixed(seen: _Envelope) -> bool:
    return bool(seen.method) + bool(seen.result) + bool(seen.error) > 1


def _message(seen: _Envelope) -> Message:
    raw_id = bytes(seen.id)
    key = key_of(raw_id)
    if seen.method:
        method = text(bytes(seen.method))
        if not method:
            return Message("invalid", raw_id, key)
        params = bytes(seen.params)
        given = fields(params)
        name = text(given.get(NAMED_BY.get(method, ""), b""))
        version = field(given.get("_meta", b""), _VERSION_KEY)
        modern = bool(version)
        if method == "initialize":
            version = version or field(params, "protocolVersion")
        kind: Kind = "notification" if not raw_id else "invalid" if key is None else "request"
        return Message(kind, raw_id, key, method, name, text(version), params, b"", b"", modern)
    if seen.error:
        return Message("error", raw_id, key, error=bytes(seen.error))
    if seen.result:
        return Message("result", raw_id, key, result=bytes(seen.result))
    return Message("invalid", raw_id, key)


def key_of(raw: bytes) -> Key:
    """An id as a key of a table; None for what is no id. 1 and 1.0 are one to JavaScript."""
    if not raw or len(raw) > 1024:
        return None
    try:
        value: Any = _ANY.decode(raw)
    except _BROKEN:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def fields(raw: bytes) -> dict[str, bytes]:
    """The members of an object, each as it was written; none for anything else."""
    if raw[:1] != b"{":
        return {}
    try:
        return {key: bytes(value) for key, value in _FIELDS.decode(raw).items()}
    except _BROKEN:
        return {}


def first_of(raw: bytes) -> bytes:
    """The first item of a list as it was written; empty for anything else."""
    if raw[:1] != b"[":
        return b""
    try:
        return next((bytes(one) for one in _BATCH.decode(raw)), b"")
    except _BROKEN:
        return b""


def field(raw: bytes, *path: str) -> bytes:
    """The JSON text of a value inside an object, by its keys; empty where it is not there."""
    for key in path:
        raw = fields(raw).get(key, b"")
    return raw


def text(raw: bytes) -> str:
    """A JSON string as text; '' for anything else."""
    if raw[:1] != b'"':
        return ""
    try:
        value = _ANY.decode(raw)
    except _BROKEN:
        return ""
    return value if isinstance(value, str) else ""


# --- keys that are there twice ------------------------------------------------------------


# JSON leaves open which of two equal keys counts, and Go's encoding/json takes `Method` and even
# `paramſ` for what it looks for. Whoever checks one reading while the server acts on another has
# checked nothing.
class _Watched(NamedTuple):
    """Of an object: the keys that are looked for, and what is looked for below them; of a list: in
    each of its items. each: below every key, whatever it is called."""

    words: tuple[str, ...] = ()
    below: Mapping[str, _Watched] = MappingProxyType({})
    each: _Watched | None = None

    def all(self) -> set[str]:
        further = [*self.below.values(), *([self.each] if self.each else [])]
        return {*self.words}.union(*(one.all() for one in further))


_FROM_CLIENT = _Watched(
    ("jsonrpc", "id", "method", "params"),
    {
        "params": _Watched(
            (
                *("name", "arguments", "uri", "_meta"),
                *("requestId", "requestState", "inputResponses", "cursor"),
            )
        )
    },
)
_SAMPLING = _Watched(
    ("messages", "systemPrompt", "modelPreferences", "requestId"),
    {"modelPreferences": _Watched(("hints",), {"hints": _Watched(("name",))})},
)
_FROM_SERVER = _Watched(
    ("jsonrpc", "id", "method", "params", "result", "error"),
    {
        "params": _SAMPLING,
        "result": _Watched(
            ("resultType", "inputRequests", "requestState"),
            {
                "inputRequests": _Watched(
                    each=_Watched(("method", "params"), {"params": _SAMPLING}),
                )
            },
        ),
    },
)
_ODD_KEY = re.compile(
    rb'"[A-Za-z_]{0,15}(?:\\u[0-9A-Fa-f]{4}|\xc5\xbf|\xe2\x84\xaa)[^":]{0,90}"\s*:'
)


def _candidates(watched: _Watched) -> re.Pattern[bytes]:
    return re.compile(rb'"(' + "|".join(sorted(watched.all())).encode() + rb')"\s*:', re.I)


_TABLES = {one: (watched, watched.all(), _candidates(watched)) for one, watched in (
    ("client", _FROM_CLIENT), ("server", _FROM_SERVER),
)}  # fmt: skip


class _Pairs(list[tuple[str, Any]]):
    pass


def _doubled(raw: bytes, sender: Sender) -> tuple[str, ...]:
    watched, known, candidate = _TABLES[sender]
    keys = candidate.findall(raw)
    plain = len(set(keys)) == len(keys) and all(key.decode() in known for key in keys)
    if plain and not _ODD_KEY.search(raw):
        return ()
    top = json.loads(raw, object_pairs_hook=_Pairs)
    return tuple(dict.fromkeys(_repeats(top, watched)))


def _repeats(value: Any, watched: _Watched) -> Iterator[str]:
    if type(value) is list:
        for item in value:
            yield from _repeats(item, watched)
    if not isinstance(value, _Pairs):
        return
    keys = [key for key, _ in value]
    folded = [key.casefold() for key in keys]
    for word in watched.words:
        times = folded.count(word.casefold())
        if times > 1 or (times and word not in keys):
            yield word
    if watched.each is not None and len(set(keys)) < len(keys):
        yield from (key for key in keys if keys.count(key) > 1)
    for key, inner in value:
        below = watched.below.get(key, watched.each)
        if below is not None:
            yield from _repeats(inner, below)


# --- large messages -----------------------------------------------------------------------

_ID = rb'"id"\s*:\s*(-?\d{1,20}|"(?:[^"\\]|\\.){0,200}")'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"'
_METHOD = rb'"method"\s*:\s*("(?:[^"\\]|\\.){1,200}")'
_ID_AT_END = re.compile(rb",\s*" + _ID + rb"\s*(?:,\s*" + _VERSION + rb"\s*)?\}\s*\Z")
_HEAD = re.compile(
    rb"\s*\{\s*(?:(?:" + _VERSION + rb"|" + _ID + rb"|" + _METHOD + rb")\s*,\s*){0,3}"
)
_NAME_FIRST = re.compile(rb'"params"\s*:\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.){1,500}")')


def peek(head: bytes, tail: bytes = b"") -> Message:
    """What can be told for certain of a message too large to parse, from its first and last bytes.

    Only members of the outermost object are taken: those before the first nested value, and those
    right before its last brace. kind is "invalid" where neither says what it is.
    """
    raw_id = method = b""
    start = _HEAD.match(head)
    if start is None:
        return Message("invalid")
    raw_id, method = start[1] or b"", start[2] or b""
    rest = head[start.end() :]
    end = _ID_AT_END.search(tail)
    if not raw_id and end:
        raw_id = end[1]
    if method:
        named = _NAME_FIRST.match(rest)
        kind: Kind = "request"
        return Message(kind, raw_id, key_of(raw_id), text(method), text(named[1]) if named else "")
    if rest.startswith(b'"result"'):
        return Message("result", raw_id, key_of(raw_id))
    if rest.startswith(b'"error"'):
        return Message("error", raw_id, key_of(raw_id))
    return Message("invalid", raw_id, key_of(raw_id))


def error_response(raw_id: bytes, code: int, message: str, data: object = None) -> bytes:
    """A JSON-RPC error, without a newline. raw_id: as the request had it; empty: null."""
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "id": msgspec.Raw(raw_id or b"null"), "error": error}
    )
