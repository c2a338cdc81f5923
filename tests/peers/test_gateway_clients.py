"""Policy at the gateway before real servers, through the clients that people use: each official
SDK, stdio and HTTP, both eras. The person is this process: it is not below the client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hullwatch.decide.desk import DeskError, ask
from hullwatch.decide.log import Log
from support.peers.drive import CLIENTS, Client, drive, serve
from support.peers.environments import missing
from support.peers.servers import server
from support.scratch import REPOSITORY

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(300),
]

# `fail` is a tool whose calls the client expects to fail: here they fail at the gateway.
POLICY = """
@id("no-fail") forbid (principal, action == Action::"tool-call", resource)
when { resource.name == "fail" };
@id("ask-write") @effect("challenge") @deadline("2m")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "write" };
"""
TOOLS = ("read", "write", "fail")
OWN = POLICY.replace('@deadline("2m")', '@answer("requester") @deadline("2m")')


class Person:
    """Approves whatever waits at the gateways of a folder."""

    def __init__(self, desks: Path) -> None:
        self._desks = desks
        self._over = threading.Event()
        self.approved: list[dict[str, Any]] = []

    @contextmanager
    def at_work(self) -> Iterator[Person]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _work(self) -> None:
        while not self._over.wait(0.1):
            for path in self._desks.glob("*.sock"):
                with suppress(OSError, DeskError):  # it comes and goes
                    for one in ask(path, ask="list")["held"]:
                        ask(path, ask="answer", held=one["held"], yes=True, why="as planned")
                        self.approved.append(one)


def gateway(folder: Path, *words: str, policy: str = POLICY) -> list[str]:
    (folder / "policy.cedar").write_text(policy)
    return [
        *("env", f"HULLWATCH_CALLS={folder / 'no-agent.sock'}"),
        *(f"HULLWATCH_APPROVALS={folder / 'desks'}", f"PYTHONPATH={REPOSITORY / 'src'}"),
        *(sys.executable, "-m", "hullwatch", "mcp", "--policy", str(folder / "policy.cedar")),
        *("--state", str(folder / "pins"), "--log", str(folder / "log"), *words),
    ]


@contextmanager
def listening(folder: Path, url: str, policy: str = POLICY) -> Iterator[str]:
    """A gateway over HTTP before a server: where clients reach it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("--upstream", url, "--listen", f"127.0.0.1:{port}")
    running = subprocess.Popen(
        gateway(folder, *words, policy=policy), env=os.environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stderr is not None
        while "listening" not in (line := running.stderr.readline()):
            assert line
        yield f"http://127.0.0.1:{port}{urlsplit(url).path}"
    finally:
        running.terminate()
        running.wait(20)


def judge(folder: Path, truths: list[Any], person: Person) -> None:
    assert [truth for truth in truths if not truth.ok] == []
    assert len(person.approved) == 4
    failed = [truth.text for truth in truths if truth.tool == "fail"]
    assert len(failed) == 4 and all("no-fail" in text for text in failed)
    log = Log(folder / "log", write=False)
    kinds = [(one.kind, str(one.effect)) for one in log.entries()]
    assert kinds.count(("approved", "allow")) == kinds.count(("verdict", "block")) == 4
    assert log.verify().ok
    log.close()


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("client", CLIENTS)
def test_over_stdio(client: Client, at: int, tmp_path: Path) -> None:
    via = gateway(tmp_path, "--")
    with Person(tmp_path / "desks").at_work() as person:
        truths = drive(
            server("worker-ts2"), client, folder=tmp_path, calls=12, concurrency=at, tools=TOOLS,
            via=via,
        )  # fmt: skip
    judge(tmp_path, truths, person)


@pytest.mark.parametrize(
    ("name", "how"),
    [("worker-py2-async", "http"), ("worker-py2-async", "http-json"), ("worker-ts1", "http")],
)
@pytest.mark.parametrize("client", CLIENTS)
def test_over_http(client: Client, how: Any, name: str, tmp_path: Path) -> None:
    with (
        serve(server(name), tmp_path, how) as served,
        listening(tmp_path, served.url) as url,
        Person(tmp_path / "desks").at_work() as person,
    ):
        truths = drive(
            served.server, client, folder=tmp_path, calls=12, concurrency=2, tools=TOOLS, url=url
        )
    judge(tmp_path, truths, person)


@pytest.mark.parametrize(("how", "era"), [("stdio", "new"), ("http", "new"), ("http", "old")])
def test_the_client_s_own_user(how: Any, era: Any, tmp_path: Path) -> None:
    """Asked by elicitation while the call waits, or in an answer (input_required) in 2026-07-28."""
    worker = server("worker-py2-async")
    plan: dict[str, Any] = {"folder": tmp_path, "calls": 4, "tools": TOOLS[:2], "era": era}
    if how == "stdio":
        truths = drive(worker, "py2", via=gateway(tmp_path, "--", policy=OWN), **plan)
    else:
        with (
            serve(worker, tmp_path, how) as served,
            listening(tmp_path, served.url, OWN) as url,
        ):
            truths = drive(worker, "py2", url=url, **plan)
    assert [truth for truth in truths if not truth.ok] == []
    log = Log(tmp_path / "log", write=False)
    approved = [one for one in log.entries() if one.kind == "approved"]
    assert len(approved) == 2 and {one.why for one in approved} == {"its user"}
    assert log.verify().ok
    log.close()
