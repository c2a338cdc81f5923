"""Calls that were answered with a question to the client's user (`input_required`, MCP 2026-07-28)
and are to come back: found by a random state that is good once, for one call, and not for ever.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from hullwatch.agent.mcp.gate import Pending
from hullwatch.agent.mcp.message import Message, field, fields, text
from hullwatch.context.call import Call

__all__ = ["LATE_NS", "MAX_ASKED", "Returning", "Returns", "may_come_back", "without_ours"]

MAX_ASKED = 1024
LATE_NS = 60 * 10**9  # how long after its deadline a call may come back
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_OURS = ("requestState", "inputResponses")


class Returning(NamedTuple):
    """definition: the tool's, as that was asked. since: unix ns. expiry: ends its wait."""

    pending: Pending
    call: Call
    definition: str
    since: int
    expiry: asyncio.Task[None]

    def forget(self) -> None:
        self.expiry.cancel()
        self.pending.cancel("the client did not come back with it")

    def late(self, now: int) -> bool:
        return now - self.since > int(self.pending.seconds * 1e9) + LATE_NS


class Returns:
    """Of one gateway. clock: unix ns."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._asked: OrderedDict[str, Returning] = OrderedDict()
        # Its own: there may be another gateway between this one and the server.
        self.prefix = f"hullwatch-{secrets.token_hex(6)}-"

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, pending: Pending, call: Call, definition: str) -> str:
        """The state with which it is to come back. It waits on meanwhile, as others may answer."""
        now = self._clock()
        state = self.prefix + secrets.token_urlsafe(24)
        expiry = asyncio.create_task(pending.over())
        self._asked[state] = Returning(pending, call, definition, now, expiry)
        while self._asked:
            oldest = next(iter(self._asked.values()))
            if len(self._asked) <= MAX_ASKED and not oldest.late(now):
                break
            self._asked.popitem(last=False)[1].forget()
        return state

    def ours(self, message: Message) -> bool:
        """Whether a call comes back to us."""
        return _state(message).startswith(self.prefix)

    def take(self, message: Message) -> Returning | None:
        """None: it was here already, or comes too late."""
        found = self._asked.pop(_state(message), None)
        if found is not None and found.late(self._clock()):
            found.forget()
            return None
        return found

    def close(self) -> None:
        while self._asked:
            self._asked.popitem(last=False)[1].forget()


def _state(message: Message) -> str:
    if message.kind != "request" or message.method != "tools/call":
        return ""
    return text(field(message.params, "requestState"))


def may_come_back(message: Message) -> bool:
    """Whether the client takes an answer that asks its user something. In a round trip of the
    server's own it would come back without what that asked for."""
    params = fields(message.params)
    can = field(params.get("_meta", b""), _CAPABILITIES, "elicitation")
    modes = fields(can)
    return (
        message.modern
        and can[:1] == b"{"
        and (not modes or "form" in modes)
        and not params.keys() & {"requestState", "inputResponses"}
    )


def without_ours(message: Message) -> bytes:
    """A call as the server would have got it at first: it has asked for nothing."""
    params = fields(message.params)
    kept = {key: msgspec.Raw(params[key]) for key in params if key not in _OURS}
    said = {"id": msgspec.Raw(message.id), "method": message.method, "params": kept}
    return msgspec.json.encode({"jsonrpc": "2.0", **said})
