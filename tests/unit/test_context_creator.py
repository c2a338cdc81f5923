"""A runtime's command line, taken apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.context.creator import read_creator
from hullwatch.context.workload import Creator


def creator(line: str, cwd: str = "/b", exe: str = "/usr/sbin/runc") -> Creator:
    return Creator(1, exe, tuple(line.split(" ")), cwd)


@pytest.mark.parametrize(
    ("line", "container_id", "bundle", "root"),
    [
        ("runc run c1", "c1", "/b", None),
        ("runc run -b sub c1", "c1", "/b/sub", None),
        ("runc run -b /x/y c1", "c1", "/x/y", None),
        ("runc --root r run --bundle=/x c1", "c1", "/x", "/b/r"),
        ("runc --debug --systemd-cgroup run -d --pid-file /p c1", "c1", "/b", None),
        (
            "runc --root /run/containerd/runc/k8s.io --log /l --log-format json create"
            " --bundle /s/io.containerd.runtime.v2.task/k8s.io/c1 --pid-file /p c1",
            "c1",
            "/s/io.containerd.runtime.v2.task/k8s.io/c1",
            "/run/containerd/runc/k8s.io",
        ),
        ("crun --cgroup-manager systemd create -f x.json c1", "c1", "/b", None),
        ("runc run -- c1", "c1", "/b", None),
        ("runc delete c1", None, None, None),
        ("runc", None, None, None),
    ],
)
def test_oci(line: str, container_id: str | None, bundle: str | None, root: str | None) -> None:
    hint = read_creator(creator(line))
    assert hint.kind == "oci"
    assert (hint.container_id, hint.bundle, hint.root) == (container_id, bundle, root)


def test_relative_bundle_without_cwd_is_not_guessed() -> None:
    assert read_creator(creator("runc run -b sub c1", cwd="")).bundle is None


def test_shim() -> None:
    line = "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id c1 -address /run/c/c.sock"
    hint = read_creator(creator(line, "/s/k8s.io/c1", "/usr/bin/containerd-shim-runc-v2"))
    assert hint.kind == "shim"
    assert (hint.namespace, hint.container_id) == ("k8s.io", "c1")
    assert (hint.address, hint.bundle) == ("/run/c/c.sock", "/s/k8s.io/c1")


@pytest.mark.parametrize(
    ("exe", "kind"),
    [
        ("/usr/bin/crun", "oci"),
        ("/usr/bin/docker-runc", "oci"),
        ("/usr/bin/conmon", "other"),
        ("/usr/lib/systemd/systemd", "other"),
        ("/bin/mkdir", "foreign"),
        ("", "foreign"),
    ],
)
def test_kind(exe: str, kind: str) -> None:
    assert read_creator(Creator(1, exe)).kind == kind


@given(
    st.lists(st.text(max_size=20) | st.sampled_from(["run", "-b", "--root", "--", "-"])),
    st.text(max_size=20),
)
def test_never_raises(words: list[str], cwd: str) -> None:
    for exe in ("/x/runc", "/x/containerd-shim-runc-v2"):
        hint = read_creator(Creator(1, exe, tuple(words), cwd))
        assert hint.bundle is None or hint.bundle.startswith("/")
