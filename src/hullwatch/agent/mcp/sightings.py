"""What a client has got to see that may steer it: kinds of signals in answers, as long as they may
still be in its mind. A session and a connection keep them to their end. A client that stands alone
in each exchange (2026-07-28 over HTTP) is known by the name that it gives itself, for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

__all__ = ["MIND_NS", "SEEN", "Sightings"]

SEEN = ("injection_in_result", "secret_in_result", "canary_used")
MIND_NS = 3600 * 10**9
_MAX_CLIENTS = 1024


class _Dialogue(Protocol):
    client: str
    alone: bool
    seen: set[str]


class Sightings:
    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._clients: OrderedDict[str, dict[str, int]] = OrderedDict()  # kind -> when last

    def add(self, dialogue: _Dialogue, kind: str) -> None:
        if not dialogue.alone:
            dialogue.seen.add(kind)
            return
        seen = self._clients.setdefault(dialogue.client, {})
        seen[kind] = self._clock()
        self._clients.move_to_end(dialogue.client)
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)

    def of(self, dialogue: _Dialogue) -> set[str]:
        if not dialogue.alone:
            return set(dialogue.seen)
        since = self._clock() - MIND_NS
        seen = self._clients.get(dialogue.client, {})
        return {kind for kind, last in seen.items() if last >= since}
