"""Noise in a real container: one finding for many files, quiet when somebody answers for it,
and the same findings after a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hullwatch.detect.fold import LOUD, MAX_EVIDENCE
from support.agent import Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(600)

FILES = 200
WORDS = 40
RULES = """
- rule: Data read
  desc: A file of the data was read in a container.
  condition: >
    evt.type in (open, openat) and fd.num >= 0 and fd.name startswith /data/
    and container.id != host
  output: data read %fd.name by %proc.cmdline
  priority: WARNING
- rule: Key read
  desc: The key was read in a container.
  condition: >
    evt.type in (open, openat) and fd.num >= 0 and fd.name = /data/key and container.id != host
  output: key read %fd.name
  priority: ERROR
"""
# One round for each number that appears in /ctl: all numbered files, and nothing else.
LOOP = f"""
import os, time
os.makedirs("/data")
for number in range({FILES}):
    open(f"/data/part-{{number}}.bin", "w").close()
letters = str.maketrans("0123456789", "abcdefghij")
words = ["/data/word-" + str(number).translate(letters) for number in range({WORDS})]
for path in (*words, "/data/key"):
    open(path, "w").close()
print("ready", flush=True)
done = 0
while True:
    if os.path.exists(f"/ctl/{{done}}"):
        what = open(f"/ctl/{{done}}").read()
        paths = [f"/data/part-{{n}}.bin" for n in range({FILES})]
        for path in {{"parts": paths, "words": words, "key": ["/data/key"]}}[what]:
            open(path).close()
        print("did", done, flush=True)
        done += 1
    time.sleep(0.01)
"""


class Loop:
    """A container that reads its files when it is told to."""

    def __init__(self, runc: Runc, image: Image, folder: Path) -> None:
        self.ctl = folder / "ctl"
        self.ctl.mkdir()
        self.rounds = 0
        self.container = runc.start(
            ["python3", "-c", LOOP], name="loop", image=image, mounts=[Mount(self.ctl, "/ctl")]
        )
        self.container.wait_for_output("ready", 120)

    def read(self, what: str) -> None:
        number, self.rounds = self.rounds, self.rounds + 1
        new = self.ctl / f"{number}.new"
        new.write_text(what)
        new.rename(self.ctl / str(number))
        self.container.wait_for_output(f"did {number}\n", 120)


def cli(store: Path, *argv: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", *argv, "--json", "--store", store],
        capture_output=True,
        timeout=200,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def loop(runc: Runc, python_image: Image, tmp_path: Path) -> Loop:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    return Loop(runc, python_image, tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], Agent]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    return lambda: Agent(tmp_path / "store", rules=[rules], cpu_budget=0.0)


def found(agent: Agent, loop: Loop, rule: str = "Data read") -> list[dict[str, Any]]:
    return [one for one in agent.stored(loop.container.id) if one["rule"] == rule]


def test_many_files_are_one_finding_and_a_restart_does_not_repeat_it(start, loop):
    with start() as agent:
        loop.read("parts")
        agent.settle()
        (finding,) = found(agent, loop)
        assert finding["count"] == FILES and finding["shape"] == "/data/part-*.bin"
        assert finding["container_full_id"] == loop.container.id
        assert len(finding["evidence"]) == MAX_EVIDENCE
        objects = [one["object"] for one in finding["evidence"]]
        assert objects == [f"/data/part-{number}.bin" for number in range(MAX_EVIDENCE)]
        assert 0.95 * FILES <= finding["distinct"] <= FILES
        assert finding["first"] < finding["last"]
        agent.kill()
    with start() as agent:
        loop.read("parts")
        agent.settle()
        (again,) = found(agent, loop)
        assert (again["id"], again["count"]) == (finding["id"], 2 * FILES)
        # To those who follow it is what they know, with a higher count.
        told = [one for one in agent.findings.values() if one["rule"] == "Data read"]
        assert {one["id"] for one in told} <= {finding["id"]}


def test_a_loud_rule_hides_neither_its_shapes_nor_another_rule(start, loop):
    with start() as agent:
        loop.read("words")
        loop.read("key")
        agent.settle()
        every = found(agent, loop)
        (overflow,) = (one for one in every if one["shapes"])
        assert len(every) == LOUD + 1
        assert sum(one["count"] for one in every) == WORDS + 1  # the key is data, too
        assert 0 < overflow["shapes"] <= WORDS + 1 - LOUD
        (key,) = found(agent, loop, "Key read")
        assert (key["object"], key["shapes"]) == ("/data/key", 0)
        status = agent.status()
        assert status is not None
        assert status["folds"]["overflowed"] == WORDS + 1 - LOUD


def test_a_suppression_follows_the_command_line_and_its_evidence_stays(start, loop, tmp_path):
    rules = str(tmp_path / "rules.yaml")
    with start() as agent:
        loop.read("parts")
        agent.settle()
        (before,) = found(agent, loop)
        (proposed,) = (
            one
            for one in cli(agent.store, "findings", "top", "--rules", rules)
            if one["rule"] == "Data read"
        )
        assert (proposed["findings"], proposed["events"]) == (1, FILES)
        assert proposed["tried"]["findings"] == 1
        asked = ("--rule", "Data read", "--when", proposed["condition"], "--rules", rules)
        said = ("--owner", "me", "--reason", "its own data", "--expires", "1d")
        (made,) = cli(agent.store, "suppress", "add", *asked, *said)
        assert made["tried"]["events"] == sum(one["count"] for one in before["evidence"])

        def in_force(number: int) -> None:
            poll(
                lambda: (agent.status() or {})["suppressions"]["in_force"] == number,
                seconds=60,
                waiting_for=f"{number} suppressions in the agent",
            )

        in_force(1)
        loop.read("parts")
        loop.read("key")
        agent.settle()
        poll(
            lambda: sum(one["count"] for one in found(agent, loop)) == 2 * FILES + 1,
            seconds=60,
            waiting_for="all of it in the store",
        )
        quiet = [one for one in found(agent, loop) if one["suppressed_by"]]
        assert [(one["suppressed_by"], one["count"]) for one in quiet] == [(made["id"], FILES)]
        assert not [one for one in agent.findings.values() if one["suppressed_by"]]
        # What the condition does not say is told, of this rule and of the other.
        assert {one["object"] for one in found(agent, loop) if not one["suppressed_by"]} == {
            before["object"],
            "/data/key",
        }
        assert found(agent, loop, "Key read")
        (listed,) = cli(agent.store, "suppress", "list")
        assert (listed["state"], listed["hits"], listed["owner"]) == ("in force", FILES, "me")
        shown = cli(agent.store, "findings", "--suppressed")
        assert [one["id"] for one in shown] == [one["id"] for one in quiet]

        cli(agent.store, "suppress", "remove", made["id"])
        in_force(0)
        loop.read("parts")
        agent.settle()
        after = {one["id"]: one["count"] for one in found(agent, loop)}
        assert after[before["id"]] == 2 * FILES and after[quiet[0]["id"]] == FILES
