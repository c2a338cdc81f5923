"""Server-sent events (WHATWG HTML, 9.2.6 "Interpreting an event stream"), in any pieces."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["MAX_EVENT", "ServerEvent", "ServerEvents"]

MAX_EVENT = 1 << 20  # bytes of data of one event, and of one line
MAX_NAME = 256  # bytes of an event's name or id
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
# After a hole: this is how a line begins that is not the rest of another.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b": ")
_AHEAD = max(map(len, _FIELDS))


class ServerEvent(NamedTuple):
    """event: its name, 'message' by default. cut: data was longer than MAX_EVENT, the beginning is
    here. size: bytes of data as they were sent."""

    event: str
    data: bytes
    id: str = ""
    size: int = 0
    cut: bool = False

    def __repr__(self) -> str:
        return f"ServerEvent({self.event!r}, {self.size} bytes, cut={self.cut})"


class ServerEvents:
    """feed(data) -> events that are complete. What has no blank line after it at the end is no
    event (the standard says so), and `rest` gives it all the same: streams get cut."""

    def __init__(self) -> None:
        self._line = bytearray()  # a line without its end
        self._long = 0  # bytes of it that were dropped
        self._skip_newline = False  # of a \r\n, the \r was seen
        self._first = True
        self._ahead: bytearray | None = None  # after a hole: the first bytes
        self._deaf = False  # until a blank line
        self._id = ""
        self._begin()

    def _begin(self) -> None:
        self._data = bytearray()
        self._lines = 0
        self._name = ""
        self._size = 0
        self._cut = False

    def feed(self, data: bytes) -> list[ServerEvent]:
        if self._ahead is not None:
            self._ahead += data
            if len(self._ahead) < _AHEAD:
                return []
            data, self._ahead = bytes(self._ahead), None
            self._deaf = not data.startswith(_FIELDS)
        events: list[ServerEvent] = []
        at = 0
        if self._skip_newline and data:
            at = int(data[:1] == b"\n")
            self._skip_newline = False
        for end in _LINE_END.finditer(data, at):
            self._add(data, at, end.start())
            self._take(events)
            at = end.end()
        self._skip_newline = at == len(data) and data.endswith(b"\r")
        self._add(data, at, len(data))
        return events

    def gap(self) -> None:
        """Bytes are missing. The event under way is lost; what follows is read from the first line
        that begins like one, or else from the next blank line."""
        self._line.clear()
        self._long = 0
        self._skip_newline = False
        self._ahead = bytearray()
        self._begin()

    def rest(self) -> list[ServerEvent]:
        """The stream is over: the event that was under way, if there is one."""
        events: list[ServerEvent] = []
        if self._ahead:
            pending, self._ahead = bytes(self._ahead), None
            self._deaf = not pending.startswith(_FIELDS)
            events += self.feed(pending)
        if self._line:
            self._take(events)
        self._dispatch(events)
        return events

    def _add(self, data: bytes, begin: int, end: int) -> None:
        room = MAX_EVENT - len(self._line)
        self._line += data[begin : min(end, begin + room)]
        self._long += max(end - begin - room, 0)

    def _take(self, events: list[ServerEvent]) -> None:
        """The line is complete."""
        line, long = bytes(self._line), self._long
        self._line.clear()
        self._long = 0
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            self._deaf = False
            return self._dispatch(events)
        if self._deaf:
            return None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            room = MAX_EVENT - len(self._data)
            if self._lines:
                self._data += b"\n"[:room]
            self._data += value[:room]
            self._lines += 1
            self._size += len(value) + long
            self._cut = self._cut or bool(long) or len(value) > room
        elif field == b"event":
            self._name = value[:MAX_NAME].decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value[:MAX_NAME].decode("utf-8", "replace")
        return None

    def _dispatch(self, events: list[ServerEvent]) -> None:
        if self._lines:
            name = self._name or "message"
            data = bytes(self._data)
            events.append(ServerEvent(name, data, self._id, self._size, self._cut))
        self._begin()
