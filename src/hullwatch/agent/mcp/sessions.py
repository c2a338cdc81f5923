"""Which dialogue an HTTP exchange belongs to.

Until 2025-11-25 a session has an id in a header (Mcp-Session-Id), in the first transport an address
of its own to post to (the `endpoint` event). Since 2026-07-28 there are none: each exchange stands
by itself, as its ids may be those of another client's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from hullwatch.agent.mcp.headers import Headers, first
from hullwatch.agent.mcp.observer import Dialogue

__all__ = ["Sessions"]

MAX_SESSIONS = 4096
_HEADER = b"mcp-session-id"


class Sessions:
    """dropped: called with a dialogue that is not kept any longer."""

    def __init__(self, dropped: Callable[[Dialogue], None]) -> None:
        self._dropped = dropped
        self._known: OrderedDict[bytes, Dialogue] = OrderedDict()

    def of_request(self, headers: Headers, target: bytes) -> Dialogue:
        session = first(headers, _HEADER)
        if session:
            return self._get(b"session " + session, session)
        if (found := self._known.get(b"endpoint " + target)) is not None:
            self._known.move_to_end(b"endpoint " + target)
            return found
        return Dialogue(alone=True)

    def of_answer(self, headers: Headers, dialogue: Dialogue) -> None:
        """The server may begin a session in its answer."""
        session = first(headers, _HEADER)
        if session and not dialogue.session:
            dialogue.session, dialogue.alone = session.decode("latin-1"), False
            self._put(b"session " + session, dialogue)

    def endpoint(self, target: bytes, dialogue: Dialogue) -> None:
        dialogue.alone = False
        self._put(b"endpoint " + target, dialogue)

    def ended(self, headers: Headers) -> None:
        """DELETE was accepted."""
        found = self._known.pop(b"session " + (first(headers, _HEADER) or b""), None)
        if found is not None:
            self._dropped(found)

    def knows(self, target: bytes) -> bool:
        return b"endpoint " + target in self._known

    def close(self) -> None:
        while self._known:
            self._dropped(self._known.popitem()[1])

    def _get(self, key: bytes, session: bytes) -> Dialogue:
        if key not in self._known:
            self._put(key, Dialogue(session.decode("latin-1")))
        self._known.move_to_end(key)
        return self._known[key]

    def _put(self, key: bytes, dialogue: Dialogue) -> None:
        self._known[key] = dialogue
        if len(self._known) > MAX_SESSIONS:
            self._dropped(self._known.popitem(last=False)[1])
