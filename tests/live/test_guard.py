"""Policies that were applied hold in the kernel: what they forbid is stopped, and logged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.detect.ruleset import load
from support.agent import PACK, Agent
from support.conformance import record
from support.images import Image
from support.needs import missing
from support.puppet import Puppet
from support.runc import Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

POLICIES = """
@id("no-metadata")
forbid (principal, action == Action::"connect", resource is Address)
when { context.container == "guarded" }
when { resource has ip && resource.ip.isInRange(ip("169.254.0.0/16")) };

@id("secret-stays")
@reason("it has read a secret")
forbid (principal, action == Action::"connect", resource is Host)
when { context.container == "guarded" && context.labels.contains("secret") }
unless { resource.name == "localhost" };

@id("no-shell")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && ["sh", "ash"].contains(resource.name) };

@id("no-shadow")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "guarded" && resource.path == "/etc/shadow" };

@id("only-seen")
@mode("observe")
forbid (principal, action == Action::"connect", resource is Address)
when { context.container == "guarded" && resource has port && resource.port == 8888 };
"""


class Stage(NamedTuple):
    agent: Agent
    store: Path
    guarded: Puppet
    other: Puppet
    network: Network

    @property
    def lsm(self) -> bool:
        return bool((self.agent.status() or {}).get("tier") == "lsm")

    def decisions(self) -> list[dict[str, Any]]:
        done = hullwatch("decisions", "--json", "--log", str(self.store))
        return [json.loads(line) for line in done.splitlines()]

    def logged(self, **fields: Any) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            for one in self.decisions():
                if all(one.get(name) == value for name, value in fields.items()):
                    return one
            return None

        return poll(found, seconds=30, waiting_for=f"an entry with {fields}")


def hullwatch(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CUT = """
server = socket.create_server(('198.51.100.9', 0))
link = socket.create_connection(server.getsockname())
other, _ = server.accept()
other.settimeout(0.5)
link.sendall(b'before')
before = other.recv(100)
os.makedirs('/root/.aws', exist_ok=True); open('/root/.aws/credentials', 'a+').read()
link.sendall(b'after')
try:
    said = other.recv(100).decode()
except TimeoutError:
    said = before.decode()
"""


def apply(store: Path, text: str) -> None:
    file = store.parent / "set.cedar"
    file.write_text(
        text.replace("context.container ==", "context has container && context.container ==")
    )
    hullwatch("policy", "apply", str(file), "--store", str(store))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, python_image: Image) -> Iterator[Stage]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("guard")
    store = folder / "store"
    store.mkdir(mode=0o700)
    apply(store, POLICIES)
    network = Network("guard")
    network.add_address("198.51.100.9/32")
    network.add_address("169.254.169.254/32")
    try:
        with (
            Agent(store, rules=(PACK / "base.yaml", PACK / "policy")) as agent,
            Runc(python_image) as runc,
        ):
            guarded = Puppet(runc, python_image, folder, "guarded", network=network.path)
            other = Puppet(runc, python_image, folder, "other", network=network.path)
            guarded.until(TO_METADATA, "EPERM")
            yield Stage(agent, store, guarded, other, network)
            assert not (agent.status() or {}).get("faults")
    finally:
        network.delete()


TO_METADATA = "socket.create_connection(('169.254.169.254', 80), timeout=5)"
OUT = "s = socket.socket(); s.settimeout(5); said = s.connect_ex(('198.51.100.9', 9))"


def test_a_network_is_forbidden(stage: Stage):
    assert stage.guarded.do(TO_METADATA) == "EPERM"
    assert stage.other.do(TO_METADATA) == "ECONNREFUSED"
    mapped = TO_METADATA.replace("169.254", "::ffff:169.254", 1)
    assert stage.guarded.do(mapped) == "EPERM"
    told = stage.logged(action="connect", resource="Address:169.254.169.254:80")
    assert (told["effect"], told["policies"]) == ("block", ["no-metadata"])


def test_what_a_process_has_read_counts(stage: Stage):
    assert stage.guarded.do(OUT) == 111
    read = "os.makedirs('/root/.aws', exist_ok=True); open('/root/.aws/credentials', 'a+').read()\n"
    assert stage.guarded.do(read + OUT) == 1
    assert stage.guarded.do(OUT) == 111  # another process has not
    told = stage.logged(resource="Address:198.51.100.9:9")
    assert (told["policies"], told["reason"]) == (["secret-stays"], "it has read a secret")


def test_a_program_is_forbidden(stage: Stage):
    shell = (
        "done = subprocess.run(['/bin/sh', '-c', 'echo ran > /tmp/ran']); said = done.returncode"
    )
    assert stage.guarded.do(shell) in ("EPERM", -9)
    assert not (stage.guarded.rootfs / "tmp/ran").exists()
    assert stage.other.do(shell) == 0
    told = stage.logged(action="exec", effect="block")
    assert told["policies"] == ["no-shell"]


def test_a_file_is_forbidden(stage: Stage):
    read = "open('/etc/shadow', 'a').close(); said = open('/etc/shadow').read()"
    if stage.lsm:
        assert stage.guarded.do(read) == "EPERM"
        assert stage.logged(action="open-read")["policies"] == ["no-shadow"]
    assert str(stage.other.do(read)).startswith("root:")


def test_observed_goes_on_and_is_told(stage: Stage):
    assert stage.guarded.do(OUT.replace("9))", "8888))")) == 111
    told = stage.logged(resource="Address:198.51.100.9:8888")
    assert (told["effect"], told["wanted"], told["mode"]) == ("allow", "block", "observe")


def test_an_open_connection_is_cut(stage: Stage):
    assert stage.guarded.do(CUT) == "before"
    assert stage.other.do(CUT) == "after"
    told = stage.logged(why="a packet of an open connection was dropped")
    assert (told["effect"], told["policies"]) == ("block", ["secret-stays"])


FOUND = {
    "Policy stopped an action": ("198.51.100.9:9", "WARNING"),
    "Policy stopped a program or a privilege": ("/bin/sh", "ERROR"),
    "Policy cut an open connection": ("198.51.100.9:", "ERROR"),
}


def test_what_is_stopped_is_found_and_what_is_observed_is_not(stage: Stage):
    """After the tests above: one finding of each rule for the workload, whatever it tried."""
    stage.agent.settle()
    found = {one["rule"]: one for one in stage.agent.stored(stage.guarded.container.id)}
    assert stage.agent.stored(stage.other.container.id) == []
    assert len(found) == len(stage.agent.stored(stage.guarded.container.id))
    for rule, (object_, priority) in FOUND.items():
        one = found[rule]
        near = any("8888" in evidence["object"] for evidence in one["evidence"])
        assert any(object_ in evidence["object"] for evidence in one["evidence"]), one["evidence"]
        assert one["priority"] == priority and not near
        record("own", rule, loads=True, live=True, near_miss=True, replay=None, reason="told")
    assert (
        set(found)
        == set(FOUND)
        == {rule.name for rule in load([PACK / "base.yaml", PACK / "policy"]).rules}
    )


def test_what_was_stopped_is_read_as_such(stage: Stage):
    """After the tests above."""
    name, store = stage.guarded.container.name, ("--store", str(stage.store))
    lines = hullwatch("events", "--class", "policy", *store).splitlines()
    assert any("connect 198.51.100.9:9: denied = EPERM  [secret]" in line for line in lines), lines
    assert any("connect 198.51.100.9:8888: observed" in line for line in lines), lines
    tree = hullwatch("tree", name, *store)
    said = "STOPPED  connect 198.51.100.9:9, by secret-stays: it has read a secret"
    assert said in tree and "STOPPED  exec" in tree and ", its packets dropped" in tree, tree
    assert "WOULD STOP connect 198.51.100.9:8888, by only-seen" in tree
    found = json.loads(hullwatch("tree", name, "--json", *store))["processes"]
    stops = [stop for process in found for stop in process["stopped"]]
    assert {stop["done"] for stop in stops} >= {"denied", "dropped", "observed"}
