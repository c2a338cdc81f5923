"""MCP tool calls as an onlooker sees them: a `tools/call` request, and the reply that ends it.

Over stdio each line is a message; over HTTP a POST holds one (or a batch, 2025-03-26) and its reply
is JSON or an event stream; a GET's event stream may bring the reply of a POST that broke off.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.wire.body import Decoder
from hullwatch.agent.wire.http import Data, Head
from hullwatch.agent.wire.jsonrpc import Body, Id, Line, Lines, Message, read
from hullwatch.agent.wire.said import Room, Said
from hullwatch.agent.wire.sse import ServerEvent, ServerEvents
from hullwatch.context.call import Call, Status, Value

__all__ = [
    "MAX_PENDING",
    "HttpCalls",
    "LineCalls",
    "ToolCall",
    "ToolCallBegan",
    "ToolCallEnded",
    "ToolCalls",
    "may_be_mcp",
]

MAX_PENDING = 1024  # calls without a reply
Role = Literal["client", "server"]
Transport = Literal["pipe", "tcp"]  # OTel's words, network.transport


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """key: the same at the beginning and at the end, unique within its ToolCalls. role: what the
    watched process is in it. session: keyed hash of the MCP session's id. begin, end: ns, as the
    pieces' times; end 0: it runs. Sizes are of the JSON."""

    key: int
    id: Id
    name: str
    role: Role
    transport: Transport
    begin: int
    end: int = 0
    status: Status = ""
    error: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    server: str = ""
    client: str = ""
    session: str = ""
    protocol: str = ""
    problems: tuple[str, ...] = ()

    def to_call(self, span: int, pid: int = 0) -> Call:
        """As everything else knows calls."""
        said: dict[str, Value] = {
            semconv.OPERATION: "execute_tool",
            semconv.MCP_METHOD: "tools/call",
            semconv.TOOL_NAME: self.name,
            semconv.NETWORK_TRANSPORT: self.transport,
            semconv.JSONRPC_ID: "" if self.id is None else str(self.id),
            semconv.MCP_PROTOCOL: self.protocol,
            semconv.SESSION_HASH: self.session,
            semconv.PROBLEMS: ",".join(self.problems),
            semconv.ERROR_TYPE: self.error,
        }
        return Call(
            id=span,
            kind="tool",
            source="tap",
            name=self.name,
            begin=self.begin,
            end=self.end,
            status=self.status,
            error=self.error,
            server=self.server,
            client=self.client,
            pid=pid,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            attributes={name: value for name, value in said.items() if value != ""},
        )


class ToolCallBegan(NamedTuple):
    """said: the arguments, where there is room for them."""

    call: ToolCall
    said: Said | None = None


class ToolCallEnded(NamedTuple):
    """said: the result, or the error."""

    call: ToolCall
    said: Said | None = None


ToolEvent = ToolCallBegan | ToolCallEnded
_Key = tuple[bool, bool, Id]


class ToolCalls:
    """Calls under way on a connection, or on all connections of one MCP session if these share it.

    sent: was the message sent by the watched process? Whoever sends `tools/call` is the client.
    Above MAX_PENDING the oldest call ends as lost.
    """

    def __init__(self, transport: Transport, server: str = "") -> None:
        self._transport: Transport = transport
        self._pending: dict[_Key, ToolCall] = {}
        self._last = 0
        self._server = server
        self._client = ""
        self._protocol = ""

    def take(self, message: Message, sent: bool, time: int, session: str = "") -> list[ToolEvent]:
        """What a message begins or ends."""
        kind, method = message.kind, message.method
        if kind == "request" and method == "tools/call":
            return self._begin(message, sent, time, session)
        if kind == "request" and method == "initialize":
            self._client = message.peer or self._client
        elif kind == "notification" and method == "notifications/cancelled":
            return self._end(_key(sent, message.cancels), time, "cancelled", "", message)
        elif kind in ("response", "error"):
            # Who answers has not asked.
            key = _key(not sent, message.id)
            if message.protocol:
                self._protocol = message.protocol
                self._server = message.peer or self._server
            if key not in self._pending:
                key = self._only(message, sent) or key
            if kind == "error":
                code = str(message.code) if message.code is not None else "error"
                return self._end(key, time, "error", code, message)
            failed = message.failed
            return self._end(key, time, "error" if failed else "ok", "tool_error" * failed, message)
        return []

    def give_up(
        self, keys: list[int], time: int, status: Status, error: str = ""
    ) -> list[ToolEvent]:
        """These calls, if they still run: no reply will come to what carried them."""
        events: list[ToolEvent] = []
        for key, call in list(self._pending.items()):
            if call.key in keys:
                events += self._end(key, time, status, error)
        return events

    def close(self, time: int) -> list[ToolEvent]:
        """Whatever still runs: nobody will see how it ends."""
        events: list[ToolEvent] = []
        for key in list(self._pending):
            events += self._end(key, time, "lost", "")
        return events

    def _only(self, message: Message, sent: bool) -> _Key | None:
        """Which call a reply is for if its id, or the call's, was in a piece that is missing: there
        is no doubt where only one comes into question."""
        cut = message.id is None and _is_cut(message)
        open_ = [
            key
            for key, call in self._pending.items()
            if key[0] != sent and (cut or (call.id is None and "cut" in call.problems))
        ]
        return open_[0] if len(open_) == 1 else None

    def _begin(self, message: Message, sent: bool, time: int, session: str) -> list[ToolEvent]:
        events: list[ToolEvent] = []
        key = _key(sent, message.id)
        problems = message.problems
        if key in self._pending:
            events += self._end(key, time, "lost", "")
            problems = (*problems, "id reused")
        elif len(self._pending) >= MAX_PENDING:
            events += self._end(next(iter(self._pending)), time, "lost", "")
        self._last += 1
        call = ToolCall(
            key=self._last,
            id=message.id,
            name=message.name,
            role="client" if sent else "server",
            transport=self._transport,
            begin=time,
            request_bytes=message.size,
            server=self._server,
            client=self._client,
            session=session,
            protocol=self._protocol,
            problems=problems,
        )
        self._pending[key] = call
        return [*events, ToolCallBegan(call, message.said)]

    def _end(
        self, key: _Key, time: int, status: Status, error: str, message: Message | None = None
    ) -> list[ToolEvent]:
        call = self._pending.pop(key, None)
        if call is None:
            return []
        problems = call.problems
        answered = message is not None and message.kind in ("response", "error")
        if message is not None:
            problems += tuple(each for each in message.problems if each not in problems)
            if message.result_type == "input_required":
                problems += ("input_required",)
        ended = msgspec.structs.replace(
            call,
            end=time,
            status=status,
            error=error,
            response_bytes=message.size if message is not None and answered else 0,
            problems=problems,
        )
        return [ToolCallEnded(ended, message.said if message is not None and answered else None)]


def _key(sent: bool, ident: Id) -> _Key:
    """1 and 1.0 are one id, 1 and "1" are two."""
    return (sent, isinstance(ident, str), ident)


class LineCalls:
    """Messages by lines, as on stdio: feed(sent, data, time)."""

    def __init__(self, calls: ToolCalls, room: Room | None = None) -> None:
        self._calls = calls
        self._lines = {True: Lines(room=room), False: Lines(room=room)}

    def feed(self, sent: bool, data: bytes, time: int) -> list[ToolEvent]:
        return self._take(sent, self._lines[sent].feed(data), time)

    def gap(self, sent: bool, size: int, time: int) -> list[ToolEvent]:
        return self._take(sent, self._lines[sent].gap(size), time)

    def close(self, time: int) -> list[ToolEvent]:
        events: list[ToolEvent] = []
        for sent, lines in self._lines.items():
            # A reply that breaks off here did not arrive.
            whole = [each for each in lines.close() if not any(map(_is_cut, each.messages))]
            events += self._take(sent, whole, time)
        return [*events, *self._calls.close(time)]

    def _take(self, sent: bool, lines: list[Line], time: int) -> list[ToolEvent]:
        return [
            event
            for line in lines
            for message in line.messages
            for event in self._calls.take(message, sent, time)
        ]


def _is_cut(message: Message) -> bool:
    return "cut" in message.problems


def may_be_mcp(head: Head) -> bool:
    """A request that may carry JSON-RPC, or ask for a stream of it."""
    kind = head.headers.get("content-type", "").lower()
    if head.method == "POST":
        return "json" in kind or "mcp-method" in head.headers
    return head.method == "GET" and "text/event-stream" in head.headers.get("accept", "").lower()


class HttpCalls:
    """One HTTP exchange that may be MCP's. sent: by the watched process (it is the client). mcp: it
    is, as far as can be told from the request.

    problems of a call: `header`, if `Mcp-Method` or `Mcp-Name` (2026-07-28) differ from the body.
    """

    def __init__(
        self,
        calls: ToolCalls,
        head: Head,
        sent: bool,
        hasher: Callable[[str], str],
        room: Room | None = None,
    ) -> None:
        self._calls = calls
        self._room = room
        self._head = head
        self._sent = sent
        session = head.headers.get("mcp-session-id", "")
        self._session = hasher(session) if session else ""
        self.mcp = any(name.startswith("mcp-") for name in head.headers)
        self._asked = Body(room)
        self._coding = Decoder(head.headers.get("content-encoding", ""))
        self._answer: Body | ServerEvents | None = None
        self._status = 0
        self._read = False  # the request's messages were taken
        self._keys: list[int] = []
        self._time = 0

    def request(self, data: Data, time: int) -> list[ToolEvent]:
        for piece in self._coding.feed(data.data):
            self._asked.feed(piece)
        if data.missing:
            self._coding.gap()
            self._asked.gap(data.missing)
        return []

    def request_end(self, time: int) -> list[ToolEvent]:
        if self._read:
            return []
        self._read = True
        for piece in self._coding.end():
            self._asked.feed(piece)
        events: list[ToolEvent] = []
        for message in self._asked.end():
            self.mcp = True
            if not self._agrees(message):
                message = message._replace(problems=(*message.problems, "header"))
            events += self._calls.take(message, self._sent, time, self._session)
        self._keys = [each.call.key for each in events if isinstance(each, ToolCallBegan)]
        return events

    def response_head(self, head: Head, time: int) -> list[ToolEvent]:
        # An answer before the request's end is one that did not wait for it.
        events = self.request_end(time)
        kind = head.headers.get("content-type", "").lower()
        self._status = head.status
        self._coding = Decoder(head.headers.get("content-encoding", ""))
        if "text/event-stream" in kind:
            self._answer = ServerEvents()
        elif "json" in kind:
            self._answer = Body(self._room)
        return events

    def response(self, data: Data, time: int) -> list[ToolEvent]:
        events: list[ToolEvent] = []
        if self._answer is None:
            return events
        for piece in self._coding.feed(data.data):
            events += self._answered(piece, time)
        if data.missing:
            self._coding.gap()
            if isinstance(self._answer, ServerEvents):
                self._answer.gap()
            else:
                self._answer.gap(data.missing)
        return events

    def finish(self, time: int, whole: bool) -> list[ToolEvent]:
        """The response is over. A call that a whole stream left open may be answered by another."""
        events = self.request_end(time)
        for piece in self._coding.end():
            events += self._answered(piece, time)
        if isinstance(self._answer, ServerEvents):
            events += self._streamed(self._answer.rest(), time)
        elif isinstance(self._answer, Body):
            replies = self._answer.end()
            # One that breaks off with its connection did not arrive.
            events += self._take([each for each in replies if whole or not _is_cut(each)], time)
        if self._status >= 400:
            events += self._calls.give_up(self._keys, time, "error", str(self._status))
        elif not whole:
            events += self._calls.give_up(self._keys, time, "lost")
        return events

    def _answered(self, piece: bytes, time: int) -> list[ToolEvent]:
        if isinstance(self._answer, ServerEvents):
            return self._streamed(self._answer.feed(piece), time)
        if self._answer is not None:
            self._answer.feed(piece)
        return []

    def _streamed(self, events: list[ServerEvent], time: int) -> list[ToolEvent]:
        return [found for each in events for found in self._take(read(each.data, self._room), time)]

    def _take(self, messages: list[Message], time: int) -> list[ToolEvent]:
        return [
            event
            for message in messages
            for event in self._calls.take(message, not self._sent, time)
        ]

    def _agrees(self, message: Message) -> bool:
        headers = self._head.headers
        method, name = headers.get("mcp-method"), _plain(headers.get("mcp-name"))
        return (method is None or method == message.method) and (
            name is None or not message.name or name == message.name
        )


def _plain(value: str | None) -> str | None:
    """A header's value; what is no plain ASCII comes as `=?base64?...?=` (MCP 2026-07-28)."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return value
