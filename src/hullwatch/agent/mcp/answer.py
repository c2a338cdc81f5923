"""What a server answers over HTTP, looked at as it goes by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hullwatch.agent.mcp.headers import Headers, first
from hullwatch.agent.mcp.message import MAX_MESSAGE, PEEK, Key, Reading, peek, read
from hullwatch.agent.mcp.observer import Dialogue, Observer
from hullwatch.agent.mcp.sampling import Refusal, Waits
from hullwatch.agent.mcp.sse import Block, Event, Events, odd_lines

__all__ = ["Answer"]

_TOO_LARGE = "too large to be parsed"
_ODD_LINES = "line ends that some readers do not take for such"


class Answer:
    """begin, feed for each piece, end. streams: it is a stream of events. endpoint: called with the
    address that an `endpoint` event names (2024-11-05).

    guarded: whole messages are asked about (`asks`) and told when they pass (`passes`) instead.
    unclear: why readers may take it for different kinds of content, then."""

    def __init__(
        self, observer: Observer, dialogue: Dialogue, endpoint: Callable[[str], None]
    ) -> None:
        self._observer = observer
        self._dialogue = dialogue
        self._endpoint = endpoint
        self._events = Events()
        self._json = False
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""
        self._tail = b""
        self.status = 0
        self.streams = False
        self.guarded = False
        self.unclear = ""

    @property
    def between(self) -> bool:
        """Whether the client has whole events only."""
        return self._events.between

    def begin(self, status: int, headers: Headers) -> None:
        self.status = status
        kind = (first(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
        self.streams = kind == b"text/event-stream"
        self._json = kind.endswith(b"json")
        coding = first(headers, b"content-encoding") or b"identity"
        if coding.strip().lower() != b"identity" and (self.streams or self._json):
            self._observer.unreadable(f"its encoding is {coding.decode('ascii', 'replace')[:40]}")
            self.unclear = "its answer is compressed"
            self._json = False
            self._events = Events(0)
        if self._observer.sampling.guarded:
            # As widely as clients take it.
            kinds = b",".join(value for name, value in headers if name == b"content-type").lower()
            self.streams, as_json = b"event-stream" in kinds, b"json" in kinds
            self.guarded = self.streams or as_json
            if self.streams and as_json:
                self.unclear = "its answer is of two kinds"

    def feed(self, data: bytes) -> None:
        if self.streams:
            for event in self._events.feed(data):
                self._event(event.name, event.data, event.size, event.head, event.tail)
        elif self._json:
            self._size += len(data)
            if self._size <= MAX_MESSAGE:
                self._parts.append(data)
                return
            if self._parts:
                whole = b"".join(self._parts)
                self._head, self._tail, self._parts = whole[:PEEK], whole[-PEEK:], []
            self._head = (self._head + data[:PEEK])[:PEEK]
            self._tail = (self._tail + data[-PEEK:])[-PEEK:]

    def end(self) -> None:
        if self._json and self._size:
            self._event("message", b"".join(self._parts), self._size, self._head, self._tail)

    async def asks(self, block: Block, keys: Sequence[Key]) -> Refusal | Waits | None:
        """Of a block, which is a body or of a stream. keys: of the requests that this answers."""
        sampling, dialogue = self._observer.sampling, self._dialogue
        large = not block.raw or any(one.size and not one.data for one in block.events)
        if large or (self.streams and odd_lines(block.raw)):
            said = tuple(
                message
                for one in block.events
                for message in (
                    (peek(one.head, one.tail),)
                    if not one.data
                    else read(one.data, sender="server").messages
                )
            )
            return sampling.refuse(dialogue, Reading(said), _TOO_LARGE if large else _ODD_LINES)
        for one in block.events:
            reading = read(one.data, sender="server")
            address = one.name == "endpoint" and reading.problem
            outcome = None
            if one.data.strip() and not address:
                outcome = await sampling.asks(dialogue, reading, keys)
            if outcome is not None:
                return outcome
        return None

    def passes(self, events: Sequence[Event]) -> None:
        for one in events:
            self._event(*one)

    def _event(self, name: str, data: bytes, size: int, head: bytes, tail: bytes) -> None:
        if name == "endpoint":
            self._endpoint(data.decode("utf-8", "replace").strip())
        elif not data and size:
            self._observer.heard_large(self._dialogue, peek(head, tail), size)
        elif data.strip():
            reading = read(data, doubles=False)
            status = self.status if self.status >= 400 else 0
            self._observer.heard(self._dialogue, reading, size, status)
