"""The reverse proxy, between a raw client and a raw server on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hullwatch.agent.mcp import proxy as proxy_module
from hullwatch.agent.mcp.observer import Observer
from hullwatch.agent.mcp.pins import Pins
from hullwatch.agent.mcp.proxy import Proxy
from hullwatch.agent.mcp.upstream import Upstream, UrlError
from support.mcp_http_server import Asked, Peer, Raw, chunk, json_answer, request, sse
from support.mcp_reporter import Recording

VERSION = "2026-07-28"


class Between:
    def __init__(self, peer: Peer, port: int, reporter: Recording) -> None:
        self.peer = peer
        self.port = port
        self.reporter = reporter


@contextlib.asynccontextmanager
async def between(answering: Any, **options: Any) -> AsyncIterator[Between]:
    reporter = Recording()
    options.setdefault("hasher", lambda data: f"h{len(data)}")
    async with Peer(answering) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}/mcp")
        proxy = Proxy(Observer("peer", reporter, transport="tcp", **options), upstream)
        server = await proxy.listen("127.0.0.1", 0)
        try:
            yield Between(peer, server.sockets[0].getsockname()[1], reporter)
        finally:
            server.close()
            await proxy.close()


def over(test: Callable[..., Any]) -> Callable[..., None]:
    """A test that runs in a loop."""

    def run(*args: Any, **options: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **options), 60))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def call(ident: Any = 1, name: str = "echo", **more: Any) -> bytes:
    params = {"name": name, "arguments": {}, **more}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode()


def modern(ident: Any = 1, name: str = "echo", **more: Any) -> bytes:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return call(ident, name, _meta=meta, **more)


def modern_headers(name: str = "echo", method: str = "tools/call") -> dict[str, str]:
    return {"Mcp_Protocol_Version": VERSION, "Mcp_Method": method, "Mcp_Name": name}


def result(ident: Any = 1, **more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "result": {"content": [], **more}}).encode()


async def answers_json(asked: Asked, writer: asyncio.StreamWriter) -> None:
    ident = json.loads(asked.body)["id"] if asked.body else None
    writer.write(json_answer(result(ident)))
    await writer.drain()


async def settled(between: Between, kind: str, count: int = 1) -> list[Any]:
    async with asyncio.timeout(20):
        while len(between.reporter.of(kind)) < count:
            await asyncio.sleep(0.01)
    return between.reporter.of(kind)


@over
async def test_a_call_and_its_answer():
    async with between(answers_json) as at:
        client = await Raw.connect(at.port)
        for number in (1, 2):
            body = call(number)
            await client.send(request("POST", "/mcp?x=1", body, Authorization="Bearer t0p"))
            status, headers, answer = await client.answer()
            assert (status, answer) == (200, result(number))
            assert headers["content-type"] == "application/json"
        assert [asked.body for asked in at.peer.asked] == [call(1), call(2)]
        assert at.peer.asked[0].target == "/mcp?x=1"
        assert at.peer.asked[0].headers["authorization"] == "Bearer t0p"
        assert at.peer.asked[0].headers["host"] == f"127.0.0.1:{at.peer.port}"
        assert at.peer.connections == 1, "connections to the server are used again"
        assert [kind for kind, _ in at.reporter.log] == ["begin", "end"] * 2
        begun = at.reporter.of("begin")[0]
        assert begun.attributes["server.port"] == at.peer.port
        assert begun.attributes["network.local.port"] > 0
        assert "t0p" not in str(at.reporter.log)


@over
async def test_a_stream_passes_as_it_comes():
    go_on = asyncio.Event()

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(sse() + chunk(b": hello\n\n"))
        await go_on.wait()
        data = b"event: message\ndata: " + result(1) + b"\n\n"
        writer.write(chunk(data[:30]) + chunk(data[30:]) + chunk(b""))
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", call(1)))
        assert (await client.head())[0] == 200
        assert await client.chunk() == b": hello\n\n"
        assert at.reporter.ends == []
        go_on.set()
        data = b"".join([await client.chunk(), await client.chunk()])
        assert data.endswith(result(1) + b"\n\n") and await client.chunk() == b""
        assert at.reporter.ends == [("echo", "ok")]


@over
async def test_a_session_and_its_stream_of_events():
    """2025-03-26 to 2025-11-25: what a POST left open may be answered on the GET stream."""

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            writer.write(sse() + chunk(b"id: 1\ndata: " + result(5) + b"\n\n"))
        elif asked.method == "DELETE":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        elif b"initialize" in asked.body:
            answer = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}'
            writer.write(json_answer(answer, "200 OK", "Mcp-Session-Id: s-1"))
        else:
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    hello = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"clientInfo":{"name":"c"}}}'
    session = {"Mcp_Session_Id": "s-1", "Mcp_Protocol_Version": "2025-11-25"}
    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", hello))
        assert (await client.answer())[1]["mcp-session-id"] == "s-1"
        for number in (5, 6):
            await client.send(request("POST", "/mcp", call(number), **session))
            assert (await client.answer())[0] == 202
        assert at.reporter.ends == []
        stream = await Raw.connect(at.port)
        await stream.send(request("GET", "/mcp", **session))
        await stream.head()
        await stream.chunk()
        (begun, _), (ended,) = at.reporter.of("begin"), at.reporter.of("end")
        assert (ended.id, ended.status, ended.client) == (begun.id, "ok", "c")
        assert begun.attributes["mcp.session.id"] == "h3", "only its hash"
        await client.send(request("DELETE", "/mcp", **session))
        await client.answer()
        assert at.reporter.ends == [("echo", "ok"), ("echo", "lost")]


@over
async def test_the_first_transport():
    """2024-11-05: GET /sse names where to post; answers come on the stream."""
    posted: asyncio.Queue[bytes] = asyncio.Queue()

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            where = b"event: endpoint\ndata: /messages?sessionId=abc\n\n"
            writer.write(sse() + chunk(where))
            body = await posted.get()
            data = result(json.loads(body)["id"])
            writer.write(chunk(b"event: message\r\ndata: " + data + b"\r\n\r\n"))
        else:
            posted.put_nowait(asked.body)
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted")
        await writer.drain()

    async with between(answering) as at:
        stream, client = await Raw.connect(at.port), await Raw.connect(at.port)
        await stream.send(request("GET", "/sse", Accept="text/event-stream"))
        await stream.head()
        assert b"sessionId=abc" in await stream.chunk()
        await client.send(request("POST", "/messages?sessionId=abc", call(9)))
        assert (await client.answer())[2] == b"Accepted"
        assert b'"id": 9' in await stream.chunk()
        assert at.reporter.ends == [("echo", "ok")]


@over
async def test_an_endpoint_past_the_gateway_is_told():
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(sse() + chunk(b"event: endpoint\ndata: http://evil.example/m?s=1\n\n"))
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("GET", "/sse"))
        await client.head()
        await client.chunk()
        assert at.reporter.signals == [("endpoint_elsewhere", "evil.example")]


@pytest.mark.parametrize(
    "headers",
    [
        modern_headers("other"),
        modern_headers(method="tools/list"),
        modern_headers() | {"Mcp_Protocol_Version": "2025-11-25"},
        {"Mcp_Protocol_Version": VERSION, "Mcp_Method": "tools/call"},
        {"Mcp_Protocol_Version": VERSION, "Mcp_Name": "echo"},
        {"Mcp_Method": "tools/call", "Mcp_Name": "echo"},
        modern_headers("=?base64?bm90IGl0?="),
    ],
)
@over
async def test_headers_that_say_something_else_than_the_body(headers: dict[str, str]):
    async with between(answers_json) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", modern(3), **headers))
        status, _, body = await client.answer()
        error = json.loads(body)
        assert (status, error["id"], error["error"]["code"]) == (400, 3, -32020)
        assert not at.peer.asked and not at.reporter.of("begin")
        assert [kind for kind, _ in at.reporter.signals] == ["header_mismatch"]


@over
async def test_headers_that_agree():
    async with between(answers_json) as at:
        client = await Raw.connect(at.port)
        for name, said in (("echo", "echo"), ("höflich", "=?base64?aMO2ZmxpY2g=?=")):
            await client.send(request("POST", "/mcp", modern(1, name), **modern_headers(said)))
            assert (await client.answer())[0] == 200
        begun = at.reporter.of("begin")
        assert [one.name for one in begun] == ["echo", "höflich"]
        assert begun[0].client == "probe"
        assert begun[0].attributes["mcp.protocol.version"] == VERSION


@pytest.mark.parametrize("state", ["blob", None])
@over
async def test_round_trips_are_one_call(state: str | None):
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        params = json.loads(asked.body)["params"]
        ident = json.loads(asked.body)["id"]
        if "inputResponses" in params:
            writer.write(json_answer(result(ident, resultType="complete")))
        else:
            more = {"requestState": state} if state else {}
            asking = {"resultType": "input_required", "inputRequests": {"who": {}}, **more}
            writer.write(json_answer(result(ident, **asking)))
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", modern(1), **modern_headers()))
        await client.answer()
        assert at.reporter.ends == []
        more: dict[str, Any] = {"inputResponses": {"who": {"action": "accept"}}}
        if state:
            more["requestState"] = state
        await client.send(request("POST", "/mcp", modern(2, **more), **modern_headers()))
        await client.answer()
        first, second = at.reporter.of("begin")
        (ended,) = at.reporter.of("end")
        assert first.id == second.id == ended.id
        assert ended.status == "ok" and ended.attributes["hullwatch.rounds"] == 2


@over
async def test_a_subscription_lives_long_and_a_client_that_leaves_ends_it():
    gone = asyncio.Event()

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(sse())
        for number in range(1000):
            note = b'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n'
            try:
                writer.write(chunk(note))
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.02 if number else 0)
        gone.set()
        writer.close()

    body = modern(1).replace(b"tools/call", b"subscriptions/listen")
    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(
            request("POST", "/mcp", body, **modern_headers(method="subscriptions/listen"))
        )
        await client.head()
        assert b"list_changed" in await client.chunk()
        assert b"list_changed" in await client.chunk()
        client.close()
        await asyncio.wait_for(gone.wait(), 20)


@over
async def test_a_client_that_leaves_cancels_its_call():
    came = asyncio.Event()

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        came.set()
        await asyncio.sleep(60)

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", modern(1), **modern_headers()))
        await came.wait()
        client.close()
        (ended,) = await settled(at, "end")
        assert ended.status == "cancelled"


@over
async def test_a_server_that_is_not_there():
    async with between(answers_json) as at:
        at.peer._server.close()
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", call("q")))
        status, _, body = await client.answer()
        error = json.loads(body)
        assert (status, error["id"], error["error"]["code"]) == (502, "q", -32002)
        await client.send(request("GET", "/mcp"))
        assert (await client.answer())[0] == 502


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"garbage\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n"]
)
@over
async def test_a_server_that_breaks_off_before_it_answers(raw: bytes):
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", call(1)))
        status, _, body = await client.answer()
        assert (status, json.loads(body)["error"]["code"]) == (502, -32002)
        assert at.reporter.ends == [("echo", "lost")]


@pytest.mark.parametrize("how", ["stream", "first piece", "second piece"])
@over
async def test_a_server_that_breaks_off_in_the_middle(how: str):
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if how == "stream":
            writer.write(sse() + chunk(b": begin\n\n"))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        if how == "second piece":
            await asyncio.sleep(0.2)
            writer.write(b" ")
            await writer.drain()
        writer.close()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", modern(4), **modern_headers()))
        if how == "second piece":  # some of it is on its way already: it ends too early
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.answer()
        else:
            answer = (await client.answer())[2]
            error = json.loads(answer.removeprefix(b": begin\n\ndata: "))
            assert (error["id"], error["error"]["code"]) == (4, -32002)
        assert at.reporter.ends == [("echo", "lost")]


@over
async def test_an_http_error_ends_the_call():
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(b'{"error":"unauthorized"}', "401 Unauthorized"))
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", call(1)))
        assert (await client.answer())[0] == 401
        (ended,) = at.reporter.of("end")
        assert (ended.status, ended.error) == ("error", "http 401")


@over
async def test_large_bodies_pass_both_ways():
    size = 64 << 20

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        seen.append(len(asked.body))
        head = b'{"jsonrpc":"2.0","id":1,"result":{"t":"'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % (len(head) + size + 3))
        writer.write(head)
        for _ in range(64):
            writer.write(b"y" * (1 << 20))
            await writer.drain()
        writer.write(b'"}}')
        await writer.drain()

    seen: list[int] = []
    async with between(answering) as at:
        client = await Raw.connect(at.port)
        body = call(1, x="z" * (9 << 20))
        sending = asyncio.create_task(client.send(request("POST", "/mcp", body)))
        status, headers = await client.head()
        got = 0
        while got < int(headers["content-length"]):
            data = await client.reader.read(1 << 20)
            assert data
            got += len(data)
        await sending
        assert (status, seen) == (200, [len(body)])
        assert at.reporter.ends == [("echo", "ok")]
        (ended,) = at.reporter.of("end")
        assert ended.request_bytes == len(body) and ended.response_bytes == got


@over
async def test_a_slow_client_slows_the_server():
    sent = 0

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(sse())
        while sent < 256 << 20:
            writer.write(chunk(b": " + b"x" * 65000 + b"\n\n"))
            sent += 65000
            await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("GET", "/mcp"))
        await client.head()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert 0 < sent < 64 << 20


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost:6274"}, True),
        ({"Origin": "https://[::1]:1"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://192.0.2.7"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"host": "evil.example"}, False),
        ({"host": "evil.example:80"}, False),
        ({"host": "localhost:9"}, True),
        ({"host": "192.0.2.7:80"}, True),
    ],
)
@over
async def test_who_may_ask(headers: dict[str, str], allowed: bool):
    async with between(answers_json) as at:
        client = await Raw.connect(at.port)
        await client.send(request("POST", "/mcp", call(1), **headers))
        status = (await client.answer())[0]
        assert (status == 200, bool(at.peer.asked)) == (allowed, allowed)
        assert allowed or at.reporter.signals[0][0] == "request_refused"


@over
async def test_a_body_has_one_length():
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n")
        writer.write(b"Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\n\r\n")
        writer.write(chunk(b"seven77") + chunk(b""))
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        head = b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nX-Hop: 1\r\n"
        head += b"Connection: keep-alive, x-hop\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + chunk(b"GET / HTTP/1.1") + chunk(b""))
        _, headers, body = await client.answer()
        assert body == b"seven77" and "content-length" not in headers
        assert "x-hop" not in headers and headers["x-end"] == "1"
        (asked,) = at.peer.asked
        assert asked.body == b"GET / HTTP/1.1"
        assert not {"content-length", "x-hop"} & asked.headers.keys()
        await client.send(request("POST", "/mcp", b"{}").replace(b"Length: 2", b"Length: 2, 3"))
        assert (await client.answer())[0] == 400
        assert len(at.peer.asked) == 1


@over
async def test_other_paths_and_methods_pass():
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 201 Made\r\nX-Odd: 1\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with between(answering) as at:
        client = await Raw.connect(at.port)
        await client.send(request("PATCH", "/other/%2e?q", b"{}", X_Thing="v"))
        status, headers, body = await client.answer()
        assert (status, headers["x-odd"], body) == (201, "1", b"ok")
        form = b"POST /token HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(form + chunk(b"grant=") + chunk(b"x") + chunk(b""))
        assert (await client.answer())[0] == 201
        patch, token = at.peer.asked
        assert (patch.method, patch.target, patch.headers["x-thing"]) == (
            "PATCH",
            "/other/%2e?q",
            "v",
        )
        assert token.body == b"grant=x" and at.reporter.log == []


@over
async def test_a_held_call_is_answered_with_an_error_of_json_rpc(tmp_path: Path):
    pins = Pins(tmp_path / "pins.db")
    described = ["two", "one"]

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        tools = [{"name": "echo", "description": described.pop()}]
        writer.write(json_answer(result(json.loads(asked.body)["id"], tools=tools)))
        await writer.drain()

    async with between(answering, pins=pins, hold=True) as at:
        client = await Raw.connect(at.port)
        listing = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
        for _ in range(2):
            await client.send(request("POST", "/mcp", listing))
            await client.answer()
        await client.send(request("POST", "/mcp", call(2)))
        status, _, body = await client.answer()
        error = json.loads(body)
        assert (status, error["id"], error["error"]["code"]) == (200, 2, -32001)
        assert len(at.peer.asked) == 2
        assert at.reporter.signals == [("tool_changed", "echo"), ("call_held", "echo")]


@over
async def test_concurrent_calls_keep_apart():
    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.001 * (hash(asked.body) % 7))
        await answers_json(asked, writer)

    async def one(port: int, number: int) -> None:
        client = await Raw.connect(port)
        for turn in range(4):
            # Clients of the stateless era may use the same ids.
            await client.send(
                request("POST", "/mcp", modern(turn, f"t{number}"), **modern_headers(f"t{number}"))
            )
            status, _, body = await client.answer()
            assert (status, json.loads(body)["id"]) == (200, turn)
        client.close()

    async with between(answering) as at:
        await asyncio.gather(*(one(at.port, number) for number in range(32)))
        begun = {call.id: call.name for call in at.reporter.of("begin")}
        ended = {call.id: (call.name, call.status) for call in at.reporter.of("end")}
        assert len(begun) == len(ended) == 128
        assert all(ended[ident] == (name, "ok") for ident, name in begun.items())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@over
async def test_a_certificate_is_verified(tmp_path: Path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    async with Peer(answers_json, tls) as peer:
        for host, ca, status in (
            ("localhost", cert, 200),
            ("localhost", None, 502),
            ("127.0.0.1", cert, 502),
        ):
            upstream = Upstream(f"https://{host}:{peer.port}/mcp", ca)
            proxy = Proxy(Observer("peer", Recording()), upstream)
            server = await proxy.listen("127.0.0.1", 0)
            client = await Raw.connect(server.sockets[0].getsockname()[1])
            await client.send(request("POST", "/mcp", call(1)))
            got, _, body = await client.answer()
            assert got == status
            assert status == 200 or b"certificate" in body
            server.close()
            await proxy.close()
        assert len(peer.asked) == 1


@over
async def test_what_is_in_hand_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proxy_module, "MAX_IN_HAND", 1000)
    async with between(answers_json) as at:
        client = await Raw.connect(at.port)
        for size in (10, 5000, 10):
            await client.send(request("POST", "/mcp", call(1, x="y" * size)))
            assert (await client.answer())[0] == 200
        unparsed = [
            call.attributes.get("hullwatch.unparsed", False) for call in at.reporter.of("end")
        ]
        assert unparsed == [False, True, False]


@pytest.mark.parametrize(
    "url", ["ftp://x/", "http://", "http://u:p@h/", "http://h:99999/", "h/mcp", ""]
)
def test_urls_that_are_none(url: str):
    with pytest.raises(UrlError):
        Upstream(url)
