"""`hullwatch mcp` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.mcp_http_server import request

SERVER = [sys.executable, "-m", "support.mcp_stdio_server"]
LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'
CALL = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo"}}\n'

AGENT = str(Path(__file__).parents[2] / "policies" / "agent.cedar")
HOOK = ["--upstream", "http://127.0.0.1:1/", "--policy", AGENT, "--approval-webhook"]

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def hullwatch(tmp_path) -> Run:
    def run(*words: str, stdin: bytes = b"", tools: Any = None) -> Any:
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HULLWATCH_MCP_STATE": str(tmp_path / "state"),
            "HULLWATCH_CALLS": str(tmp_path / "no-agent.sock"),
            "HULLWATCH_TEST_TOOLS": json.dumps(tools),
        }
        command = [sys.executable, "-m", "hullwatch", "mcp", *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, env=env, timeout=60, check=False
        )

    return run


def test_a_server_and_its_exit_code(hullwatch: Run):
    done = hullwatch("--name", "s", "--", *SERVER, stdin=LIST + CALL)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2]
    assert done.returncode == 0
    assert done.stderr.decode().count("no agent") == 1
    code = "import sys; print('said', file=sys.stderr); sys.exit(9)"
    done = hullwatch("--", sys.executable, "-c", code)
    assert done.returncode == 9 and b"said\n" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--upstream URL"),
        (["--"], 2, "--upstream URL"),
        (["--upstream", "http://h/", "--", "x"], 2, "--upstream URL"),
        (["--hold", "all", "--", "x"], 2, "none or changed"),
        (["--upstream", "ftp://h/"], 2, "not an http or https URL"),
        (["--upstream", "http://h/", "--listen", "7811"], 2, "127.0.0.1:7811"),
        (["--", "/no/such/server"], 127, "no such program"),
        (["--", "/"], 126, "Permission denied"),
        (
            ["--policy", "applied", "--store", "/no/such", "--", "x"],
            6,
            "no set is in /no/such/policy",
        ),
        (["--policy", "applied", "--policy", "x.cedar", "--", "x"], 2, "give no other"),
        (["--policy", "./applied", "--", "x"], 6, "applied: cannot be read"),
        (["--approval-webhook", "https://h/", "--", "x"], 2, "needs --policy"),
        (["--approval-link-as", "x", "--", "x"], 2, "needs --approval-webhook"),
        ([*HOOK, "http://h/"], 2, "https, as who reads the link may answer"),
        ([*HOOK, "https://h/", "--approval-webhook-secret", "s3cr3t"], 2, "file:PATH or env:NAME"),
        ([*HOOK, "https://h/", "--approval-webhook-secret", "env:NO_SUCH"], 2, "no variable"),
        ([*HOOK, "https://h/", "--approval-webhook-secret", "file:/etc/passwd"], 2, "chmod 600"),
        ([*HOOK, "env:NO_SUCH"], 2, "no variable NO_SUCH"),
        ([*HOOK, "https://h/", "--approval-listen", "7"], 2, "--approval-listen 7: as in"),
        ([*HOOK, "https://h/", "--approval-listen", "0.0.0.0:0"], 2, "give --approval-url"),
        ([*HOOK, "https://h/\u00e9"], 2, "no http or https URL"),
        ([*HOOK, "https://h/", "--approval-url", "x"], 2, "an http or https URL"),
        ([*HOOK, "https://h/", "--approval-link-as", "a b"], 2, "letters, digits"),
        (["pins", "accept", "s"], 2, "a TOOL, or --all"),
        (["pins", "accept", "s", "--all"], 1, "nothing of s waits"),
        (["pins", "show", "s", "t"], 1, "no tool t of s"),
        (["pins", "forget", "s"], 1, "no server s"),
    ],
)
def test_what_is_refused(hullwatch: Run, words, code, said):
    done = hullwatch(*words)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode() and b"Traceback" not in done.stderr


def test_pins_from_the_first_sight_to_being_forgotten(hullwatch: Run):
    first = [{"name": "echo", "description": "one"}]
    then = [{"name": "echo", "description": "two\u202e"}, {"name": "pаy"}]
    for tools in (first, then):
        done = hullwatch("--name", "s", "--hold=changed", "--", *SERVER, stdin=LIST, tools=tools)
        assert done.returncode == 0
    held = hullwatch("--name", "s", "--hold=changed", "--", *SERVER, stdin=CALL, tools=then)
    message = json.loads(held.stdout)["error"]["message"]
    assert "`hullwatch mcp pins accept s echo`" in message

    rows = [json.loads(line) for line in hullwatch("pins", "list", "--json").stdout.splitlines()]
    assert {(row["tool"], row["state"]) for row in rows} == {("echo", "changed"), ("pаy", "added")}
    shown = hullwatch("pins", "show", "s", "echo").stdout.decode()
    assert '-  "description": "one"' in shown and r'+  "description": "two\u202e"' in shown
    # As the error names it: in ASCII.
    accepted = hullwatch("pins", "accept", "s", r"p\u0430y", "--json")
    assert json.loads(accepted.stdout) == {"server": "s", "accepted": ["pаy"]}
    assert hullwatch("pins", "accept", "s", "--all").stdout == b"accepted: echo\n"
    assert b"pinned" in hullwatch("pins", "list").stdout
    assert not hullwatch("pins", "list", "--waiting", "--json").stdout
    done = hullwatch("--name", "s", "--hold=changed", "--", *SERVER, stdin=CALL, tools=then)
    assert b'"result"' in done.stdout
    assert hullwatch("pins", "forget", "s").returncode == 0
    assert b"no pins" in hullwatch("pins", "list").stderr


def test_pins_that_cannot_be_used(hullwatch: Run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "pins.db").write_bytes(b"no database" * 200)
    assert hullwatch("pins", "list").returncode == 3
    held = hullwatch("--hold", "changed", "--", *SERVER, stdin=CALL)
    assert (held.returncode, held.stdout) == (3, b"")
    done = hullwatch("--", *SERVER, stdin=CALL)
    assert done.returncode == 0 and b'"result"' in done.stdout and b"not kept" in done.stderr


def test_the_proxy_listens_and_ends(tmp_path):
    import socket

    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HULLWATCH_MCP_STATE": str(tmp_path / "state"),
        "HULLWATCH_CALLS": str(tmp_path / "no-agent.sock"),
    }
    command = [sys.executable, "-m", "hullwatch", "mcp", "--upstream", "http://127.0.0.1:1/mcp"]
    child = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, env=env)
    assert child.stderr
    try:
        while b"listening on" not in (line := child.stderr.readline()):
            assert line
        assert line.endswith(b"/mcp for http://127.0.0.1:1/mcp\n")
        port = int(line.partition(b"127.0.0.1:")[2].partition(b"/")[0])
        with socket.create_connection(("127.0.0.1", port), 20) as sock:
            sock.sendall(request("POST", "/mcp", CALL.strip()))
            assert sock.recv(4096).startswith(b"HTTP/1.1 502")
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        child.stderr.close()
