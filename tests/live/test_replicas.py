"""Attacks that happened, replayed as harmless replicas: each is found with its evidence, and a
near miss of each is not. One agent sees them all, each in a container of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent
from support.attacks.attack import Attack
from support.attacks.driven import done, drive
from support.attacks.replicas import REPLICAS, Replica
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Network, Runc
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(900)

ADDRESSES = ("203.0.113.7", "203.0.113.9", "169.254.169.254")
# Interpreters of this machine that the images do not have.
NEEDED = {"reverse-shell-bash": "bash", "reverse-shell-perl": "perl", "reverse-shell-node": "node"}


def host_programs() -> dict[str, Any]:
    """Options of a container that can run this machine's programs, below /host."""
    libraries = [f"/host{path}" for path in Path("/usr/lib").glob("*-linux-gnu")]
    return {
        "mounts": [Mount(Path("/usr"), "/host/usr")],
        "env": {
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PERL5LIB": ":".join(f"{path}/perl-base" for path in libraries),
            "PATH": "/bin:/opt/bin:/host/usr/bin",
        },
    }


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Findings by container: NAME of a replica, NAME-twin."""
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("replicas")
    with Agent(folder / "store") as agent, Runc(busybox_image) as runc, Network("stories") as net:
        for address in ADDRESSES:
            net.add_address(f"{address}/32")
        ids = {}
        for replica in REPLICAS:
            if missing(NEEDED.get(replica.name, "sh")):
                continue
            for name, code in ((replica.name, replica.act), (f"{replica.name}-twin", replica.twin)):
                options = host_programs() if replica.name in NEEDED else {}
                attacks = [Attack(name, code, {})]
                container = drive(
                    runc, python_image, name, folder, attacks, network=net.path, **options
                )
                done(container, attacks)
                container.wait()  # its ports are the next one's
                ids[name] = container.id
        agent.settle()
        yield {name: agent.stored(full_id) for name, full_id in ids.items()}
        status = agent.status()
        assert status is not None
        assert (status["losses"], status["faults"]) == ({}, {})


def of(found: dict[str, list[dict[str, Any]]], name: str) -> list[tuple[str, str]]:
    if name not in found:
        pytest.skip(f"needs {NEEDED[name.removesuffix('-twin')]}")
    return [(one["rule"], one["object"]) for one in found[name]]


@pytest.mark.parametrize("replica", REPLICAS, ids=lambda replica: replica.name)
def test_replica_is_found_with_its_evidence(
    found: dict[str, list[dict[str, Any]]], replica: Replica
):
    seen = of(found, replica.name)
    for rule, object_ in replica.found.items():
        objects = [what for name, what in seen if name == rule]
        assert objects, f"{rule}: {seen}"
        assert [one for one in objects if not re.fullmatch(object_, one)] == [], rule
    assert {rule for rule, _ in seen} == set(replica.found)
    for one in found[replica.name]:
        chain = [process["cmdline"] for process in one["processes"]]
        assert any(line.startswith("python3 /attacks/driver.py") for line in chain), one["rule"]


@pytest.mark.parametrize("replica", REPLICAS, ids=lambda replica: replica.name)
def test_near_miss_is_left_in_peace(found: dict[str, list[dict[str, Any]]], replica: Replica):
    assert of(found, f"{replica.name}-twin") == []
