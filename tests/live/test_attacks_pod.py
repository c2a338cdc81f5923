"""A Kubernetes pod attacked in each of its containers: init, main and sidecar.

The agent is told nothing: pod, namespace, role and image are what it finds out by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hullwatch.cli.alert import chain_of
from support.agent import Agent
from support.containerd import Containerd, Pod, Spec
from support.images import Image
from support.needs import missing
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
INIT = "/bin/touch /srv/x; /bin/chmod 4755 /srv/x; :"  # what comes last, ash does in its own place
# The workload's own first process may read its token; a child of it is a tool or plugin.
MAIN = f"""
import os, time
if os.fork() == 0:
    open('{SECRETS}/token').read()
    os._exit(0)
os.wait()
time.sleep(1000)
"""
SIDECAR = (
    "/bin/mkdir -p /root/.aws; echo x > /root/.aws/credentials; /bin/cat /root/.aws/credentials;"
    " exec /bin/sleep 1000"
)
CALL = "import subprocess; subprocess.run(['/bin/sh', '-c', '/bin/cat /root/.ssh/id_rsa; :'])"


def known(agent: Agent) -> set[str]:
    """Containers of the pod whose programs are stored, and of which all is known."""
    rows = agent.query(
        "SELECT DISTINCT container FROM events WHERE pod = 'agent-0' AND class = 'exec'"
        " AND image_digest IS NOT NULL AND role != 'sandbox'"
    )
    return {row["container"] for row in rows}


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory,
    containerd: Containerd,
    busybox_image: Image,
    python_image: Image,
) -> Iterator[tuple[Agent, Pod]]:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("pod")
    (folder / "token").write_text("planted")
    with Agent(folder / "store") as agent:
        pod = containerd.pod(
            "agent-0",
            namespace="prod",
            image=busybox_image,
            labels={"app": "agent"},
            init=Spec("prepare", ["/bin/sh", "-c", f"/bin/mkdir -p /srv; {INIT}"]),
            sidecar=Spec("istio-proxy", ["/bin/sh", "-c", SIDECAR]),
            main=Spec(
                "app", ["python3", "-c", MAIN], python_image, mounts=[(folder, SECRETS, False)]
            ),
        )
        try:
            key = ["/bin/sh", "-c", "/bin/mkdir -p /root/.ssh; echo x > /root/.ssh/id_rsa"]
            assert pod["app"].exec(key).status == 0
            assert pod["app"].exec(["python3", "-c", CALL]).status == 0
            agent.settle()
            # What only the socket knows comes later, and is written once a second.
            poll(
                lambda: known(agent) == set(pod.containers),
                seconds=120,
                waiting_for="the pod's containers in the store",
            )
            yield agent, pod
        finally:
            containerd.remove(pod)


@pytest.mark.parametrize(
    ("container", "rule", "object_", "chain"),
    [
        ("prepare", "Set-user-id bit set in a container", "/srv/x", ["sh", "chmod"]),
        (
            "app",
            "Service account token read by a tool or plugin",
            f"{SECRETS}/token",
            ["python3", "python3"],
        ),
        (
            "app",
            "Secret read by code from the command line",
            f"{SECRETS}/token",
            ["python3", "python3"],
        ),
        ("app", "Shell started by an AI agent", "/bin/sh", ["python3", "sh"]),
        (
            "app",
            "SSH private key read by a program other than SSH",
            "/root/.ssh/id_rsa",
            ["python3", "sh", "cat"],
        ),
        (
            "istio-proxy",
            "Cloud credentials read in a container",
            "/root/.aws/credentials",
            ["sh", "cat"],
        ),
    ],
)
def test_found_once_with_pod_and_container(
    attacked: tuple[Agent, Pod],
    python_image: Image,
    busybox_image: Image,
    container: str,
    rule: str,
    object_: str,
    chain: list[str],
):
    agent, pod = attacked
    found = [one for one in agent.stored(pod[container].id) if one["rule"] == rule]
    assert [one["object"] for one in found] == [object_]
    (finding,) = found
    assert (finding["pod"], finding["namespace"]) == ("agent-0", "prod")
    assert (finding["container_name"], finding["state"]) == (container, "resolved")
    image = python_image if container == "app" else busybox_image
    assert finding["image"] == image.reference
    # The digest comes over the runtime's socket, it may be later than the finding.
    assert finding["image_digest"] in ("", image.digest)
    assert [one["name"] for one in chain_of(finding)] == chain


def test_nothing_else_is_found_in_the_pod(attacked: tuple[Agent, Pod]):
    agent, pod = attacked
    counts = {name: len(agent.stored(one.id)) for name, one in pod.containers.items()}
    assert counts == {"prepare": 1, "istio-proxy": 1, "app": 4}
    assert agent.stored(pod.id) == []  # the sandbox


def test_roles_and_digests_are_stored(
    attacked: tuple[Agent, Pod], python_image: Image, busybox_image: Image
):
    agent, pod = attacked
    rows = agent.query(
        "SELECT container_id, name, role, pod, namespace, pod_uid, image_digest FROM workloads"
        " WHERE pod = 'agent-0' AND container_id != $1",
        pod.id,
    )
    told = {row["container_id"]: (row["name"], row["role"]) for row in rows}
    assert told == {
        pod["prepare"].id: ("prepare", "init"),
        pod["istio-proxy"].id: ("istio-proxy", "sidecar"),
        pod["app"].id: ("app", "main"),
    }
    digests = {row["name"]: row["image_digest"] for row in rows}
    assert digests == {
        "prepare": busybox_image.digest,
        "istio-proxy": busybox_image.digest,
        "app": python_image.digest,
    }
    assert {(row["namespace"], row["pod_uid"]) for row in rows} == {("prod", pod.config.uid)}


def test_events_of_a_pod_are_asked_for_by_its_name(attacked: tuple[Agent, Pod]):
    agent, pod = attacked
    rows = agent.query(
        "SELECT DISTINCT container, role FROM events WHERE namespace = 'prod' AND pod = 'agent-0'"
        " AND class = 'exec' AND container_id != $1 ORDER BY 1",
        pod.id,
    )
    assert [(row["container"], row["role"]) for row in rows] == [
        ("app", "main"),
        ("istio-proxy", "sidecar"),
        ("prepare", "init"),
    ]


def test_nothing_was_lost(attacked: tuple[Agent, Pod]):
    status = attacked[0].status()
    assert status is not None
    assert (status["losses"], status["faults"]) == ({}, {})
