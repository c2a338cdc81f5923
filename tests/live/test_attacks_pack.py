"""Every rule of the pack, attacked in real containers through the whole agent.

All attacks run in two containers under one agent, once; the tests then ask the store what it knows.
Each attack gives exactly one finding for each of its rules, and nothing that is not listed here is
found: neither in the attacked containers nor in those that do harmless things of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from hullwatch.cli.alert import chain_of
from hullwatch.detect.ruleset import Rule, load
from support.agent import PACK, Agent
from support.attacks import ATTACKS, Attack
from support.attacks.driven import done, drive
from support.bundles import Mount
from support.conformance import record
from support.images import Image
from support.needs import missing
from support.recording import Recording
from support.runc import Container, Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]


# Things of the same kind that no rule is about, in a container with an agent and in one without.
HARMLESS_AGENT = (
    'run("/bin/ls", "/etc")',
    'run("/bin/grep", "-r", "def main", "/srv/app/main.py")',
    'open("/proc/self/status").read(); open("/proc/meminfo").read()',
    'open("/srv/app/.env").read()',  # its own, by the application itself
    'open("/root/.ssh/id_ed25519.pub").read()',
    'touch("/var/log/app.log", mode="a")',
    'touch("/tmp/notes.txt"); os.chmod("/tmp/notes.txt", 0o755)',
    'open("/models/tiny.gguf").read()',
    'socket.create_connection(("127.0.0.1", 80)).close(); socket.socket().close()',
    'resolve("example.com")',
    "os.dup2(1, 2)",
    'open("/etc/hullwatch-notes", "w").close()',
    'run("/opt/bin/gh", "pr", "list"); run("/opt/bin/git", "push", "origin", "main")',
    'run("/opt/bin/xdg-open", "https://as.example/authorize?response_type=code&state=x")',
    'run("/opt/bin/npx", "-y", "postmark-mcp@1.0.15"); run("/opt/bin/psql", "-c", "select 1")',
    'run("/opt/bin/ssh", "git@git.example", "git-upload-pack"); run("/bin/env", "true")',
    'run("/bin/rm", "-rf", "/srv/build"); run("/opt/bin/pkill", "-x", "no-such-program")',
    "install(\"open('/root/.npmrc').read()\")",
    'run("/usr/bin/python3", "-c", "open(\'/srv/app/main.py\').read()")',
    'touch("/tmp/a"); os.rename("/tmp/a", "/tmp/b")',
    'touch("/srv/vectors/chroma.sqlite3", mode="a")',
    'socket.create_server(("127.0.0.1", 9229)).close(); open("/dev/null").close()',
    # Code that came after the image, but in no call; native code of the image.
    'sys.path.insert(0, "/srv/mine"); import mine; open("/models/mine.dill").read()',
    "import glob; ctypes.CDLL(glob.glob('/usr/lib/python3.*/lib-dynload/_json.*.so')[0])",
    'resolve("a-rather-long-name-of-a-service-in-some-team-of-ours.example.com")',
)
HARMLESS_SHELL = (
    "/bin/cat /etc/passwd; /bin/wget -q -O /dev/null http://127.0.0.1:1/;"
    " /bin/nslookup x 127.0.0.1; /bin/cp /etc/passwd /tmp/p; /bin/chmod 755 /tmp/p;"
    " /bin/rm /tmp/p; /bin/sh -c true; /bin/nc 127.0.0.1 1;"
    " /bin/grep -r OPENAI_API_KEY /etc; echo done; exec /bin/sleep 1000"
)


@dataclass
class Attacked:
    """What the agent made of it all."""

    agent: Agent
    containers: dict[str, Container]
    network: Network
    replayed: set[tuple[str, str, str]]
    lost_in_recording: int

    def found(self, rule: str, *names: str) -> set[tuple[str, str]]:
        """(container, object) of a rule's findings in these containers."""
        return {
            (n, one["object"]) for n in names for one in self.findings(n) if one["rule"] == rule
        }

    def found_again(self, rule: str) -> set[tuple[str, str]]:
        """The same, of the replay, in all of them."""
        names = {container.id: name for name, container in self.containers.items()}
        return {(names[c], o) for r, c, o in self.replayed if r == rule and c in names}

    def findings(self, name: str) -> list[dict[str, Any]]:
        return self.agent.stored(self.containers[name].id)


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[Attacked]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("attacked")
    plain = [attack for attack in ATTACKS if not attack.privileged]
    mighty = [attack for attack in ATTACKS if attack.privileged]
    harmless = [Attack(code, code, {}) for code in HARMLESS_AGENT]
    sockets = folder / "run"
    sockets.mkdir()
    with (
        Agent(folder / "store", calls=sockets / "calls.sock", labels=()) as agent,
        Runc(busybox_image) as runc,
        Network("air") as network,
    ):
        for address in ("203.0.113.7", "203.0.113.9", "169.254.169.254"):
            network.add_address(f"{address}/32")
        containers: dict[str, Container] = {}
        with Recording(folder / "capture") as recording:
            for name, attacks, options in (
                (
                    "agent",
                    plain,
                    {
                        "network": network.path,
                        "mounts": [Mount(sockets, "/run/hullwatch", writable=True)],
                    },
                ),
                ("mighty", mighty, {"privileged": True}),
                ("harmless", harmless, {}),
            ):
                containers[name] = drive(runc, python_image, name, folder, attacks, **options)
                done(containers[name], attacks)
            containers["shell"] = runc.start(["/bin/sh", "-c", HARMLESS_SHELL], name="shell")
            containers["shell"].wait_for_output("done", 120)
            agent.settle()
        replayed, lost = recording.findings([PACK])
        yield Attacked(agent, containers, network, replayed, lost)


def _has_tests_of_its_own(rule: Rule) -> bool:
    own = {"hw.first_seen", "hw.drift", "hw.labels", "hw.policy.done"}
    return bool(own & set(rule.sources))


def test_every_rule_of_the_pack_is_attacked():
    # What an image has never done before has tests of its own: test_baseline_rules.py. And as one
    # act labels all that its process does next, so have labels: test_label_rules.py. What policy
    # stops needs policies in force: test_guard.py.
    rules = {rule.name for rule in load([PACK]).rules if not _has_tests_of_its_own(rule)}
    assert rules == {rule for attack in ATTACKS for rule in attack.found}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_found_with_its_evidence(attacked: Attacked, attack: Attack):
    name = "mighty" if attack.privileged else "agent"
    container = attacked.containers[name]
    for rule, object_ in attack.found.items():
        found = [
            one
            for one in attacked.findings(name)
            if one["rule"] == rule
            and re.fullmatch(object_, one["object"])
            and re.fullmatch(attack.by, one["processes"][0]["name"])
        ]
        others = [(one["rule"], one["object"]) for one in attacked.findings(name)]
        assert len(found) == 1, f"{rule}: {found or others}"
        (finding,) = found
        assert finding["container_full_id"] == container.id
        assert finding["container_name"] == name
        assert finding["image"] == container.image.reference
        assert finding["image_digest"] == container.image.digest
        assert finding["state"] == "resolved"
        chain = chain_of(finding)
        assert chain[0]["cmdline"].startswith("python3 /attacks/driver.py"), chain
        missing_facts = re.findall(r"\b(?:process|command|container|image)=<NA>", finding["output"])
        assert not missing_facts, finding["output"]


def test_nothing_else_is_found_in_the_attacked_containers(attacked: Attacked):
    for name, privileged in (("agent", False), ("mighty", True)):
        # Folded by rule, program and object: two attacks may come to one finding.
        expected = [
            (rule, attack.by, object_)
            for attack in ATTACKS
            if attack.privileged is privileged
            for rule, object_ in attack.found.items()
        ]
        more = [
            (one["rule"], one["processes"][0]["name"], one["object"])
            for one in attacked.findings(name)
            if not any(
                rule == one["rule"]
                and re.fullmatch(by, one["processes"][0]["name"])
                and re.fullmatch(object_, one["object"])
                for rule, by, object_ in expected
            )
        ]
        assert more == []


@pytest.mark.parametrize("rule", sorted({rule for attack in ATTACKS for rule in attack.found}))
def test_the_same_is_found_in_a_recording(attacked: Attacked, rule: str):
    """Live and replay find the same; what came of each rule goes to the table of all content."""
    live = attacked.found(rule, "agent", "mighty")
    if any(attack.told and rule in attack.found for attack in ATTACKS):
        # What somebody tells the agent is not in a recording that is made beside it.
        record("own", rule, loads=True, live=bool(live), near_miss=True, replay=None, reason="told")
        assert live and not attacked.found_again(rule)
        return
    near = attacked.found(rule, "harmless", "shell")
    again = attacked.found_again(rule)
    record(
        "own",
        rule,
        loads=True,
        live=bool(live),
        near_miss=not near,
        replay=again == live | near,
        reason="",
    )
    assert live and not near
    assert again == live
    assert attacked.lost_in_recording == 0


@pytest.mark.parametrize("name", ["harmless", "shell"])
def test_harmless_things_are_left_in_peace(attacked: Attacked, name: str):
    assert attacked.findings(name) == []


def test_nothing_was_lost_and_no_stage_had_a_fault(attacked: Attacked):
    status = attacked.agent.status()
    assert status is not None
    assert (status["losses"], status["faults"]) == ({}, {})
    assert attacked.agent.query("SELECT * FROM losses") == []


def test_the_store_knows_the_containers(attacked: Attacked):
    def asked(container: Container) -> list[dict[str, Any]]:
        return attacked.agent.query(
            "SELECT DISTINCT container, image, container_state FROM events WHERE container_id = $1",
            container.id,
        )

    def stored(name: str) -> bool:
        image = attacked.containers[name].image.reference
        row = {"container": name, "image": image, "container_state": "resolved"}
        return asked(attacked.containers[name]) == [row]

    for name in attacked.containers:
        # Written once a second, the events maybe a moment before.
        poll(partial(stored, name), seconds=60, waiting_for=f"container {name} in the store")
