"""Rules over time on real containers: one story, its tree, and a kill in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from hullwatch.store.catalog import Catalog
from support.agent import Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Container, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(600)

RULES = """
- sequence: Token, then out
  desc: A token was read, then the same tree connected.
  by: [tree]
  within: 5m
  steps:
    - id: read
      condition: evt.type in (open, openat, openat2) and fd.name endswith /secrets/token
    - id: leave
      condition: evt.type = connect and fd.typechar = 4
  output: "token=%read.fd.name reader=%read.proc.name to=%fd.rip sender=%proc.name"
  priority: CRITICAL
  tags: [ASI03]

- sequence: Many names asked for
  desc: The same container opened many different files.
  by: [container]
  within: 5m
  steps:
    - condition: evt.type in (open, openat, openat2) and fd.name startswith /srv/scan/
      count: 10
      distinct: fd.name
  output: "scan to=%fd.name"
  priority: WARNING
  tags: []
"""
# Each command is carried out by a child of its own, whose child again does the work.
WORKER = """
import os, socket, subprocess, sys, time
print("ready", flush=True)
def act(what):
    if what == "read":
        subprocess.run(["/bin/cat", "/secrets/token"], stdout=subprocess.DEVNULL)
    elif what == "connect":
        subprocess.run([sys.executable, "-c",
            "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('127.0.0.1', 9))"])
    elif what.startswith("scan"):
        for number in range(int(what[4:])):
            open(f"/srv/scan/{number}").close()
done = set()
branch = {}
while True:
    for name in sorted(os.listdir("/ctl")):
        if name in done:
            continue
        done.add(name)
        _, tree, what = name.split("-")
        if tree == "self":
            act(what)
        else:  # a long-lived child for each branch
            if tree not in branch:
                reading, writing = os.pipe()
                answer, say = os.pipe()
                if os.fork() == 0:
                    os.close(writing)
                    for line in os.fdopen(reading):
                        act(line.strip())
                        os.write(say, b"x")
                    os._exit(0)
                os.close(reading)
                branch[tree] = (os.fdopen(writing, "w"), answer)
            file, answer = branch[tree]
            print(what, file=file, flush=True)
            os.read(answer, 1)
        print("did", name, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)


class Worker:
    def __init__(self, runc: Runc, image: Image, folder: Path) -> None:
        self.ctl = folder / "ctl"
        secrets = folder / "secrets"
        for place in (self.ctl, secrets, folder / "scan"):
            place.mkdir()
        (secrets / "token").write_text("planted")
        for number in range(20):
            (folder / "scan" / str(number)).touch()
        self.count = 0
        self.container: Container = runc.start(
            ["python3", "-c", WORKER],
            name="worker",
            image=image,
            mounts=[
                Mount(self.ctl, "/ctl"),
                Mount(secrets, "/secrets"),
                Mount(folder / "scan", "/srv/scan"),
            ],
        )
        self.container.wait_for_output("ready", 120)

    def do(self, branch: str, what: str) -> None:
        name = f"{self.count:03}-{branch}-{what}"
        self.count += 1
        (self.ctl / name).touch()
        self.container.wait_for_output(f"did {name}\n", 120)


@pytest.fixture
def worker(runc: Runc, python_image: Image, tmp_path: Path) -> Worker:
    return Worker(runc, python_image, tmp_path)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "over-time.yaml"
    path.write_text(RULES)
    return path


def test_the_steps_of_one_tree_are_one_finding_that_tells_them(
    worker: Worker, rules: Path, tmp_path: Path
) -> None:
    with Agent(tmp_path / "store", rules=[rules]) as agent:
        worker.do("one", "read")
        worker.do("two", "connect")  # another branch: not the reader's tree
        agent.settle()
        assert agent.stored(worker.container.id) == []
        worker.do("one", "connect")
        agent.settle()
        (found,) = agent.stored(worker.container.id)
        assert found["output"] == "token=/secrets/token reader=cat to=127.0.0.1 sender=python3"
        read, leave = found["steps"]
        assert (read["step"], read["event"], read["object"]) == ("read", "open", "/secrets/token")
        assert (leave["step"], leave["object"]) == ("leave", "127.0.0.1:9")
        assert read["process"] == "cat /secrets/token"
        assert read["time"] < leave["time"] == found["time"]
        assert found["priority"] == "CRITICAL"
        status = agent.status()
        assert status is not None
        assert status["sequences"]["sequences"] == 2
        assert status["faults"] == {}


def kept(store: Path) -> int:
    """Sequences of which something is written down."""
    with Catalog(store) as catalog:
        ((number,),) = catalog.rows("SELECT count(DISTINCT rule) FROM sequence_state")
    return int(number)


def test_a_kill_between_the_steps_does_not_hide_the_story(
    worker: Worker, rules: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    agent = Agent(store, rules=[rules])
    try:
        worker.do("one", "read")
        worker.do("self", "scan6")
        agent.settle()
        poll(lambda: kept(store) == 2, seconds=60, waiting_for="both states in the store")
    finally:
        agent.kill()
    with Agent(store, rules=[rules]) as after:
        worker.do("self", "scan9")  # three names that are new to the count
        after.settle()
        assert after.stored(worker.container.id) == []
        worker.do("self", "scan10")
        worker.do("one", "connect")
        after.settle()
        found = {one["rule"]: one for one in after.stored(worker.container.id)}
        assert set(found) == {"Token, then out", "Many names asked for"}
        assert [step["step"] for step in found["Token, then out"]["steps"]] == ["read", "leave"]
        assert found["Many names asked for"]["object"] == "/srv/scan/9"
