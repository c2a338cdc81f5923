"""Files of every runtime, in trees like those the runtimes write."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hullwatch.context.disk import DiskError, Roots, read_json
from hullwatch.context.facts import Facts, to_workload
from hullwatch.context.lookup import look, running_shim, shim_address
from hullwatch.context.runtimes.bundle import unix_ns
from hullwatch.context.workload import Creator, Workload

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
OTHER = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
UID = "ac04f3f2-1f2c-11e9-b015-1ebee232acfa"
IMAGE_ID = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64
CRI = {
    "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.image-name": "ghcr.io/acme/agent:1.4",
    "io.kubernetes.cri.sandbox-id": OTHER,
    "io.kubernetes.cri.sandbox-name": "agent-0",
    "io.kubernetes.cri.sandbox-namespace": "prod",
    "io.kubernetes.cri.sandbox-uid": UID,
}


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:\n")
    return Roots().under(str(tmp_path))


def write(root: Path, path: str, document: Any) -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def bundle(root: Path, path: str, cgroups: str = "", **annotations: str) -> str:
    spec = {
        "ociVersion": "1.0.2",
        "process": {"env": ["API_KEY=hunter2"], "args": ["/bin/app"]},
        "root": {"path": "rootfs"},
        "annotations": annotations,
        "linux": {"cgroupsPath": cgroups, "namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    return str(write(root, path + "/config.json", spec).parent)


def found(path: str, roots: Roots, creator: Creator | None = None) -> Facts:
    answer = look(path, creator, roots)
    assert answer.facts is not None, answer.reason
    assert "hunter2" not in repr(answer.facts)
    return answer.facts


def workload(facts: Facts) -> Workload:
    return to_workload(Workload(cgroup=1, cgroup_path="/x", state="pending"), facts)


def test_docker(tmp_path: Path, roots: Roots) -> None:
    here = f"/var/lib/docker/containers/{ID}"
    container = {
        "ID": ID,
        "Name": "/web",
        "Created": "2026-11-23T10:00:00.5Z",
        "Image": IMAGE_ID,
        "State": {"StartedAt": "2026-11-23T10:00:01.000000007Z", "Pid": 5},
        "Config": {"Image": "nginx:1.27", "Env": ["PASSWORD=hunter2"], "Labels": {"team": "a"}},
    }
    write(tmp_path, f"{here}/config.v2.json", container)
    write(tmp_path, f"{here}/hostconfig.json", {"Privileged": True})
    write(
        tmp_path,
        "/var/lib/docker/image/overlay2/repositories.json",
        {"Repositories": {"nginx": {"nginx:1.27": IMAGE_ID, f"nginx@{DIGEST}": IMAGE_ID}}},
    )
    facts = found(f"/system.slice/docker-{ID}.scope", roots)
    assert (facts.name, facts.image, facts.runtime) == ("web", "nginx:1.27", "docker")
    assert (facts.image_digest, facts.image_id) == (DIGEST, IMAGE_ID)
    assert facts.privileged is True and facts.labels == {"team": "a"}
    assert facts.start_ts == unix_ns("2026-11-23T10:00:01.000000007Z")
    value = workload(facts)
    assert (value.image_repository, value.image_tag, value.reason) == ("nginx", "1.27", "")


def test_docker_with_the_containerd_image_store(tmp_path: Path, roots: Roots) -> None:
    container = {"Name": "/a", "Config": {"Image": "a"}, "ImageManifest": {"digest": DIGEST}}
    write(tmp_path, f"/var/lib/docker/containers/{ID}/config.v2.json", container)
    assert found(f"/docker/{ID}", roots).image_digest == DIGEST


def test_docker_rootless_asks_only_that_user(tmp_path: Path, roots: Roots) -> None:
    path = f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope"
    system = write(tmp_path, f"/var/lib/docker/containers/{ID}/config.v2.json", {"Name": "/sys"})
    assert look(path, None, roots).facts is None  # not the system's container of that id
    system.unlink()
    home = "/home/ann/.local/share/docker"
    write(tmp_path, f"{home}/containers/{ID}/config.v2.json", {"Name": "/own"})
    assert found(path, roots).name == "own"


def test_containerd_cri(tmp_path: Path, roots: Roots) -> None:
    uid = UID.replace("-", "_")
    tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
    bundle(tmp_path, f"{tasks}/{ID}", **CRI)
    facts = found(
        "/kubepods.slice/kubepods-burstable.slice/"
        f"kubepods-burstable-pod{uid}.slice/cri-containerd-{ID}.scope",
        roots,
    )
    assert (facts.name, facts.image) == ("app", "ghcr.io/acme/agent:1.4")
    assert (facts.pod, facts.namespace, facts.pod_uid) == ("agent-0", "prod", UID)
    assert (facts.sandbox_id, facts.is_sandbox) == (OTHER, False)
    assert (facts.containerd_namespace, facts.qos) == ("k8s.io", "burstable")
    assert facts.host_namespaces == {"net", "ipc", "user", "cgroup", "uts"}


def test_pod_authors_cannot_claim_another_image(tmp_path: Path, roots: Roots) -> None:
    tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
    bundle(tmp_path, f"{tasks}/{ID}", **CRI, **{"io.hullwatch.image": "trusted/thing"})
    facts = found(f"/kubepods/pod{UID}/{ID}", roots)
    assert facts.image == "ghcr.io/acme/agent:1.4"


def test_sandbox(tmp_path: Path, roots: Roots) -> None:
    said = {**CRI, "io.kubernetes.cri.container-type": "sandbox"}
    bundle(tmp_path, f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}", **said)
    facts = found(f"/kubepods/pod{UID}/{ID}", roots)
    assert facts.is_sandbox is True and facts.name == "agent-0"


def test_ctr_with_a_free_form_id(tmp_path: Path, roots: Roots) -> None:
    tasks = "/run/containerd/io.containerd.runtime.v2.task"
    bundle(tmp_path, f"{tasks}/default/job", "/default/job")
    facts = found("/default/job", roots)
    assert (facts.name, facts.runtime, facts.containerd_namespace) == (
        "job",
        "containerd",
        "default",
    )
    assert found("/default/job/inner", roots).container_id == "job"


def test_nerdctl(tmp_path: Path, roots: Roots) -> None:
    tasks = "/run/containerd/io.containerd.runtime.v2.task"
    bundle(tmp_path, f"{tasks}/default/{ID}", **{"nerdctl/name": "quick"})
    assert found(f"/default/{ID}", roots).name == "quick"


def test_crio(tmp_path: Path, roots: Roots) -> None:
    said = {
        "io.container.manager": "cri-o",
        "io.kubernetes.container.name": "app",
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.ImageName": "quay.io/a/b:2",
        "io.kubernetes.cri-o.ImageRef": "1" * 64,
        "io.kubernetes.cri-o.SandboxID": OTHER,
        "io.kubernetes.cri-o.Created": "2026-11-23T10:00:00.5Z",
        "io.kubernetes.cri-o.Labels": '{"app": "x"}',
        "io.kubernetes.pod.name": "agent-0",
        "io.kubernetes.pod.namespace": "prod",
        "io.kubernetes.pod.uid": UID,
        "io.kubernetes.container.restartCount": "2",
    }
    bundle(tmp_path, f"/run/containers/storage/overlay-containers/{ID}/userdata", **said)
    facts = found(f"/kubepods/burstable/pod{UID}/crio-{ID}", roots)
    assert (facts.runtime, facts.name, facts.image) == ("cri-o", "app", "quay.io/a/b:2")
    assert (facts.image_id, facts.attempt, facts.labels) == (IMAGE_ID, 2, {"app": "x"})
    assert (facts.pod, facts.namespace, facts.sandbox_id) == ("agent-0", "prod", OTHER)


@pytest.mark.parametrize(
    ("path", "graph"),
    [
        (f"/machine.slice/libpod-{ID}.scope/container", "/var/lib/containers/storage"),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            "/home/ann/.local/share/containers/storage",
        ),
    ],
)
@pytest.mark.parametrize("index", ["containers.json", "volatile-containers.json"])
def test_podman(tmp_path: Path, roots: Roots, path: str, graph: str, index: str) -> None:
    bundle(
        tmp_path,
        f"{graph}/overlay-containers/{ID}/userdata",
        **{"io.container.manager": "libpod"},
    )
    metadata = {"image-name": "quay.io/x/httpd:latest", "image-id": "1" * 64, "name": "web"}
    entry = {
        "id": ID,
        "names": ["web"],
        "image": "1" * 64,
        "metadata": json.dumps(metadata),
        "created": "2024-03-22T20:59:54.545266929Z",
    }
    write(tmp_path, f"{graph}/overlay-containers/{index}", [{"id": OTHER}, entry])
    images = [{"id": "1" * 64, "digest": DIGEST}]
    write(tmp_path, f"{graph}/overlay-images/images.json", images)
    facts = found(path, roots)
    assert (facts.runtime, facts.name, facts.image) == ("podman", "web", "quay.io/x/httpd:latest")
    assert (facts.image_id, facts.image_digest) == (IMAGE_ID, DIGEST)


def runc_state(root: Path, path: str, bundle_dir: str, cgroup: str) -> None:
    state = {
        "id": path.rsplit("/", 1)[-1],
        "created": "2026-11-23T18:08:06.358513603Z",
        "cgroup_paths": {"": "/sys/fs/cgroup/unified" + cgroup, "cpu": "/sys/fs/cgroup/cpu/x"},
        "config": {"rootfs": bundle_dir + "/rootfs", "labels": [f"bundle={bundle_dir}"]},
    }
    write(root, path + "/state.json", state)


def test_plain_runc_by_its_state(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b", **{"io.hullwatch.name": "n", "io.hullwatch.image": "i:1"})
    runc_state(tmp_path, "/run/runc/c1", where, "/c1")
    facts = found("/c1", roots)
    assert (facts.name, facts.image, facts.container_id) == ("n", "i:1", "c1")
    assert facts.start_ts is not None and facts.start_ts % 1_000_000_000 == 358513603
    assert found("/c1/below", roots).container_id == "c1"
    assert look("/elsewhere/c1", None, roots).facts is None  # the state says where it lives


def test_runc_with_a_cgroup_of_another_name(tmp_path: Path, roots: Roots) -> None:
    runc_state(tmp_path, "/run/runc/c1", bundle(tmp_path, "/b"), "/jobs/blue")
    runc_state(tmp_path, "/run/runc/c2", bundle(tmp_path, "/b2"), "/jobs/green")
    assert found("/jobs/green", roots).container_id == "c2"
    assert found("/jobs/blue/inner", roots).container_id == "c1"
    assert look("/jobs", None, roots).facts is None


def test_runc_that_names_no_image_says_so(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b")
    runc_state(tmp_path, "/run/runc/c1", where, "/c1")
    value = workload(found("/c1", roots))
    assert (value.state, value.image, value.name) == ("resolved", None, "c1")
    assert "image" in value.reason


def test_runc_under_systemd(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b", "system.slice:runc:c1")
    runc_state(tmp_path, "/run/runc/c1", where, "/system.slice/runc-c1.scope")
    assert found("/system.slice/runc-c1.scope", roots).container_id == "c1"
    other = look("/system.slice/cups-x.scope", None, roots)
    assert other.facts is None and other.else_host


def test_crun(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b")
    status = {"pid": 1, "cgroup-path": "/c1", "bundle": where, "created": "2026-11-23T18:08:06Z"}
    write(tmp_path, "/run/crun/c1/status", status)
    assert found("/c1", roots).runtime == "crun"


def runc(cwd: str, *words: str) -> Creator:
    return Creator(2**30, "/usr/sbin/runc", ("runc", *words), cwd)


def test_bundle_named_by_the_creator(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b", "/demo/c1", **{"io.hullwatch.image": "i@" + DIGEST})
    facts = found("/demo/c1", roots, runc(where, "run", "c1"))
    assert (facts.runtime, facts.bundle) == ("runc", where)
    assert workload(facts).image_digest == DIGEST
    parent = look("/demo", runc(where, "run", "c1"), roots)
    assert parent.host and parent.facts is None
    assert look("/other", runc(where, "run", "c1"), roots).facts is None


def test_kubernetes_container_before_its_state_exists(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, f"/own/io.containerd.runtime.v2.task/k8s.io/{ID}", **CRI)
    facts = found(f"/kubepods/pod{UID}/{ID}", roots, runc("/", "create", "-b", where, ID))
    assert (facts.name, facts.runtime, facts.containerd_namespace) == (
        "app",
        "containerd",
        "k8s.io",
    )


def test_creator_elsewhere_is_not_followed(tmp_path: Path, roots: Roots) -> None:
    where = bundle(tmp_path, "/b", "/c1")
    for pid in (1, 7):
        (tmp_path / f"proc/{pid}/ns").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/ns/mnt").write_text("")
    creator = Creator(7, "/usr/sbin/runc", ("runc", "run", "c1"), where)
    assert look("/c1", creator, roots).facts is None
    # /proc shows nothing of it, and the kernel told where it began.
    for inode, followed in ((5, False), (Path("/proc/self/ns/mnt").stat().st_ino, True)):
        creator = Creator(2**30, "/usr/sbin/runc", ("runc", "run", "c1"), where, mnt_ns=inode)
        assert (look("/c1", creator, roots).facts is not None) is followed


def test_nested_container_stays_the_outer_ones(tmp_path: Path, roots: Roots) -> None:
    container = {"Name": "/dind", "Config": {"Image": "docker:dind"}}
    write(tmp_path, f"/var/lib/docker/containers/{ID}/config.v2.json", container)
    real = {"Name": "/bank", "Config": {"Image": "bank:1"}}
    write(tmp_path, f"/var/lib/docker/containers/{OTHER}/config.v2.json", real)
    answer = look(f"/docker/{ID}/system.slice/docker-{OTHER}.scope", None, roots)
    assert answer.facts is not None and answer.facts.name == "dind"
    assert answer.nested_id == OTHER


def test_cgroup_prefix_of_a_nested_host(tmp_path: Path, roots: Roots) -> None:
    import msgspec

    inner = msgspec.structs.replace(roots, cgroup_prefix=f"/docker/{OTHER}")
    bundle(tmp_path, f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}", **CRI)
    path = f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{ID}"
    assert found(path, inner).name == "app"
    assert look(f"/docker/{OTHER}", None, inner).host


def test_named_by_path_alone(roots: Roots) -> None:
    assert found("/lxc.payload.web01/init.scope", roots).name == "web01"


@pytest.mark.parametrize(
    ("path", "exe", "host", "else_host"),
    [
        ("/", "", True, False),
        ("/system.slice/ssh.service", "", True, False),
        ("/mine", "/bin/mkdir", False, True),
        ("/mine", "/usr/sbin/runc", False, False),
    ],
)
def test_not_containers(roots: Roots, path: str, exe: str, host: bool, else_host: bool) -> None:
    answer = look(path, Creator(2**30, exe) if exe else None, roots)
    assert (answer.facts, answer.host, answer.else_host) == (None, host, else_host)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"Name": 3}', '{"Config": {"Labels": {"a": 1}}}', "\x00\xff"]
)
def test_bad_documents_are_told(tmp_path: Path, roots: Roots, content: str) -> None:
    write(tmp_path, f"/var/lib/docker/containers/{ID}/config.v2.json", content)
    answer = look(f"/docker/{ID}", None, roots)
    assert answer.facts is None and "config.v2.json" in answer.reason


def test_reads_are_bounded_and_only_of_files(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b" " * 100)
    with pytest.raises(DiskError, match="limit"):
        read_json(str(big), max_bytes=99)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DiskError, match="not a regular file"):
        read_json(str(tmp_path / "fifo"))
    (tmp_path / "link").symlink_to(big)
    with pytest.raises(DiskError):
        read_json(str(tmp_path / "link"))
    deep = tmp_path / "deep"
    deep.write_text("[" * 100_000)
    with pytest.raises(DiskError):
        read_json(str(deep))
    assert read_json(str(tmp_path / "none")) is None


@pytest.mark.parametrize("name", ["..", "a/b", ".", ""])
def test_hint_ids_do_not_walk(tmp_path: Path, roots: Roots, name: str) -> None:
    where = bundle(tmp_path, "/run", "/zz")
    runc_state(tmp_path, "/run", where, "/zz")
    assert look("/zz", runc("/nowhere", "run", name), roots).facts is None


def test_shim_address(tmp_path: Path, roots: Roots) -> None:
    for pid in (10, 11):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
    (tmp_path / "proc/11/stat").write_text("11 (run c) S 10 11 11 0")
    line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0k\0-id\0x\0-address\0/run/a.sock\0"
    (tmp_path / "proc/10/cmdline").write_bytes(line)
    assert shim_address(Creator(11, "/usr/sbin/runc"), None, roots) == "/run/a.sock"
    assert shim_address(Creator(12, "/usr/sbin/runc"), str(tmp_path), roots) is None
    (tmp_path / "init.pid").write_text("11")
    assert shim_address(Creator(12, "/usr/sbin/runc"), str(tmp_path), roots) == "/run/a.sock"
    (tmp_path / "init.pid").write_text("")
    assert shim_address(None, str(tmp_path), roots) is None


def test_running_shim(tmp_path: Path, roots: Roots) -> None:
    """A container that nobody saw being made, of a containerd that is somewhere else."""
    tasks = "/odd/io.containerd.runtime.v2.task/k8s.io"
    sandbox = bundle(tmp_path, f"{tasks}/{OTHER}", **CRI)
    bundle(tmp_path, f"{tasks}/{ID}", **CRI)
    group = tmp_path / "cgroup"
    write(tmp_path, "cgroup/cgroup.procs", "11\n12\n")
    write(tmp_path, "proc/11/stat", "11 (app) S 10 11 11 0")
    write(tmp_path, "proc/12/stat", "12 (app) S 11 11 11 0")
    line = f"/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0{OTHER}\0"
    write(tmp_path, "proc/10/cmdline", line)
    (tmp_path / "proc/10/cwd").symlink_to(sandbox)
    shim = running_shim(str(group), roots)
    assert shim is not None and shim.cwd == sandbox
    facts = found(f"/kubepods/besteffort/pod{UID}/{ID}", roots, shim)
    assert (facts.name, facts.pod, facts.containerd_namespace) == ("app", "agent-0", "k8s.io")
    # A process of the container may call itself what it likes.
    write(tmp_path, "cgroup/cgroup.procs", "12\n11\n")
    write(tmp_path, "proc/11/cmdline", line)
    write(tmp_path, "proc/10/cmdline", "/usr/bin/python3\0")
    assert running_shim(str(group), roots) is None
    assert running_shim(str(tmp_path / "gone"), roots) is None


@pytest.mark.parametrize(
    ("stamp", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:01.000000001+01:00", 1_000_000_001),
        ("0001-01-01T00:00:00Z", None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_times(stamp: str | None, ns: int | None) -> None:
    assert unix_ns(stamp) == ns
