"""Baselines with a real agent and real containers: learn, lock, drift, and what survives a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.agent import PACK, Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Container, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(900)

RULES = PACK / "baseline"
# Does each thing that it is told to, by files in /ctl; before that, what it always does.
PROGRAM = """
import os, socket, subprocess, time

def read(path):
    with open(path) as file:
        return file.read()

def write(path):
    with open(path, "w") as file:
        file.write("x")

def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            pass

def reach(port):
    with socket.socket() as client:
        client.connect(("127.0.0.1", port))

servers = []

def listen(port):
    server = socket.create_server(("127.0.0.1", port))
    servers.append(server)

def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

os.makedirs("/data", exist_ok=True)
listen(7000)

def normal():
    run("/bin/uname")
    read("/etc/hosts")
    read(f"/proc/{os.getpid()}/stat")
    write("/data/state")
    reach(7000)

def odd():
    run("/bin/id")
    read("/etc/hostname")
    write("/data/other")
    listen(7777)
    reach(7777)

for _ in range(3):
    normal()
print("ready", flush=True)
number = 0
while True:
    try:
        what = read(f"/ctl/{number}").strip()
    except FileNotFoundError:
        time.sleep(0.02)
        continue
    {"normal": normal, "odd": odd}[what]()
    print("did", number, flush=True)
    number += 1
"""
DRIFT = {
    ("Program outside the locked profile of its image", "/bin/id"),
    ("File read outside the locked profile of its image", "/etc/hostname"),
    ("File changed outside the locked profile of its image", "/data/other"),
    ("Listener outside the locked profile of its image", "127.0.0.1:7777"),
    ("Destination outside the locked profile of its image", "127.0.0.1:7777"),
}


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)


class Worker:
    """A container that does what it is told; /ctl is not read but where there is something."""

    def __init__(self, runc: Runc, image: Image, folder: Path, name: str) -> None:
        self.ctl = folder / name
        self.ctl.mkdir()
        self.number = 0
        self.container: Container = runc.start(
            ["python3", "-c", PROGRAM], name=name, image=image, mounts=[Mount(self.ctl, "/ctl")]
        )
        self.container.wait_for_output("ready", 240)

    def do(self, what: str) -> None:
        number, self.number = self.number, self.number + 1
        made = self.ctl / "new"
        made.write_text(what)
        made.rename(self.ctl / str(number))
        self.container.wait_for_output(f"did {number}\n", 240)


def cli(store: Path, *argv: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", "baseline", *argv, "--json", "--store", store],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def names(store: Path, image: str) -> set[tuple[str, str]]:
    rows = cli(store, "show", image)  # none at all before the first second is over
    return {(row["kind"], row["name"]) for row in rows[1:]}


def found(agent: Agent) -> set[tuple[str, str]]:
    """Of the drift rules: (rule, what)."""
    agent.settle()
    return {
        (one["rule"], one["fields"]["hw.object" if "hw.object" in one["fields"] else "fd.name"])
        for one in agent.stored()
        if "outside the locked profile" in one["rule"]
    }


def locked(agent: Agent, image: str, *more: str) -> None:
    """Lock by the command line, and wait until the agent has taken it in."""
    cli(agent.store, "lock", image, *more)
    poll(
        lambda: ((agent.status() or {}).get("baselines") or {}).get("locked") == 1,
        seconds=120,
        waiting_for="the agent to follow the lock",
    )


def test_learn_lock_and_drift(runc: Runc, python_image: Image, tmp_path: Path) -> None:
    image = python_image.digest
    store = tmp_path / "store"
    with Agent(store, rules=[PACK / "base.yaml", RULES]) as agent:
        first = Worker(runc, python_image, tmp_path, "first")
        for _ in range(3):
            first.do("normal")
        agent.settle()
        poll(
            lambda: ("write", "/data/state") in names(store, image),
            seconds=120,
            waiting_for="the profile in the store",
        )
        locked(agent, image, "--accept", "read /ctl/*")
        known = names(store, image)
        assert {("listen", "127.0.0.1:7000"), ("connect", "127.0.0.1:7000")} <= known
        assert ("read", "/proc/{n}/stat") in known

        # Nothing new, in the same container and in a second one of the image.
        first.do("normal")
        second = Worker(runc, python_image, tmp_path, "second")
        second.do("normal")
        assert found(agent) == set()

        first.do("odd")
        assert found(agent) == DRIFT
        changed = {(row["kind"], row["name"]) for row in cli(store, "diff", image)}
        assert ("listen", "127.0.0.1:7777") in changed and ("write", "/data/state") not in changed
        (why,) = {one["why"] for one in agent.stored() if one["rule"].startswith("Listener")}
        assert "127.0.0.1:7777 was never one of them" in why

        # What is known is counted in the kernel, though a rule asks for drift of all reads.
        counted = agent.query("SELECT DISTINCT object FROM counts WHERE class = 'open'")
        poll(
            lambda: (
                "/data/state"
                in {
                    one["object"]
                    for one in agent.query("SELECT object FROM counts WHERE class = 'open'")
                }
            ),
            seconds=120,
            waiting_for=f"known files among the counts: {len(counted)}",
        )


def test_a_kill_loses_no_profile_and_no_lock(
    runc: Runc, python_image: Image, tmp_path: Path
) -> None:
    image = python_image.digest
    store = tmp_path / "store"
    with Agent(store, rules=[PACK / "base.yaml", RULES]) as agent:
        worker = Worker(runc, python_image, tmp_path, "worker")
        worker.do("normal")
        agent.settle()
        poll(
            lambda: ("write", "/data/state") in names(store, image),
            seconds=120,
            waiting_for="the profile in the store",
        )
        locked(agent, image, "--accept", "read /ctl/*")
        before = names(store, image)
        agent.kill()
    assert names(store, image) == before
    with Agent(store, rules=[PACK / "base.yaml", RULES]) as agent:
        assert (agent.status() or {})["baselines"]["locked"] == 1
        worker.do("normal")
        assert found(agent) == set()
        worker.do("odd")
        assert found(agent) == DRIFT
        # A profile can be made of history alone, and it is the one that was learnt live.
        cli(store, "forget", image)
        cli(store, "learn", image, "--since", "1h")
        again = names(store, image)
        assert {("write", "/data/state"), ("read", "/etc/hosts"), ("write", "/data/other")} <= again
