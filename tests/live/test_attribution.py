"""Servers and clients that no one here wrote, through the gateway: which call did what?

Longer, with more servers and more at once: bench/attribution.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agent import Agent
from support.peers.attributed import attributed
from support.peers.drive import Client, drive
from support.peers.environments import missing
from support.peers.servers import server
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
