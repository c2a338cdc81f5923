"""What the running agent still may: every thread, every child; and that it still sees all.

It has given up root's rights by the time it watches, so what is found here is found without them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.privileges import Held, held, names_of
from support.agent import PACK, Agent
from support.images import Image
from support.needs import missing
from support.runc import Container, Runc
from support.scratch import poll
from support.watch import missing_bpf

# Scenarios are those that depend on the kernel; the others would take minutes, emulated.
pytestmark = pytest.mark.timeout(600)

READ = "CAP_DAC_READ_SEARCH"
RULES = """
- rule: Marked program
  desc: A program that a test starts in a container.
  condition: evt.type in (execve, execveat) and container.id != host and proc.args contains "marked-"
  output: marked %proc.args
  priority: ERROR
"""  # noqa: E501


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)


def with_marks(folder: Path) -> list[Path]:
    path = folder / "marked.yaml"
    path.write_text(RULES)
    return [PACK, path]


@pytest.fixture
def rules(tmp_path: Path) -> list[Path]:
    return with_marks(tmp_path)


class Watching(NamedTuple):
    """An agent, and containers that were there before it; `runc` starts more."""

    agent: Agent
    runc: Runc
    earlier: Container
    on_host: Container


@pytest.fixture(scope="module")
def watching(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[Watching]:
    """One agent for all that only look at it: emulated, its start takes most of a minute."""
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("watching")
    with Runc(busybox_image) as runc:
        earlier = runc.start(["sleep", "1000"], name="earlier", image=python_image)
        on_host = runc.start(["sleep", "1000"], name="on-host", network="host")
        with Agent(folder / "store", rules=with_marks(folder)) as agent:
            yield Watching(agent, runc, earlier, on_host)


def marked(agent: Agent, container: Container, word: str, program: str = "true") -> dict[str, Any]:
    """Start a program in the container; its finding, as stored. One of the same program folds."""
    done = container.exec([f"/bin/{program}", f"marked-{word}"])
    assert done.status == 0, done.stderr

    def found() -> dict[str, Any] | None:
        for one in agent.stored(container.id):
            if one["rule"] == "Marked program" and f"marked-{word}" in one["output"]:
                return one
        return None

    return poll(found, seconds=120, waiting_for=f"the finding of marked-{word}")


def sets(of: Held) -> dict[str, list[str]]:
    """Its sets by name, the sealed bit aside."""
    names = ("effective", "permitted", "inheritable", "ambient", "bounding")
    return {name: names_of(bits) for name, bits in zip(names, of, strict=False)}


@pytest.mark.scenario
def test_every_thread_holds_what_the_table_says_and_no_more(
    watching: Watching, python_image: Image
):
    agent = watching.agent
    pid = agent.process.pid
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    # The loop, the resolver's two, the control socket's: and what libraries made.
    assert len(tasks) >= 4
    holds = held(pid)
    assert holds.no_new_privs and holds.threads >= 4
    assert sets(holds) == {name: [READ] for name in sets(holds)}
    assert names_of(held(pid).any) == [READ]

    status = agent.status()
    assert status is not None and status["faults"] == {}
    said = status["privileges"]
    assert (said["held"], said["bounding"], said["problems"]) == ([READ], [READ], [])
    assert said["no_new_privs"] and not said["dumpable"]

    # And it sees: what ran before it, and what starts now.
    later = watching.runc.start(["sleep", "1000"], name="later", image=python_image)
    for container in (watching.earlier, later):
        finding = marked(agent, container, container.name)
        assert finding["container_name"] == container.name
        assert finding["image"] == python_image.reference
    # Maps are written and read: verdicts, and what they count.
    poll(
        lambda: agent.query("SELECT count(*) AS n FROM counts")[0]["n"],
        seconds=120,
        waiting_for="events that were counted in the kernel",
    )
    status = agent.status()
    assert status is not None and status["verdicts"]["written"] > 0
    assert status["faults"] == {}
    assert sets(held(pid)) == sets(holds)


@pytest.mark.scenario
def test_its_memory_is_not_for_a_process_of_the_same_user(watching: Watching):
    look = """
import sys
from hullwatch import privileges
privileges._give_up(1 << 2, 0)  # as much as the agent has
for name in ("mem", "environ"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").read(0)
        print(name)
    except PermissionError:
        pass
"""
    # Another that holds no more than it, but is dumpable as programs are.
    same = "from hullwatch import privileges as p; p._give_up(1 << 2, 0); print(1); input()"
    other = subprocess.Popen(
        [sys.executable, "-uc", same], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout and other.stdout.readline() == b"1\n"
        seen = [
            subprocess.check_output([sys.executable, "-c", look, str(pid)], text=True).split()
            for pid in (watching.agent.process.pid, other.pid)
        ]
    finally:
        other.kill()
        other.communicate()
    assert seen == [[], ["mem", "environ"]]


@pytest.mark.parametrize("command", ["up", "record"])
def test_as_the_commands_run_it(tmp_path: Path, command: str):
    target = {"up": ["--store", str(tmp_path / "store")], "record": [str(tmp_path / "capture")]}
    process = subprocess.Popen(
        [sys.executable, "-m", "hullwatch", command, *target[command]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        # While it starts, one thread has all.
        poll(
            lambda: process.poll() is not None or names_of(held(process.pid).bounding) == [READ],
            seconds=120,
            waiting_for="it to give up",
        )
        assert process.poll() is None
        holds = held(process.pid)
        assert holds.no_new_privs
        assert sets(holds) == {name: [READ] for name in sets(holds)}
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and b"privileges:" not in said, said


@contextmanager
def compaction(agent: Agent) -> Iterator[int]:
    """The pid of the compaction that was started with the agent: it waits where it opens its lock,
    a FIFO that nobody reads, and goes on at the end."""
    (child,) = poll(lambda: children(agent.process.pid), seconds=120, waiting_for="compaction")
    fifo = agent.store / "compact.lock"
    try:
        yield child
    finally:
        with fifo.open("r+b", buffering=0):
            poll(lambda: not children(agent.process.pid), seconds=120, waiting_for="its end")
        fifo.unlink()


@pytest.mark.parametrize("owner", [0, 12345], ids=["root", "foreign"])
def test_compaction_works_with_less(tmp_path: Path, runc: Runc, rules: list[Path], owner: int):
    """A store that belongs to another user costs a right more."""
    rights = [READ] if owner == 0 else ["CAP_DAC_OVERRIDE", READ]
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    os.chown(store, owner, owner)
    container = runc.start(["sleep", "1000"], name="patient")
    os.mkfifo(store / "compact.lock", 0o600)
    with Agent(store, rules=rules, files=False) as agent:
        with compaction(agent) as child:
            assert "hullwatch.store.compact" in Path(f"/proc/{child}/cmdline").read_text()
            for pid in (agent.process.pid, child):
                holds = held(pid)
                assert holds.no_new_privs
                assert sets(holds) == dict.fromkeys(sets(holds), rights)
        status = agent.status()
        assert status is not None and status["privileges"]["held"] == rights
        marked(agent, container, "stored")
    # The next one makes a segment of what this one left.
    with Agent(store, rules=rules, files=False) as agent:
        poll(
            lambda: list((store / "segments").glob("*.parquet")),
            seconds=120,
            waiting_for="a Parquet segment",
        )
        poll(lambda: not children(agent.process.pid), seconds=120, waiting_for="its end")
        kinds = {row["kind"] for row in agent.query("SELECT kind FROM notices")}
        assert not {"compaction", "stalled", "privileges"} & kinds
        for path in (store, *store.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path


def children(pid: int) -> list[int]:
    """Of any of its threads."""
    return [
        int(word)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for word in path.read_text().split()
    ]


def test_a_store_that_is_removed_is_made_anew(tmp_path: Path, runc: Runc, rules: list[Path]):
    store = tmp_path / "store"
    container = runc.start(["sleep", "1000"], name="patient")
    with Agent(store, rules=rules) as agent:
        marked(agent, container, "before")
        shutil.rmtree(store)
        poll(lambda: (store / "reserve").exists(), seconds=120, waiting_for="another store")
        assert marked(agent, container, "after", "echo")["container_name"] == "patient"
        assert store.stat().st_mode & 0o777 == 0o700


@pytest.mark.scenario
def test_namespaces_of_others_are_known_without_the_right_to_look(watching: Watching):
    """As a pod's containers join: by the path of the first one's, which cannot be followed."""
    agent, runc = watching.agent, watching.runc
    apart = runc.start(["sleep", "1000"], name="apart")
    joined = {
        name: runc.start(["sleep", "1000"], name=name, network=f"/proc/{first.pid}/ns/net")
        for name, first in (("with-host", watching.on_host), ("with-other", apart))
    }

    def told() -> dict[str, set[str]] | None:
        rows = agent.query("SELECT name, body FROM workloads WHERE state = 'resolved'")
        found = {
            row["name"]: set(json.loads(row["body"])["host_namespaces"])
            for row in rows
            if row["name"] in joined
        }
        return found if len(found) == len(joined) else None

    spaces = poll(told, seconds=120, waiting_for="both containers")
    assert "net" in spaces["with-host"] and "net" not in spaces["with-other"]


def test_what_cannot_be_given_up_is_told_and_it_runs(tmp_path: Path, runc: Runc, rules: list[Path]):
    """Without CAP_SETPCAP, as in many containers, the bounding set and securebits stay."""
    if reason := missing("setpriv"):
        pytest.skip(reason)
    container = runc.start(["sleep", "1000"], name="patient")
    wrapper = ["setpriv", "--bounding-set=-setpcap", "--inh-caps=-setpcap"]
    with Agent(tmp_path / "store", rules=rules, wrapper=wrapper) as agent:
        holds = held(agent.process.pid)
        assert names_of(holds.effective | holds.permitted) == [READ]
        assert len(names_of(holds.bounding)) > 1 and holds.no_new_privs
        status = agent.status()
        assert status is not None
        assert status["privileges"]["held"] == [READ]
        problems = status["privileges"]["problems"]
        assert any("bounding set" in problem for problem in problems)
        marked(agent, container, "still")
        told = {
            row["text"] for row in agent.query("SELECT text FROM notices WHERE kind = 'privileges'")
        }
        assert told == set(problems)
        assert "privileges: could not give up the bounding set" in agent.words()
