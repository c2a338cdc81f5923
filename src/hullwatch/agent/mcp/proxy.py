"""The reverse proxy for MCP over HTTP: both Streamable HTTP eras and HTTP+SSE of 2024-11-05.

Bodies pass as they came, streams as they come, or event by event where those are asked about. Of
the headers only those change that belong to one connection (RFC 9110, 7.6.1), Host, and
Accept-Encoding: what is compressed cannot be looked into.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import h11

from hullwatch.agent import semconv
from hullwatch.agent.mcp.answer import Answer
from hullwatch.agent.mcp.gate import Held, Tell
from hullwatch.agent.mcp.headers import MISMATCH, Headers, first, may_ask, mismatch
from hullwatch.agent.mcp.message import MAX_MESSAGE, PEEK, Reading, error_response, peek, read
from hullwatch.agent.mcp.observer import SERVER_GONE, Dialogue, Observer, Open
from hullwatch.agent.mcp.sampling import Refusal, Waits
from hullwatch.agent.mcp.sessions import Sessions
from hullwatch.agent.mcp.sse import Block, Blocks, Event
from hullwatch.agent.mcp.upstream import CHUNK, HEAD_MAX, Link, Unreachable, Upstream
from hullwatch.context.call import Status, Value

__all__ = ["Proxy"]

MAX_CONNECTIONS = 512
MAX_IN_HAND = 256 << 20  # bytes of all requests that are held to be parsed; more are not parsed
_REFUSED = -32600  # JSON-RPC: invalid request
_IDLE = 120.0  # s that a client may take for a request's head
_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding upgrade".split()
)
_ANSWERED: list[bytes] = []  # the client has its answer
_MAX_REFUSALS = 64  # that are on their way to servers; then nothing more is read from one
_REFUSING = 15.0  # s for one to get there
_OF_ITS_BODY = frozenset(
    b"host accept accept-encoding expect content-length content-type last-event-id mcp-method"
    b" mcp-name".split()
)
_OURS = frozenset({b"host", b"accept-encoding", b"expect"})


class _Client:
    """One connection of a client. ClientGone where it breaks off."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.conn = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)

    async def receive(self) -> Any:
        while (event := self.conn.next_event()) is h11.NEED_DATA:
            if self.conn.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                self.conn.receive_data(await self._reader.read(CHUNK))
            except OSError:
                raise _ClientGone from None
        if isinstance(event, h11.ConnectionClosed):
            raise _ClientGone
        return event

    async def gone(self) -> None:
        """Returns when the client breaks off. What it sends ahead is kept, as far as one read."""
        with contextlib.suppress(OSError):
            data = await self._reader.read(CHUNK)
            self.conn.receive_data(data)
            if data:
                await asyncio.Event().wait()

    async def send(self, *events: Any) -> None:
        try:
            self._writer.write(b"".join(self.conn.send(event) or b"" for event in events))
            await self._writer.drain()
        except OSError:
            raise _ClientGone from None

    async def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """One of our own."""
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        response = h11.Response(status_code=status, headers=headers)
        await self.send(response, h11.Data(data=body), h11.EndOfMessage())

    async def discard(self) -> None:
        """What is left of a request that is not passed on, so that the client reads the answer."""
        while self.conn.their_state is h11.SEND_BODY:
            await self.receive()

    def again(self) -> bool:
        if self.conn.our_state is not h11.DONE or self.conn.their_state is not h11.DONE:
            return False
        self.conn.start_next_cycle()
        return True

    def abort(self) -> None:
        """So that the client sees that an answer was cut."""
        self._writer.transport.abort()

    async def close(self) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            self._writer.close()
            await self._writer.wait_closed()


class _ClientGone(Exception):
    pass


class _Exchange:
    """A request that may be passed on, and what is known of it."""

    def __init__(self, request: Any, dialogue: Dialogue) -> None:
        self.request = request
        self.headers: Headers = list(request.headers)
        self.dialogue = dialogue
        self.reading = Reading()
        self.begun: Open | None = None  # of a body that is too large to be parsed
        self.sent = False  # all of that
        self.body = b""
        self.instead = b""  # goes to the server in its place
        self.whole = True  # body is all of it
        self.streaming = False  # the client has the head of a stream of ours
        self.replies: bytes = request.target  # where a client answers what the server asks of it

    @property
    def modern(self) -> bool:
        return any(message.modern for message in self.reading.messages)

    @property
    def keys(self) -> list[Any]:
        keys = [m.key for m in self.reading.messages if m.kind == "request"]
        return [*keys, self.begun.key] if self.begun is not None else keys

    def head(self, upstream: Upstream) -> Any:
        """The request as the server gets it."""
        headers: list[tuple[bytes, bytes]] = [(b"Host", upstream.authority)]
        headers += [
            (raw, value) for raw, value in _end_to_end(self.request) if raw.lower() not in _OURS
        ]
        headers.append((b"Accept-Encoding", b"identity"))
        if self.instead:
            headers = [one for one in headers if one[0].lower() != b"content-length"]
            if first(self.headers, b"transfer-encoding") is None:
                headers.append((b"Content-Length", b"%d" % len(self.instead)))
        if first(self.headers, b"transfer-encoding") is not None:
            headers.append((b"Transfer-Encoding", b"chunked"))
        return h11.Request(method=self.request.method, target=self.request.target, headers=headers)

    def reply(self, upstream: Upstream, size: int) -> Any:
        """The head of a request in which this client would answer the server."""
        headers: list[tuple[bytes, bytes]] = [(b"Host", upstream.authority)]
        headers += [
            (raw, value)
            for raw, value in _end_to_end(self.request)
            if raw.lower() not in _OF_ITS_BODY
        ]
        if self.dialogue.session and first(self.headers, b"mcp-session-id") is None:
            headers.append((b"Mcp-Session-Id", self.dialogue.session.encode("latin-1")))
        headers += [
            (b"Accept", b"application/json, text/event-stream"),
            (b"Accept-Encoding", b"identity"),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % size),
        ]
        return h11.Request(method=b"POST", target=self.replies, headers=headers)


class Proxy:
    """allowed: host names by which clients may call it, beside the loopback's."""

    def __init__(
        self, observer: Observer, upstream: Upstream, allowed: frozenset[str] = frozenset()
    ) -> None:
        self._observer = observer
        self._upstream = upstream
        self._allowed = allowed
        self._sessions = Sessions(self._dropped)
        self._clients: set[asyncio.Task[None]] = set()
        self._in_hand = 0
        self._refusals: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connected, host, port, limit=CHUNK)

    async def close(self) -> None:
        """Breaks off what goes on."""
        tasks = [*self._clients, *self._refusals]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sessions.close()
        self._observer.close()
        self._upstream.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        client = _Client(reader, writer)
        try:
            await self._serve(client, len(self._clients) > MAX_CONNECTIONS)
        except (_ClientGone, TimeoutError):
            pass
        except asyncio.CancelledError:
            client.abort()  # the gateway ends
        except h11.LocalProtocolError:
            client.abort()  # an answer that cannot be passed on as it is
        except h11.RemoteProtocolError as error:
            if client.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                with contextlib.suppress(_ClientGone, h11.LocalProtocolError):
                    await client.answer(error.error_status_hint, b"not HTTP/1.1\n", "text/plain")
        finally:
            self._clients.discard(task)
            await client.close()

    async def _serve(self, client: _Client, full: bool) -> None:
        while True:
            async with asyncio.timeout(_IDLE):
                request = await client.receive()
            if not isinstance(request, h11.Request):
                return
            if full:
                await client.answer(503, _plain(_REFUSED, "too many connections"))
                return
            await self._exchange(client, request)
            if not client.again():
                return

    # --- one exchange ---------------------------------------------------------------------

    async def _exchange(self, client: _Client, request: Any) -> None:
        headers: Headers = list(request.headers)
        refused = may_ask(headers, self._allowed)
        if refused:
            self._observer.refused(refused)
            why = f"{refused} is not allowed here; see --allow-host of `hullwatch mcp`"
            await client.discard()
            await client.answer(403, _plain(_REFUSED, why))
            return
        self._observer.headers(headers, request.target)
        exchange = _Exchange(request, self._sessions.of_request(headers, request.target))
        mcp = self._is_mcp(exchange)
        try:
            if mcp:
                await self._read_body(client, exchange)
            await self._to_server(client, exchange, mcp)
        finally:
            self._in_hand -= len(exchange.body)

    async def _to_server(self, client: _Client, exchange: _Exchange, mcp: bool) -> None:
        link: Link | None = None
        fresh = True
        try:
            link = await self._upstream.acquire()
            outcome = await self._looked_at(client, exchange, link) if mcp else None
            if isinstance(outcome, Held):
                # It may take long, and a server closes connections that idle.
                self._upstream.release(link, fresh)
                link = None
                exchange.instead = outcome.instead
                link, outcome = await self._hold(client, exchange, outcome)
            if link is None or outcome is not None:
                await self._instead(client, exchange, outcome or [])
                return
            fresh = False
            await self._pass(client, exchange, link)
        except Unreachable as error:
            await self._unreachable(client, exchange, error)
        finally:
            if link is not None:
                self._upstream.release(link, fresh)

    def _is_mcp(self, exchange: _Exchange) -> bool:
        request, target = exchange.request, exchange.request.target
        kind = (first(exchange.headers, b"content-type") or b"").lower()
        if request.method == b"POST" and (
            b"json" in kind
            or target.partition(b"?")[0] == self._upstream.path.encode()
            or self._sessions.knows(target)
        ):
            return True
        # Where calls may be kept back, whatever a server could take for one is looked at: it may
        # know another spelling of the path, or not ask for the kind of content.
        body = first(exchange.headers, b"content-length") not in (None, b"0")
        return self._observer.strict and (
            body or first(exchange.headers, b"transfer-encoding") is not None
        )

    async def _read_body(self, client: _Client, exchange: _Exchange) -> None:
        """All of it, or as much as is parsed."""
        parts: list[bytes] = []
        size = 0
        try:
            while not isinstance(event := await client.receive(), h11.EndOfMessage):
                parts.append(bytes(event.data))
                size += len(event.data)
                self._in_hand += len(event.data)
                if size > MAX_MESSAGE or self._in_hand > MAX_IN_HAND:
                    exchange.whole = False
                    break
        finally:
            exchange.body = b"".join(parts)

    async def _looked_at(
        self, client: _Client, exchange: _Exchange, link: Link
    ) -> list[bytes] | Held | None:
        """None: it goes on. [] is an answer, too: that there is none."""
        observer, dialogue = self._observer, exchange.dialogue
        more = self._more(link)
        if not exchange.whole:
            peeked = peek(exchange.body[:PEEK])
            if observer.strict:
                await client.discard()
                await client.answer(413, observer.refuse_large(peeked)[0])
                return _ANSWERED
            exchange.begun = await observer.sent_large(dialogue, peeked, more=more)
            return None
        if not exchange.body.strip() or _is_form(exchange):
            return None
        exchange.reading = reading = read(exchange.body)
        what = mismatch(exchange.headers, reading)
        if what:
            observer.disagrees(reading, what)
            said = f"Header mismatch: {what}"
            answers = observer.refuse(reading, MISMATCH, said)
            await client.answer(400, _joined(answers or [error_response(b"", MISMATCH, said)]))
            return _ANSWERED
        return await observer.sent(dialogue, reading, len(exchange.body), more=more)

    def _more(self, link: Link) -> dict[str, Value]:
        return {
            semconv.SERVER_ADDRESS: self._upstream.host,
            semconv.SERVER_PORT: self._upstream.port,
            semconv.NETWORK_LOCAL_PORT: link.local_port,
        }

    async def _hold(
        self, client: _Client, exchange: _Exchange, held: Held
    ) -> tuple[Link | None, list[bytes] | None]:
        """Until it is decided: the connection on which it goes on, or the answers to give instead.
        _ClientGone, Unreachable."""
        links: list[Link] = []

        async def ready() -> dict[str, Value]:
            links.append(await self._upstream.acquire())
            return self._more(links[0])

        tell = partial(self._tell, client, exchange)
        settled = asyncio.ensure_future(held.settle(tell, ready))
        gone = asyncio.ensure_future(client.gone())
        try:
            await asyncio.wait({settled, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                raise _ClientGone
            answers = settled.result()
            return (links[0] if links else None), answers
        except BaseException:
            for link in links:
                link.close()
            raise
        finally:
            for task in (settled, gone):
                task.cancel()
            await asyncio.gather(settled, gone, return_exceptions=True)
            held.close()

    async def _tell(
        self, client: _Client, exchange: _Exchange, notifications: Sequence[bytes]
    ) -> None:
        """A client that takes streams, which its answer then is."""
        if b"text/event-stream" in (first(exchange.headers, b"accept") or b"").lower():
            await self._stream(client, exchange, notifications)

    async def _stream(
        self, client: _Client, exchange: _Exchange, messages: Sequence[bytes]
    ) -> None:
        """Messages of our own, as events before the server's answer."""
        if not exchange.streaming:
            exchange.streaming = True
            headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
            await client.send(h11.Response(status_code=200, headers=headers))
        await client.send(*(h11.Data(data=_event(message)) for message in messages))

    async def _instead(
        self, client: _Client, exchange: _Exchange, answers: Sequence[bytes]
    ) -> None:
        """Answers of our own, and nothing for the server."""
        if answers is _ANSWERED:
            return
        batch = exchange.reading.batch
        if exchange.streaming:
            await self._stream(client, exchange, [_joined(answers, batch)] if answers else [])
            await client.send(h11.EndOfMessage())
        else:
            # An error of JSON-RPC, not of HTTP: clients hand it to whoever made the call.
            await client.answer(200 if answers else 202, _joined(answers, batch))

    async def _pass(self, client: _Client, exchange: _Exchange, link: Link) -> None:
        """To the server and back, until the one or the other breaks off."""
        answer = Answer(self._observer, exchange.dialogue, self._endpoint(exchange))
        try:
            await self._both_ways(client, exchange, link, answer)
        except Unreachable as error:
            link.close()
            await self._broken(client, exchange, answer, error)
        except _ClientGone:
            link.close()
            if exchange.modern:
                self._abandon(exchange, "cancelled", "")
            elif not exchange.dialogue.session:  # else it may ask for the rest by another request
                self._abandon(exchange, "lost", "client gone")
            raise
        except BaseException:
            link.close()
            self._abandon(exchange, "lost", "broken off")
            raise

    async def _both_ways(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer
    ) -> None:
        upload = None
        if exchange.whole and client.conn.their_state is not h11.SEND_BODY:
            await link.send(*self._request(exchange), h11.EndOfMessage())
        else:
            upload = asyncio.create_task(self._upload(client, exchange, link))
        watch = asyncio.create_task(self._watch(client, upload))
        fetch = asyncio.create_task(self._fetch(client, exchange, link, answer))
        try:
            await asyncio.wait({fetch, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not fetch.done():
                raise _ClientGone
            fetch.result()
        finally:
            tasks = [task for task in (upload, watch, fetch) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if exchange.begun is not None and not exchange.sent:
                self._observer.sent_all(exchange.dialogue, exchange.begun, peek(b""), 0)

    def _request(self, exchange: _Exchange) -> list[Any]:
        data = exchange.instead or exchange.body
        body = [h11.Data(data=data)] if data else []
        return [exchange.head(self._upstream), *body]

    async def _upload(self, client: _Client, exchange: _Exchange, link: Link) -> None:
        """What is not held whole, as it comes."""
        size, tail = len(exchange.body), exchange.body[-PEEK:]
        with contextlib.suppress(Unreachable):  # it may have answered all the same
            await link.send(*self._request(exchange))
            while not isinstance(event := await client.receive(), h11.EndOfMessage):
                data = bytes(event.data)
                size += len(data)
                tail = (tail + data)[-PEEK:]
                await link.send(h11.Data(data=data))
            if exchange.begun is not None:
                peeked = peek(exchange.body[:PEEK], tail)
                self._observer.sent_all(exchange.dialogue, exchange.begun, peeked, size)
                exchange.sent = True
            await link.send(h11.EndOfMessage())

    async def _watch(self, client: _Client, upload: asyncio.Task[None] | None) -> None:
        """Returns when the client is gone."""
        if upload is not None:
            try:
                await upload
            except _ClientGone:
                return
        await client.gone()

    async def _fetch(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer
    ) -> None:
        while isinstance(event := await link.receive(), h11.InformationalResponse):
            pass  # 100 was answered here, 101 was not asked for; others are hints
        headers: Headers = list(event.headers)
        self._sessions.of_answer(headers, exchange.dialogue)
        answer.begin(event.status_code, headers)
        if answer.guarded and answer.unclear:
            raise Unreachable(answer.unclear)
        head = h11.Response(
            status_code=event.status_code, headers=_end_to_end(event), reason=event.reason
        )
        if answer.streams:
            if not exchange.streaming:
                await client.send(head)
            await self._fetch_events(client, exchange, link, answer)
        elif answer.guarded:
            body = await self._fetch_whole(client, exchange, link, answer)
            if exchange.streaming:
                if isinstance(body, Refusal):
                    said = _joined(body.to_client, exchange.reading.batch)
                else:
                    said = self._unread(exchange) if body is None else body.strip()
                await self._into_stream(client, exchange, answer, said)
                return
            self._settle(exchange, answer)
            if body is None:
                answers = self._unread(exchange)
                await client.answer(200 if answers else 202, answers)
            elif isinstance(body, Refusal):
                await client.answer(200, _joined(body.to_client, exchange.reading.batch))
            else:
                await client.send(head, h11.Data(data=body), h11.EndOfMessage())
        elif exchange.streaming:
            await self._fetch_into_stream(client, exchange, link, answer)
        else:
            await self._fetch_body(client, exchange, link, answer, head)

    async def _fetch_body(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer, head: Any
    ) -> None:
        waiting = [head]
        while not isinstance(event := await link.receive(), h11.EndOfMessage):
            # What ends a message is looked at before the client can act on it: of a JSON body all
            # but the last piece goes on at once.
            if waiting and isinstance(waiting[-1], h11.Data):
                await client.send(*waiting)
                waiting = []
            answer.feed(bytes(event.data))
            waiting.append(h11.Data(data=event.data))
        answer.end()
        self._settle(exchange, answer)
        await client.send(*waiting, h11.EndOfMessage())

    async def _fetch_events(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer
    ) -> None:
        """As they come; once a policy speaks of what servers ask for, whole and as it says."""
        blocks: Blocks | None = None
        waiting: set[asyncio.Task[None]] = set()
        try:
            while not isinstance(event := await link.receive(), h11.EndOfMessage):
                if blocks is None and answer.between and self._observer.sampling.guarded:
                    blocks = Blocks()
                if blocks is None:
                    answer.feed(bytes(event.data))
                    await client.send(h11.Data(data=event.data))
                    continue
                for block in blocks.feed(bytes(event.data)):
                    await self._event_of(client, exchange, answer, block, waiting)
            for block in blocks.close() if blocks is not None else ():
                await self._event_of(client, exchange, answer, block, waiting)
            if waiting:
                await asyncio.wait(waiting)
        finally:
            for task in waiting:
                task.cancel()
        answer.end()
        self._settle(exchange, answer)
        await client.send(h11.EndOfMessage())

    async def _event_of(
        self,
        client: _Client,
        exchange: _Exchange,
        answer: Answer,
        block: Block,
        waiting: set[asyncio.Task[None]],
    ) -> None:
        outcome = await answer.asks(block, exchange.keys)
        if isinstance(outcome, Waits):
            # The others go on meanwhile.
            waits = outcome

            async def tell(messages: Sequence[bytes]) -> None:
                with contextlib.suppress(_ClientGone):
                    await client.send(*(h11.Data(data=_event(one)) for one in messages))

            async def settled() -> None:
                refusal = await waits.settle(tell, self._alive(exchange))
                with contextlib.suppress(_ClientGone):  # who reads the stream sees to that
                    await self._judged(client, exchange, answer, block, refusal)

            task = asyncio.create_task(settled())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            task.add_done_callback(lambda _: waits.close())
        else:
            await self._judged(client, exchange, answer, block, outcome)

    async def _judged(
        self,
        client: _Client,
        exchange: _Exchange,
        answer: Answer,
        block: Block,
        refusal: Refusal | None,
    ) -> None:
        if refusal is None:
            answer.passes(block.events)
            await client.send(h11.Data(data=block.raw))
            return
        said = b"".join(map(_event, refusal.to_client))
        if said:
            await client.send(h11.Data(data=said))
        await self._refuse(exchange, refusal)

    async def _fetch_whole(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer
    ) -> bytes | Refusal | None:
        """A body of JSON: as it came, or what goes to the client instead; None: that it was not
        passed on."""
        parts: list[bytes] = []
        size, tail = 0, b""
        while not isinstance(event := await link.receive(), h11.EndOfMessage):
            data = bytes(event.data)
            size += len(data)
            tail = (tail + data)[-PEEK:]
            if size <= MAX_MESSAGE:
                parts.append(data)
        whole = b"".join(parts)
        head = whole[:PEEK]
        if size > MAX_MESSAGE:
            whole = b""
        block = Block(whole, (Event("message", whole, size, head, tail),) if size else ())
        outcome = await answer.asks(block, exchange.keys) if size else None
        if isinstance(outcome, Waits):
            tell = partial(self._tell, client, exchange)
            # Then it does not wait on.
            outcome = await outcome.settle(tell, self._alive(exchange))
        if outcome is None:
            answer.passes(block.events)
            return whole
        await self._refuse(exchange, outcome)
        return outcome if outcome.to_client else None

    async def _fetch_into_stream(
        self, client: _Client, exchange: _Exchange, link: Link, answer: Answer
    ) -> None:
        """A body that nobody asks about."""
        parts, size = [], 0
        while not isinstance(event := await link.receive(), h11.EndOfMessage):
            data = bytes(event.data)
            answer.feed(data)
            size += len(data)
            if size > MAX_MESSAGE:
                raise Unreachable("its answer is too large for a stream")
            parts.append(data)
        answer.end()
        await self._into_stream(client, exchange, answer, b"".join(parts).strip())

    async def _into_stream(
        self, client: _Client, exchange: _Exchange, answer: Answer, said: bytes
    ) -> None:
        """Where the client has read the head of ours already."""
        told = read(said, doubles=False)
        fits = any(message.kind in ("result", "error") for message in told.messages)
        if not fits:
            why = f"hullwatch: the MCP server answered with HTTP {answer.status}"
            said = _joined(self._observer.refuse(exchange.reading, SERVER_GONE, why))
        self._settle(exchange, answer)
        events = [h11.Data(data=_event(said))] if said else []
        await client.send(*events, h11.EndOfMessage())

    def _unread(self, exchange: _Exchange) -> bytes:
        why = (
            "hullwatch: the MCP server's answer is not passed on, as it cannot be read for certain"
        )
        answers = self._observer.refuse(exchange.reading, _REFUSED, why)
        return _joined(answers, exchange.reading.batch)

    # --- what the server is told -----------------------------------------------------

    async def _refuse(self, exchange: _Exchange, refusal: Refusal) -> None:
        """Beside the rest: a server may read nothing more before it has written all that it has."""
        for body in refusal.to_server:
            while len(self._refusals) >= _MAX_REFUSALS:
                await asyncio.wait(self._refusals, return_when=asyncio.FIRST_COMPLETED)
            self._reply_beside(exchange, body)

    def _alive(self, exchange: _Exchange) -> Tell:
        """Tells the server that what it asked for waits; not where it did not take the last such
        word yet."""
        last: set[asyncio.Task[None]] = set()

        async def tell(messages: Sequence[bytes]) -> None:
            if all(one.done() for one in last) and len(self._refusals) < _MAX_REFUSALS:
                last.clear()
                last.update(self._reply_beside(exchange, one) for one in messages)

        return tell

    def _reply_beside(self, exchange: _Exchange, body: bytes) -> asyncio.Task[None]:
        task = asyncio.create_task(self._reply(exchange, body))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)
        return task

    async def _reply(self, exchange: _Exchange, body: bytes) -> None:
        """As the client's answer would get there. A server that does not take it waits in vain."""
        with contextlib.suppress(Unreachable, TimeoutError):
            async with asyncio.timeout(_REFUSING):
                link = await self._upstream.acquire()
                try:
                    head = exchange.reply(self._upstream, len(body))
                    await link.send(head, h11.Data(data=body), h11.EndOfMessage())
                    await link.receive()
                finally:
                    link.close()

    # --- how it ends ----------------------------------------------------------------------

    def _settle(self, exchange: _Exchange, answer: Answer) -> None:
        """Requests that this answer did not answer."""
        if exchange.request.method == b"DELETE" and answer.status < 300:
            self._sessions.ended(exchange.headers)
        elif answer.status >= 400:
            self._abandon(exchange, "error", f"http {answer.status}")
        elif answer.status != 202 and not (answer.streams and exchange.dialogue.session):
            # 202: the answer comes on the stream of the session, or none is due.
            self._abandon(exchange, "lost", "no answer")

    async def _broken(
        self, client: _Client, exchange: _Exchange, answer: Answer, error: Unreachable
    ) -> None:
        if client.conn.our_state is h11.SEND_RESPONSE:
            await self._unreachable(client, exchange, error)
            return
        ids = self._abandon(exchange, "lost", "server gone")
        if answer.between and (exchange.streaming or (answer.streams and exchange.modern)):
            # Such a stream cannot be resumed, so the client is told in it.
            events = b"".join(_event(error_response(one, SERVER_GONE, _gone(error))) for one in ids)
            await client.send(h11.Data(data=events), h11.EndOfMessage())
        else:
            client.abort()

    async def _unreachable(self, client: _Client, exchange: _Exchange, error: Unreachable) -> None:
        if not exchange.reading.messages and exchange.whole:
            exchange.reading = read(exchange.body, doubles=False)
        self._abandon(exchange, "lost", "server gone")
        said = _gone(error)
        answers = self._observer.refuse(exchange.reading, SERVER_GONE, said)
        if exchange.streaming:
            await self._instead(client, exchange, answers)
            return
        await client.discard()
        await client.answer(
            502, _joined(answers, exchange.reading.batch) or _plain(SERVER_GONE, said)
        )

    def _abandon(self, exchange: _Exchange, status: Status, error: str) -> list[bytes]:
        return self._observer.abandon(exchange.dialogue, status, error, exchange.keys)

    def _dropped(self, dialogue: Dialogue) -> None:
        self._observer.abandon(dialogue, "lost", "session ended")

    def _endpoint(self, exchange: _Exchange) -> Any:
        """What to do with the address that the first transport's server names."""

        def named(address: str) -> None:
            parts = urlsplit(address)
            if parts.netloc and parts.netloc.encode() != self._upstream.authority:
                self._observer.elsewhere(parts.netloc.rpartition("@")[2])
                return
            path = urlsplit(urljoin(exchange.request.target.decode("latin-1"), address))
            target = path.path + (f"?{path.query}" if path.query else "")
            exchange.replies = target.encode("utf-8", "replace")
            self._sessions.endpoint(exchange.replies, exchange.dialogue)

        return named


def _end_to_end(message: Any) -> list[tuple[bytes, bytes]]:
    """The headers that do not belong to one connection. Where a body came in chunks its length is
    what the chunks say: two readers must not see two ends of it (RFC 9112, 6.3)."""
    headers: Headers = list(message.headers)
    dropped = set(_HOP)
    for key, value in headers:
        if key == b"connection":
            dropped |= {word.strip().lower() for word in value.split(b",")}
    if first(headers, b"transfer-encoding") is not None:
        dropped.add(b"content-length")
    return [
        (raw, value) for raw, value in message.headers.raw_items() if raw.lower() not in dropped
    ]


def _is_form(exchange: _Exchange) -> bool:
    """Of a login, say: no reader takes it for JSON, in whatever encoding."""
    kind = (first(exchange.headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    body = exchange.body
    return (
        kind == b"application/x-www-form-urlencoded"
        and body.isascii()
        and body[:1].isalnum()
        and b"\0" not in body
    )


def _event(message: bytes) -> bytes:
    """As one event of a stream; a message of several lines, as JSON may be, stays one."""
    lines = message.replace(b"\r", b"\n").split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def _joined(answers: Sequence[bytes], batch: bool = False) -> bytes:
    if batch and answers:
        return b"[" + b",".join(answers) + b"]"
    return answers[0] if answers else b""


def _gone(error: Unreachable) -> str:
    return f"hullwatch: the MCP server cannot be reached or broke off: {error}"


def _plain(code: int, said: str) -> bytes:
    return error_response(b"", code, said)
