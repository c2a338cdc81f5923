"""The gateway before a real server process: what the server does is its call's."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hullwatch.agent.secrets.examples import fill
from support.agent import Agent
from support.cli import cli
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

SECRET = fill("ghp_{crc}", Random(7))
# A server of the plainest kind: reads a line, does what it is told, answers.
SERVER = """
import json, os, subprocess, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    result = {"content": [{"type": "text", "text": "done"}]}
    if asked["method"] == "tools/call":
        given = asked["params"]["arguments"]
        if asked["params"]["name"] == "cat":
            subprocess.run(["cat", given["path"]], capture_output=True)
        elif asked["params"]["name"] == "read":
            open(given["path"]).close()
        elif asked["params"]["name"] == "die":
            os._exit(3)
    elif asked["method"] == "tools/list":
        schema = {"type": "object"}
        names = ("cat", "read", "die")
        result = {"tools": [{"name": n, "description": "d", "inputSchema": schema} for n in names]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


class Client:
    """A client that speaks raw lines."""

    def __init__(self, socket: Path, state: Path, server: Path) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "hullwatch", "mcp", "--name", "files"),
                *("--state", str(state), "--", sys.executable, str(server)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"HULLWATCH_CALLS": str(socket)},
        )
        self.ids = 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.ids += 1
        asked = {"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], 60)[0], "no answer"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert answer["id"] == self.ids
        return answer

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self.ask("tools/call", name=name, arguments=arguments)

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "server.py").write_text(SERVER)
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_text("text")
    with Agent(folder / "store", calls=folder / "calls.sock") as agent:
        client = Client(folder / "calls.sock", folder / "state", folder / "server.py")
        client.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={})
        client.ask("tools/list")
        client.call("cat", path=str(folder / "a.txt"))
        client.call("read", path=str(folder / "b.txt"), token=SECRET)
        answer = client.call("die")
        code = client.end()
        (folder / "c.txt").read_text()
        agent.settle()
    calls = {one["name"]: one for one in cli(folder / "store", "calls")}
    return {"calls": calls, "folder": folder, "answer": answer, "code": code, "agent": agent}


def files(seen: dict[str, Any], name: str) -> set[str]:
    (told,) = cli(seen["folder"] / "store", "call", seen["calls"][name]["id"])
    found = {
        path for one in told["processes"] for group in one["files"] for path in group["names"]
    } | {deed["object"] for one in told["processes"] for deed in one["secrets"]}
    return {Path(path).name for path in found if path.startswith(str(seen["folder"]))}


def test_each_call_has_its_own_doings(seen: dict[str, Any]) -> None:
    assert set(seen["calls"]) == {"cat", "read", "die"}
    assert {one["server"] for one in seen["calls"].values()} == {"files"}
    assert {one["source"] for one in seen["calls"].values()} == {"gateway"}
    assert files(seen, "cat") == {"a.txt"} and files(seen, "read") == {"b.txt"}
    assert seen["calls"]["cat"]["processes"] >= 1 and seen["calls"]["read"]["processes"] == 0
    assert all(one["ambiguous"] == 0 for one in seen["calls"].values())
    assert seen["calls"]["read"]["request_bytes"] > 60


def test_a_server_that_dies_leaves_an_error_for_the_client_and_an_end_for_the_call(
    seen: dict[str, Any],
) -> None:
    assert "error" in seen["answer"] and seen["code"] == 3
    assert seen["calls"]["die"]["status"] in ("error", "lost") and seen["calls"]["die"]["ended"]


def test_a_secret_in_arguments_is_found_and_kept_nowhere(seen: dict[str, Any]) -> None:
    found = cli(seen["folder"] / "store", "findings")
    secret = [one for one in found if one["rule"] == "Secret handed to a tool or given back by it"]
    assert len(secret) == 1 and "github" in secret[0]["output"]
    assert secret[0]["span"] == int(seen["calls"]["read"]["id"], 16)
    planted = SECRET.encode()
    for path in seen["folder"].rglob("*"):
        if path.is_file():
            assert planted not in path.read_bytes(), path
