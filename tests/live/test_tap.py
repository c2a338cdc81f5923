"""The tap: calls read out of pipes, sockets and TLS of servers and clients that are not changed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hullwatch.agent.tap import Listener
from hullwatch.context.call import Call
from hullwatch.sensor.programs import RingSizes
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.wire import Class
from hullwatch.store.calls import rows
from hullwatch.store.query import Reader
from support.agent import Agent
from support.peers.attributed import attributed
from support.peers.drive import Client, drive, serve
from support.peers.environments import missing
from support.peers.model_api import HOSTS, ModelClient, drive_models, model_api
from support.peers.model_score import matched
from support.peers.servers import server
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

# A server of lines: it touches the file a call names, after it was told to go on.
SERVER = r"""
import json, os, sys
head = sys.argv[1] == "head"
def answer(message, **said):
    ident = {"id": message["id"]}
    whole = {"jsonrpc": "2.0"} | (ident | said if head else said | ident)
    os.write(1, json.dumps(whole, separators=(",", ":")).encode() + b"\n")
left = b""
while data := os.read(0, 1 << 20):
    *lines, left = (left + data).split(b"\n")
    for message in map(json.loads, lines):
        if message["method"] == "tools/call":
            params = message["params"]
            open(params["arguments"]["file"], "w").close()
            if params["name"] == "fails":
                answer(message, error={"code": -1, "message": "x"})
            elif params["name"] != "stays":
                answer(message, result={"content": [], "more": "y" * params.get("more", 0)})
        elif message["method"] == "touch":
            open(message["params"], "w").close()
            answer(message, result={})
        elif "id" in message:
            answer(message, result={})
"""


class Heard:
    """A sensor that listens; calls as they are told, and of each file the span it was made in."""

    def __init__(self) -> None:
        self.sensor = Sensor(record=True, policy=False, rings=RingSizes(tap=4 << 20))
        self._names: dict[int, str] = {}
        self.begin()
        self.sensor.start()
        self.sensor.tap.start()
        self.drain()

    def begin(self) -> None:
        """Anew, with nothing heard yet."""
        self.told: list[Call] = []
        self.listener = Listener(self.sensor.tap, self.told.append, lambda text: f"#{text}")
        self.sensor.on_pieces = lambda pieces: self.listener.take(pieces, 0)
        self.spans: dict[str, int] = {}

    def drain(self) -> None:
        for _ in range(200):
            batch = self.sensor.drain()
            for string in batch.strings:
                self._names[string.id] = string.data.decode("utf-8", "replace")
            ended = batch.events["proc"][batch.events["cls"] == int(Class.EXIT)] & ((1 << 22) - 1)
            self.listener.ended(ended.tolist(), time.time_ns())
            for event in batch.events:
                name = self._names.get(int(event["obj"]), "")
                if "/made-" in name:
                    self.spans[name.rpartition("/made-")[2]] = int(event["span"])
            if not len(batch.events):
                return

    def ended(self) -> list[Call]:
        self.drain()
        return [call for call in self.told if call.end]


@pytest.fixture(scope="module")
def module_heard() -> Iterator[Heard]:
    """One for all: to load the programs takes longer than most tests."""
    if reason := missing_bpf():
        pytest.skip(reason)
    made = Heard()
    yield made
    made.sensor.close()


@pytest.fixture
def heard(module_heard: Heard) -> Heard:
    module_heard.drain()
    module_heard.begin()
    return module_heard


class Server:
    def __init__(self, order: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, order], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def write(self, *pieces: bytes) -> None:
        assert self.process.stdin
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.05)
            self.process.stdin.write(piece)
            self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def ask(self, message: bytes) -> dict[str, Any]:
        self.write(message)
        return self.read()

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture(params=["head", "tail"])
def lines(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Its replies have the id before the result, or after it."""
    made = Server(request.param)
    yield made
    made.close()


def call(folder: Path, name: str, ident: Any, order: str = "head", **more: Any) -> bytes:
    params = {"name": more.pop("tool", "does"), "arguments": {"file": str(folder / f"made-{name}")}}
    first, last = {"jsonrpc": "2.0", "id": ident}, {"method": "tools/call"}
    whole = {"params": params | more}
    message = first | last | whole if order == "head" else last | whole | first
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def touch(folder: Path, name: str) -> bytes:
    said = {"jsonrpc": "2.0", "id": "t", "method": "touch", "params": str(folder / f"made-{name}")}
    return json.dumps(said).encode() + b"\n"


@pytest.mark.scenario
def test_the_kernel_opens_and_closes_each_call(heard: Heard, lines: Server, tmp_path: Path) -> None:
    long = "z" * 300_000
    asked: list[tuple[int | str, str, dict[str, Any]]] = [
        (1, "head", {}),
        (2, "tail", {}),
        ("a-string", "tail", {}),
        (4, "tail", {"long": long}),
        (5, "head", {"long": long}),
        (6, "head", {"more": 300_000}),
        (7, "tail", {"tool": "fails"}),
    ]
    for number, (ident, order, more) in enumerate(asked):
        assert lines.ask(call(tmp_path, f"in-{number}", ident, order, **more))["id"] == ident
        assert lines.ask(touch(tmp_path, f"after-{number}"))["result"] == {}
        if not number:
            heard.drain()  # from now on all of it is wanted
    heard.drain()
    # Nobody looked in between: it is the kernel by itself that knows when a call is over.
    inside = [heard.spans[f"in-{number}"] for number in range(7)]
    assert len(set(inside)) == 7 and 0 not in inside
    assert {heard.spans[f"after-{number}"] for number in range(7)} == {0}
    ended = heard.ended()
    assert [one.id for one in ended] == inside
    assert [one.status for one in ended] == ["ok"] * 6 + ["error"]
    assert [one.attributes["jsonrpc.request.id"] for one in ended][:3] == ["1", "2", "a-string"]
    assert heard.listener.stats()["mistaken"] == 0 and "late" not in heard.listener.heard


@pytest.mark.scenario
def test_messages_in_pieces_and_several_at_once(heard: Heard, tmp_path: Path) -> None:
    server = Server("head")
    try:
        whole = call(tmp_path, "split", 1)
        server.write(whole[:30], whole[30:75], whole[75:])
        assert server.read()["id"] == 1
        both = call(tmp_path, "one", 2, tool="stays") + call(tmp_path, "two", 3)
        server.write(both)
        assert server.read()["id"] == 3
        assert server.ask(touch(tmp_path, "still"))["id"] == "t"
    finally:
        server.close()
    heard.drain()
    begun = [one for one in heard.told if not one.end]
    assert [one.attributes["jsonrpc.request.id"] for one in begun] == ["1", "2", "3"]
    assert heard.spans["split"] == begun[0].id
    # Both had been read when the first was acted on: it may have been either.
    assert heard.spans["one"] >> 63 == 1
    assert heard.spans["still"] == begun[1].id
    # Its server ended without a reply.
    last = {one.id: one.status for one in heard.ended()}
    assert last == {begun[0].id: "ok", begun[1].id: "lost", begun[2].id: "ok"}


@pytest.mark.scenario
def test_what_was_asked_before_the_end_of_input_is_answered(heard: Heard, tmp_path: Path) -> None:
    """echo REQUEST | server"""
    request = call(tmp_path, "piped", 1) + call(tmp_path, "next", 2)
    command = [sys.executable, "-c", SERVER, "tail"]
    subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True)
    assert [one.status for one in heard.ended()] == ["ok", "ok"]


@pytest.mark.scenario
def test_what_is_no_call_is_none(heard: Heard, lines: Server, tmp_path: Path) -> None:
    for text in (
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"method":"tools/call"}}\n',
        b'{"jsonrpc":"2.0","id":2,"method":"ping","params":"\\"method\\":\\"tools/call\\""}\n',
        b'{"jsonrpc":"2.0","id":3,"method":"tools/list"}\n',
        b'{"jsonrpc":"2.0","id":4,"method":"tools/callx"}\n',
    ):
        lines.ask(text)
    assert lines.ask(touch(tmp_path, "plain"))["id"] == "t"
    heard.drain()
    assert heard.told == [] and heard.spans["plain"] == 0


@pytest.mark.scenario
def test_other_pipes_are_not_read(heard: Heard) -> None:
    before = dict(heard.listener.stats())
    subprocess.run(["cat"], input=b'{"level":"info","message":"x"}\n' * 1000, check=True)
    subprocess.run(["cat"], input=os.urandom(1 << 20), check=True, stdout=subprocess.PIPE)
    heard.drain()
    assert heard.listener.stats()["streams"] == before["streams"]


# --- real servers and clients ---------------------------------------------------------------


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    if reason := missing_bpf() or missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tap")
    with Agent(folder / "store", record=True, tap=True, calls=folder / "calls.sock") as started:
        yield started


@pytest.mark.parametrize(
    ("name", "client", "at", "transport"),
    [
        ("worker-py1-thread", "ts2", 1, "stdio"),
        ("worker-py2-async", "py1", 8, "stdio"),
        ("worker-ts1", "py2", 1, "stdio"),
        ("filesystem", "py1", 1, "stdio"),
        ("git-py1", "ts2", 1, "stdio"),
        ("worker-py1-thread", "py1", 1, "http"),
        ("worker-py2-async", "ts2", 1, "http"),
        ("worker-ts2", "py2", 8, "http"),
    ],
)
def test_a_server_that_nobody_stands_before(
    agent: Agent, tmp_path: Path, name: str, client: Client, at: int, transport: str
) -> None:
    if transport == "stdio":
        truths = drive(server(name), client, folder=tmp_path, calls=24, concurrency=at)
    else:
        with serve(server(name), tmp_path, "http") as served:
            url = served.url
            truths = drive(
                served.server, client, folder=tmp_path, calls=24, concurrency=at, url=url
            )
    agent.settle()
    time.sleep(1.5)  # calls are written once a second
    who, found = attributed(agent.store, truths)
    assert not who.missed and not who.extra
    for kind, count in found.items():
        assert (count.wrong, count.none, count.unseen) == (0, 0, 0), f"{kind}: {count}"
        assert count.precision == 1.0
        if at == 1:
            assert (count.recall, count.ambiguous) == (1.0, 0), f"{kind}: {count}"


def test_what_a_gateway_tells_is_not_told_again(agent: Agent, tmp_path: Path) -> None:
    via = [
        *("env", f"HULLWATCH_CALLS={agent.store.parent / 'calls.sock'}"),
        *(sys.executable, "-m", "hullwatch", "mcp", "--state", str(tmp_path / "pins"), "--"),
    ]
    one = server("worker-py1-thread")
    truths = drive(one, "py1", folder=tmp_path, calls=8, via=via)
    agent.settle()
    time.sleep(1.5)
    who, _ = attributed(agent.store, truths)
    assert not who.missed and not who.extra
    since = min(truth.begin for truth in truths) // 1000
    with Reader(agent.store) as reader:
        told = reader.query(
            "SELECT DISTINCT source FROM calls WHERE kind = 'tool'"
            " AND begun >= make_timestamptz($1::BIGINT)",
            since,
        ).table.to_pylist()
    assert [row["source"] for row in told] == ["gateway"]


@pytest.mark.parametrize("client", ["openai", "anthropic", "azure", "node"])
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_calls_of_models(agent: Agent, tmp_path: Path, client: ModelClient, tls: bool) -> None:
    """The vendors' own clients. Over TLS, by a library that is hooked: a first, short run is what
    has it hooked."""
    with model_api(tmp_path, tls=tls) as api:
        if tls:
            drive_models(api, client, calls=2, host=HOSTS[client])
            time.sleep(1.0)
        truths = drive_models(api, client, calls=36, concurrency=4, host=HOSTS[client])
    agent.settle()
    time.sleep(1.5)
    with Reader(agent.store) as reader:
        found, _ = rows(reader, f"kind = 'model' AND pid = {truths[0].pid}", 1000)
    result = matched(truths, found)
    assert (result.missed, result.extra, result.differing) == ([], [], [])
    said = {(one.server, one.attributes["hullwatch.api_key.kind"]) for one in found}
    assert len({provider for provider, _ in said}) == 1
    text = repr(found)
    assert not any(truth.key in text or truth.token in text for truth in truths)


def test_nothing_that_was_said_is_kept(tmp_path: Path) -> None:
    """Prompts, keys, arguments and results: in no file of the store, in no answer of the command
    line, in nothing that the agent says."""
    if reason := missing_bpf() or missing():
        pytest.skip(reason)
    store = tmp_path / "store"
    with (
        Agent(store, record=True, tap=True, calls=tmp_path / "calls.sock") as agent,
        model_api(tmp_path) as api,
    ):
        drive_models(api, "openai", calls=2, host=HOSTS["openai"])
        time.sleep(1.0)
        truths = drive_models(api, "openai", calls=16, concurrency=2, host=HOSTS["openai"])
        planted = ["planted-argument-7f1", "planted-result-7f1", "sk-ant-api03-planted7f1"]
        _say(*planted)
        agent.settle()
        time.sleep(1.5)
        said = agent.words()
        shown = [
            subprocess.run(
                [sys.executable, "-m", "hullwatch", *words, "--store", str(store), "--json"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for words in (["calls"], ["routes"], ["events"], ["status"], ["findings"])
        ]
        with Reader(store) as reader:
            told = reader.query("SELECT name, kind FROM calls").table.to_pylist()
    assert {"name": "planted", "kind": "tool"} in told
    assert sum(one["kind"] == "model" for one in told) >= 16
    planted += [truth.token for truth in truths] + [truth.key for truth in truths]
    for text in (said, *shown, *(_whole(path) for path in store.rglob("*") if path.is_file())):
        found = [one for one in planted if one in text]
        assert not found, found


def _say(argument: str, result: str, key: str) -> None:
    """A call whose argument and result are known, and are in no command line."""
    program = (
        "import os; os.read(0, 65536);"
        ' os.write(1, (\'{"jsonrpc":"2.0","id":1,"result":{"text":"\''
        " + os.environ['R'] + '\"}}\\n').encode())"
    )
    said = {"name": "planted", "arguments": {"text": argument, "key": key}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": said}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(message).encode() + b"\n",
        env={**os.environ, "R": result},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert result.encode() in done.stdout


def _whole(path: Path) -> str:
    """All that is in a file of the store."""
    if path.suffix == ".parquet":
        return repr(pq.read_table(path).to_pylist())
    return path.read_bytes().decode("utf-8", "replace")


def test_who_speaks_tls_that_cannot_be_read_is_named(agent: Agent, tmp_path: Path) -> None:
    """In an event, in `doctor`, and not those whose TLS is read."""
    hello = ssl.MemoryBIO()
    made = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="a.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    (tmp_path / "hello").write_bytes(hello.read())
    (tmp_path / "own.c").write_text(OWN_TLS)
    program = tmp_path / "own-tls"
    subprocess.run(["cc", "-o", program, tmp_path / "own.c"], check=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        subprocess.run([program, tmp_path / "hello", port], check=True, timeout=30)
    agent.settle()

    def named() -> list[dict[str, Any]]:
        status = agent.status() or {}
        return [one for one in status["tls"]["opaque"] if one["exe"] == str(program)]

    poll(named, seconds=20, waiting_for="the name of who cannot be read")
    assert "not known here" in named()[0]["why"]
    agent.settle()
    said = agent.query("SELECT object, object2 FROM events WHERE class = 'signal'")
    assert [one for one in said if one["object"] == str(program)]
    shown = subprocess.run(
        [sys.executable, "-m", "hullwatch", "doctor", "--quick", "--store", str(agent.store)],
        capture_output=True,
        text=True,
    ).stdout
    assert f"opaque: {program}" in shown.replace("\n", "")


# A program with a TLS library that nobody knows: it says hello, and has the label of TLS 1.3.
OWN_TLS = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
const char *volatile label = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";
int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
	char hello[4096];
	FILE *file = fopen(argv[1], "rb");
	int size = fread(hello, 1, sizeof(hello), file), fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
	if (connect(fd, (void *)&to, sizeof(to)) || write(fd, hello, size) != size)
		return 1;
	sleep(2); /* long enough to be looked at */
	return label == 0;
}
"""
