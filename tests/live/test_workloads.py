"""Whose cgroup is it, with real runtimes.

The kernel's announcement of a new cgroup is played by a thread that watches the v2 tree; who made
it is read from this process's children, where the sensor has it from the kernel.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hullwatch.context.cgroupfs import find_v2_root, walk
from hullwatch.context.resolver import Resolver
from hullwatch.context.workload import Creator, Workload
from support.runc import Runc
from support.scratch import poll


def creator_of(container_id: str) -> Creator | None:
    """The runc among our children that makes this container (if that is no id: the last)."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            children |= {int(pid) for pid in (task / "children").read_text().split()}
    for pid in sorted(children, reverse=True):
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            words = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            argv = tuple(word.decode() for word in words)
            if argv[:2] == ("runc", "run") and (container_id in argv or len(container_id) != 64):
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
                creator = creator_of(now[cgroup].strip("/").partition("/")[0])
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

        return poll(found, seconds=10, waiting_for=f"workload {container_id[:12]}")

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
    assert took[len(took) // 2] < 0.05
