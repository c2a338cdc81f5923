"""A connection's requests and their responses, each under a number of its own.

HTTP/1.1 answers in the order of the requests. Where something was lost that order cannot be relied
on, so the next request ends what was open before it: pipelining is rare, a wrong pair is worse.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hullwatch.agent.wire.http import Data, End, Event, Head, Lost, Upgraded
from hullwatch.agent.wire.http1 import Reader

__all__ = ["MAX_OPEN", "Exchanges1", "Part"]

MAX_OPEN = 64  # requests without a response


class Part(NamedTuple):
    """number: of the exchange, 0: of none (Lost, Upgraded). asked: it belongs to the request."""

    number: int
    asked: bool
    event: Event


class Exchanges1:
    """HTTP/1.1 in both directions. feed, gap and close return what happened, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str]] = deque()  # number, method
        self._answering = 0  # whose response is under way; 0: nobody's that is known
        self._asking = 0
        self._last = 0
        self._unsure = False
        self._requests = Reader(requests=True)
        self._responses = Reader(requests=False, method_of=self._method)

    @property
    def lost(self) -> int:
        """Bytes that belong to no message that could be read."""
        return self._requests.lost + self._responses.lost

    def feed(self, asked: bool, data: bytes) -> list[Part]:
        reader = self._requests if asked else self._responses
        return self._sort(asked, reader.feed(data))

    def gap(self, asked: bool, size: int) -> list[Part]:
        reader = self._requests if asked else self._responses
        return self._sort(asked, reader.gap(size))

    def close(self) -> list[Part]:
        parts = self._sort(True, self._requests.close())
        parts += self._sort(False, self._responses.close())
        parts += [Part(number, False, End(False)) for number, _ in self._waiting]
        self._waiting.clear()
        return parts

    def _method(self) -> str:
        return self._waiting[0][1] if self._waiting else ""

    def _sort(self, asked: bool, events: list[Event]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            if isinstance(event, Lost | Upgraded):
                self._unsure = True
                if isinstance(event, Upgraded):
                    self._requests.tunnel()
                parts.append(Part(0, asked, event))
            elif asked:
                self._request(event, parts)
            else:
                self._response(event, parts)
        return parts

    def _request(self, event: Head | Data | End, parts: list[Part]) -> None:
        if isinstance(event, Head):
            while self._waiting and (self._unsure or len(self._waiting) >= MAX_OPEN):
                number, _ = self._waiting.popleft()
                parts.append(Part(number, False, End(False)))
                self._answering = 0
            self._unsure = False
            self._last += 1
            self._asking = self._last
            self._waiting.append((self._last, event.method))
        if self._asking:
            parts.append(Part(self._asking, True, event))

    def _response(self, event: Head | Data | End, parts: list[Part]) -> None:
        if isinstance(event, Head):
            self._answering = self._waiting[0][0] if self._waiting else 0
        if not self._answering:
            return  # the request was before our time
        parts.append(Part(self._answering, False, event))
        if isinstance(event, End):
            self._answering = 0
            self._waiting.popleft()
