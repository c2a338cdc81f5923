"""One connection as the tap hears it: pieces of plain bytes in, calls of tools and models out.

What it speaks is told from its first bytes: HTTP/1.1, HTTP/2, JSON-RPC by lines; TLS that nobody
opened and other protocols are named (`Opaque`), never passed over in silence. It may be joined in
the middle, and pieces may be missing. Bounded; never raises on what it is fed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.models.exchange import Exchange, Spoken, begin
from hullwatch.agent.planted import Planted
from hullwatch.agent.secrets.canaries import Canaries
from hullwatch.agent.wire.exchange import Exchanges1, Part
from hullwatch.agent.wire.http import Data, End, Head, Lost, Upgraded, split_target
from hullwatch.agent.wire.http import Event as HttpEvent
from hullwatch.agent.wire.http2 import PREFACE, Exchanges2
from hullwatch.agent.wire.mcp import (
    HttpCalls,
    LineCalls,
    ToolCallBegan,
    ToolCallEnded,
    ToolCalls,
    may_be_mcp,
)
from hullwatch.agent.wire.said import Room

__all__ = ["Carried", "Connection", "Direction", "Event", "Opaque"]

MAX_LINE = 32 << 10  # bytes without a line end that may be the beginning of a message
MAX_SNIFF = 64 << 10  # bytes of a direction after which an unknown protocol is said to be one
Direction = Literal["sent", "received"]  # by the watched process


class Opaque(NamedTuple):
    """From here on something cannot be read: why. Told once for each reason."""

    reason: str
    time: int


class Carried(NamedTuple):
    """A canary's value went by: told as often as it is seen. host: of the last request, as it names
    it."""

    canary: Planted
    sent: bool
    host: str
    time: int


Event = ModelCall | Spoken | ToolCallBegan | ToolCallEnded | Opaque | Carried

_ENOUGH = 24  # bytes that tell a protocol by its beginning (as many as HTTP/2's preface has)
_REQUEST = re.compile(
    rb"(?:GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS|CONNECT|TRACE) "
    rb"(?:/|https?://|\*|[\w.\-\[\]:]+:\d)[^\s]{0,30000} HTTP/1\.[01]\r?\n"
)
_RESPONSE = re.compile(rb"HTTP/1\.[01] [1-9]\d\d(?: [A-Za-z0-9 .,'()/-]{0,64})?\r?\n")
_MESSAGE = re.compile(
    rb'\s*+(?:\[[ \t]*)?\{[ \t]*"(?:jsonrpc|id|method|params|result|error)"[ \t]*:'
)
# By their beginning: protocol, what it looks like, and whether it is the client that begins so.
_BEGINNINGS: tuple[tuple[str, re.Pattern[bytes], bool], ...] = (
    ("http/2", re.compile(re.escape(PREFACE)), True),
    # A server's first frame: SETTINGS, of stream 0 (RFC 9113, 3.4).
    ("http/2", re.compile(rb"\x00[\x00-\xff]{2}\x04\x00\x00\x00\x00\x00"), False),
    ("tls", re.compile(rb"[\x14-\x17]\x03[\x00-\x04][\x00-\xff]{2}"), True),
    # A whole line, or a long one: after a body of HTTP, the next start line is on the same line.
    ("jsonrpc", re.compile(_MESSAGE.pattern + rb"[^\n]*[}\]][ \t\r]*\n"), True),
    ("jsonrpc", re.compile(_MESSAGE.pattern + rb"[^\n]{%d}" % MAX_LINE), True),
)


class Connection:
    """hasher: text -> keyed hash, for API keys and sessions. server, port: where it goes, as far as
    the tap knows. pipe: both directions are a process's standard streams (then it is JSON-RPC by
    lines, or nothing). calls: shared by connections of one MCP session, if that is known. room: for
    what is said in calls; None: that is passed over. canaries: whose values are looked for.

    feed: pieces of one direction in their order, those of both as they happened; gap: bytes that
    are missing after `data`. protocol: '' until it is known. opaque: nothing more will be read, so
    the tap may stop. followed: something on it was a call, or may become one. passed_over: how many
    requests were none. asks: the watched process is the client. lost: bytes of HTTP that belonged
    to no message, told by `close`.
    """

    def __init__(
        self,
        hasher: Callable[[str], str],
        *,
        server: str = "",
        port: int = 0,
        pipe: bool = False,
        calls: ToolCalls | None = None,
        room: Room | None = None,
        canaries: Canaries | None = None,
    ) -> None:
        self._canaries = canaries or Canaries()
        self._before = {True: b"", False: b""}  # the end of what was looked at, by `sent`
        self._host = ""
        self._hasher = hasher
        self._room = room
        self._server = server
        self._port = port
        self._shared = calls is not None
        self._calls = calls or ToolCalls("pipe" if pipe else "tcp", server)
        self._lines: LineCalls | None = LineCalls(self._calls, room) if pipe else None
        self._http: Exchanges1 | Exchanges2 | None = None
        self._client_sends = True  # requests are `sent`
        self._open: dict[int, Exchange | HttpCalls] = {}
        self._first = {True: bytearray(), False: bytearray()}  # by `sent`, until it is known
        self._passed = {True: 0, False: 0}  # bytes that were nothing
        self._told: set[str] = set()
        self.protocol = "jsonrpc" if pipe else ""
        self.opaque = False
        self.followed = pipe
        self.passed_over = 0
        self.lost = 0

    @property
    def asks(self) -> bool:
        return self._client_sends

    def feed(self, direction: Direction, data: bytes, time: int, gap: int = 0) -> list[Event]:
        sent = direction == "sent"
        events: list[Event] = []
        whole = data if self._canaries else b""
        if self.opaque:
            return events
        if not self.protocol and data:
            data = self._sniff(sent, data, time, events)
        if self.protocol and data:
            events += self._read(sent, data, time)
        if whole and self.protocol != "http/2":  # there heads are packed
            events += self._look(sent, whole, time)
        if gap:
            events += self._gap(sent, gap, time)
        return events

    def close(self, time: int) -> list[Event]:
        """The connection is over: what was under way ends, as lost where its end was not seen."""
        events: list[Event] = []
        if self._http is not None:
            events += self._sort(self._http.close(), time)
            for number in list(self._open):
                events += self._finish(number, time, whole=False)
        if self._lines is not None:
            events += self._lines.close(time)
        elif not self._shared:
            events += self._calls.close(time)
        self.lost = self._http.lost if self._http is not None else 0
        # What the parsers hold (pieces, tables of headers) does not outlive the connection.
        self._http = self._lines = None
        self._first = {True: bytearray(), False: bytearray()}
        self._before = {True: b"", False: b""}
        self.opaque = True
        return events

    def _look(self, sent: bool, data: bytes, time: int) -> list[Event]:
        """For canaries: those in `data`, and those that begin in what was looked at before."""
        known, before = self._canaries, self._before[sent]
        self._before[sent] = (before + data[-known.reach :])[-known.reach :]
        found = {one.id: one for one in known.find(data)}
        if before:
            old = {one.id for one in known.find(before)}
            across = known.find(before + data[: known.reach])
            found |= {one.id: one for one in across if one.id not in old}
        return [Carried(one, sent, self._host, time) for one in found.values()]

    # --- what it speaks ---------------------------------------------------------------------

    def _sniff(self, sent: bool, data: bytes, time: int, events: list[Event]) -> bytes:
        """Keep bytes until it is clear what they are; then they are what there is to read."""
        held = self._first[sent]
        held += data
        line = held.rfind(b"\n") + 1
        begun = bytes(held)
        undecided = len(begun) < _ENOUGH and (not line or PREFACE.startswith(begun))
        if undecided or (b"{" in begun[:_ENOUGH] and not line and len(begun) <= 2 * MAX_LINE):
            return b""
        protocol, at, asks = self._recognise(begun, fresh=not self._passed[sent], lines=bool(line))
        if not protocol:
            # No start line spans a line end, and none is longer than MAX_LINE.
            passed = max(line, len(held) - 2 * MAX_LINE)
            del held[:passed]
            self._passed[sent] += passed
            if self._passed[sent] + len(held) >= MAX_SNIFF:
                events += self._tell("unknown protocol", time)
            return b""
        self.protocol = protocol
        self._client_sends = sent == asks
        if protocol == "tls":
            events += self._blind("tls: nobody opened it here", time)
        elif protocol == "jsonrpc":
            self.followed = True
            self._lines = LineCalls(self._calls, self._room)
        else:
            self._http = Exchanges1() if protocol == "http/1" else Exchanges2()
        other = bytes(self._first[not sent])
        self._first = {True: bytearray(), False: bytearray()}
        if other:  # it came first
            events += self._read(not sent, other, time)
        return begun[at:]

    def _recognise(self, begun: bytes, fresh: bool, lines: bool) -> tuple[str, int, bool]:
        """(protocol or '', where it begins, is this the client's side)."""
        for protocol, pattern, asks in _BEGINNINGS if fresh else ():
            if pattern.match(begun):
                return protocol, 0, asks
        for pattern, asks in ((_REQUEST, True), (_RESPONSE, False)):
            if lines and (match := pattern.search(begun)):
                return "http/1", match.start(), asks
        return "", 0, True

    def _read(self, sent: bool, data: bytes, time: int) -> list[Event]:
        if self._lines is not None:
            return [*self._lines.feed(sent, data, time)]
        if self._http is not None:
            return self._sort(self._http.feed(sent == self._client_sends, data), time)
        return []

    def _gap(self, sent: bool, size: int, time: int) -> list[Event]:
        if self._lines is not None:
            return [*self._lines.gap(sent, size, time)]
        if self._http is not None:
            return self._sort(self._http.gap(sent == self._client_sends, size), time)
        held = self._first[sent]
        if not self._passed[sent] and _MESSAGE.match(held):  # a line whose end is missing
            self.protocol = "jsonrpc"
            self._lines = LineCalls(self._calls, self._room)
            return [*self._read(sent, bytes(held), time), *self._lines.gap(sent, size, time)]
        held.clear()
        return []

    # --- exchanges --------------------------------------------------------------------------

    def _sort(self, parts: list[Part], time: int) -> list[Event]:
        events: list[Event] = []
        for number, asked, event in parts:
            if self._canaries:
                events += self._unpacked(asked == self._client_sends, event, time)
            if isinstance(event, Lost):
                if event.reason.startswith("h2"):
                    events += self._blind(event.reason, time)
            elif isinstance(event, Upgraded):
                events += self._blind(f"upgraded to {event.protocol}", time)
            elif asked:
                events += self._asked(number, event, time)
            else:
                events += self._answered(number, event, time)
        return events

    def _unpacked(self, sent: bool, event: HttpEvent, time: int) -> list[Event]:
        """What of HTTP/2 is in plain only here; and whom a request is for."""
        if isinstance(event, Head) and event.method:
            self._host = split_target(event)[0]
        if self.protocol != "http/2":
            return []
        if isinstance(event, Head):
            said = "\n".join((event.target, *event.headers.values()))
            return self._look(sent, f"\n{said}\n".encode("utf-8", "replace"), time)
        return self._look(sent, event.data, time) if isinstance(event, Data) else []

    def _asked(self, number: int, event: Head | Data | End, time: int) -> list[Event]:
        if isinstance(event, Head):
            exchange: Exchange | HttpCalls | None
            exchange = begin(event, time, self._hasher, self._server, self._port, self._room)
            if exchange is None and may_be_mcp(event):
                exchange = HttpCalls(
                    self._calls, event, self._client_sends, self._hasher, self._room
                )
            if exchange is not None:
                self._open[number] = exchange
            self.followed |= isinstance(exchange, Exchange)
            self.passed_over += exchange is None
            grpc = event.headers.get("content-type", "").startswith("application/grpc")
            return self._tell("grpc: protobuf is not read", time) if grpc else []
        found = self._open.get(number)
        if found is None:
            return []
        if isinstance(event, Data):
            return [*found.request(event, time)]
        events = [*found.request_end(time)]
        if isinstance(found, HttpCalls):
            self.followed |= found.mcp
            self.passed_over += not found.mcp
        return events

    def _answered(self, number: int, event: Head | Data | End, time: int) -> list[Event]:
        if isinstance(event, End):
            return self._finish(number, time, event.whole)
        found = self._open.get(number)
        if found is None:
            return []
        if isinstance(event, Head):
            return [*found.response_head(event, time)]
        return [*found.response(event, time)]

    def _finish(self, number: int, time: int, whole: bool) -> list[Event]:
        found = self._open.pop(number, None)
        return [*found.finish(time, whole)] if found is not None else []

    # --- what cannot be read ----------------------------------------------------------------

    def _blind(self, reason: str, time: int) -> list[Event]:
        """Nothing more will be read."""
        events = self._tell(reason, time)
        for number in list(self._open):
            events += self._finish(number, time, whole=False)
        self.opaque = True
        return events

    def _tell(self, reason: str, time: int) -> list[Event]:
        if reason in self._told:
            return []
        self._told.add(reason)
        return [Opaque(reason, time)]
