"""Servers and clients that no one here wrote, through the gateway: which call did what?

Longer, with more servers and more at once: bench/attribution.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.agent import Agent
from support.peers.attributed import attributed
from support.peers.drive import Client, drive, serve
from support.peers.environments import missing
from support.peers.servers import server
from support.peers.truth import Truth
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    if reason := missing_bpf() or missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("attribution")
    with Agent(folder / "store", record=True, calls=folder / "calls.sock") as started:
        yield started


@pytest.mark.parametrize(
    ("name", "client", "at"),
    [
        ("worker-py1-thread", "ts2", 1),
        ("worker-py2-async", "py1", 8),
        ("worker-ts1", "py2", 1),
        ("worker-ts2", "ts1", 8),
        ("filesystem", "py1", 1),
        ("git-py1", "ts2", 1),
    ],
)
def test_what_is_told_of_one_call_is_that_calls(
    agent: Agent, tmp_path: Path, name: str, client: Client, at: int
) -> None:
    via = [
        *("env", f"HULLWATCH_CALLS={agent.store.parent / 'calls.sock'}"),
        *(sys.executable, "-m", "hullwatch", "mcp", "--state", str(tmp_path / "pins"), "--"),
    ]
    truths = drive(server(name), client, folder=tmp_path, calls=24, concurrency=at, via=via)
    judge(agent, truths, at)


@pytest.mark.parametrize(
    ("name", "client", "at"), [("worker-py1-thread", "py1", 1), ("worker-ts2", "py2", 8)]
)
def test_a_server_behind_the_reverse_proxy_is_found_by_its_port(
    agent: Agent, tmp_path: Path, name: str, client: Client, at: int
) -> None:
    """It was started by somebody else; the gateway knows its URL only."""
    with serve(server(name), tmp_path, "http") as served, proxy(agent, served.url, tmp_path) as url:
        truths = drive(served.server, client, folder=tmp_path, calls=24, concurrency=at, url=url)
    judge(agent, truths, at)


@contextlib.contextmanager
def proxy(agent: Agent, upstream: str, folder: Path) -> Iterator[str]:
    """`hullwatch mcp --upstream`; its own URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "hullwatch", "mcp", "--upstream", upstream),
            *("--listen", f"127.0.0.1:{port}", "--state", str(folder / "pins")),
        ],
        env=os.environ | {"HULLWATCH_CALLS": str(agent.store.parent / "calls.sock")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stderr is not None
        line = running.stderr.readline()
        assert "listening" in line, line + running.stderr.read()
        yield f"http://127.0.0.1:{port}{urlsplit(upstream).path}"
    finally:
        running.terminate()
        running.wait(20)


def judge(agent: Agent, truths: list[Truth], at: int) -> None:
    agent.settle()
    time.sleep(1.5)  # calls are written once a second
    who, found = attributed(agent.store, truths)
    assert not who.missed and not who.extra
    assert sum(count.events for count in found.values()) >= 10
    for kind, count in found.items():
        assert (count.wrong, count.none, count.unseen) == (0, 0, 0), f"{kind}: {count}"
        assert count.precision == 1.0
        if at == 1:
            assert (count.recall, count.ambiguous) == (1.0, 0), f"{kind}: {count}"
