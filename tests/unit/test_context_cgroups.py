"""Cgroup paths: every form that is known, and none that is not."""

import os
import signal
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.context.cgroups import (
    candidates,
    claim,
    identify,
    is_foreign,
    is_host,
    systemd_path,
)

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
INNER = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
UID = "ac04f3f2-1f2c-11e9-b015-1ebee232acfa"
UID_ = UID.replace("-", "_")
STATIC = "a1b2c3d4e5f60718293a4b5c6d7e8f90"
POD_SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"

# path, runtime, id, pod uid, qos
FORMS = [
    (f"/docker/{ID}", "docker", ID, None, None),
    (f"/system.slice/docker-{ID}.scope", "docker", ID, None, None),
    (f"/docker/buildkit/{'0a' * 12}z", "buildkit", "0a" * 12 + "z", None, None),
    (f"/default/{ID}", "containerd", ID, None, None),
    (f"/system.slice/nerdctl-{ID}.scope", "containerd", ID, None, None),
    (f"{POD_SLICE}/cri-containerd-{ID}.scope", "containerd", ID, UID, "burstable"),
    (f"{POD_SLICE}/crio-{ID}.scope", "cri-o", ID, UID, "burstable"),
    (f"{POD_SLICE}/crio-{ID}.scope/container", "cri-o", ID, UID, "burstable"),
    (f"{POD_SLICE}/docker-{ID}.scope", "docker", ID, UID, "burstable"),
    (f"/kubepods/burstable/pod{UID}/{ID}", None, ID, UID, "burstable"),
    (f"/kubepods/besteffort/pod{UID}/{ID}", None, ID, UID, "besteffort"),
    (f"/kubepods/pod{UID}/{ID}", None, ID, UID, "guaranteed"),
    (f"/kubepods/burstable/pod{UID}/crio-{ID}", "cri-o", ID, UID, "burstable"),
    (f"/kubepods/burstable/pod{STATIC}/{ID}", None, ID, STATIC, "burstable"),
    (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        "containerd",
        ID,
        UID,
        "guaranteed",
    ),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope",
        "containerd",
        ID,
        UID,
        "besteffort",
    ),
    # containerd with the cgroupfs driver under a kubelet with the systemd driver
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
        "containerd",
        ID,
        UID,
        "burstable",
    ),
    (f"/machine.slice/libpod-{ID}.scope", "podman", ID, None, None),
    (f"/machine.slice/libpod-{ID}.scope/container", "podman", ID, None, None),
    (f"/libpod_parent/libpod-{ID}", "podman", ID, None, None),
    (f"/system.slice/app.service/libpod-payload-{ID}", "podman", ID, None, None),
    (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        "podman",
        ID,
        None,
        None,
    ),
    (f"/ecs/55091c13-b8cf-4801-b527-f4601742204d/{ID}", "docker", ID, None, None),
    (f"/ecs/cluster/{STATIC}/{ID}", "docker", ID, None, None),
    (f"/ecs/{STATIC}/{STATIC}-2531612879", "docker", f"{STATIC}-2531612879", None, None),
    (f"/ecstasks.slice/ecstasks-{STATIC}.slice/docker-{ID}.scope", "docker", ID, None, None),
    (f"/{ID}", None, ID, None, None),
    ("/lxc/web01", "lxc", "web01", None, None),
    ("/lxc.payload.web01/init.scope", "lxc", "web01", None, None),
    ("/machine.slice/systemd-nspawn@deb.service/payload", "systemd-nspawn", "deb", None, None),
    ("/machine.slice/machine-deb.scope", "systemd-nspawn", "deb", None, None),
]


@pytest.mark.parametrize(("path", "runtime", "container_id", "uid", "qos"), FORMS)
def test_known_form(
    path: str, runtime: str | None, container_id: str, uid: str | None, qos: str | None
) -> None:
    found = identify(path)
    assert found is not None
    assert (found.runtime, found.container_id) == (runtime, container_id)
    assert (found.pod_uid, found.qos) == (uid, qos)
    assert found.outer is None
    assert not is_host(path)


@pytest.mark.parametrize(("path", "runtime", "container_id", "uid", "qos"), FORMS)
def test_what_is_inside_belongs_to_the_container(
    path: str, runtime: str | None, container_id: str, uid: str | None, qos: str | None
) -> None:
    own = identify(path)
    inside = identify(path + "/system.slice/app.service")
    assert own is not None and inside is not None
    assert inside.container_id == container_id
    assert inside.container_path == own.container_path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/init.scope",
        "/system.slice/containerd.service",
        "/system.slice/docker.service",
        "/user.slice/user-0.slice/session-4.scope",
        "/kubepods",
        POD_SLICE,
        f"{POD_SLICE}/crio-conmon-{ID}.scope",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods/burstable/pod{UID}",
        "/lxc.monitor.web01",
        "/machine.slice/machine-qemu\\x2d1\\x2ddebian.scope",
    ],
)
def test_host(path: str) -> None:
    assert identify(path) is None
    assert is_host(path)


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID[:12]}",  # short ids: these runtimes always use 64 digits
        f"/system.slice/docker-{ID[:12]}.scope",
        f"/docker/{ID[:63]}g",
        f"/docker/{ID.upper()}",
        f"/machine.slice/libpod-{ID}0.scope",
        "/c1",
        "/default/c1",
        "/docker",
        "/" + "x" * 5000 + f"/docker/{ID}",
    ],
)
def test_no_identity(path: str) -> None:
    assert identify(path) is None


def test_nested_names_both() -> None:
    found = identify(f"/docker/{ID}/kubelet/kubepods/burstable/pod{UID}/{INNER}")
    assert found is not None and found.outer is not None
    assert (found.container_id, found.pod_uid) == (INNER, UID)
    assert found.trusted.container_id == ID
    assert found.trusted.pod_uid is None


def test_rootless_owner() -> None:
    found = identify(f"/user.slice/user-1000.slice/user@1000.service/libpod-{ID}.scope")
    assert found is not None and found.rootless_uid == 1000


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:runc:x", "/a.slice/a-b.slice/a-b-c.slice/runc-x.scope"),
        (":runc:x", "/system.slice/runc-x.scope"),
        ("user.slice::x", "/user.slice/x.scope"),
        ("/docker/abc", None),
        ("nonsense:runc:x", None),
    ],
)
def test_systemd_form(spec: str, path: str | None) -> None:
    assert systemd_path(spec) == path


@pytest.mark.parametrize(
    ("path", "spec", "relation"),
    [
        ("/demo/c1", "/demo/c1", "self"),
        ("/outer/demo/c1", "demo/c1", "self"),
        ("/demo/c1/sub", "/demo/c1", "below"),
        ("/demo", "/demo/c1", "above"),
        ("/demo/c2", "/demo/c1", ""),
        ("/c1", "", "self"),
        ("/c2", "", ""),
        ("/system.slice/runc-c1.scope", "system.slice:runc:c1", "self"),
        ("/system.slice:runc:c1", "system.slice:runc:c1", "self"),
    ],
)
def test_claim(path: str, spec: str, relation: str) -> None:
    assert claim(path, spec, "c1") == relation


def test_candidates_are_few_and_outermost_first() -> None:
    assert next(candidates("/default/kt")) == (None, "default", "/default")
    assert ("default", "kt", "/default/kt") in list(candidates("/default/kt"))
    assert (None, "kt", "/system.slice/runc-kt.scope") in list(
        candidates("/system.slice/runc-kt.scope")
    )
    assert len(list(candidates("/a-b.scope" * 1000))) < 30


WORDS = st.sampled_from(
    [ID, INNER, f"docker-{ID}.scope", "docker", "kubepods", f"pod{UID}", "ecs", "lxc", "burstable",
     "user.slice", "user-1000.slice", f"crio-conmon-{ID}.scope", "..", "", "a:b:c", "\x00", "é"]
)  # fmt: skip


@given(st.lists(WORDS | st.text(max_size=40), max_size=30).map("/".join))
def test_never_raises_and_stays_inside_the_path(path: str) -> None:
    found = identify(path)
    is_host(path)
    list(candidates(path))
    if found is not None:
        assert found.container_path.strip("/") in "/".join(p for p in path.split("/") if p)
        assert "/" not in found.container_id


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20))
def test_claim_never_raises(path: str, spec: str, container_id: str) -> None:
    assert claim(path, spec, container_id) in ("self", "below", "above", "")
    systemd_path(spec)


@pytest.mark.parametrize(
    "path",
    [
        "/" + "kubepods-" * 450,
        "/" + "a-" * 2040,
        "/" + "/".join(["pod" + "0" * 31] * 120),
        "/" + "machine-" * 500,
        "/".join(["x"] * 2048),
        "/" + "a" * 2000 + ":cri-containerd:" + "0" * 63,
    ],
)
def test_hostile_paths_are_quick(path: str) -> None:
    began = time.perf_counter()
    for _ in range(20):
        identify(path)
        is_host(path)
        list(candidates(path))
    assert time.perf_counter() - began < 2.0


def test_our_own_processes_are_not_foreign() -> None:
    assert not is_foreign(os.getpid())
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not is_foreign(child.pid)
        child.kill()
    assert is_foreign(child.pid), "nothing can be said of one that is gone"
    assert is_foreign(0), "nor of one that cannot be seen from here"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a pid namespace")
def test_a_process_in_another_pid_namespace_is_foreign() -> None:
    begin = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(begin, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        with open(f"/proc/{outer.pid}/task/{outer.pid}/children") as children:
            (inner,) = children.read().split()
        assert is_foreign(int(inner)) and not is_foreign(outer.pid)
        outer.send_signal(signal.SIGKILL)
