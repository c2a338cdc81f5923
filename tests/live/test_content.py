"""Content of calls in real containers: kept of the one that was chosen, without its secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from hullwatch.agent import semconv
from hullwatch.agent.secrets import KINDS, detect
from hullwatch.agent.secrets.examples import fill
from hullwatch.demo.watcher import Watcher
from support.agent import Agent
from support.bundles import Mount
from support.cli import cli
from support.images import Image
from support.needs import missing
from support.otlp import Collector
from support.runc import Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

EXAMPLES = {kind.name: kind.example for kind in KINDS}
PLANTED = {
    name: fill(EXAMPLES[name], Random(number))
    for number, name in enumerate(
        "github_token anthropic_api_key aws_access_key_id aws_secret_access_key database_url"
        " private_key slack_token jwt".split()
    )
}
PIECE = 8

# A server of lines, and a client that starts it, calls its tool, and asks a model (its own, which
# streams in small pieces). What they say is in a file, in no command line.
SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    text = asked["params"]["arguments"]["text"]
    said = {"content": [{"type": "text", "text": "result of " + text}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": said}), flush=True)
"""
CLIENT = """
import http.client, http.server, json, subprocess, sys, threading, time
say = json.load(open("/srv/say.json"))
server = subprocess.Popen(["python3", "/srv/server.py"], stdin=-1, stdout=-1)
for number, text in enumerate(say["texts"]):
    params = {"name": "tell", "arguments": {"text": text}}
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    server.stdin.write(json.dumps(message).encode() + b"\\n")
    server.stdin.flush()
    server.stdout.readline()
    time.sleep(1)  # by then the agent wants all of it

class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][0]["content"]
        step = max(5, len(text) // 500)
        events = [
            {"model": "m", "choices": [{"index": 0, "delta": {"content": text[at:at + step]}}]}
            for at in range(0, len(text), step)
        ]
        body = "".join(f"data: {json.dumps(event)}\\n\\n" for event in events)
        body = (body + "data: [DONE]\\n\\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), 1000):
            self.wfile.write(body[at:at + 1000])
    def log_message(self, *_):
        pass

model = http.server.HTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=model.serve_forever, daemon=True).start()
link = http.client.HTTPConnection("127.0.0.1", model.server_port)
for text in say["texts"]:
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}
    head = {"Content-Type": "application/json"}
    link.request("POST", "/v1/chat/completions", json.dumps(asked), head)
    link.getresponse().read()
    time.sleep(1)
print("done", flush=True)
time.sleep(1000)
"""


def texts(mark: str) -> list[str]:
    """With a mark at either end, and between them each of the secrets."""
    long = "words and more words " * 800
    return [
        f"begin-{mark}\n" + "\n".join(PLANTED.values()) + f"\nend-{mark}",
        f"begin-{mark} {long}\n" + "\n".join(PLANTED.values()) + f"\n{long} end-{mark}",
    ]


def secrets_left(text: str) -> list[str]:
    found: list[str] = []
    for value in PLANTED.values():
        for one in detect(value):
            # A private key, line by line: its first is the same in each.
            for line in value[one.start : one.end].replace("\\n", "\n").splitlines():
                if "PRIVATE KEY" not in line:
                    found += [
                        line[at : at + PIECE]
                        for at in range(len(line) - PIECE + 1)
                        if line[at : at + PIECE] in text
                    ]
    # The address' scheme is no secret: it stands in names of programs, too.
    return [piece for piece in found if not piece.startswith("postgres")]


def whole(path: Path) -> str:
    if path.suffix == ".parquet":
        return repr(pq.read_table(path).to_pylist())
    return path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def told(python_image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("content")
    store = folder / "store"
    collector = Collector()
    with (
        Agent(
            store,
            record=True,
            tap=True,
            calls=folder / "calls.sock",
            content=("chos*",),
            content_limit=4096,
            export=collector.url,
        ) as agent,
        Runc(python_image) as runc,
    ):
        for name in ("chosen", "other"):
            said = folder / name
            said.mkdir()
            (said / "say.json").write_text(json.dumps({"texts": texts(name)}))
            (said / "server.py").write_text(SERVER)
            (said / "client.py").write_text(CLIENT)
            one = runc.start(["python3", "/srv/client.py"], name=name, mounts=[Mount(said, "/srv")])
            one.wait_for_output("done", 60)
        agent.settle()
        time.sleep(1.5)  # written once a second
        status, words = agent.status(), agent.words()
        traces = lambda: any(path == "/v1/traces" for path, _ in collector.got)  # noqa: E731
        poll(traces, seconds=30, waiting_for="an export")
        doctor = subprocess.run(
            [sys.executable, "-m", "hullwatch", "doctor", "--quick", "--store", store],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    return {
        "store": store,
        "status": status,
        "words": words,
        "calls": cli(store, "calls"),
        "doctor": doctor,
        "sent": b"".join(body for _, body in collector.got).decode("utf-8", "replace"),
    }


def of(told: dict[str, Any], container: str, kind: str) -> list[dict[str, Any]]:
    return [
        one for one in told["calls"] if one["containers"] == [container] and one["kind"] == kind
    ]


def test_what_was_said_in_the_chosen_container_is_kept_without_its_secrets(
    told: dict[str, Any],
) -> None:
    assert len(secrets_left(texts("x")[0])) > 200  # else the test sees nothing
    names = {"tool": [semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT]}
    names["model"] = [semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES]
    for kind, expected in names.items():
        short, long = of(told, "chosen", kind)
        for call, cut in ((short, False), (long, True)):
            (found,) = cli(told["store"], "call", call["id"], "--content")
            assert [item["name"] for item in found["content"]] == expected
            for item in found["content"]:
                text = item["text"]
                assert item["cut"] is cut and len(text.encode()) <= 4096
                assert "begin-chosen" in text and "end-chosen" in text
                assert not secrets_left(text), text
                marked = cut or all(f"[{kind}:" in text for kind in PLANTED)
                assert marked, text


def test_of_another_container_nothing_is(told: dict[str, Any]) -> None:
    assert len(of(told, "other", "tool")) == len(of(told, "other", "model")) == 2
    (row,) = cli(told["store"], "content", "list")
    assert (row["workload"], row["items"]) == ("chosen", 8)
    for path in told["store"].rglob("*"):
        if path.is_file():
            assert "begin-other" not in whole(path) and "end-other" not in whole(path), path


def test_no_secret_is_anywhere_and_content_only_where_it_belongs(
    told: dict[str, Any], tmp_path: Path
) -> None:
    store = told["store"]
    (call, _) = of(told, "chosen", "tool")
    told_of = {
        command: json.dumps(cli(store, *command.split()))
        for command in (
            "calls", "events", "findings", "routes", "secrets seen", f"call {call['id']}"
        )
    }  # fmt: skip
    picture = tmp_path / "call.svg"
    cli(store, "call", call["id"], "--svg", str(picture))
    told_of |= {"svg": picture.read_text(), "export": told["sent"], "words": told["words"]}
    told_of |= {"status": json.dumps(told["status"]), "doctor": told["doctor"]}
    inside = {str(path): whole(path) for path in store.rglob("*") if path.is_file()}
    assert any(path.endswith(".parquet") or "/tail/" in path for path in inside)
    for where, text in (told_of | inside).items():
        assert not secrets_left(text), where
        assert ("begin-chosen" in text) == ("/content/" in where), where
    cli(store, "call", call["id"], "--svg", str(picture), "--content")
    drawn = picture.read_text()
    assert "begin-chosen" in drawn and not secrets_left(drawn)


def test_it_is_said_whose_content_is_kept(told: dict[str, Any]) -> None:
    content = told["status"]["content"]
    assert content["dropped"] == {} and content["bytes"] > 0
    assert content["workloads"] == ["chos*"] and content["kept"] == 8
    assert "KEPT, without secrets, of chos*" in told["doctor"]


def test_a_purge_removes_the_files(told: dict[str, Any]) -> None:
    cli(told["store"], "content", "purge", "chosen")
    assert list((told["store"] / "content").iterdir()) == []


def test_a_gateway_hands_in_what_is_said_and_canaries_are_known(tmp_path: Path) -> None:
    """`hullwatch up` and `hullwatch mcp` as a user starts them."""
    if reason := missing_bpf():
        pytest.skip(reason)
    store, rules, place = tmp_path / "store", tmp_path / "rules", tmp_path / "api_key"
    cli_of = [sys.executable, "-m", "hullwatch"]
    plant = [*cli_of, "canary", "plant", str(place), "--into", str(rules)]
    subprocess.run(plant, check=True, capture_output=True)
    canary = place.read_text().strip()
    (tmp_path / "server.py").write_text(SERVER)
    server = [sys.executable, str(tmp_path / "server.py")]
    said = {"name": "tell", "arguments": {"text": f"begin {canary}\n" + PLANTED["github_token"]}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": said}
    up = Watcher(
        store,
        ["--content", "host", "--no-tap", "--rules", str(rules)],
        log=tmp_path / "up.log",
    )
    try:
        done = subprocess.run(
            [*cli_of, "mcp", "--state", str(tmp_path / "state"), "--", *server],
            input=json.dumps(asked).encode() + b"\n",
            env=os.environ | {"HULLWATCH_CALLS": str(store / "calls.sock")},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert canary.encode() in done.stdout  # what passes is not changed
        poll(lambda: cli(store, "content", "list") or None, seconds=20, waiting_for="content")
        (call,) = cli(store, "calls")
        (found,) = cli(store, "call", call["id"], "--content")
    finally:
        up.stop()
    items = {item["name"]: item["text"] for item in found["content"]}
    assert set(items) == {semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT}
    for text in items.values():
        # Whoever comes first marks it: the gateway, by its kind.
        assert "begin [" in text and "[github_token:" in text
    texts = [whole(path) for path in tmp_path.rglob("*") if path.is_file() and path != place]
    assert not [text for text in (*texts, up.words()) if canary in text or secrets_left(text)]
