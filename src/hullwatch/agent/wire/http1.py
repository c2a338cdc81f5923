"""HTTP/1.1 (RFC 9112) as an onlooker reads it: one direction of a connection, in any pieces.

Not h11: it is an endpoint's half. It raises at the first byte out of order and is then done, wants
both roles to be driven through its states, and cannot be told of a hole. An onlooker may join in
the middle, misses pieces whose length it knows, and has to find the next message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from hullwatch.agent.wire.http import Data, End, Event, Head, Lost, Upgraded, header_table

__all__ = ["MAX_HEAD", "Reader"]

MAX_LINE = 32 << 10  # a start line or a chunk's size
MAX_HEAD = 64 << 10  # start line and headers, or trailers
MAX_LENGTH = 1 << 62  # a body longer than that is none

_REQUEST = re.compile(rb"([A-Z]{3,16}) ([^\s\x00-\x1f]{1,30000}) HTTP/1\.[01]\r?\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: [^\r\n]{0,1000})?\r?\n")
# In the middle of anything, only what is unlikely to stand there by chance is a beginning; not what
# a JSON string may hold.
_REQUEST_AHEAD = re.compile(
    rb"(?:GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS|CONNECT|TRACE) "
    rb"(?:/|https?://|\*)[^\s\x00-\x1f\"\\\\]{0,8000} HTTP/1\.[01]\r?\n"
)
_RESPONSE_AHEAD = re.compile(rb"HTTP/1\.[01] [1-9]\d\d(?: [A-Za-z0-9 .,'()/-]{0,64})?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(r"\d{1,19}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class _In(Enum):
    HEAD = "head"
    LENGTH = "body of a known length"
    CHUNK_SIZE = "chunk size"
    CHUNK_DATA = "chunk"
    CHUNK_END = "after a chunk"
    TRAILER = "trailers"
    CLOSE = "body until the end"
    TUNNEL = "another protocol"
    HUNT = "looking for a message"


class Reader:
    """requests: which side it reads. method_of: for responses, the method of the request that is
    answered ('' if that is not known), asked once a response.

    feed, gap and close return events in order. lost: bytes that were passed over while hunting.
    """

    def __init__(self, requests: bool, method_of: Callable[[], str] = str) -> None:
        self._requests = requests
        self._method_of = method_of
        self._buffer = bytearray()  # of a head or a line, never of a body
        self._state = _In.HEAD
        self._left = 0  # bytes of the body or chunk to come
        self._begun = False  # a head was told, its end was not
        # A head in tiny pieces is not read again from its beginning each time.
        self._start: re.Match[bytes] | None = None
        self._searched = 0
        self.lost = 0
        self._steps: dict[_In, Callable[[list[Event]], bool]] = {
            _In.HEAD: self._head,
            _In.LENGTH: self._counted,
            _In.CHUNK_SIZE: self._chunk_size,
            _In.CHUNK_DATA: self._counted,
            _In.CHUNK_END: self._chunk_end,
            _In.TRAILER: self._trailer,
            _In.CLOSE: self._until_close,
            _In.TUNNEL: self._tunnel,
            _In.HUNT: self._hunt,
        }

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._buffer and self._state in (_In.LENGTH, _In.CHUNK_DATA, _In.CLOSE):
            # Most bytes are a body's: no copy.
            if self._state is _In.CLOSE:
                return [Data(data)] if data else []
            if len(data) < self._left:
                self._left -= len(data)
                return [Data(data)] if data else []
        self._buffer += data
        while self._buffer and self._steps[self._state](events):
            pass
        return events

    def gap(self, size: int) -> list[Event]:
        """`size` bytes are missing here."""
        events: list[Event] = []
        state, known = self._state, min(size, self._left)
        if size <= 0 or state is _In.TUNNEL:
            return events
        if state is _In.CLOSE:
            return [Data(b"", size)]
        if state in (_In.LENGTH, _In.CHUNK_DATA):
            events.append(Data(b"", known))
            self._left -= known
            size -= known
            if state is _In.LENGTH and not self._left:
                self._end(events)
            elif not self._left:
                self._state = _In.CHUNK_END
                # A write that is cut ends where something ends: with the chunk, or with the body.
                if size == len(b"\r\n"):
                    self._state, size = _In.CHUNK_SIZE, 0
                elif size == len(b"\r\n0\r\n\r\n"):
                    self._end(events)
                    size = 0
        if size:
            self.lost += size + len(self._buffer)
            self._buffer.clear()
            self._lose(events, "gap")
        return events

    def close(self) -> list[Event]:
        """No more will come."""
        events: list[Event] = []
        if self._begun:
            self._begun = False
            events.append(End(self._state is _In.CLOSE))
        self.lost += len(self._buffer)
        self._buffer.clear()
        self._state = _In.TUNNEL
        return events

    def tunnel(self) -> None:
        """The other side has changed the protocol."""
        self._state = _In.TUNNEL
        self._begun = False
        self._buffer.clear()

    # Each step takes bytes off the buffer, adds what it read, and says whether to go on.

    def _head(self, events: list[Event]) -> bool:
        buffer = self._buffer
        while buffer[:1] in (b"\r", b"\n"):  # RFC 9112, 2.2: tolerated before a request line
            del buffer[:1]
        if self._start is None:
            line = buffer.find(b"\n", 0, MAX_LINE) + 1
            if not line:
                return len(buffer) >= MAX_LINE and self._lose(events, "no HTTP/1")
            start = _REQUEST if self._requests else _RESPONSE
            self._start = start.match(bytes(buffer[:line]))
            if self._start is None:
                return self._lose(events, "no HTTP/1")
            self._searched = line - 2
        line = self._start.end()
        end = _HEAD_END.search(buffer, self._searched, MAX_HEAD)
        if end is None:
            self._searched = max(self._searched, len(buffer) - 3)
            if len(buffer) < MAX_HEAD:
                return False
            del buffer[:MAX_HEAD]
            return self._lose(events, "head too long")
        headers = header_table(_lines(bytes(buffer[line : end.start()])))
        first = [part.decode("latin-1") for part in self._start.groups()]
        self._start = None
        del buffer[: end.end()]
        if self._requests:
            head = Head(method=first[0], target=first[1], headers=headers)
        else:
            head = Head(status=int(first[0]), headers=headers)
            if head.status < 200 and head.status != 101:
                return True  # an interim response: the real one follows
        events.append(head)
        self._begun = True
        self._body(head, events)
        return True

    def _body(self, head: Head, events: list[Event]) -> None:
        """How long the body is (RFC 9112, 6.3)."""
        status, headers = head.status, head.headers
        coding = headers.get("transfer-encoding", "").lower()
        lengths = {each.strip() for each in headers.get("content-length", "").split(",")} - {""}
        if status:
            method = self._method_of()
            if status == 101 or (method == "CONNECT" and status < 300):
                events += [End(True), Upgraded(headers.get("upgrade", method).lower()[:64])]
                return self.tunnel()
            if status in (204, 304) or method == "HEAD":
                return self._end(events)
        if coding.rpartition(",")[2].strip() == "chunked":
            self._state = _In.CHUNK_SIZE
        elif coding and status:
            self._state = _In.CLOSE
        elif len(lengths) > 1 or any(not _LENGTH.fullmatch(each) for each in lengths) or coding:
            self._lose(events, "length unclear")
        elif lengths:
            self._left = int(lengths.pop())
            self._state = _In.LENGTH
            if self._left > MAX_LENGTH:
                self._lose(events, "length unclear")
            elif not self._left:
                self._end(events)
        elif status:
            self._state = _In.CLOSE
        else:
            self._end(events)
        return None

    def _counted(self, events: list[Event]) -> bool:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        if piece:
            events.append(Data(piece))
        if not self._left:
            if self._state is _In.LENGTH:
                self._end(events)
            else:
                self._state = _In.CHUNK_END
        return True

    def _chunk_size(self, events: list[Event]) -> bool:
        end = self._buffer.find(b"\n", 0, MAX_LINE)
        if end < 0:
            return len(self._buffer) >= MAX_LINE and self._lose(events, "chunk unclear")
        match = _CHUNK.match(self._buffer)
        if match is None:
            return self._lose(events, "chunk unclear")
        self._left = int(match[1], 16)
        del self._buffer[: match.end()]
        self._state = _In.CHUNK_DATA if self._left else _In.TRAILER
        return True

    def _chunk_end(self, events: list[Event]) -> bool:
        ahead = bytes(self._buffer[:2])
        if ahead == b"\r":
            return False
        if ahead[:1] != b"\n" and ahead != b"\r\n":
            return self._lose(events, "chunk unclear")
        del self._buffer[: 1 if ahead[:1] == b"\n" else 2]
        self._state = _In.CHUNK_SIZE
        return True

    def _trailer(self, events: list[Event]) -> bool:
        """Up to an empty line; trailers themselves are not kept."""
        end = self._buffer.find(b"\n", 0, MAX_LINE)
        if end < 0:
            return len(self._buffer) >= MAX_LINE and self._lose(events, "trailers too long")
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        self._left += end + 1
        del self._buffer[: end + 1]
        if not line:
            self._end(events)
        elif self._left > MAX_HEAD:
            self._lose(events, "trailers too long")
        return True

    def _until_close(self, events: list[Event]) -> bool:
        events.append(Data(bytes(self._buffer)))
        self._buffer.clear()
        return False

    def _tunnel(self, events: list[Event]) -> bool:
        self._buffer.clear()
        return False

    def _hunt(self, events: list[Event]) -> bool:
        """The next thing that begins like a message; a beginning cut short is waited for."""
        start = _REQUEST_AHEAD if self._requests else _RESPONSE_AHEAD
        match = start.search(self._buffer) if b"\n" in self._buffer else None
        if match is not None:
            skipped = match.start()
            self._state = _In.HEAD
        else:
            # No start line spans a line end, and none is longer than MAX_LINE.
            line = self._buffer.rfind(b"\n") + 1
            skipped = max(line, len(self._buffer) - MAX_LINE)
        self.lost += skipped
        del self._buffer[:skipped]
        return match is not None

    def _lose(self, events: list[Event], reason: str) -> bool:
        if self._begun:
            self._begun = False
            events.append(End(False))
        if self._state is not _In.HUNT:
            events.append(Lost(reason))
        self._state = _In.HUNT
        self._start = None
        self._left = 0
        return True

    def _end(self, events: list[Event]) -> None:
        self._begun = False
        self._left = 0
        self._state = _In.HEAD
        events.append(End(True))


def _lines(raw: bytes) -> list[tuple[str, str]]:
    """Header lines as (name, value); a line that is none is passed over, a folded one joined."""
    pairs: list[tuple[str, str]] = []
    for line in raw.decode("latin-1").split("\n"):
        if line[:1] in (" ", "\t") and pairs:
            name, value = pairs[-1]
            pairs[-1] = (name, f"{value} {line.strip()}")
            continue
        name, colon, value = line.partition(":")
        if colon and _NAME.fullmatch(name.rstrip()):
            pairs.append((name.rstrip().lower(), value.strip()))
    return pairs
