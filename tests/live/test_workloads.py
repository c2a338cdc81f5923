"""Whose cgroup is it, with real runtimes.

The kernel's announcement of a new cgroup is played by a thread that watches the v2 tree; who made
it is read from /proc, where the sensor has it from the kernel.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hullwatch.context.cgroupfs import cgroup_id, find_v2_root, walk
from hullwatch.context.resolver import Resolver
from hullwatch.context.workload import Creator, Workload
from support.containerd import Containerd, Spec
from support.images import Image
from support.runc import Runc, cgroup2_root
from support.scratch import poll


def creator_of(path: str) -> Creator | None:
    """The runc that makes this cgroup: it names the id that the path ends in, or, where the path
    has no id, it is the last that was started."""
    name = path.rpartition("/")[2]
    for pid in sorted(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())[::-1]:
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            argv = tuple(word.decode() for word in words)
            makes = argv[:1] == ("runc",) and ("run" in argv or "create" in argv)
            if makes and (name in argv or len(name) != 64):
                exe = str((process / "exe").readlink())
                return Creator(pid, exe, argv, str((process / "cwd").readlink()))
    return None


class Watch:
    """Submits what appears, forgets what goes, keeps what changed."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self.last: dict[str, Workload] = {}
        self.known: dict[str, float] = {}
        self.took: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._before = {cgroup for cgroup, _ in walk(resolver.v2_root or "")}
        self._thread.start()

    def _run(self) -> None:
        seen: dict[int, str] = {}
        while not self._end.is_set():
            now = {c: p for c, p in walk(self.resolver.v2_root or "") if c not in self._before}
            for cgroup in now.keys() - seen.keys():
                creator = creator_of(now[cgroup])
                self.known[now[cgroup]] = time.perf_counter()
                self.resolver.submit(cgroup, now[cgroup], creator)
            for cgroup in seen.keys() - now.keys():
                self.resolver.forget(cgroup)
            seen = now
            self.take()
            time.sleep(0.0005)

    def take(self) -> None:
        for value in self.resolver.poll():
            if value.state == "resolved" and value.cgroup_path in self.known:
                began = self.known.pop(value.cgroup_path)
                self.took.append(time.perf_counter() - began)
            self.last[value.cgroup_path] = value

    def resolved(self, container_id: str) -> Workload:
        """The value of the container with this id, once there is one."""

        def found() -> Workload | None:
            for value in list(self.last.values()):
                if value.container_id == container_id and value.state == "resolved":
                    return value
            return None

        try:
            return poll(found, seconds=10, waiting_for=f"workload {container_id[:12]}")
        except TimeoutError as late:
            known = [value for path, value in self.last.items() if container_id in path]
            late.add_note(f"known of it: {known}, watching: {self._thread.is_alive()}")
            late.add_note(f"resolver: {self.resolver.stats()}")
            raise

    def close(self) -> None:
        self._end.set()
        self._thread.join(5)


@pytest.fixture
def watch() -> Iterator[Watch]:
    if find_v2_root() is None:
        pytest.skip("no cgroup v2 tree on this host")
    resolver = Resolver()
    watching = Watch(resolver)
    yield watching
    watching.close()
    resolver.close()


def test_plain_runc(watch: Watch, runc: Runc) -> None:
    container = runc.start(["sleep", "30"], name="whose")
    value = watch.resolved(container.id)
    assert value.cgroup == container.cgroup_id()
    assert (value.name, value.runtime) == ("whose", "runc")
    assert (value.image, value.image_digest) == (container.image.reference, container.image.digest)
    assert value.privileged is False
    assert value.host_namespaces is not None
    assert "pid" not in value.host_namespaces and "user" in value.host_namespaces
    assert value.bundle == str(container.bundle.folder)
    assert value.created_by is not None and value.created_by.endswith("runc")
    assert abs(value.start_ts - time.time_ns()) < 60_000_000_000


def test_privileged_with_the_hosts_network(watch: Watch, runc: Runc) -> None:
    container = runc.start(["sleep", "30"], name="mighty", privileged=True, network="host")
    value = watch.resolved(container.id)
    assert value.privileged is True
    assert value.host_namespaces is not None and "net" in value.host_namespaces


def test_cgroup_of_its_own_choice(watch: Watch, runc: Runc) -> None:
    group = f"hwtest-{time.time_ns()}"
    container = runc.start(["sleep", "30"], name="deep", cgroup=f"/{group}/deep")
    try:
        value = watch.resolved(container.id)
        assert (value.cgroup_path, value.name) == (f"/{group}/deep", "deep")
        poll(
            lambda: watch.last[f"/{group}"].state == "host",
            seconds=5,
            waiting_for="the parent group to be the host's",
        )
    finally:
        container.delete()
        for left in Path("/sys/fs/cgroup").rglob(group):
            left.rmdir()


def test_found_running_at_start(runc: Runc) -> None:
    container = runc.start(["sleep", "30"], name="earlier", container_id="hwtest-earlier")
    resolver = Resolver()
    resolver.scan()
    cgroup = container.cgroup_id()
    value = poll(
        lambda: resolver.lookup(cgroup) if resolver.lookup(cgroup).state == "resolved" else None,
        seconds=5,
        waiting_for="the running container",
    )
    assert (value.name, value.container_id) == ("earlier", "hwtest-earlier")
    assert 0 < value.start_ts < time.time_ns()
    resolver.close()


def test_never_announced_but_alive(runc: Runc) -> None:
    container = runc.start(["sleep", "30"], name="missed")
    resolver = Resolver()
    cgroup = container.cgroup_id()
    assert resolver.lookup(cgroup).state == "pending"
    value = poll(
        lambda: resolver.lookup(cgroup) if resolver.lookup(cgroup).state == "resolved" else None,
        seconds=5,
        waiting_for="the container that nobody announced",
    )
    assert value.name == "missed"
    resolver.close()


def test_fifty_millisecond_containers(watch: Watch, runc: Runc) -> None:
    ran = runc.burst(20, ["sleep", "0.05"], name="brief", parallel=2)
    assert [status for _, status in ran] == [0] * 20
    for bundle, _ in ran:
        value = watch.resolved(bundle.id)
        assert (value.name, value.image) == (bundle.name, bundle.image.reference)
        assert value.image_digest == bundle.image.digest
    took = sorted(watch.took)
    print(f"resolved after {took[len(took) // 2] * 1e3:.1f} ms p50, {took[-1] * 1e3:.1f} ms max")


def test_pod(watch: Watch, containerd: Containerd, busybox_image: Image) -> None:
    """Nothing is configured: the bundle and the socket are those the runtime's own processes name.

    Their command lines are all there is to go by, as this containerd is not where it usually is.
    """
    pod = containerd.pod(
        "agent-0",
        namespace="prod",
        image=busybox_image,
        labels={"app": "agent"},
        annotations={"kubectl.kubernetes.io/last-applied-configuration": "hunter2"},
        init=Spec("fetch", ["true"]),
        sidecar=Spec("istio-proxy", ["sleep", "60"]),
        main=Spec("app", ["sleep", "60"]),
    )
    try:
        for name, role in (("app", "main"), ("istio-proxy", "sidecar"), ("fetch", "init")):
            container_id = pod[name].id

            def complete(wanted: str = container_id, role: str = role) -> Workload | None:
                value = watch.resolved(wanted)
                return value if value.pod_labels and value.role == role else None

            value = poll(complete, seconds=10, waiting_for=f"all there is to know of {name}")
            assert (value.name, value.runtime) == (name, "containerd")
            assert (value.pod, value.namespace) == ("agent-0", "prod")
            assert (value.pod_uid, value.sandbox_id) == (pod.config.uid, pod.id)
            assert (value.image, value.image_digest) == (
                busybox_image.reference,
                busybox_image.digest,
            )
            assert value.pod_labels["app"] == "agent"
            assert (value.role_source, value.qos, value.attempt) == ("inferred", "besteffort", 0)
            assert "hunter2" not in repr(value)
        sandbox = watch.resolved(pod.id)
        assert (sandbox.role, sandbox.role_source) == ("sandbox", "declared")
    finally:
        containerd.remove(pod)


def test_pod_that_ran_before_anybody_watched(containerd: Containerd, busybox_image: Image) -> None:
    """Its files are where nobody looks: the shim that its processes come from leads there."""
    pod = containerd.pod(
        "earlier",
        image=busybox_image,
        labels={"app": "agent"},
        sidecar=Spec("istio-proxy", ["sleep", "60"]),
        main=Spec("app", ["sleep", "60"]),
    )
    resolver = Resolver()
    try:
        resolver.scan()
        for name in ("app", "istio-proxy"):
            of = f"{cgroup2_root()}{pod[name].cgroups()['']}"
            cgroup = cgroup_id(of)

            def complete(cgroup: int = cgroup) -> Workload | None:
                value = resolver.lookup(cgroup)
                return value if value.state == "resolved" and value.pod_labels else None

            value = poll(complete, seconds=10, waiting_for=f"all there is to know of {name}")
            assert (value.name, value.pod, value.container_id) == (name, "earlier", pod[name].id)
            assert (value.privileged, value.image) == (False, busybox_image.reference)
    finally:
        resolver.close()
        containerd.remove(pod)


def test_privileged_pod_on_the_hosts_network(
    watch: Watch, containerd: Containerd, busybox_image: Image
) -> None:
    pod = containerd.pod(
        "mighty",
        image=busybox_image,
        main=Spec("app", ["sleep", "60"], privileged=True),
        host_network=True,
    )
    try:
        value = watch.resolved(pod["app"].id)
        assert value.privileged is True
        assert value.host_namespaces is not None
        assert "net" in value.host_namespaces and "pid" not in value.host_namespaces
    finally:
        containerd.remove(pod)
