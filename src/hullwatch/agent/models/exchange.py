"""One HTTP exchange with a model's API: a request and its reply in, a ModelCall out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from hullwatch.agent.models.apis import Api, find
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.models.credential import credential
from hullwatch.agent.models.providers import provider_of
from hullwatch.agent.models.texts import TEXTS, Answer, Texts
from hullwatch.agent.wire.body import Decoder
from hullwatch.agent.wire.eventstream import Frame, Frames
from hullwatch.agent.wire.http import Data, Head, split_target
from hullwatch.agent.wire.jsonscan import Paths, Picked, Scanner, Value, pick
from hullwatch.agent.wire.said import Room, Said
from hullwatch.agent.wire.sse import ServerEvent, ServerEvents
from hullwatch.context.call import Status

__all__ = ["Exchange", "Spoken", "begin"]

MAX_NAMES = 128  # tools of one call that are named
MAX_FINISH = 8
_WORD = re.compile(r"[\w.:/\-]{1,64}")
_PORT = re.compile(r":(\d{1,5})$")
_UNDECIDED = frozenset(("in_progress", "queued", "FINISH_REASON_UNSPECIFIED"))
# Kinds of tools in OpenAI's Responses that have a name of their own beside it.
_NAMED = frozenset(("function", "custom", "mcp", "namespace"))
_TOKENS = frozenset(("input", "output", "cached", "written"))


class Spoken(NamedTuple):
    """What was said in the call that was told right before: OTel's names, and values. missed:
    prompt and answer of which there was something, and none was heard."""

    said: tuple[tuple[str, Said], ...]
    missed: int = 0


def begin(
    head: Head,
    time: int,
    hasher: Callable[[str], str],
    server: str = "",
    port: int = 0,
    room: Room | None = None,
) -> Exchange | None:
    """For a request that goes to a model's API, else None. server, port: where the connection goes,
    as far as that is known. room: for what is said, None: that is passed over."""
    if head.method != "POST":
        return None
    host, path, query = split_target(head)
    named = _PORT.search(host)
    port = port or (int(named[1]) if named else 0)
    host = host[: named.start()] if named else host
    provider = provider_of(host, port) or provider_of(server, 0)
    found = find(path)
    if found is None:
        return None
    api, model = found
    call = ModelCall(
        provider=provider or api.provider,
        api=api.name,
        operation=api.operation,
        host=host,
        port=port,
        server=server,
        asked=model,
        begin=time,
        end=time,
        credential=credential(head, query, hasher),
    )
    coding = Decoder(head.headers.get("content-encoding", ""))
    streams = ":stream" in path
    believed = bool(provider) or not api.needs
    texts = TEXTS.get(api.name) if room is not None else None
    heard = _Heard(texts, room) if room is not None and texts is not None else None
    return Exchange(api, call, coding, believed, streams, heard)


class _Facts:
    """What was picked so far. The last of a value counts, names are kept in order, each once."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.tokens: dict[str, int] = {}
        self.names: dict[str, dict[str, None]] = {"offered": {}, "chosen": {}, "finish": {}}
        self.seen: set[str] = set()

    def add(self, picked: Picked) -> None:
        field, value = picked
        if value is None:
            return
        self.seen.add(field)
        if field in _TOKENS:
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                self.tokens[field] = value
        elif field == "offered_type":
            if value not in _NAMED:
                self._name("offered", value)
        elif field in self.names:
            if field != "finish" or value not in _UNDECIDED:
                self._name(field, value)
        else:
            self.values[field] = value

    def _name(self, field: str, value: Value) -> None:
        names = self.names[field]
        if isinstance(value, str) and len(names) < (MAX_FINISH if field == "finish" else MAX_NAMES):
            names[value] = None

    def text(self, field: str) -> str:
        value = self.values.get(field)
        return value if isinstance(value, str) else ""


class _Heard:
    """What is said in an exchange, read beside the facts."""

    def __init__(self, texts: Texts, room: Room) -> None:
        self._texts, self._room = texts, room
        self._request = Scanner(texts.request, room)
        self._asked: dict[str, Said] = {}
        self._reply: _Reply | None = None
        self._answer = Answer(room)
        self._holes = [False, False]  # in the request, in the reply

    def ask(self, piece: bytes) -> None:
        self._take(self._request.feed(piece))

    def ask_gap(self) -> None:
        self._holes[0] = True
        self._take(self._request.gap())

    def begin_reply(self, kind: str, streams: bool) -> None:
        texts = self._texts
        self._reply = _reply(kind, texts.response, texts.stream, streams, self._room)

    def answer(self, piece: bytes) -> None:
        if self._reply is not None:
            self._answer.add(self._reply.feed(piece))

    def gap(self) -> None:
        self._holes[1] = True
        if self._reply is not None:
            self._answer.add(self._reply.gap())
        self._answer.gap()

    def finish(self, whole: bool) -> Spoken:
        self._take(self._request.gap())
        if self._reply is not None:
            self._answer.add(self._reply.end())
        if not whole:
            self.gap()
        asked, answered = self._asked.items(), self._answer.said()
        missed = (self._holes[0] and not asked) + (self._holes[1] and not answered)
        return Spoken((*asked, *answered), missed)

    def _take(self, found: list[Picked]) -> None:
        self._asked |= {field: value for field, value in found if isinstance(value, Said)}


class Exchange:
    """Fed by a connection, in the shape of HttpCalls; only finish has a call to give.

    call: what is known from the request's head. believed: whatever comes, it is a call of a model.
    streams: by its path, even if the reply looks like one document.
    """

    def __init__(
        self,
        api: Api,
        call: ModelCall,
        coding: Decoder,
        believed: bool,
        streams: bool,
        heard: _Heard | None = None,
    ) -> None:
        self._heard = heard
        self._api = api
        self._call = call
        self._coding = coding
        self._believed = believed
        self._streams = streams
        self._facts = _Facts()
        self._request = Scanner(api.request)
        self._reply: _Reply | None = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._first = 0
        self._partial = False
        self._problems: dict[str, None] = {}
        self._asked_bytes = self._answered_bytes = 0

    def request(self, data: Data, time: int) -> Sequence[ModelCall]:
        self._asked_bytes += len(data.data) + data.missing
        if self._partial:
            return ()  # past a hole nobody knows where in the document we are
        for piece in self._coding.feed(data.data):
            self._ask(piece, time)
        self._partial = bool(data.missing)
        if self._partial and self._heard is not None:
            self._heard.ask_gap()
        return ()

    def request_end(self, time: int) -> Sequence[ModelCall]:
        if not self._partial:
            for piece in self._coding.end():
                self._ask(piece, time)
        self._opaque()
        return ()

    def response_head(self, head: Head, time: int) -> Sequence[ModelCall]:
        self._opaque()
        self._status, self._headers = head.status, head.headers
        self._coding = Decoder(head.headers.get("content-encoding", ""))
        kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        streams = self._streams and head.status < 400
        self._reply = _reply(kind, self._api.response, self._api.stream, streams)
        if self._heard is not None:
            self._heard.begin_reply(kind, streams)
        return ()

    def response(self, data: Data, time: int) -> Sequence[ModelCall]:
        self._answered_bytes += len(data.data) + data.missing
        if self._reply is None:
            return ()
        for piece in self._coding.feed(data.data):
            self._answer(self._reply, piece, time)
        if data.missing:
            self._coding.gap()
            self._reply.gap()
            if self._heard is not None:
                self._heard.gap()
            self._partial = True
        return ()

    def finish(self, time: int, whole: bool) -> Sequence[ModelCall | Spoken]:
        """The reply is over, or nobody will see how it ends (then not whole). The call, or nothing
        if it turned out not to be a model's API."""
        facts = self._facts
        if self._reply is not None:
            for piece in self._coding.end():
                self._answer(self._reply, piece, time)
            self._add(self._reply.end(), time)
        self._opaque()
        if not self._believed and not self._api.needs & facts.seen:
            return ()
        read_in, out = facts.tokens.get("input"), facts.tokens.get("output")
        cached, written = facts.tokens.get("cached"), facts.tokens.get("written")
        if self._api.adds_cache and read_in is not None:
            read_in += (cached or 0) + (written or 0)
        status, error = self._outcome(whole)
        streamed = self._reply is not None and self._reply.streamed
        call = msgspec.structs.replace(
            self._call,
            asked=facts.text("asked") or self._call.asked,
            answered=facts.text("answered"),
            response_id=facts.text("id"),
            offered=tuple(facts.names["offered"]),
            chosen=tuple(facts.names["chosen"]),
            input_tokens=self._count("input", read_in),
            output_tokens=self._count("output", out),
            cached_tokens=cached,
            cache_written_tokens=written,
            finish=tuple(facts.names["finish"]),
            streamed=streamed,
            first=self._first if streamed else 0,
            end=time,
            http_status=self._status,
            status=status,
            error=error,
            request_bytes=self._asked_bytes,
            response_bytes=self._answered_bytes,
            partial=self._partial or not whole,
            problems=tuple(self._problems),
        )
        if self._heard is None:
            return (call,)
        return call, self._heard.finish(whole and not self._coding.opaque)

    def _ask(self, piece: bytes, time: int) -> None:
        self._add(self._request.feed(piece), time)
        if self._heard is not None:
            self._heard.ask(piece)

    def _answer(self, reply: _Reply, piece: bytes, time: int) -> None:
        self._add(reply.feed(piece), time)
        if self._heard is not None:
            self._heard.answer(piece)

    def _add(self, picked: list[Picked], time: int) -> None:
        for each in picked:
            self._facts.add(each)
            if each.field == "first" and not self._first:
                self._first = time - self._call.begin

    def _opaque(self) -> None:
        if self._coding.opaque:
            self._problems[self._coding.opaque] = None
            self._partial = True

    def _count(self, name: str, said: int | None) -> int | None:
        """Bedrock says it in headers, too: whatever the model's own format is."""
        value = self._headers.get(f"x-amzn-bedrock-{name}-token-count", "")
        return int(value) if said is None and re.fullmatch(r"\d{1,12}", value) else said

    def _outcome(self, whole: bool) -> tuple[Status, str]:
        facts = self._facts
        told = self._headers.get("x-amzn-errortype", "").partition(":")[0]
        for word in (facts.text("code"), facts.text("error"), told):
            # Only a word: a message may quote the prompt.
            if _WORD.fullmatch(word):
                return "error", word
        if self._status >= 400 or {"code", "error"} & facts.seen:
            return "error", str(self._status)
        done = whole or bool(self._facts.names["finish"])
        return ("ok", "") if done and self._status else ("lost", "")


class _Reply:
    """A reply in one of its forms: a document, or several in a row (NDJSON)."""

    def __init__(self, paths: Paths, room: Room | None, streamed: bool) -> None:
        self.streamed = streamed
        self._scanner = Scanner(paths, room)
        self._deaf = False

    def feed(self, data: bytes) -> list[Picked]:
        return [] if self._deaf else self._scanner.feed(data)

    def gap(self) -> list[Picked]:
        self._deaf = True
        return self._scanner.gap()

    def end(self) -> list[Picked]:
        return [*self._scanner.gap(), *self._scanner.finish()]


class _LineReply(_Reply):
    """A document a line; after a hole, the next line is sound again."""

    def feed(self, data: bytes) -> list[Picked]:
        found: list[Picked] = []
        for line in data.splitlines(keepends=True):
            if not self._deaf:
                found += self._scanner.feed(line)
            if line.endswith(b"\n") and (self._deaf or self._scanner.open):
                self._scanner.reset()
                self._deaf = False
        return found


class _EventReply(_Reply):
    """Server-sent events; `[DONE]`, OpenAI's last, is no JSON."""

    def __init__(self, paths: Paths, room: Room | None) -> None:
        super().__init__(paths, room, streamed=True)
        self._paths, self._room = paths, room
        self._events = ServerEvents()

    def feed(self, data: bytes) -> list[Picked]:
        return self._pick(self._events.feed(data))

    def gap(self) -> list[Picked]:
        self._events.gap()
        return []

    def end(self) -> list[Picked]:
        return self._pick(self._events.rest())

    def _pick(self, events: list[ServerEvent]) -> list[Picked]:
        return [picked for each in events for picked in pick(each.data, self._paths, self._room)]


class _FrameReply(_Reply):
    """Amazon's event stream. Of InvokeModel, a `chunk` has the model's own event in base64."""

    def __init__(self, paths: Paths, room: Room | None) -> None:
        super().__init__(paths, room, streamed=True)
        self._paths, self._room = paths, room
        self._frames = Frames()

    def feed(self, data: bytes) -> list[Picked]:
        found: list[Picked] = []
        for frame in self._frames.feed(data):
            found += self._frame(frame)
        return found

    def gap(self) -> list[Picked]:
        self._frames.gap()
        return []

    def end(self) -> list[Picked]:
        return []

    def _frame(self, frame: Frame) -> Iterator[Picked]:
        failed = frame.headers.get(":exception-type") or frame.headers.get(":error-code")
        if failed:
            yield Picked("error", failed)
        payload = frame.payload
        if frame.headers.get(":event-type") == "chunk":
            try:
                payload = base64.b64decode(msgspec.json.decode(payload, type=_Chunk).bytes)
            except (msgspec.DecodeError, binascii.Error, ValueError):
                return
        yield from pick(payload, self._paths, self._room)


class _Chunk(msgspec.Struct):
    bytes: str


def _reply(
    kind: str, response: Paths, stream: Paths, streams: bool, room: Room | None = None
) -> _Reply:
    if kind == "text/event-stream":
        return _EventReply(stream, room)
    if kind == "application/vnd.amazon.eventstream":
        return _FrameReply(stream, room)
    if kind in ("application/x-ndjson", "application/stream+json", "application/jsonl"):
        return _LineReply(stream, room, streamed=True)
    return _Reply(stream if streams else response, room, streamed=streams)
