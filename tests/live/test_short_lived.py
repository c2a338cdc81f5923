"""Two hundred containers that live about 50 ms each: none is missed, none is nameless."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.agent import Agent
from support.images import Image
from support.needs import in_vm
from support.runc import Runc
from support.watch import missing_bpf

COUNT = 20 if in_vm() else 200  # emulated, runc takes seconds for one
PROGRAMS = ["/bin/sh", "/bin/true", "/bin/sleep"]
SCRIPT = "/bin/true brief-{i}; exec /bin/sleep 0.05"


@pytest.mark.scenario
@pytest.mark.timeout(900)
def test_every_exec_is_stored_once_with_its_container(
    tmp_path: Path, runc: Runc, busybox_image: Image
):
    if reason := missing_bpf():
        pytest.skip(reason)
    with Agent(tmp_path / "store", rules=()) as agent:
        # Emulated, the agent is seconds behind: it must still find what it reads about the last.
        ran = runc.burst(COUNT, ["/bin/sh", "-c", SCRIPT], name="brief", parallel=4, keep=in_vm())
        assert [status for _, status in ran] == [0] * COUNT
        agent.settle()
        status = agent.status()
    assert status is not None
    unknown = agent.query(
        "SELECT container_state, cgroup, count(*)::INT AS n, min(cmdline) AS first FROM events"
        " WHERE container_state NOT IN ('host', 'resolved') AND class <> 'task' GROUP BY ALL"
    )
    assert unknown == [], (status["workloads"], status["held_gave_up"], status["losses"])
    assert (status["losses"], status["faults"], status["held_gave_up"]) == ({}, {}, 0)

    ids = {bundle.id for bundle, _ in ran}
    found = agent.query(
        "SELECT container_id, container, image, image_digest, container_state, exe, cmdline,"
        " count(*)::INT AS n FROM events"
        " WHERE class = 'exec' AND image IS NOT NULL GROUP BY ALL"
    )
    # Whatever else runs containers on this machine has its own.
    rows = [row for row in found if row["container_id"] in ids]
    assert {row["n"] for row in rows} == {1}, [row for row in rows if row["n"] != 1]
    assert {(row["image"], row["image_digest"], row["container_state"]) for row in rows} == {
        (busybox_image.reference, busybox_image.digest, "resolved")
    }
    # runc's own stages, which it puts into the container's cgroup before or after: /proc/self/exe,
    # whose name is then exe, and from there the copy of itself that it runs under its own name.
    runtime = [row for row in rows if row["exe"] not in PROGRAMS]
    assert {row["cmdline"] for row in runtime} <= {"exe init", "runc init"}, runtime
    stored = {
        (row["container_id"], row["container"], row["exe"]) for row in rows if row not in runtime
    }
    assert stored == {(bundle.id, bundle.name, exe) for bundle, _ in ran for exe in PROGRAMS}
    # And what each was given is its own.
    mine = {f"true {bundle.name}": bundle.id for bundle, _ in ran}
    told = {row["cmdline"]: row["container_id"] for row in rows if row["exe"] == "/bin/true"}
    assert told == mine

    # Nobody's program is without a container: what is in no container is the host's.
    states = agent.query("SELECT DISTINCT container_state FROM events WHERE class = 'exec'")
    assert {row["container_state"] for row in states} == {"host", "resolved"}
    assert agent.query("SELECT * FROM losses") == []
