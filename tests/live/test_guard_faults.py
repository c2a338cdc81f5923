"""What goes wrong while policies are in force: what the kernel goes on stopping, and what is said.

The same with maps that are dictionaries, and more of it: tests/unit/test_guarding.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.cli.errors import ExitCode
from support.agent import Agent
from support.images import Image
from support.needs import missing
from support.puppet import Puppet
from support.runc import Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = [pytest.mark.timeout(300)]

TO_NET = "socket.create_connection(('198.51.100.9', 80), timeout=5)"
TO_OTHER = TO_NET.replace("198.51.100.9", "198.51.100.10")


def forbids(network: str, more: str = "") -> str:
    return f"""
@id("no-net") @fail("closed")
forbid (principal, action == Action::"connect", resource is Address)
when {{ context has container && context.container == "faulty" }}
when {{ resource has ip && resource.ip.isInRange(ip("{network}")) }};
{more}
"""


class Stage(NamedTuple):
    agent: Agent
    store: Path
    puppet: Puppet

    @property
    def policy(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.agent.status() or {}).get("policy", {})
        return found

    def cli(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hullwatch", *argv], capture_output=True, text=True, timeout=120
        )

    def apply(self, text: str) -> subprocess.CompletedProcess[str]:
        file = self.store.parent / "set.cedar"
        file.write_text(text)
        return self.cli("policy", "apply", str(file), "--store", str(self.store))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, python_image: Image) -> Iterator[Stage]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("guard-faults")
    store = folder / "store"
    store.mkdir(mode=0o700)
    network = Network("faults")
    for number in (9, 10):
        network.add_address(f"198.51.100.{number}/32")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATIENCE", "2")
            started = Agent(store, rules=())
        with started as agent, Runc(python_image) as runc:
            puppet = Puppet(runc, python_image, folder, "faulty", network=network.path)
            made = Stage(agent, store, puppet)
            assert made.apply(forbids("198.51.100.9/32")).returncode == 0
            puppet.until(TO_NET, "EPERM")
            yield made
    finally:
        network.delete()


def test_a_set_that_is_broken_changes_nothing(stage: Stage):
    refused = stage.apply(forbids("198.51.100.0/24", "forbid (principal, action == "))
    assert refused.returncode == ExitCode.CONTENT, refused.stderr
    before = stage.policy["version"]
    log = stage.store / "policy" / "log.jsonl"
    whole = log.read_bytes()
    # Somebody writes into what is in force, as `apply` never would.
    log.write_bytes(
        whole + whole.splitlines(keepends=True)[-1].replace(b'"version":"', b'"version":"0')
    )
    try:
        said = poll(lambda: stage.policy["problem"] or None, seconds=20, waiting_for="the problem")
        assert "log.jsonl" in said
        assert stage.policy["version"] == before
        assert stage.puppet.do(TO_NET) == "EPERM" and stage.puppet.do(TO_OTHER) == "ECONNREFUSED"
        shown = stage.cli("status", "--store", str(stage.store)).stdout
        assert re.search(r"^POLICY .*log\.jsonl", shown, re.M), shown
    finally:
        log.write_bytes(whole)
    poll(lambda: not stage.policy["problem"], seconds=20, waiting_for="the problem to go")


def test_a_set_that_there_is_no_room_for_leaves_the_one_before(stage: Stage):
    before = stage.policy["version"]
    # More ports than the kernel's map has room for.
    policies = [
        f'@id("ports-{first}") forbid (principal, action == Action::"connect", resource is Address)'
        f" when {{ resource has port && [{numbers}].contains(resource.port) }};"
        for first in range(20_000, 24_500, 1_500)
        for numbers in (", ".join(map(str, range(first, first + 1_500))),)
    ]
    assert stage.apply(forbids("198.51.100.10/32", "\n".join(policies))).returncode == 0
    said = poll(lambda: stage.policy["problem"] or None, seconds=60, waiting_for="the problem")
    assert "guard_ports has no room for more" in said
    assert stage.policy["version"] == before
    assert stage.puppet.do(TO_NET) == "EPERM" and stage.puppet.do(TO_OTHER) == "ECONNREFUSED"
    assert stage.cli("policy", "rollback", "--store", str(stage.store)).returncode == 0
    poll(lambda: not stage.policy["problem"], seconds=20, waiting_for="the problem to go")
    assert stage.puppet.do(TO_NET) == "EPERM"


def test_a_log_that_cannot_be_written_stops_no_policy(stage: Stage):
    head = stage.store / "decisions.head"
    aside = head.with_suffix(".aside")
    head.rename(aside)
    try:
        assert stage.puppet.do(TO_NET) == "EPERM"
        poll(
            lambda: any("decisions.head" in one for one in stage.agent.words().splitlines()),
            seconds=20,
            waiting_for="the agent to say so",
        )
        assert stage.puppet.do(TO_NET) == "EPERM"
        assert stage.apply(forbids("198.51.100.0/24")).returncode == 0
        stage.puppet.until(TO_OTHER, "EPERM")
    finally:
        os.rename(aside, head)


def test_the_thread_that_keeps_policies_is_seen(stage: Stage):
    assert stage.policy["thread"] == "alive"
    shown = stage.cli("status", "--store", str(stage.store)).stdout
    assert re.search(r"^policies +1 in force in the kernel", shown, re.M), shown


OPEN = """
@id("no-other") @fail("open")
forbid (principal, action == Action::"connect", resource is Address)
when { context has container && context.container == "faulty" }
when { resource has ip && resource.ip.isInRange(ip("198.51.100.10/32")) };
"""


@pytest.fixture
def both(stage: Stage) -> Stage:
    """One policy that fails closed, and one that fails open."""
    assert stage.apply(forbids("198.51.100.9/32", OPEN)).returncode == 0
    poll(lambda: stage.policy["policies"] == 2, seconds=20, waiting_for="both to be in force")
    assert stage.puppet.do(TO_OTHER) == stage.puppet.do(TO_NET) == "EPERM"
    return stage


def lapses(stage: Stage) -> None:
    """Each as it says, and nobody waits for whoever does not answer."""
    stage.puppet.until(TO_OTHER, "ECONNREFUSED")
    assert stage.puppet.do(TO_NET) == "EPERM"


def test_an_agent_that_stands_still(both: Stage):
    os.kill(both.agent.process.pid, signal.SIGSTOP)
    try:
        assert both.puppet.do(TO_NET) == "EPERM"
        lapses(both)
    finally:
        os.kill(both.agent.process.pid, signal.SIGCONT)
    both.puppet.until(TO_OTHER, "EPERM")


def test_a_policy_thread_that_hangs(both: Stage):
    log = both.store / "policy" / "log.jsonl"
    aside = log.with_suffix(".aside")
    log.rename(aside)
    os.mkfifo(log)  # to read it is to wait for a writer
    try:
        lapses(both)
        assert both.policy["thread"] == "hangs"
        poll(
            lambda: "policies in the kernel hangs" in both.agent.words(),
            seconds=20,
            waiting_for="the agent to say so",
        )
    finally:
        with log.open("wb"):
            aside.rename(log)
    both.puppet.until(TO_OTHER, "EPERM")
    assert both.policy["thread"] == "alive"
