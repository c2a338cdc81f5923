"""Policy at the gateway, as it is lived: a real client, a real server, a person at a terminal.

Whoever answers must not be below the client, so the person's commands leave this process's tree."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from hullwatch.decide.webhook import signature
from support.agent import Agent
from support.cli import cli
from support.gatekeeping import HIDDEN_SAMPLING, SAMPLING, sampling
from support.hook import Hook, answer
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

POLICY = """
@id("no-delete") @reason("nothing is deleted here")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/delete");
@id("ask-write") @effect("challenge") @reason("writing needs a person") @deadline("2m")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/write");
@id("ask-soon") @effect("challenge") @deadline("1s")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/soon");
@id("no-way-out") @reason("it has read what is private")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/send")
when { context.labels.contains("private") };
@id("ask-link") @effect("challenge") @approvers("link:oncall") @reason("somebody on call decides")
forbid (principal, action == Action::"tool-call", resource == Tool::"files/page");
"""
SERVER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    with open(os.environ["TRACE"], "a") as file:
        file.write(line)
    if "id" not in asked or "method" not in asked:
        continue
    for said in asked.get("params", {}).get("arguments", {}).get("says", ()):
        print(said, flush=True)
    result = {"content": [{"type": "text", "text": "done"}]}
    if path := asked.get("params", {}).get("arguments", {}).get("path"):
        open(path).read()
    if asked["method"] == "tools/list":
        schema = {"type": "object"}
        names = ("read", "write", "delete", "soon")
        result = {"tools": [{"name": n, "description": "d", "inputSchema": schema} for n in names]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


class Gateway:
    """A client of raw lines, the gateway, the server."""

    def __init__(
        self,
        folder: Path,
        calls: Path | None = None,
        policy: str = "",
        more: Sequence[str] = (),
        program: Sequence[str] = ("-m", "hullwatch"),
    ) -> None:
        """policy: as `--policy` has it; by default POLICY, in a file. more: options. program: for
        Python."""
        self.folder = folder
        self.program = program
        self.more = more
        self.policy = policy or str(folder / "policy.cedar")
        (folder / "server.py").write_text(SERVER)
        (folder / "policy.cedar").write_text(POLICY)
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HULLWATCH_CALLS": str(calls or folder / "no-agent.sock"),
            "HULLWATCH_APPROVALS": str(folder / "desks"),
            "HULLWATCH_DECISIONS": str(folder / "log"),
            "HULLWATCH_MCP_STATE": str(folder / "state"),
            "TRACE": str(folder / "trace"),
        }
        self.start()

    def start(self) -> None:
        with (self.folder / "stderr").open("a") as stderr:
            self.process = self._started(stderr)
        assert self.process.stdout  # unbuffered: so that select sees all that there is
        self.unbuffered = os.fdopen(self.process.stdout.fileno(), "rb", 0, closefd=False)
        self.say(1, "tools/list")
        assert len(self.line()["result"]["tools"]) == 4

    def _started(self, stderr: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, *self.program, "mcp", "--name", "files"),
                *("--policy", self.policy, "--store", str(self.folder / "store")),
                *self.more,
                *("--", sys.executable, str(self.folder / "server.py")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self.env,
        )

    def say(self, ident: Any, method: str, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.raw(json.dumps(message | ({} if ident is None else {"id": ident})).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def call(self, ident: Any, name: str, **more: Any) -> None:
        self.say(ident, "tools/call", **{"name": name, "arguments": {}} | more)

    def line(self) -> dict[str, Any]:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], 60)[0], "no answer"
        line: dict[str, Any] = json.loads(self.unbuffered.readline())
        return line

    def served(self) -> list[str]:
        """Names of the tools whose calls the server has read."""
        lines = map(json.loads, (self.folder / "trace").read_text().splitlines())
        return [one["params"]["name"] for one in lines if one["method"] == "tools/call"]

    def person(self, *words: str) -> tuple[int, str]:
        """`hullwatch approvals ...` from outside of the client's tree: exit code, output."""
        out = self.folder / f"out{time.monotonic_ns()}"
        command = shlex.join([sys.executable, "-m", "hullwatch", "approvals", *words])
        script = f"{command} > {out} 2>&1; echo $? > {out}.code"
        subprocess.run(["setsid", "--fork", "sh", "-c", script], env=self.env, check=True)
        code = out.with_name(out.name + ".code")
        poll(lambda: code.exists() and code.read_text(), seconds=60, waiting_for="the command")
        return int(code.read_text()), out.read_text()

    def waits(self) -> list[dict[str, Any]]:
        code, said = self.person("list", "--json")
        assert code == 0
        return [json.loads(line) for line in said.splitlines()]

    def wait(self) -> str:
        poll(self.waits, seconds=60, waiting_for="a held call")
        return str(self.waits()[0]["id"])

    def decisions(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hullwatch", "decisions", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def kinds(self) -> list[str]:
        lines = self.decisions("--json").stdout.splitlines()
        return [json.loads(line)["kind"] for line in lines]

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_block(gateway: Gateway) -> None:
    gateway.call(2, "delete")
    answer = gateway.line()
    assert answer["id"] == 2 and "no-delete" in answer["error"]["message"]
    gateway.call(3, "read")
    assert gateway.line()["id"] == 3
    assert gateway.served() == ["read"] and gateway.end() == 0
    verified = gateway.decisions("verify")
    assert verified.returncode == 0 and "none removed" in verified.stdout
    listed = gateway.decisions("--effect", "block").stdout
    assert "no-delete" in listed and "files/delete" in listed and "files/read" not in listed


def test_challenge_approved(gateway: Gateway) -> None:
    gateway.call(2, "write", _meta={"progressToken": "t"})
    progress = gateway.line()
    assert progress["method"] == "notifications/progress"
    ident = gateway.wait()
    assert ident in progress["params"]["message"]
    gateway.call(3, "read")
    other = next(line for line in iter(gateway.line, None) if "id" in line)
    assert other["id"] == 3, "the others go on meanwhile"
    code, said = gateway.person("show", ident)
    assert code == 0 and "writing needs a person" in said and "files/write" in said
    assert "tool-call Tool:files/read" in said, "the story so far"
    code, said = gateway.person("approve", ident, "--why", "the user asked for it")
    assert code == 0 and "approved" in said
    answer = next(line for line in iter(gateway.line, None) if "id" in line)
    assert answer["id"] == 2 and answer["result"]
    assert gateway.served() == ["read", "write"]
    assert gateway.person("approve", ident, "--why", "again")[0] == 1
    assert gateway.served() == ["read", "write"] and gateway.waits() == []
    (entry,) = map(
        json.loads, gateway.decisions("--json", "--kind", "approved").stdout.splitlines()
    )
    assert entry["why"] == "the user asked for it" and entry["by"]


def test_challenge_denied(gateway: Gateway) -> None:
    gateway.call(2, "write")
    assert gateway.person("deny", gateway.wait(), "--why", "not today")[0] == 0
    assert "not today" in gateway.line()["error"]["message"] and gateway.served() == []


def test_challenge_widened_and_revoked(gateway: Gateway) -> None:
    gateway.call(2, "write")
    ident = gateway.wait()
    code, _ = gateway.person("widen", ident, "--why", "x", "--scope", "tool", "--expires", "1h")
    assert code == 0 and gateway.line()["result"]
    gateway.call(3, "write")
    assert gateway.line()["result"]
    assert gateway.person("revoke", ident, "--why", "enough")[0] == 0
    gateway.call(4, "write")
    gateway.wait()
    assert gateway.served() == ["write", "write"]


def test_deadline(gateway: Gateway) -> None:
    gateway.call(2, "soon")
    assert "not approved in time" in gateway.line()["error"]["message"]
    assert gateway.served() == []


def test_the_client_takes_it_back(gateway: Gateway) -> None:
    gateway.call(2, "write")
    ident = gateway.wait()
    gateway.say(None, "notifications/cancelled", requestId=2)
    poll(lambda: not gateway.waits(), seconds=60, waiting_for="its end")
    assert gateway.person("approve", ident, "--why", "late")[0] == 1
    gateway.call(3, "read")
    assert gateway.line()["id"] == 3 and gateway.served() == ["read"]
    assert "cancelled" not in (gateway.folder / "trace").read_text()


def test_the_client_does_not_answer_itself(gateway: Gateway) -> None:
    gateway.call(2, "write")
    ident = gateway.wait()
    command = [sys.executable, "-m", "hullwatch", "approvals", "approve", ident, "--why", "me"]
    done = subprocess.run(command, env=gateway.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "whoever asks does not approve" in done.stderr
    assert gateway.served() == []


def test_a_gateway_that_is_killed_approves_nothing(gateway: Gateway) -> None:
    gateway.call(2, "write")
    ident = gateway.wait()
    gateway.process.send_signal(signal.SIGKILL)
    gateway.process.wait()
    assert gateway.person("approve", ident, "--why", "late")[0] == 1
    gateway.start()
    assert gateway.kinds()[-1] == "lost" and gateway.waits() == [] and gateway.served() == []
    assert gateway.decisions("verify").returncode == 0


def test_a_client_that_ends_leaves_nothing_waiting(gateway: Gateway) -> None:
    gateway.call(2, "write")
    gateway.wait()
    assert gateway.end() == 0 and gateway.served() == []
    assert gateway.kinds()[-1] == "cancelled"


def test_a_message_that_another_reader_would_split(gateway: Gateway) -> None:
    """Python's text streams end a line at a carriage return, too."""
    inner = b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"delete"}}'
    gateway.raw(b'{"jsonrpc":"2.0","id":2,"method":"ping","x":\r' + inner + b"\r}\n")
    assert "carriage return" in gateway.line()["error"]["message"]
    whole = b'{"jsonrpc":"2.0","id":4,"method":"tools/call",'
    gateway.raw(whole)
    time.sleep(0.2)
    gateway.raw(b'"params":{"name":"delete"}}\r\n')
    assert "no-delete" in gateway.line()["error"]["message"]
    gateway.raw(inner[:-1] + b"," + b'"pad":"' + b"x" * (9 << 20) + b'"}\n')
    assert "too large" in gateway.line()["error"]["message"]
    assert gateway.served() == []


def test_a_log_that_somebody_changed_is_named(gateway: Gateway) -> None:
    gateway.call(2, "delete")
    gateway.line()
    gateway.end()
    link = sqlite3.connect(gateway.folder / "log" / "decisions.db")
    link.executescript("DROP TRIGGER decisions_kept; DELETE FROM decisions")
    link.close()
    done = gateway.decisions("verify", "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["first_bad"] == 1


def test_the_gateway_follows_what_is_applied(tmp_path: Path) -> None:
    def policy(*words: str) -> None:
        command = [sys.executable, "-m", "hullwatch", "policy", *words]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [*command, "--store", str(tmp_path / "store")], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def answered(tool: str) -> bool:
        gateway.call(next(numbers), tool)
        return "result" in gateway.line()

    (tmp_path / "one.cedar").write_text(POLICY)
    (tmp_path / "two.cedar").write_text(POLICY.replace("files/delete", "files/read"))
    policy("apply", str(tmp_path / "one.cedar"))
    numbers = count(10)
    gateway = Gateway(tmp_path, policy="applied")
    assert answered("read") and not answered("delete")
    policy("apply", str(tmp_path / "two.cedar"), "--note", "ticket 7")
    poll(lambda: not answered("read"), seconds=20, waiting_for="the new set")
    assert answered("delete")
    policy("rollback")
    poll(lambda: answered("read"), seconds=20, waiting_for="the old set")
    assert not answered("delete") and gateway.end() == 0
    listed = gateway.decisions("--kind", "policies").stdout
    assert "apply Set:" in listed and "ticket 7" in listed and "rollback Set:" in listed
    assert (tmp_path / "stderr").read_text().count("is in force") == 2
    assert gateway.decisions("verify").returncode == 0


def test_somebody_elsewhere_answers_by_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sixteen bytes or more\n")
    secret.chmod(0o600)
    with Hook() as hook:
        words = (
            *("--approval-webhook", hook.url),
            *("--approval-webhook-secret", f"file:{secret}", "--approval-link-as", "oncall"),
        )
        gateway = Gateway(tmp_path, more=words)
        for number, (wish, expected) in enumerate((("approve", "result"), ("deny", "error"))):
            gateway.call(number + 2, "page", arguments={"note": "s3cr3t value"})
            link = hook.post(number)["link"]
            headers, body = hook.told[number]
            signed = signature(b"sixteen bytes or more", headers["Hullwatch-Timestamp"], body)
            assert headers["Hullwatch-Signature"] == signed and b"s3cr3t" not in body
            with urlopen(link, timeout=20) as page:
                shown = page.read().decode()
            assert "somebody on call decides" in shown and "s3cr3t value" in shown
            assert gateway.person("approve", gateway.wait(), "--why", "not me")[0] == 1
            answer(link, wish, f"ticket {number}")
            assert expected in gateway.line()
            with pytest.raises(HTTPError, match="410"):
                answer(link, wish, "again")
        gateway.call(9, "write")
        assert hook.post(2)["link"] == "", "its policy names no link"
        gateway.end()
    entries = [json.loads(line) for line in gateway.decisions("--json").stdout.splitlines()]
    by = [(one["kind"], one["by"], one["why"]) for one in entries if one["by"]]
    assert by == [("approved", "link:oncall", "ticket 0"), ("denied", "link:oncall", "ticket 1")]
    assert gateway.served() == ["page"]


# The engine, where it hangs: a real one, of which one question never ends.
HANGS = """
import sys, time
from hullwatch.cli import main
from hullwatch.decide import deciding
from hullwatch.decide.engine import Engine
deciding.DECIDING = 0.3
decide = Engine.decide_any
def hangs(self, questions, **more):
    if questions[0].resource.id == "files/read":
        time.sleep(600)
    return decide(self, questions, **more)
Engine.decide_any = hangs
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("fail", ["closed", "open"])
def test_a_decider_that_hangs_is_not_waited_for(tmp_path: Path, fail: str) -> None:
    (tmp_path / "fails.cedar").write_text(
        f'@id("no-delete") @fail("{fail}")\n'
        'forbid (principal, action == Action::"tool-call", resource == Tool::"files/delete");'
    )
    gateway = Gateway(tmp_path, policy=str(tmp_path / "fails.cedar"), program=("-c", HANGS))
    expected = "result" if fail == "open" else "error"
    for ident, tool in enumerate(("read", "read", "write"), 2):  # all, until it is back
        gateway.call(ident, tool)
        answer = gateway.line()
        assert answer["id"] == ident and expected in answer, answer
    assert gateway.end() == 0
    assert gateway.served() == (["read", "read", "write"] if fail == "open" else [])
    (first, *_) = map(json.loads, gateway.decisions("--json").stdout.splitlines())
    assert "no answer within 0.3 s" in first["reason"]


@pytest.mark.parametrize("how", ["locked", "gone"])
def test_what_cannot_be_logged_is_not_passed_on(gateway: Gateway, how: str) -> None:
    gateway.call(2, "read")
    assert "result" in gateway.line()
    log = gateway.folder / "log"
    other = sqlite3.connect(log / "decisions.db", isolation_level=None)
    if how == "locked":
        other.execute("BEGIN IMMEDIATE")
    else:
        log.rename(log.with_name("aside"))
    for ident, tool in enumerate(("delete", "write", "delete"), 3):  # blocked, held
        gateway.call(ident, tool)
        answer = gateway.line()
        assert answer["id"] == ident and "cannot be logged" in answer["error"]["message"], answer
    assert gateway.waits() == [] and gateway.served() == ["read"]
    if how == "locked":
        other.execute("ROLLBACK")
    else:
        log.with_name("aside").rename(log)
    gateway.call(9, "delete")
    assert "no-delete" in gateway.line()["error"]["message"]
    gateway.call(10, "read")
    assert "result" in gateway.line()
    other.close()
    assert gateway.end() == 0 and gateway.decisions("verify").returncode == 0


MODELS = """
@id("no-big") @reason("too dear")
forbid (principal, action == Action::"model-call", resource == Model::"big");
@id("ask-model") @effect("challenge")
forbid (principal, action == Action::"model-call", resource == Model::"asked");
"""


def test_what_the_server_asks_of_the_clients_model(tmp_path: Path) -> None:
    (tmp_path / "models.cedar").write_text(MODELS)
    gateway = Gateway(tmp_path, policy=str(tmp_path / "models.cedar"))
    lines = [one.decode() for one in HIDDEN_SAMPLING.values()]
    token: dict[str, Any] = {"_meta": {"progressToken": 9}}
    lines += [sampling(ident, ident, **token).decode() for ident in ("big", "small", "asked")]
    gateway.call(70, "t", arguments={"says": lines})
    asked, answer = gateway.line(), gateway.line()
    assert (asked["id"], asked["method"], answer["id"]) == ("small", SAMPLING, 70)
    assert gateway.person("approve", gateway.wait(), "--why", "small enough")[0] == 0
    late = gateway.line()
    assert (late["id"], late["method"]) == ("asked", SAMPLING)
    assert gateway.end() == 0
    told = list(map(json.loads, (tmp_path / "trace").read_text().splitlines()))
    (waits,) = (one["params"] for one in told if one.get("method") == "notifications/progress")
    assert waits["progressToken"] == 9 and "hullwatch approvals show" in waits["message"]
    refused = {one["id"]: one["error"] for one in told if "error" in one}
    assert refused["big"]["code"] == -1 and "too dear" in refused["big"]["message"]
    assert "small" not in refused and "asked" not in refused
    listed = gateway.decisions("--effect", "block").stdout
    assert "model-call Model:big" in listed and "no-big" in listed


def test_what_nobody_can_answer_ends_as_its_policy_says(gateway: Gateway) -> None:
    shutil.rmtree(gateway.folder / "desks")
    gateway.call(2, "soon")
    assert "not approved in time" in gateway.line()["error"]["message"]
    assert gateway.end() == 0
    (gateway.folder / "desks").write_text("a file")
    gateway.start()  # and says so
    gateway.call(3, "soon")
    assert "not approved in time" in gateway.line()["error"]["message"]
    assert gateway.end() == 0 and gateway.served() == []
    assert "nobody can approve here" in (gateway.folder / "stderr").read_text()


def test_policies_that_cannot_be_used_start_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.cedar").write_text('forbid (principal, action == Action::"tool-cal", resource);')
    for policy in (tmp_path / "p.cedar", tmp_path / "none.cedar", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "hullwatch", "mcp", "--policy", str(policy), "--", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 6 and done.stderr.startswith("hullwatch: --policy: ")


def test_what_policy_did_is_found(tmp_path: Path) -> None:
    if reason := missing_bpf():
        pytest.skip(reason)
    kept = tmp_path / "kept.txt"
    kept.write_text("private")
    followed: dict[str, Any] = {"private": (str(kept),), "label_host": True}
    with Agent(tmp_path / "store", calls=tmp_path / "calls.sock", **followed) as agent:
        gateway = Gateway(tmp_path, tmp_path / "calls.sock")
        gateway.call(2, "delete")
        gateway.line()
        for ident, tool, more in (("s1", "send", {}), ("s2", "read", {"path": str(kept)})):
            gateway.call(ident, tool, arguments=more)
            assert "result" in gateway.line(), "an agent tells that it has read nothing so far"
        gateway.call("s3", "send")
        assert gateway.line()["error"]["data"]["policies"] == ["no-way-out"]
        for number in range(3, 12):
            gateway.call(number, "write")
        poll(lambda: len(gateway.waits()) == 9, seconds=60, waiting_for="all to be held")
        gateway.end()
        agent.settle()
    rules = [one["rule"] for one in cli(tmp_path / "store", "findings")]
    assert rules.count("Tool call blocked by policy") >= 1
    assert rules.count("Flood of actions that wait for a person") == 1
