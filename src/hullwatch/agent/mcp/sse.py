"""Server-sent events (HTML Living Standard, 9.2): bytes in, events out. Bounded, never raises.

The bytes themselves go on as they came; this only tells what was in them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hullwatch.agent.mcp.message import MAX_MESSAGE, PEEK

__all__ = ["Block", "Blocks", "Event", "Events", "odd_lines"]

_MAX_NAME = 256


class Event(NamedTuple):
    """name: message where none is given. size: bytes of data; where that is over the limit, data
    is empty and head and tail hold its ends."""

    name: str
    data: bytes
    size: int
    head: bytes = b""
    tail: bytes = b""


class Events:
    """Lines end with LF, CR LF or CR; an empty line ends an event. An event that the stream's end
    cuts off is none."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._after_cr = False
        self._begun = False
        self._line: list[bytes] = []
        self._field = b""  # the name of the field that this line is about, once known
        self._known = False
        self._reset()

    def _reset(self) -> None:
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._lines = 0
        self._head = b""
        self._tail = b""

    @property
    def between(self) -> bool:
        """Whether no event has begun that is not whole yet."""
        return not (self._line or self._known or self._lines or self._name)

    def feed(self, data: bytes) -> list[Event]:
        found: list[Event] = []
        if not data:
            return found
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
        self._after_cr = data[-1:] == b"\r"
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in lines[:-1]:
            self._part(part)
            found += self._end_line()
        self._part(lines[-1])
        return found

    def _part(self, part: bytes) -> None:
        """Some of a line. Its value is taken as it comes, so that a long line is not kept."""
        if not part:
            return
        if self._known:
            self._value(part)
            return
        self._line.append(part)
        text = b"".join(self._line)
        if not self._begun:
            if text[:3] == b"\xef\xbb\xbf":
                text = text[3:]
            elif b"\xef\xbb\xbf".startswith(text):
                return
            self._begun = True
        name, colon, value = text.partition(b":")
        self._line = [text[: _MAX_NAME + 1]]
        if colon and value:
            self._known, self._field, self._line = True, name, []
            if self._field == b"data":
                self._lines += 1
                if self._lines > 1:
                    self._take(b"\n")
            self._value(value[1:] if value[:1] == b" " else value)

    def _value(self, value: bytes) -> None:
        if self._field == b"data":
            self._take(value)
        elif self._field == b"event":
            self._name = (self._name + value.decode("utf-8", "replace"))[:_MAX_NAME]

    def _take(self, value: bytes) -> None:
        self._size += len(value)
        if self._size <= self._limit:
            self._data.append(value)
            return
        if self._data:
            whole = b"".join(self._data)
            self._head, self._tail, self._data = whole[:PEEK], whole[-PEEK:], []
        self._head = (self._head + value[:PEEK])[:PEEK]
        self._tail = (self._tail + value[-PEEK:])[-PEEK:]

    def _end_line(self) -> list[Event]:
        text, known = b"".join(self._line), self._known
        self._line, self._known, self._field = [], False, b""
        if known:
            return []
        if text:  # no value: `data` or `data:` is an empty line of data
            if text in (b"data", b"data:"):
                self._lines += 1
                if self._lines > 1:
                    self._take(b"\n")
            return []
        event = Event(
            self._name or "message", b"".join(self._data), self._size, self._head, self._tail
        )
        had = self._lines > 0
        self._reset()
        return [event] if had else []


_LINE_END = re.compile(rb"\r\n|\n|\r")
# Where Python's str.splitlines, and so some clients, end a line, too.
_ODD_LINE = re.compile(
    rb"(?:[\x0b\x0c\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9])"
    rb"(?=data|event|[\x0b\x0c\x1c-\x1e\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]|\Z)"
)


def odd_lines(raw: bytes) -> bool:
    """Whether some readers see other events in it."""
    return _ODD_LINE.search(raw) is not None


class Block(NamedTuple):
    """The bytes of at most one event, with the empty line that ends it. raw: empty where they are
    more than the limit."""

    raw: bytes
    events: tuple[Event, ...]


class Blocks:
    """A stream in whole events: bytes in, bytes out, none before it is known what they are."""

    def __init__(self, limit: int = 2 * MAX_MESSAGE) -> None:
        self._limit = limit
        self._events = Events()
        self._empty = True  # the line so far
        self._after_cr = False
        self._reset()

    def _reset(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._found: list[Event] = []

    @property
    def between(self) -> bool:
        return not self._size

    def feed(self, data: bytes) -> list[Block]:
        found: list[Block] = []
        if not data:
            return found
        begin = at = 0
        for end in _LINE_END.finditer(data):
            if self._after_cr and end.start() == 0 and end[0] == b"\n":
                at = end.end()  # the other half of the line end before
                continue
            if self._empty and end.start() == at:
                self._put(data[begin : end.end()])
                found.append(self._block())
                begin = end.end()
            self._empty, at = True, end.end()
        self._empty = self._empty and at == len(data)
        self._after_cr = data[-1:] == b"\r"
        self._put(data[begin:])
        return found

    def close(self) -> list[Block]:
        """What the stream's end cut off, as some clients take it for an event."""
        self._found += self._events.feed(b"\n\n")
        return [self._block()] if self._size else []

    def _put(self, data: bytes) -> None:
        self._found += self._events.feed(data)
        self._size += len(data)
        if self._size <= self._limit:
            self._parts.append(data)
        else:
            self._parts = []

    def _block(self) -> Block:
        block = Block(b"".join(self._parts), tuple(self._found))
        self._reset()
        return block
