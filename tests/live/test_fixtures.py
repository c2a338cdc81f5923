"""The fixtures give what they promise: real containers with the names, cgroups and layers they say.

A failure here explains those in other live tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.bundles import Mount
from support.containerd import Containerd, ContainerdError, Spec
from support.images import Image
from support.runc import Network, Runc, cgroup2_root

pytestmark = pytest.mark.scenario


def test_runc_container_has_its_own_namespaces_and_status(runc: Runc):
    done = runc.run(
        ["sh", "-c", "echo $$ $GREETING; hostname; exit 3"], name="a", env={"GREETING": "hi"}
    )
    assert done.status == 3
    assert done.stdout.split() == ["1", "hi", "a"]


def test_runc_container_has_its_own_cgroup_named_by_its_id(runc: Runc):
    container = runc.start(["sleep", "1000"], name="sleeper")
    path = container.cgroups()[""]
    assert path.endswith(container.id)
    assert container.cgroup_id() == (cgroup2_root() / path.lstrip("/")).stat().st_ino > 1
    members = (cgroup2_root() / path.lstrip("/") / "cgroup.procs").read_text().split()
    assert members == [str(container.pid)]


def test_exec_joins_the_container(runc: Runc):
    container = runc.start(["sleep", "1000"], name="target")
    done = container.exec(["sh", "-c", "cat; ps; exit 4"], stdin=b"from outside\n")
    assert done.status == 4
    assert done.stdout.startswith("from outside\n")
    assert "sleep 1000" in done.stdout
    assert container.exec(["tty"], tty=True).stdout.strip() == "/dev/pts/0"
    container.kill()
    assert container.wait().status == 137


def test_first_process_can_have_a_terminal(runc: Runc):
    assert "/dev/" in runc.run(["tty"], name="terminal", tty=True).stdout


def test_writable_layer_is_an_overlay(runc: Runc):
    container = runc.start(
        ["sh", "-c", "cp /bin/busybox /bin/new; echo done; sleep 1000"], name="w"
    )
    container.wait_for_output("done")
    assert (container.bundle.upper / "bin" / "new").exists()
    assert not (container.image.rootfs / "bin" / "new").exists()
    assert container.exec(["sh", "-c", "grep ' / overlay ' /proc/mounts"]).status == 0


def test_annotations_tell_name_and_image(runc: Runc):
    container = runc.start(["true"], name="told", annotations={"extra": "1"})
    config = json.loads((container.bundle.folder / "config.json").read_text())
    assert config["annotations"]["io.hullwatch.name"] == "told"
    assert config["annotations"]["org.opencontainers.image.ref.name"] == runc.image.reference
    assert config["annotations"]["io.hullwatch.image.digest"] == runc.image.digest
    assert config["annotations"]["extra"] == "1"
    assert "rlimits" not in config["process"]


def test_python_image_runs_by_itself(runc: Runc, python_image: Image):
    done = runc.run(
        ["python3", "-c", "import asyncio, ssl, sqlite3, subprocess; print('ok')"],
        name="python",
        image=python_image,
    )
    assert done.stdout == "ok\n", done.stderr


def test_containers_share_a_named_network(runc: Runc):
    with Network("shared") as network:
        network.add_address("203.0.113.7/32")
        server = ["sh", "-c", "echo ready; echo pong | nc -l -p 7000"]
        serving = runc.start(server, name="server", network=network.path)
        serving.wait_for_output("ready")
        ask = "for i in 1 2 3 4 5 6 7 8 9; do nc 203.0.113.7 7000 && exit; sleep 0.2; done"
        client = runc.run(["sh", "-c", ask], name="client", network=network.path)
    assert client.stdout == "pong\n"


def test_mounts_and_privileges(runc: Runc, tmp_path: Path):
    (tmp_path / "token").write_text("planted")
    shown = Mount(tmp_path, "/secrets")
    done = runc.run(["cat", "/secrets/token"], name="mounts", mounts=[shown])
    assert done.stdout == "planted"
    attempt = ["sh", "-c", "mkdir /m && mount -t tmpfs none /m"]
    assert runc.run(attempt, name="plain").status != 0
    assert runc.run(attempt, name="mighty", privileged=True).status == 0


def test_burst_of_short_lived_containers(runc: Runc):
    outcome = runc.burst(12, ["sh", "-c", "test {i} -ge 0"], name="short", parallel=4)
    assert [status for _, status in outcome] == [0] * 12
    assert len({bundle.id for bundle, _ in outcome}) == 12
    assert [bundle.name for bundle, _ in outcome][:2] == ["short-0", "short-1"]
    assert not any(bundle.folder.exists() for bundle, _ in outcome)


def test_pod_of_three_containers(containerd: Containerd, busybox_image: Image, python_image: Image):
    pod = containerd.pod(
        "web",
        namespace="shop",
        image=busybox_image,
        init=Spec("prepare", ["sh", "-c", "echo prepared"]),
        main=Spec("app", ["sh", "-c", "echo serving; sleep 1000"]),
        sidecar=Spec("proxy", ["python3", "-c", "import time; time.sleep(1000)"], python_image),
    )
    try:
        assert pod["prepare"].log == "prepared\n"
        assert pod["prepare"].state().state == "exited"
        main, sidecar = pod["app"].state(), pod["proxy"].state()
        assert (main.state, sidecar.state) == ("running", "running")
        assert (main.image, sidecar.image) == (busybox_image.reference, python_image.reference)
        path = f"/kubepods/besteffort/pod{pod.config.uid}/{pod['app'].id}"
        assert pod["app"].cgroups()[""] == path
        members = (cgroup2_root() / path.lstrip("/") / "cgroup.procs").read_text().split()
        assert members == [str(pod["app"].pid)]
        bundle = containerd.task_root / "k8s.io" / pod["app"].id
        told = json.loads((bundle / "config.json").read_text())
        assert told["annotations"]["io.kubernetes.cri.container-name"] == "app"
        assert told["annotations"]["io.kubernetes.cri.sandbox-name"] == "web"
        assert "rlimits" not in told["process"]
        addresses = {c: pod[c].exec(["ip", "-4", "address"]).stdout for c in ("app", "proxy")}
        assert "198.51.100." in addresses["app"]
        assert addresses["app"] == addresses["proxy"]
    finally:
        containerd.remove(pod)
    assert pod.id not in containerd.cri.list_sandboxes()


def test_pod_whose_init_container_fails(containerd: Containerd, busybox_image: Image):
    with pytest.raises(ContainerdError, match="init container: 7\nno way"):
        containerd.pod(
            "broken",
            image=busybox_image,
            init=Spec("prepare", ["sh", "-c", "echo no way; exit 7"]),
            main=Spec("app", ["true"]),
        )
