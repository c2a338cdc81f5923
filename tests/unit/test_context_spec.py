"""config.json: privileged, namespaces, annotations; image references."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hullwatch.context.image import parse_image
from hullwatch.context.spaces import Spaces
from hullwatch.context.spec import (
    _CAPABILITIES,
    Spec,
    grantable,
    host_namespaces,
    is_privileged,
    kept_annotations,
)
from hullwatch.sensor.wire import PROC

ALL = {f"CAP_{name}" for name in _CAPABILITIES}


@pytest.fixture
def proc(tmp_path: Path) -> str:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/status").write_text("Name:\tinit\nCapBnd:\t000001ffffffffff\n")
    return str(tmp_path)


def spec(**linux: Any) -> Spec:
    caps = linux.pop("caps", sorted(ALL))
    mounts = linux.pop("mounts", [{"destination": "/sys", "type": "sysfs", "options": ["rw"]}])
    text = json.dumps(
        {
            "process": {"env": ["TOKEN=hunter2"], "capabilities": {"bounding": caps}},
            "mounts": mounts,
            "linux": linux,
        }
    )
    return msgspec.json.decode(text, type=Spec)


def test_privileged(proc: str) -> None:
    assert is_privileged(spec(), proc) is True
    assert is_privileged(spec(seccomp=None, maskedPaths=[]), proc) is True
    assert is_privileged(spec(caps=sorted(ALL - {"CAP_SYS_RESOURCE"})), proc) is False


def test_privileged_is_all_that_the_host_can_grant(proc: str) -> None:
    Path(proc, "1/status").write_text("CapBnd:\t000001fffeffffff\n")  # no SYS_RESOURCE
    assert grantable(proc) == ALL - {"CAP_SYS_RESOURCE"}
    assert is_privileged(spec(caps=sorted(ALL - {"CAP_SYS_RESOURCE"})), proc) is True
    Path(proc, "1/status").write_text("CapBnd:\t0000000000000000\n")
    assert is_privileged(spec(caps=["CAP_CHOWN"]), proc) is False


@pytest.mark.parametrize(
    "less",
    [
        {"caps": sorted(ALL - {"CAP_SYS_MODULE"})},
        {"caps": None},
        {"maskedPaths": ["/proc/kcore"]},
        {"readonlyPaths": ["/proc/sys"]},
        {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
        {"mounts": [{"destination": "/sys", "options": ["nosuid", "ro"]}]},
    ],
)
def test_not_privileged(less: dict[str, Any], proc: str) -> None:
    assert is_privileged(spec(**less), proc) is False


def test_privileged_unknown_without_a_process() -> None:
    assert is_privileged(Spec()) is None


def test_host_namespaces() -> None:
    listed = [
        {"type": "pid"},
        {"type": "network", "path": "/proc/1/ns/net"},
        {"type": "ipc", "path": "/proc/812/ns/ipc"},
        {"type": "mount"},
        {"type": "uts"},
        {"type": "cgroup"},
    ]
    assert host_namespaces(spec(namespaces=listed)) == {"net", "user"}
    assert host_namespaces(Spec()) is None


def test_a_pods_namespace_may_be_the_hosts(tmp_path: Path) -> None:
    for pid, name in ((1, "net"), (1, "ipc"), (812, "ipc")):
        (tmp_path / f"{pid}/ns").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{pid}/ns/{name}").write_text("")
    (tmp_path / "812/ns/net").hardlink_to(tmp_path / "1/ns/net")
    listed = [
        {"type": "network", "path": "/proc/812/ns/net"},
        {"type": "ipc", "path": "/proc/812/ns/ipc"},
        {"type": "uts", "path": "/proc/813/ns/uts"},
    ]
    shared = host_namespaces(spec(namespaces=listed), str(tmp_path))
    assert shared is not None and "net" in shared and not {"ipc", "uts"} & shared


def test_a_pods_namespace_as_the_kernel_told_it(tmp_path: Path) -> None:
    rows = np.zeros(2, PROC)
    rows["pid"], rows["proc"] = [1, 812], [1, 812]
    rows["ns_net"], rows["ns_ipc"] = [10, 10], [20, 21]
    spaces = Spaces()
    spaces.began(rows)
    listed = [
        {"type": "network", "path": "/proc/812/ns/net"},
        {"type": "ipc", "path": "/proc/812/ns/ipc"},
    ]
    shared = host_namespaces(spec(namespaces=listed), str(tmp_path), spaces)
    assert shared is not None and "net" in shared and "ipc" not in shared


def test_no_environment_is_ever_decoded() -> None:
    assert "hunter2" not in repr(spec())


def test_annotations_are_filtered() -> None:
    kept = kept_annotations(
        {
            "kubectl.kubernetes.io/last-applied-configuration": '{"env":"secret"}',
            "io.kubernetes.cri.pod-annotations": "{}",
            "io.hullwatch.role": "main",
            "io.hullwatch.long": "x" * 5000,
            "vault.hashicorp.com/token": "s.abc",
            "io.kubernetes.cri.sandbox-name": "web",
        }
    )
    assert set(kept) == {"io.hullwatch.role", "io.kubernetes.cri.sandbox-name"}


@pytest.mark.parametrize(
    ("reference", "repository", "tag", "digest"),
    [
        ("nginx", "nginx", None, None),
        ("nginx:1.27", "nginx", "1.27", None),
        ("localhost:5000/a/b", "localhost:5000/a/b", None, None),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b", "v1", None),
        ("a/b@sha256:" + "0" * 64, "a/b", None, "sha256:" + "0" * 64),
        ("a/b:v@sha256:" + "0" * 64, "a/b", "v", "sha256:" + "0" * 64),
        ("sha256:" + "0" * 64, None, None, None),
        ("0" * 64, None, None, None),
        ("", None, None, None),
        ("a@bad", "a", None, None),
    ],
)
def test_image(reference: str, repository: str | None, tag: str | None, digest: str | None) -> None:
    assert tuple(parse_image(reference)) == (repository, tag, digest)
