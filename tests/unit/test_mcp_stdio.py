"""The gateway over stdio, with real processes at both ends, most of which misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.mcp_reporter import read_trace

SERVER = [sys.executable, "-m", "support.mcp_stdio_server"]


class Gateway:
    def __init__(self, trace: Path, command: list[str], *options: str, **env: str) -> None:
        self.trace = trace
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.mcp_reporter", str(trace), *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "HULLWATCH_TEST_TRACE": str(trace)}
            | env,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.reader = os.fdopen(os.dup(self.stdout.fileno()), "rb")

    def send(self, raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:
            rest = rest[self.stdin.write(rest) or 0 :]

    def call(self, ident: Any, name: str, **arguments: Any) -> None:
        params = {"name": name, "arguments": arguments}
        self.send(_request(ident, "tools/call", params))

    def line(self) -> Any:
        return json.loads(self.reader.readline())

    def end(self, timeout: float = 30) -> int:
        """Its exit code, once it has ended by itself."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        return self.process.wait(timeout)

    def of(self, kind: str) -> list[Any]:
        return [value for what, value in read_trace(self.trace) if what == kind]

    def wait_for(self, kind: str, count: int = 1) -> list[Any]:
        until = time.monotonic() + 20
        while len(self.of(kind)) < count and time.monotonic() < until:
            time.sleep(0.01)
        return self.of(kind)


def _request(ident: Any, method: str, params: Any = None) -> bytes:
    message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params or {}}
    return json.dumps(message).encode() + b"\n"


@pytest.fixture
def start(tmp_path) -> Iterator[Any]:
    started: list[Gateway] = []

    def begin(*options: str, command: list[str] = SERVER, **env: str) -> Gateway:
        started.append(Gateway(tmp_path / "trace", command, *options, **env))
        return started[-1]

    yield begin
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait()
        gateway.reader.close()


def test_bytes_pass_as_they_came(start):
    odd = [
        b'{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"a":1.0,"a":2}}\n',
        b'  { "method" : "ping" ,\t"id":"\\u0041" }\r\n',
        b"\n",
        b"not json \xff\xfe\x00\n",
        b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]\n',
        b'{"id":1e3,"method":"tools/call"}\n',
        b"no newline at the end",
    ]
    gateway = start(command=["cat"])
    gateway.send(b"".join(odd))
    gateway.stdin.close()
    assert gateway.reader.read().startswith(b"".join(odd))
    assert gateway.end() == 0


def test_a_call_is_known_before_the_server_has_it(start):
    gateway = start()
    for number, name in enumerate("abc"):
        gateway.call(number, name)
    assert [gateway.line()["id"] for _ in range(3)] == [0, 1, 2]
    assert gateway.end() == 0
    order = [
        (kind, value["name"] if kind == "begin" else value)
        for kind, value in read_trace(gateway.trace)
        if kind in ("begin", "server")
    ]
    assert len(order) == 6
    for name in "abc":
        assert order.index(("begin", name)) < order.index(("server", name))
    begun, ended = gateway.of("begin")[0], gateway.of("end")[0]
    assert begun["id"] == ended["id"] and ended["status"] == "ok"
    assert begun["pid"] > 0 and begun["attributes"]["gen_ai.tool.name"] == "a"


@pytest.mark.parametrize(
    ("act", "status", "error"),
    [("echo", "ok", ""), ("fails", "error", "tool_error"), ("rpc_error", "error", "-32602")],
)
def test_how_a_call_ends(start, act, status, error):
    gateway = start()
    gateway.call(1, act)
    gateway.line()
    (ended,) = gateway.wait_for("end")
    assert (ended["status"], ended.get("error", "")) == (status, error)


@pytest.mark.parametrize(("act", "code"), [("crash", 7), ("kill", 128 + 9), ("cut", 3)])
def test_a_server_that_dies_leaves_no_request_without_an_answer(start, act, code):
    gateway = start()
    gateway.call("a", "hang")
    gateway.send(_request(2, "resources/list"))
    assert gateway.line()["id"] == 2
    gateway.call(3, act)
    lines = gateway.reader.read().splitlines()
    if act == "cut":
        assert lines.pop(0) == b'{"jsonrpc":"2.0","id":'
    answers = {json.loads(line)["id"]: json.loads(line)["error"] for line in lines}
    assert answers.keys() == {"a", 3}
    assert all(error["code"] == -32002 for error in answers.values())
    assert gateway.end() == code
    assert [call["status"] for call in gateway.of("end")] == ["lost", "lost"]


def test_a_server_that_closes_its_output_and_lives(start):
    gateway = start()
    gateway.call(1, "close_output")
    assert gateway.line()["error"]["code"] == -32002
    assert gateway.reader.read() == b""
    assert gateway.process.poll() is None
    assert gateway.end() == 0


def test_a_server_that_reads_no_more(start):
    gateway = start()
    gateway.call(1, "close_input")
    assert gateway.line()["result"] == {"content": []}
    gateway.call(2, "echo")
    assert gateway.line()["error"]["code"] == -32002
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.end() == 128 + signal.SIGTERM


def test_what_is_cancelled(start):
    gateway = start()
    gateway.call(5, "hang")
    params = {"requestId": 5}
    gateway.send(json.dumps({"method": "notifications/cancelled", "params": params}).encode())
    gateway.send(b"\n")
    (ended,) = gateway.wait_for("end")
    assert ended["status"] == "cancelled"
    assert gateway.end() == 0
    assert len(gateway.of("end")) == 1


@pytest.mark.parametrize("id_last", [False, True])
def test_a_large_answer_passes_and_ends_its_call(start, id_last):
    size = 64 << 20
    gateway = start()
    gateway.call(4, "huge", size=size, id_last=id_last)
    line = gateway.reader.readline()
    assert len(line) > size and line.count(b"x") >= size
    (ended,) = gateway.wait_for("end")
    assert ended["status"] == "ok" and ended["response_bytes"] == len(line)
    assert "unparsed" in {signal["kind"] for signal in gateway.of("signal")}
    assert _peak_mib(gateway.process.pid) < 150


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_a_large_request_passes_and_is_a_call(start):
    gateway = start()
    text = "y" * (9 << 20)
    threading.Thread(target=gateway.call, args=(1, "echo"), kwargs={"text": text}).start()
    # Our own order of keys puts the id before the parameters.
    answer = gateway.line()
    assert answer["result"]["content"][0]["text"] == text
    (ended,) = gateway.wait_for("end")
    assert ended["status"] == "ok" and ended["request_bytes"] > 9 << 20


def test_a_slow_server_slows_the_client(start):
    gateway = start()
    gateway.call(1, "slow_reader", seconds=60)
    gateway.line()
    os.set_blocking(gateway.stdin.fileno(), False)
    chunk = _request(2, "ping", {"pad": "z" * 60_000})
    taken, until = 0, time.monotonic() + 20
    still = 0
    while time.monotonic() < until and still < 20:
        wrote = gateway.stdin.write(chunk)
        still = 0 if wrote else still + 1
        taken += wrote or 0
        time.sleep(0 if wrote else 0.05)
    # Three pipes and one message, not all that a client could write.
    assert 0 < taken < 4 << 20


def test_garbage_from_a_server_passes_and_is_told(start):
    gateway = start()
    gateway.call(1, "garbage")
    assert gateway.reader.readline() == b"not json at all \xff\xfe {\n"
    assert gateway.reader.readline().endswith(b"}  \r\n")
    assert gateway.line()["id"] == 1
    assert ("unparsed", "answer") in {(s["kind"], s["subject"]) for s in gateway.of("signal")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_server(start, number):
    gateway = start()
    gateway.call(1, "echo")
    gateway.line()
    gateway.process.send_signal(number)
    code = gateway.process.wait(30)  # before its input ends, which would end it, too
    assert code in (128 + number, 1)  # Python's own way with SIGINT


def test_a_server_that_ignores_the_signal_is_killed(start):
    gateway = start()
    gateway.call(1, "ignore_term")
    gateway.line()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(30) == 128 + signal.SIGKILL


def test_a_client_that_goes_away_ends_the_server(start):
    gateway = start(command=["sh", "-c", "cat; echo $$; exit 5"])
    gateway.send(b"{}\n")
    gateway.reader.readline()
    gateway.stdout.close()
    assert gateway.end() == 5


def test_a_changed_tool_is_held_until_it_is_accepted(start, tmp_path):
    from hullwatch.agent.mcp.pins import Pins

    path = tmp_path / "pins.db"
    tool = {"name": "echo", "description": "one", "inputSchema": {}}
    for description in ("one", "two"):
        tools = json.dumps([tool | {"description": description}])
        gateway = start("--hold", "--pins", str(path), HULLWATCH_TEST_TOOLS=tools)
        gateway.send(_request(1, "tools/list"))
        gateway.line()
        gateway.call(2, "echo")
        answer = gateway.line()
        if description == "one":
            assert "result" in answer
            gateway.end()
    assert answer["error"]["code"] == -32001
    assert "hullwatch mcp pins accept peer echo" in answer["error"]["message"]
    pins = Pins(path)
    assert pins.accept("peer", "echo", 1) == ["echo"]
    gateway.call(3, "echo")
    assert "result" in gateway.line()
    assert gateway.end() == 0
    kinds = [(one["kind"], one["held"]) for one in gateway.of("signal") if one.get("held")]
    assert kinds == [("tool_changed", True), ("call_held", True)]


def test_what_cannot_be_read_for_certain_is_held_as_well(start, tmp_path):
    gateway = start("--hold", "--pins", str(tmp_path / "pins.db"))
    gateway.send(b'{"id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}\n')
    assert "two ways" in gateway.line()["error"]["message"]
    gateway.send(b"garbage\n")
    assert gateway.line()["id"] is None
    gateway.send(b'{"method":"tools/call","params":{"name":"echo","x":"' + b"x" * (9 << 20))
    gateway.send(b'"},"jsonrpc":"2.0","id":8}\n')
    assert gateway.line()["id"] == 8
    gateway.end()
    assert not gateway.of("server")


def test_a_slow_client_gets_all_of_a_server_that_has_ended(start):
    gateway = start(command=["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo"])
    time.sleep(3)  # longer than a process that is gone is waited for
    assert len(gateway.reader.read()) == 3_000_001
    assert gateway.end() == 0


def test_a_process_that_keeps_the_pipe_open_keeps_nobody_waiting(start):
    gateway = start(command=["sh", "-c", "sleep 60 & echo $!; exit 4"])
    left = int(gateway.reader.readline())
    try:
        assert gateway.process.wait(20) == 4
    finally:
        os.kill(left, signal.SIGKILL)
