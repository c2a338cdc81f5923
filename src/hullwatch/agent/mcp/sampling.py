"""What a server asks of the client's model (`sampling/createMessage`): found wherever it may stand,
asked about, and refused to the server, or instead of the answer that carries it.

Source: MCP 2025-06-18 and 2025-11-25, client/sampling; 2026-07-28, `input_required`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from hullwatch.agent.mcp.confusable import skeleton
from hullwatch.agent.mcp.gate import (
    ASKING,
    Asked,
    Gate,
    Held,
    Pending,
    Progress,
    Ruling,
    Tell,
    elicited,
)
from hullwatch.agent.mcp.message import (
    Key,
    Message,
    Reading,
    error_response,
    field,
    fields,
    first_of,
    key_of,
    text,
)
from hullwatch.agent.mcp.signals import FAULT, Signals
from hullwatch.context.call import MAX_TEXT, Call, Value

__all__ = ["METHOD", "Refusal", "Sampling", "Waits"]

METHOD = "sampling/createMessage"
_ACTION = "model-call"
_MAX_WATCHING = 64
REJECTED = -1  # to the server, as where a user refuses (MCP, client/sampling)
_BLOCKED = -32003  # to the client, as of a call that policy does not let through
_UNREADABLE = -32600
_UNKNOWN = "unknown"  # a model of which the server says nothing
_LIKE_IT = f"a method that looks like {METHOD}"
_NO_ID = f"{METHOD} without an id that can be answered"
_ID_IN_USE = f"{METHOD} with the id of one that waits for a person"
_ILLEGIBLE = "what it asks for cannot be read"


class Refusal(NamedTuple):
    """JSON-RPC errors in place of a server's message, which is not passed on."""

    to_server: tuple[bytes, ...] = ()
    to_client: tuple[bytes, ...] = ()


class Waits:
    """A message of the server that waits for a person."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self.refusal = Refusal()

    async def settle(self, tell: Tell, tell_server: Tell) -> Refusal | None:
        """None: it goes on. They are told that it waits; neither may wait for the server."""
        assert self.held is not None
        passes = await self.held.settle(tell, tell_server=tell_server) is None
        return None if passes else self.refusal

    def close(self) -> None:
        assert self.held is not None
        self.held.close()


class _Open(Protocol):
    """A request of the client without an answer."""

    message: Message
    call: Call | None

    @property
    def progress(self) -> Progress | None: ...


class _Dialogue(Protocol):
    @property
    def client(self) -> str: ...
    @property
    def open(self) -> Mapping[Key, _Open]: ...
    @property
    def asking(self) -> dict[Key, Held]: ...
    @property
    def elicits(self) -> bool: ...
    @property
    def elicited(self) -> dict[Key, Pending]: ...


class _Wish(NamedTuple):
    """What one message asks of the client's model. within: the request that it came within, where
    that is certain."""

    message: Message
    within: _Open | None
    asked: Asked


class Sampling:
    """Of one server. under: kinds of signals that a dialogue is under, for a tool; drop: ends the
    client's request of this key, as blocked."""

    def __init__(
        self,
        server: str,
        gate: Gate | None,
        hasher: Callable[[bytes], str] | None,
        signals: Signals,
        under: Callable[..., tuple[str, ...]],
        drop: Callable[..., object],
    ) -> None:
        self._server = server
        self._gate = gate
        self._hasher = hasher
        self._signals = signals
        self._under = under
        self._drop = drop
        self._watching: set[asyncio.Task[Ruling]] = set()

    @property
    def guarded(self) -> bool:
        """Whether an enforced policy speaks of it, so that each message is to be asked about whole
        before a byte of it goes on."""
        return self._gate is not None and self._gate.speaks(_ACTION, enforced=True)

    def watch(self, dialogue: _Dialogue, reading: Reading) -> None:
        """Of a message that goes on, where policies are only observed: it is asked about beside,
        for the log."""
        if self._gate is None or self.guarded or not self._gate.speaks(_ACTION):
            return
        for message in reading.messages:
            for method, params in _parts(message):
                if method != METHOD:
                    continue
                if len(self._watching) >= _MAX_WATCHING:
                    self._signals.tell("unparsed", METHOD, "more at a time than can be asked about")
                    return
                wish = self._wish(dialogue, message, params, None)
                task = asyncio.ensure_future(self._ruling(wish.asked))
                self._watching.add(task)
                task.add_done_callback(self._watching.discard)

    async def asks(
        self, dialogue: _Dialogue, reading: Reading, within: Sequence[Key] | None = None
    ) -> Refusal | Waits | None:
        """Before a message of the server goes on (None). within: the client's requests that it may
        belong to, where the transport tells; else any."""
        if not self.guarded:  # any more
            return None
        try:
            return await self._asks(dialogue, reading, within)
        except Exception as error:
            self._signals.fault(error)
            return self._refused(dialogue, reading, _UNREADABLE, _why(FAULT))

    def refuse(self, dialogue: _Dialogue, reading: Reading, what: str) -> Refusal:
        """Of what cannot be read for certain."""
        self._signals.tell("unparsed", "answer", what, held=True)
        return self._refused(dialogue, reading, _UNREADABLE, _why(what))

    async def _asks(
        self, dialogue: _Dialogue, reading: Reading, within: Sequence[Key] | None
    ) -> Refusal | Waits | None:
        if reading.problem:
            return self.refuse(dialogue, reading, reading.problem)
        found = [(one, *part) for one in reading.messages for part in _parts(one)]
        unclear = ", ".join(reading.doubled) and f"keys read in two ways: {reading.doubled[0]!a}"
        for message, method, params in found:
            unclear = unclear or _unclear(dialogue, message, method, params)
        if unclear:
            self._signals.tell("message_ambiguous", METHOD, unclear, held=True)
            return self._refused(dialogue, reading, _UNREADABLE, _why(unclear))
        if _takes_back(dialogue, reading):
            return Refusal()
        wishes = [
            self._wish(dialogue, message, params, within)
            for message, method, params in found
            if method == METHOD
        ]
        return await self._ruled(dialogue, reading, wishes) if wishes else None

    async def _ruled(
        self, dialogue: _Dialogue, reading: Reading, wishes: Sequence[_Wish]
    ) -> Refusal | Waits | None:
        pending: list[tuple[int, Pending]] = []
        for at, one in enumerate(wishes):
            ruling = await self._ruling(one.asked)
            if ruling.pending is not None:
                pending.append((at, ruling.pending))
            elif not ruling.passes:
                for _, other in pending:
                    other.cancel("another request of its message was blocked")
                return self._blocked(dialogue, reading, one.asked, ruling)
        return self._wait_for(dialogue, reading, wishes, pending) if pending else None

    async def _ruling(self, asked: Asked) -> Ruling:
        assert self._gate is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASKING):
                return await self._gate.ask(asked)
        return Ruling(False, "whoever decides does not answer")

    def _wish(
        self, dialogue: _Dialogue, message: Message, params: bytes, within: Sequence[Key] | None
    ) -> _Wish:
        keys = list(dialogue.open) if within is None else within
        if not message.method:
            keys = [message.key]  # it stands in the answer to this one
        opened = [dialogue.open[key] for key in keys if key in dialogue.open]
        certain = opened[0] if len(opened) == 1 else None
        call = certain.call if certain is not None else None
        tool = opened[0].message.name if call is not None else ""
        asked = Asked(
            server=self._server,
            tool=tool,
            client=dialogue.client,
            call=call.id if call is not None else 0,
            arguments=self._hasher(params) if self._hasher else "",
            secret_kinds=tuple(self._signals.kinds(params)),
            raw=params,
            signals=partial(self._under, dialogue, tool),
            model=_model(params),
        )
        return _Wish(message, certain, asked)

    def _wait_for(
        self,
        dialogue: _Dialogue,
        reading: Reading,
        wishes: Sequence[_Wish],
        pending: Sequence[tuple[int, Pending]],
    ) -> Waits:
        waits = Waits()
        keys = [one.key for one in reading.messages if one.method == METHOD]

        async def finish(
            rulings: Mapping[int, Ruling], more: Mapping[str, Value]
        ) -> list[bytes] | None:
            for at, ruling in rulings.items():
                if not ruling.passes:
                    waits.refusal = self._blocked(dialogue, reading, wishes[at].asked, ruling)
                    return []
            return None

        def released() -> None:
            for key in keys:
                if dialogue.asking.get(key) is held:  # and not a later one of the same id
                    del dialogue.asking[key]
            for _, one in pending:
                dialogue.elicited.pop(elicited(one.id), None)

        waiting = [wishes[at] for at, _ in pending]
        theirs = [Progress.of(one.message.params) for one in waiting if one.message.method]

        def progress() -> list[Progress]:
            """Of requests that were not answered meanwhile; once where several wait within one."""
            within = {one.within for one in waiting if one.within is not None}
            still = (one for one in within if dialogue.open.get(one.message.key) is one)
            return [one.progress for one in still if one.progress is not None]

        waits.held = held = Held(
            pending, progress, dialogue.elicits, finish, released, list(filter(None, theirs))
        )
        if dialogue.elicits:
            dialogue.elicited.update((elicited(one.id), one) for _, one in pending if one.asks)
        dialogue.asking.update(dict.fromkeys(keys, held))
        for _, one in pending:
            self._signals.tell("model_call_waits", METHOD, one.id, held=True)
        return waits

    def _blocked(
        self, dialogue: _Dialogue, reading: Reading, asked: Asked, ruling: Ruling
    ) -> Refusal:
        detail = ", ".join(ruling.policies) or ruling.reason
        self._signals.tell("model_call_blocked", METHOD, detail, call=asked.call, held=True)
        data = {"server": self._server, "model": asked.model, "policies": list(ruling.policies)}
        return self._refused(dialogue, reading, _BLOCKED, ruling.reason, data)

    def _refused(
        self, dialogue: _Dialogue, reading: Reading, code: int, why: str, data: object = None
    ) -> Refusal:
        """All of a message. Whoever waits for what is in it gets an error, the others nothing."""
        up = REJECTED if code == _BLOCKED else code
        to_server = [
            error_response(one.id, up, f"sampling rejected: {why}", data)
            for one in reading.messages
            if one.method and one.key is not None
        ]
        to_client = []
        for one in reading.messages:
            opened = dialogue.open.get(one.key) if not one.method else None
            if opened is not None:
                to_client.append(error_response(opened.message.id, code, why, data))
                self._drop(dialogue, one.key)
        return Refusal(tuple(to_server), tuple(to_client))


def _parts(message: Message) -> Iterator[tuple[str, bytes]]:
    """Method and params of what a message asks of the client, itself or in its inputRequests; no
    method where that cannot be told."""
    if message.method:
        yield message.method, message.params
        return
    asked = field(message.result, "inputRequests")
    entries = list(fields(asked).values())
    if not all(map(_legible, (message.result, asked, *entries))) or asked[:1] == b"[":
        yield "", b""
    for one in map(fields, entries):
        yield text(one.get("method", b"")), one.get("params", b"")


def _legible(raw: bytes) -> bool:
    """Whether an object is read as one: not so with keys that are no text, as of half a
    surrogate."""
    return raw[:1] != b"{" or bool(fields(raw)) or not raw.strip(b"{} \t\r\n")


def _unclear(dialogue: _Dialogue, message: Message, method: str, params: bytes) -> str:
    """Why it may be taken for something else than what is asked about, or ''."""
    if not method:
        return _ILLEGIBLE
    if method != METHOD:
        return _LIKE_IT if skeleton(method) == skeleton(METHOD) else ""
    wishes = field(params, "modelPreferences")
    if not all(map(_legible, (params, wishes, first_of(field(wishes, "hints"))))):
        return _ILLEGIBLE
    if message.method and message.kind != "request":
        return _NO_ID
    return _ID_IN_USE if message.method and message.key in dialogue.asking else ""


def _takes_back(dialogue: _Dialogue, reading: Reading) -> bool:
    """Whether all that it says is that the server does not want what the client has not seen."""
    for message in reading.messages:
        if message.method == "notifications/cancelled":
            held = dialogue.asking.get(key_of(field(message.params, "requestId")))
            if held is not None:
                held.cancel()
                return len(reading.messages) == 1
    return False


def _model(params: bytes) -> str:
    """The name of the first hint."""
    hints = field(params, "modelPreferences", "hints")
    return (text(field(first_of(hints), "name")) or _UNKNOWN)[:MAX_TEXT]


def _why(what: str) -> str:
    return f"not passed on by hullwatch, which passes on only what it can read for certain: {what}"
