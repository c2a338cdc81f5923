"""Messages that try to get a forbidden call past the gateway: a real gateway before a real server,
over stdio and HTTP. What no policy forbids goes on before and after each."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.gatekeeping import BYPASSES, HIDDEN_SAMPLING, raw_call, request_of, sampling
from support.mcp_http_server import request
from support.scratch import poll

pytestmark = pytest.mark.timeout(120)

POLICY = """
@id("no-delete")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/delete_file");
@id("no-big")
forbid (principal, action == Action::"model-call", resource == Model::"big");
"""
SERVER = """
import json, os, sys
for line in sys.stdin.buffer:
    with open(os.environ["TRACE"], "ab") as file:
        file.write(line)
    for asked in [json.loads(line)]:
        if isinstance(asked, dict) and "id" in asked:
            answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"content": []}}
            print(json.dumps(answer), flush=True)
"""
GOOD, BAD = raw_call(70, "read_file"), raw_call(71, "delete_file")
ASKS = raw_call(70, "ask")  # its answer is a stream, in which the server asks for a model
HELLO = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {}}  # has batches


def pieces(data: bytes) -> list[bytes]:
    """So that a key, an escape and a name are each in several."""
    return [data[at : at + 5] for at in range(0, len(data), 5)]


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    (folder / "policy.cedar").write_text(POLICY)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "hullwatch", "mcp", "--name", "files"),
            *("--policy", str(folder / "policy.cedar"), "--store", str(folder / "store"), *words),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # so that select sees all that there is
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HULLWATCH_CALLS": str(folder / "no-agent.sock"),
            "HULLWATCH_APPROVALS": str(folder / "desks"),
            "HULLWATCH_DECISIONS": str(folder / "log"),
            "HULLWATCH_MCP_STATE": str(folder / "state"),
            "TRACE": str(folder / "trace"),
        },
    )


# -- stdio ------------------------------------------------------------------------------------


class Pipe:
    """A client of raw lines."""

    def __init__(self, folder: Path) -> None:
        (folder / "server.py").write_text(SERVER)
        self.trace = folder / "trace"
        self.process = started(folder, "--", sys.executable, str(folder / "server.py"))
        self.passed = [json.dumps(request_of(0, "initialize", **HELLO)).encode()]
        self.write(self.passed[0] + b"\n")
        self.answer(0)

    def write(self, *parts: bytes) -> None:
        assert self.process.stdin
        for part in parts:
            self.process.stdin.write(part)
            self.process.stdin.flush()

    def answer(self, ident: int) -> dict[str, Any]:
        """Of this id; others before it are passed over."""
        assert self.process.stdout
        while True:
            assert select.select([self.process.stdout], [], [], 60)[0], "no answer"
            found = json.loads(self.process.stdout.readline())
            if isinstance(found, dict) and found.get("id") == ident:
                return found

    def still_goes(self) -> None:
        """What is not forbidden does, and nothing else has come to the server."""
        ident = 1000 + len(self.passed)
        self.passed.append(raw_call(ident, "read_file"))
        self.write(self.passed[-1] + b"\n")
        assert "result" in self.answer(ident)
        assert self.trace.read_bytes().splitlines() == self.passed


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipe]:
    made = Pipe(tmp_path_factory.mktemp("pipe"))
    yield made
    made.process.kill()
    made.process.communicate()


BY_PIPE: dict[str, Callable[[Pipe], object]] = {
    "split": lambda pipe: pipe.write(*pieces(BAD + b"\n")),
    "two in one write": lambda pipe: pipe.write(
        BAD + b"\n" + BAD.replace(b"71", b"72", 1) + b"\r\n"
    ),
    "end of one and all of the next": lambda pipe: pipe.write(
        BAD[:9], BAD[9:] + b"\n" + BAD + b"\n"
    ),
    "batch in pieces": lambda pipe: pipe.write(*pieces(b"[" + GOOD + b"," + BAD + b"]\n")),
    "without an end": lambda pipe: pipe.write(b" " * 9000 + BAD[:-1], BAD[-1:] + b"\n"),
} | {name: lambda pipe, raw=raw: pipe.write(raw + b"\n") for name, raw in BYPASSES.items()}


@pytest.mark.parametrize("way", BY_PIPE)
def test_over_stdio(pipe: Pipe, way: str) -> None:
    BY_PIPE[way](pipe)
    pipe.still_goes()


# -- HTTP -------------------------------------------------------------------------------------


class Web:
    """A client of raw bytes, each time over a connection of its own."""

    def __init__(self, folder: Path, upstream: int, seen: list[bytes]) -> None:
        url = f"http://127.0.0.1:{upstream}/mcp"
        self.process = started(folder, "--upstream", url, "--listen", "127.0.0.1:0")
        self.seen = seen
        assert self.process.stderr
        found = None
        while found is None:
            line = self.process.stderr.readline()
            assert line, "the gateway has ended"
            found = re.search(rb"listening on http://127\.0\.0\.1:(\d+)", line)
        self.port = int(found[1])

    def send(self, *parts: bytes) -> bytes:
        """What comes until the gateway closes; the last request has to ask for that."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                link.sendall(part)
            said = b""
            while piece := link.recv(1 << 16):
                said += piece
        return said

    def still_goes(self) -> None:
        assert b'"result"' in self.send(post(GOOD))
        assert set(self.seen) <= {GOOD}
        self.seen.clear()


def post(body: bytes, **headers: str) -> bytes:
    return request("POST", "/mcp", body, **{"Connection": "close"} | headers)


def chunked(body: bytes) -> bytes:
    head, _, _ = post(b"").partition(b"\r\n\r\n")
    head += b"\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = (b"%x\r\n%s\r\n" % (len(part), part) for part in pieces(body))
    return head + b"".join(parts) + b"0\r\n\r\n"


def modern(name: str, **headers: str) -> bytes:
    """Of 2026-07-28, whose headers repeat what the body says."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    said = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": name}
    return post(raw_call(71, "delete_file", _meta=meta), **said | headers)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    seen: list[bytes] = []

    class Upstream(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"jsonrpc": "2.0", "id": 70, "result": {"content": []}}).encode()
            kind = "application/json"
            if seen[-1] == ASKS:
                kind = "text/event-stream"
                said = (*HIDDEN_SAMPLING.values(), sampling(5, "small"), answer)
                answer = b"".join(b"data: " + one + b"\n\n" for one in said)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = Web(tmp_path_factory.mktemp("web"), server.server_port, seen)
        yield made
        made.process.kill()
        made.process.communicate()
        server.shutdown()


BY_WEB: dict[str, Callable[[Web], bytes]] = {
    "split": lambda web: web.send(*pieces(post(BAD))),
    "chunks": lambda web: web.send(*pieces(chunked(BAD))),
    "chunks in one write": lambda web: web.send(chunked(BAD)),
    "two in one write": lambda web: web.send(post(GOOD, Connection="keep-alive") + post(BAD)),
    "a second one in the body of the first": lambda web: web.send(post(BAD + post(GOOD))),
    "batch in pieces": lambda web: web.send(*pieces(post(b"[" + GOOD + b"," + BAD + b"]"))),
    "name of the header": lambda web: web.send(modern("read_file")),
    "method of the header": lambda web: web.send(modern("delete_file", Mcp_Method="tools/list")),
    "as the header says": lambda web: web.send(modern("delete_file")),
    "name of the header, before it meant anything": lambda web: web.send(
        post(BAD, Mcp_Name="read_file")
    ),
    "name twice": lambda web: web.send(
        modern("delete_file").replace(b"\r\n", b"\r\nMcp-Name: read_file\r\n", 1)
    ),
    "two lengths": lambda web: web.send(
        post(BAD).replace(b"\r\n", b"\r\nContent-Length: 2\r\n", 1)
    ),
    "length and chunks": lambda web: web.send(
        chunked(BAD).replace(b"\r\n", b"\r\nContent-Length: 4\r\n", 1)
    ),
} | {name: lambda web, raw=raw: web.send(post(raw)) for name, raw in BYPASSES.items()}


@pytest.mark.parametrize("way", BY_WEB)
def test_over_http(web: Web, way: str) -> None:
    said = BY_WEB[way](web)
    assert said.startswith(b"HTTP/1.1 ")
    web.still_goes()


def test_what_the_server_asks_of_the_clients_model_over_http(web: Web) -> None:
    said = web.send(post(ASKS))
    assert [json.loads(one)["id"] for one in re.findall(rb"data: (.*)", said)] == [5, 70]
    poll(lambda: len(web.seen) == 14, seconds=20, waiting_for="the errors for those with an id")
    (asked, *refused) = map(json.loads, web.seen)
    assert asked["id"] == 70 and {one["error"]["code"] for one in refused} == {-1, -32600}
    web.seen.clear()
    web.still_goes()
