"""What is under way between clients and one server: calls, listings, what is held and told.

The transports give it every message before they pass it on, and pass it on unless it says no. It
changes nothing that passes. Everything it remembers has a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.mcp.confusable import disguised, skeleton
from hullwatch.agent.mcp.gate import (
    ASKING,
    INPUT,
    Asked,
    Gate,
    Held,
    Pending,
    Progress,
    Ruling,
    elicited,
    input_required,
)
from hullwatch.agent.mcp.listings import Listings
from hullwatch.agent.mcp.message import (
    NAMED_BY,
    Key,
    Message,
    Reading,
    error_response,
    field,
    fields,
    key_of,
    text,
)
from hullwatch.agent.mcp.pins import PinError, Pins
from hullwatch.agent.mcp.returns import Returns, may_come_back, without_ours
from hullwatch.agent.mcp.sampling import Sampling
from hullwatch.agent.mcp.sightings import Sightings
from hullwatch.agent.mcp.signals import FAULT, WHOLE, Detect, Signals
from hullwatch.agent.report import Reporter, Said
from hullwatch.agent.secrets.canaries import USED, Canaries
from hullwatch.context.call import MAX_TEXT, Call, Status, Value, new_id

__all__ = ["BLOCKED", "HELD", "SERVER_GONE", "Dialogue", "Observer", "Open"]

HELD = -32001  # a call that waits for a person
SERVER_GONE = -32002  # the server cannot answer any more
BLOCKED = -32003  # a call that policy does not let through
_LARGE = "too large to be parsed"
_NO_ID = "a call without an id that can be answered"
_ID_IN_USE = "a call with the id of one that waits for a person"
_CHANGED_MEANWHILE = "blocked by hullwatch: the tool's definition changed while the call waited"
_STATE_OVER = "what was asked about is over; call again"
_ANOTHER = "this is not the call that was asked about"
_DISGUISED = "its name is not what it seems"
_NO_NAME = "a call that names no tool"
_UNREADABLE = -32600  # JSON-RPC: invalid request

MAX_OPEN = 4096  # requests of one dialogue without an answer
MAX_WAITING = 1024  # calls between two round trips
WAIT_NS = 3600 * 10**9  # how long a client may take to come back with what was asked for


Clean = Callable[[bytes, int], str]
"""JSON and the bytes that may be kept to text without secrets; '' if none can be kept."""


class Open:
    """A request without an answer yet. call: only for tools/call. approved: what a person approved
    for it, as its ruling had it. definition: the tool's against its pin, when that was asked."""

    __slots__ = (
        "_progress", "approved", "call", "cursor", "definition", "key", "message", "rounds",
    )  # fmt: skip

    def __init__(self, message: Message, call: Call | None = None, rounds: int = 1) -> None:
        self.message = message
        self.key = message.key
        self.call = call
        self.rounds = rounds
        self.cursor = ""
        self.approved = ""
        self.definition = ""
        self._progress: tuple[Progress | None] | None = None  # until it matters

    @property
    def progress(self) -> Progress | None:
        """None: the client asks for none."""
        if self._progress is None:
            self._progress = (Progress.of(self.message.params),)
        return self._progress[0]


class Dialogue:
    """One client and the server: a connection, a session, or (alone) a single exchange."""

    def __init__(self, session: str = "", alone: bool = False) -> None:
        self.session = session
        self.alone = alone
        self.seen: set[str] = set()  # kinds of signals that may steer the client (sightings.py)
        self.client = ""
        self.version = ""
        self.open: OrderedDict[Key, Open] = OrderedDict()
        self.held: dict[Key, Held] = {}
        self.asking: dict[Key, Held] = {}  # the server's requests that the client has not seen
        self.elicits = False  # the client can ask its user
        self.elicited: dict[Key, Pending] = {}  # our own requests to it


class _Waiting(NamedTuple):
    call: Call
    rounds: int
    since: int
    approved: str


class Observer:
    """server: its name here (identity.py). hold: calls of tools whose definition changed are
    answered and not passed on. gate: is asked about each call. detect: finds secrets; clean: takes
    them out, where the agent wants to keep content. canaries: whose values are looked for.
    transport: `pipe` or `tcp`.

    strict: calls may be kept back, so what cannot be read for certain is not passed on either."""

    def __init__(
        self,
        server: str,
        reporter: Reporter,
        *,
        pins: Pins | None = None,
        hold: bool = False,
        gate: Gate | None = None,
        hasher: Callable[[bytes], str] | None = None,
        detect: Detect | None = None,
        clean: Clean | None = None,
        transport: str = "pipe",
        clock: Callable[[], int] = time.time_ns,
        canaries: Canaries | None = None,
    ) -> None:
        self.server = server
        self._reporter = reporter
        self._pins = pins
        self._hold = hold
        self._gate = gate
        self.strict = hold or gate is not None
        self._hasher = hasher
        self._clean = clean
        self._transport = transport
        self._clock = clock
        self._waiting: OrderedDict[tuple[str, ...], _Waiting] = OrderedDict()
        self._returns = Returns(clock)
        self._signals = Signals(server, reporter, detect, clock, canaries)
        self._sightings = Sightings(clock)
        self._listings = Listings(server, pins, hold, self._signals, clock)
        self.sampling = Sampling(server, gate, hasher, self._signals, self._under, self._drop)

    # --- client to server -----------------------------------------------------------------

    async def sent(
        self,
        dialogue: Dialogue,
        reading: Reading,
        size: int,
        pid: int = 0,
        more: Mapping[str, Value] | None = None,
    ) -> list[bytes] | Held | None:
        """Before a message is passed on. None: pass it on; else the answers to give instead, or
        what it waits for.

        pid: of the process that serves it; more: attributes of the calls it begins."""
        try:
            return await self._sent(dialogue, reading, size, pid, more or {})
        except Exception as error:
            self._signals.fault(error)
            return self.refuse(reading, _UNREADABLE, _why(FAULT)) if self.strict else None

    async def _sent(
        self,
        dialogue: Dialogue,
        reading: Reading,
        size: int,
        pid: int,
        more: Mapping[str, Value],
    ) -> list[bytes] | Held | None:
        refusal = self._refusal(dialogue, reading)
        if refusal is not None:
            return refusal
        (first, *others) = reading.messages or (Message("invalid"),)
        if not others and self._returns.ours(first):
            return self._back(dialogue, reading, size, pid, more)
        opened: list[Open] = []
        kept_back = False
        for message in reading.messages:
            if message.kind == "notification":
                kept_back |= self._notified(dialogue, message)
            elif message.kind == "request":
                opened.append(self._prepare(dialogue, message, size, pid, more))
            elif message.kind in ("result", "error"):
                kept_back |= message.key in dialogue.asking or self._elicited(dialogue, message)
        if kept_back and not opened:
            return []  # the server knows nothing of what it is about
        rulings = await self._ask(dialogue, opened)
        pending = [(at, one.pending) for at, one in rulings.items() if one.pending is not None]
        if pending and all(one.passes or one.pending for one in rulings.values()):
            if not others and may_come_back(first) and pending[0][1].asks:
                return [self._ask_client(opened[0], pending[0][1])]
            return self._wait_for(dialogue, reading, opened, pending)
        for _, one in pending:
            one.cancel("another call of its batch was blocked")
        return await self._decided(dialogue, opened, rulings, {})

    async def _ask(self, dialogue: Dialogue, opened: Sequence[Open]) -> dict[int, Ruling]:
        """Of the calls among these, by their place."""
        rulings: dict[int, Ruling] = {}
        for at, one in enumerate(opened):
            if self._gate is None or one.call is None:
                continue
            asked = self._question(dialogue, one, one.call)
            rulings[at] = Ruling(False, "whoever decides does not answer")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASKING):
                    rulings[at] = await self._gate.ask(asked)
            if rulings[at].pending is None and not rulings[at].passes:
                break  # the rest of a batch is not passed on either
        return rulings

    def _question(self, dialogue: Dialogue, one: Open, call: Call) -> Asked:
        one.definition = self._definition(one.message.name)
        kinds = str(call.attributes.get(semconv.SECRET_KINDS, "")).split(",")
        return Asked(
            server=self.server,
            tool=one.message.name,
            client=dialogue.client,
            call=call.id,
            arguments=str(call.attributes.get(semconv.ARGUMENTS_HASH, "")),
            definition=one.definition,
            secret_kinds=tuple(filter(None, kinds)),
            approved=one.approved,
            raw=field(one.message.params, "arguments"),
            signals=partial(self._under, dialogue, one.message.name),
        )

    def _ask_client(self, opened: Open, pending: Pending) -> bytes:
        """The answer that has the client ask its user. The call waits on, without a connection, as
        others may answer, too."""
        assert opened.call is not None
        state = self._returns.add(pending, opened.call, opened.definition)
        self._signals.tell("call_waits", opened.message.name, pending.id, held=True)
        return input_required(opened.message.id, state, pending.asks)

    def _back(
        self,
        dialogue: Dialogue,
        reading: Reading,
        size: int,
        pid: int,
        more: Mapping[str, Value],
    ) -> list[bytes] | Held:
        """The client comes back with what its user said: once, and with the same call."""
        (message,) = reading.messages
        asked = self._returns.take(message)
        if asked is None:
            return self.refuse(reading, BLOCKED, f"blocked by hullwatch: {_STATE_OVER}")
        opened = self._prepare(dialogue, message, size, pid, more, asked.call)
        assert opened.call is not None
        pending = asked.pending
        if not pending.resumes(self._question(dialogue, opened, opened.call)):
            asked.forget()
            ruling = Ruling(False, f"blocked by hullwatch: {_ANOTHER}")
            return self._blocked([opened], {0: ruling})
        opened.definition = asked.definition  # where it changed nobody has approved that
        asked.expiry.cancel()
        _answer(pending, field(message.params, "inputResponses", INPUT))
        held = self._wait_for(dialogue, reading, [opened], [(0, pending)])
        held.instead = without_ours(message)
        return held

    def _wait_for(
        self,
        dialogue: Dialogue,
        reading: Reading,
        opened: Sequence[Open],
        pending: Sequence[tuple[int, Pending]],
    ) -> Held:
        keys = [one.key for one in opened]

        async def finish(
            rulings: Mapping[int, Ruling], more: Mapping[str, Value]
        ) -> list[bytes] | None:
            try:
                for at, _ in pending:
                    if self._definition(opened[at].message.name) != opened[at].definition:
                        # Nobody has approved what the tool is now.
                        rulings = {**rulings, at: Ruling(False, _CHANGED_MEANWHILE)}
                return await self._decided(dialogue, opened, rulings, more)
            except Exception as error:
                self._signals.fault(error)
                return self.refuse(reading, _UNREADABLE, _why(FAULT))

        progress = [one.progress for one in opened if one.progress is not None]

        def released() -> None:
            for key in keys:
                if dialogue.held.get(key) is held:  # and not a later one of the same id
                    del dialogue.held[key]
            for _, one in pending:
                dialogue.elicited.pop(elicited(one.id), None)

        held = Held(pending, lambda: progress, dialogue.elicits, finish, released)
        if dialogue.elicits:
            dialogue.elicited |= {elicited(one.id): one for _, one in pending if one.asks}
        for at, one in pending:
            self._signals.tell("call_waits", opened[at].message.name, one.id, held=True)
        dialogue.held.update(dict.fromkeys(keys, held))
        return held

    def _elicited(self, dialogue: Dialogue, message: Message) -> bool:
        """True: it answers a question of ours, not one of the server's."""
        pending = dialogue.elicited.pop(message.key, None)
        if pending is None:
            return False
        _answer(pending, message.result)
        return True

    async def _decided(
        self,
        dialogue: Dialogue,
        opened: Sequence[Open],
        rulings: Mapping[int, Ruling],
        more: Mapping[str, Value],
    ) -> list[bytes] | None:
        """They go on, all or none of a message."""
        refused = {at: one for at, one in rulings.items() if not one.passes}
        if refused:
            return self._blocked(opened, refused)
        for at, one in enumerate(opened):
            if one.call is not None:
                if more:
                    attributes = {**one.call.attributes, **more}
                    one.call = msgspec.structs.replace(one.call, attributes=attributes)
                if at in rulings:
                    one.approved = rulings[at].approved
                # Known to the kernel before the server reads a byte of it.
                await self._reporter.begin(one.call)
                if one.rounds == 1:
                    arguments = fields(one.message.params).get("arguments", b"")
                    self._said(one.call, semconv.TOOL_ARGUMENTS, arguments)
            self._keep(dialogue, one)
        return None

    def _blocked(self, opened: Sequence[Open], refused: Mapping[int, Ruling]) -> list[bytes]:
        answers = []
        for at, one in enumerate(opened):
            ruling = refused.get(at)
            why = ruling.reason if ruling else "another call of this batch is not passed on"
            data = {"server": self.server, "tool": one.message.name}
            if ruling is not None:
                said = {**data, "policies": list(ruling.policies)}
                answers.append(error_response(one.message.id, BLOCKED, why, said))
                call = one.call.id if one.call is not None else 0
                detail = ", ".join(ruling.policies) or why
                self._signals.tell("call_blocked", one.message.name, detail, call=call, held=True)
            else:
                answers.append(error_response(one.message.id, BLOCKED, why, data))
            if one.call is not None and one.rounds > 1:
                self._end(one, "error", "blocked")
        return answers

    async def sent_large(
        self,
        dialogue: Dialogue,
        peeked: Message,
        pid: int = 0,
        more: Mapping[str, Value] | None = None,
    ) -> Open | None:
        """Before the first bytes of a message too large to be parsed. Its id may come last: give
        what is returned to `sent_all`."""
        try:
            return await self._sent_large(dialogue, peeked, pid, more or {})
        except Exception as error:
            self._signals.fault(error)
            return None

    async def _sent_large(
        self, dialogue: Dialogue, peeked: Message, pid: int, more: Mapping[str, Value]
    ) -> Open | None:
        self._signals.tell("unparsed", peeked.method or "message", _LARGE)
        if peeked.method != "tools/call":
            return Open(peeked) if peeked.kind == "request" else None
        attributes = self._attributes(dialogue, peeked, more) | {semconv.UNPARSED: True}
        call = self._call(dialogue, peeked, 0, pid, attributes)
        await self._reporter.begin(call)
        self._said(call, semconv.TOOL_ARGUMENTS, None)
        return Open(peeked, call)

    def sent_all(self, dialogue: Dialogue, begun: Open | None, peeked: Message, size: int) -> None:
        """The last bytes of it have come."""
        if begun is None:
            return
        if begun.call is not None:
            begun.call = msgspec.structs.replace(begun.call, request_bytes=size)
        if peeked.key is None:
            if begun.call is not None:
                self._end(begun, "lost", "no id")
            return
        begun.message, begun.key = peeked, peeked.key
        self._keep(dialogue, begun)

    def refuse_large(self, peeked: Message) -> list[bytes]:
        """The answer to one that is not passed on since calls are held."""
        self._signals.tell("unparsed", peeked.method or "message", _LARGE, held=True)
        return [error_response(peeked.id, _UNREADABLE, _why(_LARGE))]

    def refuse(self, reading: Reading, code: int, why: str) -> list[bytes]:
        """Errors for every request of a message that cannot be passed on."""
        return [
            error_response(message.id, code, why)
            for message in reading.messages
            if message.id and message.kind in ("request", "invalid")
        ]

    def headers(self, headers: Iterable[tuple[bytes, bytes]], target: bytes) -> None:
        """Of an HTTP request, before it is passed on."""
        try:
            said = b"\n".join((target, *(value for _, value in headers)))
            self._signals.canaries(said, "the headers of a request")
        except Exception as error:
            self._signals.fault(error)

    def disagrees(self, reading: Reading, what: str) -> None:
        """The HTTP headers say something else than the body."""
        methods = ", ".join(sorted({message.method or "?" for message in reading.messages}))
        self._signals.tell("header_mismatch", methods, what, held=True)

    def _refusal(self, dialogue: Dialogue, reading: Reading) -> list[bytes] | None:
        if reading.problem:
            self._signals.tell("unparsed", "message", reading.problem, held=self.strict)
            if self.strict:
                return [error_response(b"", _UNREADABLE, _why(reading.problem))]
        if reading.doubled:
            keys = ", ".join(reading.doubled)
            detail = f"keys that may be read in two ways: {keys}"
            self._signals.tell("message_ambiguous", keys, detail, held=self.strict)
            if self.strict:
                return self.refuse(reading, _UNREADABLE, _why(detail))
        calls = [message for message in reading.messages if message.method == "tools/call"]
        for message in calls:
            if message.kind != "request":
                # A server may carry it out all the same, and nobody would know when it is done.
                self._signals.tell("call_without_id", message.name, _NO_ID, held=self.strict)
                if self.strict:
                    return self.refuse(reading, _UNREADABLE, _why(_NO_ID))
        if self._gate is not None:
            for message in reading.messages:
                if why := self._unclear(dialogue, message):
                    self._signals.tell("message_ambiguous", message.name, why, held=True)
                    return self.refuse(reading, _UNREADABLE, _why(why))
        if not self._hold:
            return None
        held = {message.name: why for message in calls if (why := self._held(message.name))}
        if not held:
            return None
        for name, why in held.items():
            self._signals.tell("call_held", name, why, held=True)
        return [
            error_response(
                message.id,
                HELD,
                held.get(message.name, "not passed on: another call of this batch is held"),
                {"server": self.server, "tool": message.name},
            )
            for message in reading.messages
            if message.kind == "request"
        ]

    def _unclear(self, dialogue: Dialogue, message: Message) -> str:
        """Why a message may be taken for another call than a policy speaks of, or ''."""
        if message.method != "tools/call":
            alike = skeleton(message.method) == skeleton("tools/call")
            return "a method that looks like tools/call" if alike else ""
        if message.key in dialogue.held:
            return _ID_IN_USE
        name = message.name
        if not name:
            return _NO_NAME
        if disguised(name) or name != name.strip() or not name.isprintable():
            return _DISGUISED
        try:
            known = self._pins.names(self.server) if self._pins else ()
        except PinError as error:
            return str(error)
        if name in known:
            return ""
        looks = skeleton(name)
        twin = next((other for other in known if skeleton(other) == looks), "")
        return f"{_DISGUISED}: the server lists {twin!a}" if twin else ""

    def _definition(self, tool: str) -> str:
        """Of a tool against its pin, in a policy's words: pinned, changed or new."""
        try:
            state = self._pins.state(self.server, tool) if self._pins else "new"
        except PinError:
            return "changed"
        return {"pinned": "pinned", "changed": "changed", "removed": "changed"}.get(state, "new")

    def _under(self, dialogue: Dialogue, tool: str) -> tuple[str, ...]:
        """Kinds of signals that a call of this tool is under now."""
        seen = self._sightings.of(dialogue)
        if self._signals.steers(tool) is None and self._pins is not None:
            with contextlib.suppress(PinError):  # else it is told, and its definition is `changed`
                # The client may know it from a listing before this gateway's time.
                self._signals.definition(tool, self._pins.text(self.server, tool).encode())
        if self._signals.steers(tool) or self._signals.steers(WHOLE):
            seen.add("injection_in_definition")
        return tuple(sorted(seen))

    def _held(self, tool: str) -> str:
        """Why a call is held, with the mend; '' if it is not."""
        try:
            state = self._pins.state(self.server, tool) if self._pins else "new"
        except PinError as error:
            return f"held by hullwatch: {error}"
        if state not in ("changed", "added", "unknown", "removed"):
            return ""
        said = {
            "changed": "its definition is not the one that was trusted",
            "added": "it was not there when the server was first seen",
            "unknown": "the server has not listed it",
            "removed": "the server no longer lists it",
        }[state]
        what = f"{_word(self.server)} {_word(tool)}"
        mend = f"`hullwatch mcp pins show {what}`"
        if state in ("changed", "added"):
            mend += f", and to trust it `hullwatch mcp pins accept {what}`"
        return f"held by hullwatch: tool {_word(tool)}: {said}; see {mend}"

    def _notified(self, dialogue: Dialogue, message: Message) -> bool:
        """True: it takes back what was not passed on."""
        if message.method != "notifications/cancelled":
            return False
        key = key_of(field(message.params, "requestId"))
        if (held := dialogue.held.get(key)) is not None:
            held.cancel()
            return True
        found = dialogue.open.pop(key, None)
        if found is not None and found.call is not None:
            self._end(found, "cancelled", "")
        return False

    def _prepare(
        self,
        dialogue: Dialogue,
        message: Message,
        size: int,
        pid: int,
        more: Mapping[str, Value],
        asked: Call | None = None,
    ) -> Open:
        """A request as it would go on. asked: the call that it is, where that was asked about."""
        opened = Open(message)
        params = fields(message.params)
        if message.method == "initialize":
            dialogue.client = text(field(params.get("clientInfo", b""), "name"))
            dialogue.elicits = bool(field(params.get("capabilities", b""), "elicitation"))
        elif message.modern:
            meta = params.get("_meta", b"")
            dialogue.client = text(field(meta, "io.modelcontextprotocol/clientInfo", "name"))
        dialogue.version = message.version or dialogue.version
        if message.method == "tools/list":
            opened.cursor = text(params.get("cursor", b""))
        elif message.method == "tools/call":
            again = self._resumed(message, params)
            if again is not None:
                call = msgspec.structs.replace(
                    again.call, request_bytes=again.call.request_bytes + size
                )
                if self._hasher and self._gate is not None:
                    # The same call, but the client may say something else in it now.
                    said = self._hasher(params.get("arguments", b""))
                    attributes = call.attributes | {semconv.ARGUMENTS_HASH: said}
                    call = msgspec.structs.replace(call, attributes=attributes)
                opened = Open(message, call, again.rounds + 1)
                opened.approved = again.approved
            else:
                attributes = self._attributes(dialogue, message, more)
                arguments = params.get("arguments", b"")
                if self._hasher and arguments:
                    attributes[semconv.ARGUMENTS_HASH] = self._hasher(arguments)
                call = self._call(dialogue, message, size, pid, attributes)
                if asked is not None:
                    size += asked.request_bytes
                    call = msgspec.structs.replace(call, id=asked.id, request_bytes=size)
                call = self._signals.secrets(call, message.params, "secret_in_arguments")
                if self._signals.canaries(message.params, f"arguments for {call.name}", call.id):
                    self._sightings.add(dialogue, USED)
                opened = Open(message, call)
        return opened

    def _resumed(self, message: Message, params: Mapping[str, bytes]) -> _Waiting | None:
        """The call that a retry goes on with, where it is one."""
        state, given = params.get("requestState", b""), params.get("inputResponses", b"")
        if not (state or given):
            return None
        return self._waiting.pop(_round(message, state, sorted(fields(given))), None)

    def _keep(self, dialogue: Dialogue, opened: Open) -> None:
        before = dialogue.open.pop(opened.key, None)
        if before is not None and before.call is not None:
            self._end(before, "lost", "its id was used again")
        dialogue.open[opened.key] = opened
        if len(dialogue.open) > MAX_OPEN:
            _, oldest = dialogue.open.popitem(last=False)
            if oldest.call is not None:
                self._end(oldest, "lost", "too many open requests")

    # --- server to client -----------------------------------------------------------------

    def heard(self, dialogue: Dialogue, reading: Reading, size: int, status: int = 0) -> None:
        """Before a message of the server is passed on. status: of HTTP, if it is an error."""
        try:
            self._heard(dialogue, reading, size, status)
        except Exception as error:
            self._signals.fault(error)

    def _heard(self, dialogue: Dialogue, reading: Reading, size: int, status: int) -> None:
        if reading.problem:
            self._signals.tell("unparsed", "answer", reading.problem)
        self.sampling.watch(dialogue, reading)
        for message in reading.messages:
            if message.kind in ("result", "error"):
                self._answered(dialogue, message, size, status)
            elif message.method == "notifications/progress" and self._gate is not None:
                self._progressed(dialogue, message)

    def _progressed(self, dialogue: Dialogue, message: Message) -> None:
        key = key_of(field(message.params, "progressToken"))
        for one in dialogue.open.values():
            if one.progress is not None and one.progress.key == key:
                one.progress.heard(field(message.params, "progress"))

    def heard_large(self, dialogue: Dialogue, peeked: Message, size: int) -> None:
        """One that was too large to be parsed has gone by."""
        opened = dialogue.open.pop(peeked.key, None)
        subject = opened.message.name if opened and opened.message.name else "answer"
        self._signals.tell("unparsed", subject, _LARGE)
        if opened is not None and opened.call is not None:
            self._said(opened.call, semconv.TOOL_RESULT, None)
            failed = peeked.kind == "error"
            self._end(
                opened,
                "error" if failed else "ok",
                "rpc" if failed else "",
                size,
                {semconv.UNPARSED: True},
            )

    def elsewhere(self, where: str) -> None:
        """The old SSE transport's server sends its client to another address."""
        self._signals.tell(
            "endpoint_elsewhere", where, "the server names an address past the gateway"
        )

    def refused(self, header: str) -> None:
        """A request with another host's name: DNS rebinding, or a page of elsewhere."""
        self._signals.tell(
            "request_refused", header, f"{header} names a host that is not allowed here"
        )

    def unreadable(self, what: str) -> None:
        """An answer in a form that is not looked into."""
        self._signals.tell("unparsed", "answer", what)

    def abandon(
        self, dialogue: Dialogue, status: Status, error: str, keys: Sequence[Key] | None = None
    ) -> list[bytes]:
        """Nobody will answer: of `keys`, or of all. Ids of the requests that were open."""
        ids: list[bytes] = []
        for key in list(dialogue.open) if keys is None else keys:
            opened = dialogue.open.pop(key, None)
            if opened is None:
                continue
            ids.append(opened.message.id)
            if opened.call is not None:
                self._end(opened, status, error)
        return ids

    def close(self) -> None:
        """The gateway ends: calls between two round trips as well."""
        self._returns.close()
        while self._waiting:
            _, waiting = self._waiting.popitem(last=False)
            self._reporter.end(self._ended(waiting.call, "lost", "never resumed", 0, {}))

    def _answered(self, dialogue: Dialogue, message: Message, size: int, status: int) -> None:
        opened = dialogue.open.pop(message.key, None)
        if opened is None:
            return
        method = opened.message.method
        result = fields(message.result)
        if method in ("initialize", "server/discover"):
            dialogue.version = text(result.get("protocolVersion", b"")) or dialogue.version
            self._signals.definition(WHOLE, result.get("instructions", b""))
        elif method == "tools/list" and message.kind == "result":
            self._listings.listed(opened.cursor, message.result)
        call = opened.call
        if call is None:
            if method in NAMED_BY and message.kind == "result":
                name = opened.message.name
                if self._signals.result(name, message.result, 0):
                    self._sightings.add(dialogue, "injection_in_result")
                if self._signals.canaries(message.result, f"{method} {name}"):
                    self._sightings.add(dialogue, USED)
            return
        if text(result.get("resultType", b"")) == "input_required":
            self._wait(opened, result, size)
            return
        extra: dict[str, Value] = {semconv.HTTP_STATUS: status} if status else {}
        answer, before = message.result or message.error, call
        opened.call = call = self._signals.secrets(call, answer, "secret_in_result")
        if call is not before:
            self._sightings.add(dialogue, "secret_in_result")
        self._said(call, semconv.TOOL_RESULT, answer)
        if self._signals.canaries(answer, f"the answer of {call.name}", call.id):
            self._sightings.add(dialogue, USED)
        if message.kind == "error":
            code = field(message.error, "code").decode("ascii", "replace")[:32]
            self._end(opened, "error", code or "rpc", size, extra | {semconv.RPC_STATUS: code})
            return
        if self._hasher:
            extra[semconv.RESULT_HASH] = self._hasher(message.result)
        if self._signals.result(call.name, message.result, call.id):
            self._sightings.add(dialogue, "injection_in_result")
        failed = result.get("isError") == b"true"
        self._end(opened, "error" if failed else "ok", "tool_error" if failed else "", size, extra)

    def _wait(self, opened: Open, result: Mapping[str, bytes], size: int) -> None:
        """The server wants more before it can answer: the same call goes on in another request."""
        call = opened.call
        assert call is not None
        call = msgspec.structs.replace(call, response_bytes=call.response_bytes + size)
        now = self._clock()
        asked = sorted(fields(result.get("inputRequests", b"")))
        key = _round(opened.message, result.get("requestState", b""), asked)
        before = self._waiting.pop(key, None)
        self._waiting[key] = _Waiting(call, opened.rounds, now, opened.approved)
        late = [before] if before is not None else []
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if len(self._waiting) <= MAX_WAITING and now - oldest.since <= WAIT_NS:
                break
            late.append(self._waiting.popitem(last=False)[1])
        for waiting in late:
            self._reporter.end(self._ended(waiting.call, "lost", "never resumed", 0, {}))

    def _drop(self, dialogue: Dialogue, key: Key) -> None:
        """A request whose answer was not passed on."""
        opened = dialogue.open.pop(key, None)
        if opened is not None and opened.call is not None:
            self._end(opened, "error", "blocked")

    # --- a call ---------------------------------------------------------------------------

    def _attributes(
        self, dialogue: Dialogue, message: Message, more: Mapping[str, Value]
    ) -> dict[str, Value]:
        attributes: dict[str, Value] = {
            semconv.OPERATION: "execute_tool",
            semconv.TOOL_NAME: message.name[:MAX_TEXT],
            semconv.MCP_METHOD: message.method,
            semconv.NETWORK_TRANSPORT: self._transport,
            **more,
        }
        if message.key is not None:
            attributes[semconv.JSONRPC_ID] = str(message.key)[:MAX_TEXT]
        version = message.version or dialogue.version
        if version:
            attributes[semconv.MCP_PROTOCOL] = version[:32]
        if dialogue.session and self._hasher:
            # Whoever knows a session's id may speak in it: only its hash is told.
            attributes[semconv.MCP_SESSION] = self._hasher(dialogue.session.encode())
        return attributes

    def _call(
        self,
        dialogue: Dialogue,
        message: Message,
        size: int,
        pid: int,
        attributes: dict[str, Value],
    ) -> Call:
        return Call(
            id=new_id(),
            kind="tool",
            source="gateway",
            name=message.name[:MAX_TEXT] or "?",
            begin=self._clock(),
            server=self.server,
            client=dialogue.client[:MAX_TEXT],
            pid=pid,
            request_bytes=size,
            attributes=attributes,
        )

    def _said(self, call: Call, name: str, raw: bytes | None) -> None:
        """None: too large to be looked into."""
        limit = self._reporter.content
        if not limit or self._clean is None or raw == b"":
            return
        text = "" if raw is None else self._clean(raw, limit)
        self._reporter.said(Said(call.id, name, text, lost=not text))

    def _end(
        self,
        opened: Open,
        status: Status,
        error: str,
        size: int = 0,
        extra: Mapping[str, Value] | None = None,
    ) -> None:
        assert opened.call is not None
        attributes = dict(extra or {})
        if opened.rounds > 1:
            attributes[semconv.ROUNDS] = opened.rounds
        self._reporter.end(self._ended(opened.call, status, error, size, attributes))

    def _ended(
        self, call: Call, status: Status, error: str, size: int, extra: Mapping[str, Value]
    ) -> Call:
        more = {semconv.ERROR_TYPE: error} if error else {}
        return msgspec.structs.replace(
            call,
            end=self._clock(),
            status=status,
            error=error,
            response_bytes=call.response_bytes + size,
            attributes={**call.attributes, **extra, **more},
        )


def _answer(pending: Pending, result: bytes) -> None:
    """What a client's user said (ElicitResult); neither yes nor no leaves it to others."""
    action = text(field(result, "action"))
    if action in ("accept", "decline"):
        yes = field(result, "content", "approve") == b"true"
        why = text(field(result, "content", "why")).strip() or "answered in the client"
        pending.answer(yes and action == "accept", why[:MAX_TEXT])


def _why(what: str) -> str:
    return f"not passed on by hullwatch, which passes on only what it can read for certain: {what}"


def _word(text_: str) -> str:
    """As one word of a shell, without what a terminal would obey."""
    return shlex.quote(text_.encode("unicode_escape").decode("ascii"))


def _round(message: Message, state: bytes, keys: Sequence[str]) -> tuple[str, ...]:
    """What a retry has in common with the answer that asked for it: requestState comes back exactly
    as it was; without one, the same tool, arguments and keys."""
    if state:
        return (message.name, "state", hashlib.sha256(state).hexdigest())
    arguments = hashlib.sha256(field(message.params, "arguments")).hexdigest()
    return (message.name, "keys", arguments, *keys)
