"""Whether a tool call may go on: what the gateway asks, and what it is answered. Who decides is
joined to it from outside (gatekeeper.py); here is what happens to a message meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from hullwatch.agent.mcp.message import field, key_of
from hullwatch.context.call import Value

__all__ = [
    "ASKING", "INPUT", "Asked", "Gate", "Held", "Pending", "Progress", "Ruling", "Tell", "elicited",
    "input_required",
]  # fmt: skip

Tell = Callable[[Sequence[bytes]], Awaitable[None]]
"""Sends notifications."""

ASKING = 5.0  # s that a gate may take, and beyond its own deadline: then it is taken for dead
PROGRESS = 5.0  # s between two notifications to whoever waits
_STEP = 1e-6  # of progress: what the server says later is more
_MOST = 1e300  # of its progress that can still become more


class Asked(NamedTuple):
    """A tools/call that wants to go on, or (model is given) what the server asks of the client's
    model; then tool and call are those of the call that it came within, where that is certain,
    and arguments are its params. call: its id here. arguments: their keyed hash, of the JSON
    as it was written. definition: the tool's, against its pin. approved: what the ruling
    of an earlier round of this call had there. raw: the arguments; not to be kept. signals: kinds
    of those that it is under, at the moment that it is asked."""

    server: str
    tool: str
    client: str
    call: int
    arguments: str = ""
    definition: str = ""
    secret_kinds: tuple[str, ...] = ()
    approved: str = ""
    raw: bytes = b""
    signals: Callable[[], tuple[str, ...]] = tuple
    model: str = ""


class Ruling(NamedTuple):
    """passes: it may go on. reason: why not, for the client. approved: what a person
    approved, for further rounds of the call. pending: a person is asked; then nothing else counts
    yet."""

    passes: bool
    reason: str = ""
    policies: tuple[str, ...] = ()
    approved: str = ""
    pending: Pending | None = None


class Pending(Protocol):
    """id: as `hullwatch approvals` has it. seconds: until its deadline. asks: what the client's own
    user is asked, where the policy lets the requester answer; else ''."""

    id: str
    seconds: float
    asks: str

    async def over(self) -> None:
        """It is answered, or its deadline has passed."""
        ...

    def resumes(self, asked: Asked) -> bool:
        """Whether this is the same action, so that what comes of it is of this call, too."""
        ...

    async def outcome(self) -> Ruling:
        """By its deadline at the latest."""
        ...

    def answer(self, yes: bool, why: str) -> None:
        """By the client's user."""
        ...

    def cancel(self, why: str) -> None: ...


class Gate(Protocol):
    async def ask(self, asked: Asked) -> Ruling:
        """Every refusal is logged by then, and every hold. Never raises; bounded in time."""
        ...

    def speaks(self, action: str, enforced: bool = False) -> bool:
        """Whether a policy of the set in force is about it. enforced: not only observed."""
        ...


class Progress:
    """What keeps a requester from giving up (MCP, utilities/progress). said: by the last
    notification, of ours or of whoever answers."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self.key = key_of(token)
        self.said = 0.0

    @classmethod
    def of(cls, params: bytes) -> Progress | None:
        """None: the request asks for none."""
        found = cls(field(params, "_meta", "progressToken"))
        return found if found.key is not None else None

    def more(self, ids: str) -> bytes:
        """The next notification: each has to say more than the one before."""
        self.said = max(self.said + _STEP, math.nextafter(self.said, math.inf))
        params = {
            "progressToken": msgspec.Raw(self._token),
            "progress": self.said,
            "message": f"waits for a person: hullwatch approvals show {ids}",
        }
        message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        return msgspec.json.encode(message)

    def heard(self, raw: bytes) -> None:
        """The value of a notification that passes."""
        with contextlib.suppress(ValueError):
            if (value := float(raw)) < _MOST:
                self.said = max(self.said, value)


class Held:
    """A message that waits for a person. pending: of each of its calls that do. progress: of the
    client's requests that wait with it by now; theirs: of the server's. asked: whether the client
    can ask its user. finish: makes it go on or answers it. released: called when it does not wait
    any more. instead: what is passed on in its place; empty: the message as it came."""

    def __init__(
        self,
        pending: Sequence[tuple[int, Pending]],
        progress: Callable[[], Sequence[Progress]],
        asked: bool,
        finish: Callable[
            [Mapping[int, Ruling], Mapping[str, Value]], Awaitable[list[bytes] | None]
        ],
        released: Callable[[], None],
        theirs: Sequence[Progress] = (),
    ) -> None:
        self._pending = pending
        self._progress, self._theirs = progress, theirs
        self._asked = [one for _, one in pending if asked and one.asks]
        self._finish = finish
        self._released = released
        self.instead = b""
        self._cancelled = asyncio.Event()

    def close(self) -> None:
        """It does not wait any more, if it still does: also where `settle` never came to run."""
        for _, one in self._pending:
            one.cancel("the client took it back, or is gone")
        self._released()

    def cancel(self) -> None:
        """The client does not want it any more."""
        self._cancelled.set()

    async def settle(
        self,
        tell: Tell,
        ready: Callable[[], Awaitable[Mapping[str, Value]]] | None = None,
        tell_server: Tell | None = None,
    ) -> list[bytes] | None:
        """None: pass it on now; else the answers to give instead, none if it was cancelled. tell:
        the client. ready: called before it goes on, gives attributes of its calls. Cancelled like
        any coroutine: then nothing goes on."""
        waits: dict[asyncio.Future[Any], int] = {
            asyncio.ensure_future(self._outcome(one)): number for number, one in self._pending
        }
        gone: asyncio.Future[Any] = asyncio.ensure_future(self._cancelled.wait())
        rulings: dict[int, Ruling] = {}
        try:
            ids = ", ".join(one.id for _, one in self._pending)
            if self._asked:
                await tell([elicitation(one.id, one.asks) for one in self._asked])
            while waits and not gone.done():
                for to, waiting in ((tell, self._progress()), (tell_server, self._theirs)):
                    if to is not None and waiting:
                        await to([one.more(ids) for one in waiting])
                done, _ = await asyncio.wait(
                    {*waits, gone}, timeout=PROGRESS, return_when=asyncio.FIRST_COMPLETED
                )
                for future in done - {gone}:
                    number = waits.pop(future)
                    rulings[number] = future.result()
                if not all(one.passes for one in rulings.values()):
                    break
            if self._asked:
                await tell([no_more(one.id) for one in self._asked])
            if not all(one.passes for one in rulings.values()):
                return await self._finish(rulings, {})
            if gone.done():
                return []
            more = await ready() if ready is not None else {}
            return await self._finish(rulings, more)
        finally:
            for future in (*waits, gone):
                future.cancel()
            self.close()

    async def _outcome(self, pending: Pending) -> Ruling:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pending.seconds + ASKING):
                return await pending.outcome()
        return Ruling(False, "whoever decides does not answer")


_FORM = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean", "title": "Approve this call"},
        "why": {"type": "string", "title": "Why"},
    },
    "required": ["approve"],
}


INPUT = "hullwatch"  # our own among what a client is asked for


def input_required(raw_id: bytes, state: str, asks: str) -> bytes:
    """An answer that asks the client's user, and to come back (MCP 2026-07-28)."""
    params = {"mode": "form", "message": asks, "requestedSchema": _FORM}
    result = {
        "resultType": "input_required",
        "inputRequests": {INPUT: {"method": "elicitation/create", "params": params}},
        "requestState": state,
    }
    return msgspec.json.encode({"jsonrpc": "2.0", "id": msgspec.Raw(raw_id), "result": result})


def elicited(ident: str) -> str:
    """The id of our own request to a client."""
    return f"hullwatch-{ident}"


def elicitation(ident: str, asks: str) -> bytes:
    """A request to the client's user (MCP 2025-06-18, client/elicitation)."""
    return msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": elicited(ident),
            "method": "elicitation/create",
            "params": {"message": asks, "requestedSchema": _FORM},
        }
    )


def no_more(ident: str) -> bytes:
    """It was answered, there or elsewhere."""
    params = {"requestId": elicited(ident), "reason": "it is decided"}
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    return msgspec.json.encode(message)
