"""SigmaHQ's rules, unmodified, against what real programs do, through the whole agent.

test_sigma_rules.py triggers every rule with made events; here are the ways in which real ones come
about: busybox and Python at work under the names that rules look for, case, renames and links,
names looked up. Two containers under one agent: in one everything that is listed here is done, in
the other a near miss of each. Exactly the findings of the list have to come of it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.detect.ruleset import load
from support.agent import Agent
from support.attacks.driven import DRIVER
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Container, Network, Runc
from support.scratch import REPOSITORY
from support.watch import missing_bpf

SIGMA = REPOSITORY.parent / "shared" / "conformance" / "sigma"
# Not scenarios: what a rule means is no matter of the kernel. test_attacks_pack.py attacks there.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SIGMA.exists(), reason="no ../shared/conformance beside the project"),
]
pytest.importorskip("sigma", reason="needs pySigma: pip install -e '.[dev]'")

BIN = "/usr/local/bin"


class Trigger(NamedTuple):
    """hit and miss: code for the driver. found: the object of its finding, then the rules."""

    hit: str
    miss: str
    found: tuple[str, ...]


def runs(hit: str, miss: str, *rules: str) -> Trigger:
    """Two command lines; words are split at blanks, and ~ stands for a blank within a word."""
    return Trigger(_run(hit), _run(miss), (_path(hit), *rules))


def _path(line: str) -> str:
    program = line.split(" ")[0]
    return program if program.startswith("/") else f"{BIN}/{program}"


def _run(line: str) -> str:
    """argv[0] is the name alone, as a shell would have it."""
    words = [word.replace("~", " ") for word in line.split(" ")]
    return (
        f"subprocess.run({words!r}, executable={_path(line)!r}, timeout=60, check=False,"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    )


def writes(hit: str, miss: str, *rules: str) -> Trigger:
    return Trigger(f"touch({hit!r})", f"touch({miss!r})", (hit, *rules))


def connects(name: str, other: str, *rules: str) -> Trigger:
    """Look the name up and connect to what it is said to be."""
    code = "socket.create_connection((resolve({!r}), 443)).close()"
    return Trigger(code.format(name), code.format(other), ("203.0.113.9:443", *rules))


def python(path: str, code: str) -> str:
    """The copy of Python at `path` runs code."""
    return f"assert run({path!r}, '-S', '-c', {code!r}) == 0"


_CONNECT = "import socket; socket.create_connection(({!r}, 443)).close()"
_BASE64 = "-c import~base64;base64.{}('eA==')"

TRIGGERS = (
    # `re` minds case, unlike the rest of Sigma.
    runs("auditctl -D", "auditctl -d", "Audit Rules Deleted Via Auditctl"),
    runs(
        "gawk BEGIN~{system(/bin/sh)}",
        "gawk BEGIN~{print(/bin/sh)}",
        "Suspicious Invocation of Shell via AWK - Linux",
    ),
    runs("base64 -d /etc/hostname", "base64 /etc/hostname", "Decode Base64 Encoded Text"),
    runs("BASH -i -c", "BASH -c x", "Bash Interactive Shell"),
    runs("bpftrace --UNSAFE -l", "bpftrace -l", "BPFtrace Unsafe Option Usage"),
    # The filter: a near miss that the selection alone would take.
    runs(
        "chmod 755 /etc/none",
        "chmod 755 /var/tmp/mkinitramfs_x/tmp/",
        "Chmod Targeting Sensitive Directories",
    ),
    runs(
        "dd if=/etc/hostname of=/proc/none/mem",
        "dd if=/etc/hostname of=/dev/null",
        "Potential Linux Process Code Injection Via DD Utility",
    ),
    runs(
        "mkfifo /tmp/pipe",
        "mkfifox /tmp/pipe",
        "Named Pipe Created Via Mkfifo",
        "Potentially Suspicious Named Pipe Created Via Mkfifo",
    ),
    runs("nohup /tmp/none", "nohupx /tmp/none", "Nohup Execution", "Suspicious Nohup Execution"),
    runs(
        "unlink /var/log/syslog",
        "unlinkx /var/log/syslog",
        "File Deletion",
        "Linux Logs Clearing Attempts",
        "Syslog Clearing or Removal Via System Utilities",
    ),
    runs(
        f"/usr/bin/python3.11 {_BASE64.format('b64decode')}",
        f"/usr/bin/python3.11 {_BASE64.format('__name__.strip')}",
        "Python One-Liners with Base64 Decoding - Linux",
    ),
    # Files: appended to, renamed to, linked to. A finding's object is then the old name.
    Trigger(
        'touch("/srv/a"); os.mkdir("/etc/sudoers.d"); os.rename("/srv/a", "/etc/sudoers.d/x")',
        'touch("/srv/a"); os.mkdir("/etc/sudo.d"); os.rename("/srv/a", "/etc/sudo.d/x")',
        ("/srv/a", "Persistence Via Sudoers.d Files"),
    ),
    Trigger(
        'touch("/tmp/rootlog", mode="a")',
        'touch("/tmp/root.log", mode="a")',
        ("/tmp/rootlog", "Triple Cross eBPF Rootkit Default LockFile"),
    ),
    Trigger(
        'os.link("/etc/hostname", "/srv/ebpfbackdoor")',
        'os.link("/etc/hostname", "/srv/ebpfbackdoors")',
        ("/etc/hostname", "Triple Cross eBPF Rootkit Default Persistence"),
    ),
    writes(
        "/srv/{echo,aWQ=}|{base64,-d}",
        "/srv/{ech}",
        "Suspicious Filename with Embedded Base64 Commands",
    ),
    Trigger(
        python("/opt/wget", "open('/tmp/download', 'w')"),
        python("/opt/wget", "open('/srv/download', 'w')"),
        ("/tmp/download", "Wget Creating Files in Tmp Directory"),
    ),
    # Connections: by the name that was looked up, by program.
    connects("POOL.minexmr.com", "minexmr.com", "Linux Crypto Mining Pool Connections"),
    connects(
        "a.localto.net",
        "localto.net",
        "Communication To LocaltoNet Tunneling Service Initiated - Linux",
    ),
    connects(
        "x.tunnel.eu.ngrok.com", "ngrok.com", "Communication To Ngrok Tunneling Service - Linux"
    ),
    Trigger(
        python("/opt/bin/bash", _CONNECT.format("203.0.113.7")),
        python("/opt/bin/bash", _CONNECT.format("127.0.0.1")),
        ("203.0.113.7:443", "Linux Reverse Shell Indicator"),
    ),
)
# Programs by the names that rules look for; all are busybox, which knows some and refuses others.
_NAMES = sorted(
    {
        Path(word).name
        for trigger in TRIGGERS
        for code in (trigger.hit, trigger.miss)
        for word in code.split("'")
        if word.startswith(f"{BIN}/")
    }
)
PREPARE = f"""
set -e
mkdir -p {BIN} /opt/bin /srv
for name in {" ".join(_NAMES)}; do cp /bin/busybox {BIN}/$name; done
cp /usr/bin/python3.11 /opt/wget; cp /usr/bin/python3.11 /opt/bin/bash
"""


@dataclass
class Judged:
    """What the agent found in each of the two containers."""

    hits: list[dict[str, Any]]
    misses: list[dict[str, Any]]
    status: dict[str, Any]


def drive(runc: Runc, image: Image, folder: Path, name: str, codes: list[str]) -> Container:
    """A container in which all of the codes are carried out, one after the other."""
    place = folder / name
    place.mkdir()
    (place / "list.json").write_text(json.dumps([[code, code] for code in codes]))
    (place / "driver.py").write_text(DRIVER.read_text())
    with Network(name) as network:
        for address in ("203.0.113.7", "203.0.113.9"):
            network.add_address(f"{address}/32")
        bundle = runc.make(
            ["python3", "/driver/driver.py", "/driver/list.json"],
            name=name,
            image=image,
            mounts=[Mount(place, "/driver")],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            network=network.path,
        )
        # From outside, and before any of it is watched as this container's.
        subprocess.run(["chroot", bundle.rootfs, "/bin/sh", "-c", PREPARE], check=True)
        container = runc.launch(bundle)
        said = [
            json.loads(line) for line in container.wait_for_output("done", 300).splitlines()[:-1]
        ]
    failed = [f"{one['attack']}: {one['error']}" for one in said if one["error"]]
    assert not failed, "\n".join(failed)
    assert len(said) == len(codes)
    return container


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[Judged]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sigma")
    with Agent(folder / "store", rules=[SIGMA]) as agent, Runc(busybox_image) as runc:
        hit = drive(runc, python_image, folder, "sigma", [one.hit for one in TRIGGERS])
        miss = drive(runc, python_image, folder, "nearly", [one.miss for one in TRIGGERS])
        agent.settle()
        yield Judged(agent.stored(hit.id), agent.stored(miss.id), agent.status() or {})


def test_the_rules_of_the_list_exist():
    triggered = {name for trigger in TRIGGERS for name in trigger.found[1:]}
    assert triggered <= {rule.name for rule in load([SIGMA]).rules}


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.found[1])
def test_trigger_is_found_with_its_evidence(judged: Judged, trigger: Trigger):
    wanted, *rules = trigger.found
    for rule in rules:
        found = [one for one in judged.hits if one["rule"] == rule and one["object"] == wanted]
        others = sorted((one["rule"], one["object"]) for one in judged.hits)
        assert len(found) == 1, f"{rule}: {wanted}: {others}"
        assert found[0]["container_name"] == "sigma"
        assert "rule=Sigma " in found[0]["output"], found[0]["output"]


def test_a_file_is_told_by_its_new_name(judged: Judged):
    told = {one["object"]: one["output"] for one in judged.hits}
    assert "(file=/etc/sudoers.d/x " in told["/srv/a"]
    assert "(file=/srv/ebpfbackdoor " in told["/etc/hostname"]


def test_nothing_else_is_found(judged: Judged):
    expected = {(rule, one.found[0]) for one in TRIGGERS for rule in one.found[1:]}
    assert {(one["rule"], one["object"]) for one in judged.hits} == expected


def test_near_misses_are_left_in_peace(judged: Judged):
    assert [(one["rule"], one["object"]) for one in judged.misses] == []


def test_nothing_was_lost(judged: Judged):
    assert (judged.status["losses"], judged.status["faults"]) == ({}, {})
