"""The resolver: pending, resolved, unknown, host; bounds; roles; recorded values."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts
from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.resolver import Resolver, Timing
from hullwatch.context.roles import ended_before, with_role
from hullwatch.context.workload import Creator, Workload

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
UID = "ac04f3f2-1f2c-11e9-b015-1ebee232acfa"
QUICK = Timing(deadline=0.3, host_after=0.05, recheck=0.1, rechecks=50, grace=0.2, socket=0.2)


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[Resolver]:
    made = Resolver(Roots().under(str(tmp_path)), v2_root=str(tmp_path / "cgroup"), timing=QUICK)
    yield made
    made.close()


def settled(resolver: Resolver, cgroup: int, state: str = "resolved") -> Workload:
    deadline = time.monotonic() + 5
    while (value := resolver.lookup(cgroup)).state != state:
        assert time.monotonic() < deadline, value
        time.sleep(0.002)
    return value


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def docker(root: Path, container_id: str = ID, name: str = "/web") -> None:
    document = {"Name": name, "Config": {"Image": "nginx:1.27"}}
    write(root / f"var/lib/docker/containers/{container_id}/config.v2.json", document)


def task(root: Path, container_id: str, name: str, sandbox: str = "s" * 64) -> None:
    annotations = {
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": f"acme/{name}:1",
        "io.kubernetes.cri.sandbox-id": sandbox,
        "io.kubernetes.cri.sandbox-name": "agent-0",
    }
    tasks = root / "run/containerd/io.containerd.runtime.v2.task/k8s.io"
    write(tasks / container_id / "config.json", {"annotations": annotations})


def test_pending_then_resolved_when_the_file_comes_late(tmp_path: Path, resolver: Resolver) -> None:
    resolver.submit(7, f"/docker/{ID}", None)
    assert resolver.lookup(7).state == "pending"
    time.sleep(0.05)
    docker(tmp_path)
    value = settled(resolver, 7)
    assert (value.name, value.container_id) == ("web", ID)
    assert [w.state for w in resolver.poll()] == ["resolved"]
    assert resolver.poll() == []
    assert resolver.stats()["retries"] > 0


def test_unknown_with_a_reason_and_resolved_when_it_comes_after_all(
    tmp_path: Path, resolver: Resolver
) -> None:
    resolver.submit(7, f"/docker/{ID}", None)
    assert "no files" in settled(resolver, 7, "unknown").reason
    docker(tmp_path)
    assert settled(resolver, 7).name == "web"


def test_half_written_file_is_tried_again(tmp_path: Path, resolver: Resolver) -> None:
    path = tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"Name": "/we')
    resolver.submit(7, f"/docker/{ID}", None)
    time.sleep(0.03)
    docker(tmp_path)
    assert settled(resolver, 7).name == "web"


def test_creators_bundle_is_quick(tmp_path: Path, resolver: Resolver) -> None:
    took = []
    for number in range(20):
        bundle = tmp_path / f"b{number}"
        write(bundle / "config.json", {"annotations": {"io.hullwatch.image": "i:1"}})
        creator = Creator(2**30, "/usr/sbin/runc", ("runc", "run", f"c{number}"), str(bundle))
        began = time.perf_counter()
        resolver.submit(100 + number, f"/c{number}", creator)
        while resolver.lookup(100 + number).state == "pending":
            time.sleep(0)
        took.append(time.perf_counter() - began)
        value = resolver.lookup(100 + number)
        assert (value.state, value.image_repository) == ("resolved", "i")
        assert value.created_by == "/usr/sbin/runc"
        assert abs(value.start_ts - time.time_ns()) < 5_000_000_000
    assert sorted(took)[10] < 0.02  # 0.5 ms on an idle core


@pytest.mark.parametrize("path", ["/", "/system.slice/ssh.service", "/init.scope"])
def test_host_at_once(resolver: Resolver, path: str) -> None:
    resolver.submit(1, path, None)
    value = settled(resolver, 1, "host")
    assert value.container_id == ""


def test_somebodys_own_cgroup_is_the_hosts_after_a_moment(resolver: Resolver) -> None:
    resolver.submit(1, "/mine", Creator(2**30, "/bin/mkdir", ("mkdir", "/x"), "/"))
    assert "no container runtime" in settled(resolver, 1, "host").reason


def test_below_a_container_is_the_container(tmp_path: Path, resolver: Resolver) -> None:
    bundle = tmp_path / "b"
    write(bundle / "config.json", {"annotations": {"io.hullwatch.image": "i:1"}})
    creator = Creator(2**30, "/usr/sbin/runc", ("runc", "run", "c1"), str(bundle))
    resolver.submit(1, "/c1", creator)
    evil = tmp_path / "evil"
    write(evil / "config.json", {"annotations": {"io.hullwatch.image": "bank:1"}})
    inner = Creator(2**30, "/usr/sbin/runc", ("runc", "run", "x"), str(evil))
    resolver.submit(2, "/c1/x", inner)
    value = settled(resolver, 2)
    assert (value.container_id, value.image, value.cgroup_path) == ("c1", "i:1", "/c1/x")
    docker(tmp_path)
    resolver.submit(3, f"/c1/docker-{ID}.scope", None)
    value = settled(resolver, 3)
    assert (value.container_id, value.nested_id) == ("c1", ID)


def test_forget_keeps_the_value_for_a_while(tmp_path: Path, resolver: Resolver) -> None:
    docker(tmp_path)
    resolver.submit(7, f"/docker/{ID}", None)
    settled(resolver, 7)
    resolver.forget(7)
    assert resolver.lookup(7).state == "resolved"
    time.sleep(0.25)
    resolver.poll()
    assert resolver.stats()["values"] == 0


def test_gone_before_it_was_known(resolver: Resolver) -> None:
    resolver.submit(7, f"/docker/{ID}", None)
    resolver.forget(7)
    assert settled(resolver, 7, "unknown").reason


@pytest.mark.parametrize(("uid", "state"), [(UID, "resolved"), ("another", "unknown")])
def test_gone_before_it_was_known_its_runtime_is_asked_by_the_paths_id(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, uid: str, state: str
) -> None:
    asked: list[str | None] = []

    def ask(facts: Facts, address: str | None) -> tuple[Facts | None, str]:
        asked.append(facts.container_id)
        said = Facts(source="socket", container_id=ID, name="fetch", pod="agent-0", pod_uid=uid)
        return said, ""

    monkeypatch.setattr(resolver._sockets, "ask", ask)
    resolver.submit(7, f"/kubepods/besteffort/pod{UID}/{ID}", None)
    resolver.forget(7)
    value = settled(resolver, 7, state)
    assert asked[0] == ID
    if state == "resolved":
        assert (value.name, value.pod, value.container_id) == ("fetch", "agent-0", ID)
        assert value.runtime == "containerd"
    else:
        assert "its pod is another" in (value.reason or "")


def test_values_are_bounded(tmp_path: Path) -> None:
    resolver = Resolver(
        Roots().under(str(tmp_path)), v2_root=str(tmp_path), timing=QUICK, max_values=10
    )
    for cgroup in range(50):
        resolver.submit(cgroup + 1, "/system.slice/x.service", None)
    stats = resolver.stats()
    assert (stats["values"], stats["evicted"]) == (10, 40)
    resolver.close()


def test_queue_is_bounded_and_says_so(tmp_path: Path) -> None:
    slow = Timing(deadline=5, recheck=60)
    resolver = Resolver(
        Roots().under(str(tmp_path)), v2_root=str(tmp_path), timing=slow, max_pending=5
    )
    for cgroup in range(40):
        resolver.submit(cgroup + 1, f"/docker/{cgroup:064x}", None)
    stats = resolver.stats()
    assert stats["refused"] > 0 and stats["state_unknown"] == stats["refused"]
    refused = next(w for w in resolver.poll() if w.state == "unknown")
    assert "too many" in refused.reason
    resolver.close()


def test_never_announced(resolver: Resolver) -> None:
    assert resolver.lookup(99).state == "pending"
    assert "never announced" in settled(resolver, 99, "unknown").reason


def test_scan(tmp_path: Path, resolver: Resolver) -> None:
    docker(tmp_path)
    (tmp_path / f"cgroup/docker/{ID}").mkdir(parents=True)
    (tmp_path / "cgroup/mine").mkdir()
    assert resolver.scan() == 4
    time.sleep(0.1)
    states = {w.cgroup_path: w.state for w in resolver.poll()}
    assert states == {"/": "host", "/docker": "host", "/mine": "host", f"/docker/{ID}": "resolved"}


def test_init_container_is_inferred_from_the_order(tmp_path: Path, resolver: Resolver) -> None:
    one, two = "1" * 64, "2" * 64
    task(tmp_path, one, "fetch")
    task(tmp_path, two, "app")
    resolver.submit(1, f"/kubepods/pod{UID}/{one}", None)
    value = settled(resolver, 1)
    assert (value.role, value.role_source) == ("main", "inferred")
    resolver.forget(1)
    resolver.submit(2, f"/kubepods/pod{UID}/{two}", None)
    assert settled(resolver, 2).role == "main"
    deadline = time.monotonic() + 2
    while resolver.lookup(1).role != "init" and time.monotonic() < deadline:
        time.sleep(0.002)
    assert (resolver.lookup(1).role, resolver.lookup(1).role_source) == ("init", "inferred")


def test_init_container_is_inferred_although_its_metadata_comes_last(
    tmp_path: Path, resolver: Resolver
) -> None:
    one, two = "1" * 64, "2" * 64
    resolver.submit(1, f"/kubepods/pod{UID}/{one}", None)
    resolver.forget(1)
    resolver.submit(2, f"/kubepods/pod{UID}/{two}", None)
    task(tmp_path, two, "app")
    assert settled(resolver, 2).role == "main"
    task(tmp_path, one, "fetch")
    assert settled(resolver, 1).role in ("main", "init")  # published, then compared
    deadline = time.monotonic() + 2
    while resolver.lookup(1).role != "init" and time.monotonic() < deadline:
        time.sleep(0.002)
    assert (resolver.lookup(1).role, resolver.lookup(2).role) == ("init", "main")


def test_one_that_ended_after_the_other_began_is_no_init_container(
    tmp_path: Path, resolver: Resolver
) -> None:
    one, two = "1" * 64, "2" * 64
    task(tmp_path, one, "helper")
    resolver.submit(1, f"/kubepods/pod{UID}/{one}", None)
    settled(resolver, 1)
    resolver.submit(2, f"/kubepods/pod{UID}/{two}", None)
    resolver.forget(1)
    task(tmp_path, two, "app")
    settled(resolver, 2)
    time.sleep(0.05)
    assert resolver.lookup(1).role == "main"


BLANK = Workload(cgroup=1, cgroup_path="/x", state="resolved", pod="p", name="app")


@pytest.mark.parametrize(
    ("name", "repository", "role"),
    [
        ("app", "acme/app", "main"),
        ("istio-proxy", "docker.io/istio/proxyv2", "sidecar"),
        ("proxy", "docker.io/istio/proxyv2", "sidecar"),
        ("vault-agent-init", "hashicorp/vault", "init"),
        ("vault-agent", "hashicorp/vault", "sidecar"),
        ("init-db", None, "init"),
        (None, None, "main"),
    ],
)
def test_inferred_role(name: str | None, repository: str | None, role: str) -> None:
    given = msgspec.structs.replace(BLANK, name=name, image_repository=repository)
    value = with_role(given, None, None)
    assert (value.role, value.role_source) == (role, "inferred")


def test_declared_role_wins() -> None:
    value = with_role(msgspec.structs.replace(BLANK, name="istio-proxy"), "main", None)
    assert (value.role, value.role_source) == ("main", "declared")
    assert with_role(BLANK, "sidecar", True).role == "sandbox"
    alone = msgspec.structs.replace(BLANK, pod=None)
    assert with_role(alone, None, None).role == ""
    assert with_role(alone, "nonsense", None).role == ""


def test_what_is_no_init_container() -> None:
    main = with_role(BLANK, None, None)
    later = msgspec.structs.replace(main, name="other")
    assert ended_before(main, later, 0).role == "init"
    assert ended_before(main, later, 1).role == "main"
    assert ended_before(main, main, 0).role == "main"  # the same container, restarted
    assert ended_before(with_role(BLANK, "main", None), later, 0).role == "main"


def test_json_round_trip() -> None:
    value = msgspec.structs.replace(BLANK, host_namespaces=frozenset({"net"}), labels={"a": "b"})
    assert msgspec.json.decode(msgspec.json.encode(value), type=Workload) == value


def test_recorded() -> None:
    recorded = RecordedResolver([BLANK])
    assert recorded.lookup(1) == BLANK
    assert recorded.lookup(2).state == "unknown"
    assert recorded.poll() == [BLANK] and recorded.poll() == []
    recorded.submit(1, "/y", None)
    recorded.forget(1)
    assert recorded.lookup(1) == BLANK
    assert recorded.stats() == {"values": 1, "missing": 1}
