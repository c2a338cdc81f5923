"""A container set apart by a person: what it can do then, what is kept, and that it comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent
from support.images import Image
from support.needs import missing
from support.runc import Container, Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(180)

# Says every 0.1 s whether it reaches a listener of the same network; its own loopback counts, too.
TALKER = """
import socket, time, sys
server = socket.create_server(("127.0.0.1", 8089))
server.settimeout(1)
while True:
    try:
        with socket.create_connection(("127.0.0.1", 8089), timeout=1):
            said = "through"
    except OSError as error:
        said = error.strerror or str(error)
    try:
        while True:
            server.settimeout(0.01)
            server.accept()[0].close()
    except OSError:
        pass
    with open("/tmp/said", "w") as file:
        file.write(said)
    with open("/tmp/beats", "a") as file:
        file.write(".")
    time.sleep(0.1)
"""


@pytest.fixture
def talker(runc: Runc, python_image: Image) -> Iterator[Container]:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    network = Network("quarantine")
    try:
        container = runc.start(
            ["python3", "-u", "-c", TALKER], name="talker", image=python_image, network=network.path
        )
        yield container
        container.kill()
    finally:
        network.delete()


def inside(container: Container, name: str) -> str:
    path = container.bundle.rootfs / "tmp" / name
    return path.read_text() if path.exists() else ""


def run(store: Path, *argv: str, status: int = 0) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "hullwatch", "quarantine", *argv, "--json"]
    command += ["--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def said(container: Container, text: str) -> None:
    poll(lambda: inside(container, "said") == text, seconds=20, waiting_for=f"the word {text!r}")


def beats(container: Container) -> int:
    return len(inside(container, "beats"))


BY = ("--owner", "ann", "--reason", "it talks")


def test_cut_off_frozen_and_let_go(talker: Container, tmp_path: Path):
    store = tmp_path / "store"
    with Agent(store, rules=()) as agent:
        said(talker, "through")
        agent.settle()
        [one] = run(store, "add", talker.id, *BY)
        assert (one["state"], one["how"], one["container"]) == ("in force", "network", "talker")
        said(talker, "Operation not permitted")
        assert talker.exec(["true"]).status == 0  # it runs, and can be looked at
        [shown] = run(store, "show", one["id"])
        assert any("python3" in each["cmdline"] for each in shown["processes"])
        assert (shown["owner"], shown["reason"]) == ("ann", "it talks")

        [two] = run(store, "add", talker.id, *BY, "--how", "freeze")
        assert two["state"] == "in force"
        poll(lambda: frozen(talker), seconds=20, waiting_for="the container to be frozen")
        count = beats(talker)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "1"], timeout=0.5, check=True)
        assert beats(talker) == count

        assert run(store, "lift", two["id"], "--owner", "bob")[0]["state"] == "lifted"
        poll(lambda: beats(talker) > count, seconds=20, waiting_for="the container to go on")
        said(talker, "Operation not permitted")  # the first is in force still
        assert run(store, "lift", one["id"], "--owner", "bob")[0]["state"] == "lifted"
        said(talker, "through")
    assert run(store, "list") == []
    assert [each["id"] for each in run(store, "list", "--all")] == [one["id"], two["id"]]
    kinds = [row["kind"] for row in agent.query("SELECT kind FROM notices ORDER BY id")]
    assert kinds.count("quarantined") == kinds.count("quarantine lifted") == 2


def frozen(container: Container) -> bool:
    from hullwatch.sensor.tier import cgroup2_root

    [events] = Path(cgroup2_root() or "").glob(f"**/*{container.id}*/cgroup.events")
    return "frozen 1" in events.read_text()


def test_an_agent_that_starts_anew_holds_to_it(talker: Container, tmp_path: Path):
    store = tmp_path / "store"
    with Agent(store, rules=()) as agent:
        agent.settle()
        run(store, "add", "talker", *BY)
        said(talker, "Operation not permitted")
    said(talker, "through")  # nobody cuts it off any more: docs/quarantine.md
    with Agent(store, rules=()):
        said(talker, "Operation not permitted")


def test_killed_is_killed(talker: Container, tmp_path: Path):
    store = tmp_path / "store"
    with Agent(store, rules=()) as agent:
        agent.settle()
        [one] = run(store, "add", talker.id, *BY, "--how", "kill")
        assert one["state"] == "in force"
        talker.wait(20)
        poll(
            lambda: run(store, "list")[0]["state"] == "gone",
            seconds=20,
            waiting_for="the agent to see that it is gone",
        )


def test_what_cannot_be_is_said(talker: Container, tmp_path: Path):
    store = tmp_path / "store"
    with Agent(store, rules=()) as agent:
        agent.settle()
        assert run(store, "add", "nobody-of-this-name", *BY, status=1) == []
        assert run(store, "add", talker.id, *BY, "--how", "hide", status=2) == []
    assert run(store, "add", talker.id, *BY, status=4) == []  # no agent
    assert run(store, "list", "--all") == []
