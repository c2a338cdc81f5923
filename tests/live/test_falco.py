"""Falco's own rules, unmodified, each triggered in a real container beside its nearest miss.

All acts run once, under one agent with both files of Falco's and beside a recorder; the tests then
ask what the agent found, and what a replay of the recording finds with the same rules. Acts and
near misses are the table in tests/support/attacks/falco.py.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from hullwatch.demo.image import busybox
from hullwatch.detect.ruleset import load
from hullwatch.replay import Capture, Replay
from hullwatch.store.query import Reader
from support import attacks, conformance, images
from support.agent import Agent
from support.attacks.falco import (
    CANNOT,
    IMAGE,
    OVERRIDDEN,
    OVERRIDES,
    PREPARE,
    RULES,
    STABLE,
    Act,
    Near,
    Rule,
)
from support.bundles import Mount
from support.needs import missing
from support.runc import Container, Network, Runc
from support.scratch import REPOSITORY, poll
from support.watch import missing_bpf

FALCO = REPOSITORY.parent / "shared" / "conformance" / "falco"
FILES = (FALCO / "falco_rules.yaml", FALCO / "falco-incubating_rules.yaml")

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FALCO.exists(), reason="no ../shared/conformance beside the project"),
]

DRIVER = Path(attacks.__file__).with_name("driver.py")
ADDRESSES = ("203.0.113.7", "203.0.113.9", "169.254.169.254", "169.254.169.253", "10.1.2.3")
CAPABILITIES = ("bounding", "effective", "permitted", "inheritable")
LONG = 300.0
TRIED = [rule for rule in RULES if rule.name not in CANNOT]


@dataclass
class Seen:
    """What came of it. live, replayed: findings as plain values; silent: of the rules as shipped.

    recorder: its last words.
    events: (container id or '', class, object, name) of every recorded event.
    """

    containers: dict[str, Container]
    live: list[dict[str, Any]]
    replayed: list[dict[str, Any]]
    silent: list[dict[str, Any]]
    events: set[tuple[str, str, str, str]]
    status: dict[str, Any]
    recorder: str
    host: dict[str, int] = field(default_factory=dict)

    def of(self, where: str, findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of one container; of the host, those that our own acts there gave."""
        if where.startswith("host"):
            mine = set(self.host.values())
            return [one for one in findings if one["processes"][:1] and _pid(one) in mine]
        ident = self.containers[where].id
        return [one for one in findings if one["container_full_id"] == ident]


def _pid(finding: dict[str, Any]) -> int:
    return int(finding["processes"][0]["pid"])


def place(act: Act | Near) -> str:
    """The container an act runs in; near misses have one of their own."""
    return act.place if isinstance(act, Act) or act.way == "start" else f"{act.place}-near"


def driver_acts(where: str) -> list[tuple[str, str]]:
    both = [(rule.name, act) for rule in TRIED for act in (rule.act, rule.near)]
    return [(name, act.code) for name, act in both if place(act) == where and not act.way]


class Stage:
    """Starts the containers and carries the acts out in them."""

    def __init__(self, runc: Runc, folder: Path, networks: list[Network]) -> None:
        self.runc, self.folder, self.networks = runc, folder, networks
        self.image = images.build(IMAGE)
        self.containers: dict[str, Container] = {}

    def start(self, name: str, *, capable: bool = False, **options: Any) -> None:
        """A container whose first process does all acts of that place, and then waits."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "acts.json").write_text(json.dumps(driver_acts(name)))
        (folder / "driver.py").write_text(DRIVER.read_text())
        network = Network(f"f{len(self.networks)}")
        self.networks.append(network)
        for address in ADDRESSES:
            network.add_address(f"{address}/32")
        code = "import runpy, time; runpy.run_path('/acts/driver.py', run_name='__main__'); "
        argv = ["python3", "-c", code + "time.sleep(1000)", "/acts/acts.json"]
        bundle = self.runc.make(
            argv,
            name=name,
            image=self.image,
            network=network.path,
            mounts=[Mount(folder, "/acts")],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            **options,
        )
        if capable:
            config = json.loads((bundle.folder / "config.json").read_text())
            for kind in CAPABILITIES:
                config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
            (bundle.folder / "config.json").write_text(json.dumps(config))
        subprocess.run(["chroot", bundle.rootfs, "/bin/sh", "-c", PREPARE], check=True)
        self.containers[name] = self.runc.launch(bundle)

    def finish(self) -> None:
        """Wait for the drivers; then what is done from outside: runc exec, and on the host."""
        for name, container in self.containers.items():
            lines = container.wait_for_output("done\n", LONG).splitlines()[:-1]
            said = [json.loads(line) for line in lines]
            assert [one["attack"] for one in said] == [act for act, _ in driver_acts(name)]
            failed = [f"{name}: {one['attack']}: {one['error']}" for one in said if one["error"]]
            assert not failed, "\n".join(failed)
        for rule in TRIED:
            for act in (rule.act, rule.near):
                if act.way in ("exec", "terminal"):
                    done = self.containers[place(act)].exec(
                        act.code.split(), tty=act.way == "terminal", seconds=LONG
                    )
                    assert done.status == 0, (rule.name, done)

    def on_host(self) -> dict[str, int]:
        """Programs of these names run on the host; their pids."""
        pids = {}
        for rule in TRIED:
            for act in (rule.act, rule.near):
                if act.place != "host":
                    continue
                program = self.folder / act.code
                shutil.copy2(busybox(), program)
                with subprocess.Popen(
                    [program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                ) as process:
                    pids[act.code] = process.pid
        return pids


class Recorder:
    """`hullwatch record` beside the agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = 0
        command = [sys.executable, "-m", "hullwatch", "record", str(path)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        poll(self._records, seconds=LONG, waiting_for="the recorder")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _records(self) -> bool:
        """The file grows beyond its head once the sensor is attached."""
        assert self.process.poll() is None, "the recorder ended"
        size = self.path.stat().st_size if self.path.exists() else 0
        self._head = self._head or size
        subprocess.run(["/bin/true"], check=True)
        return size > self._head

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=LONG)
        assert self.process.returncode == 0, said
        return said


def replay(capture: Path, rules: list[Path], store: Path | None = None) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for findings in Replay(Capture(capture), load(rules), store):
        found |= {one.id: msgspec.to_builtins(one) for one in findings}
    return list(found.values())


def recorded(store: Path) -> set[tuple[str, str, str, str]]:
    columns = ("container_id", "class", "object", "name")
    with Reader(store) as reader:
        rows = reader.query(f"SELECT DISTINCT {', '.join(columns)} FROM events").table.to_pylist()
    return {tuple(row[column] or "" for column in columns) for row in rows}  # type: ignore[misc]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, busybox_image: images.Image) -> Iterator[Seen]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("falco")
    overrides = folder / "overrides.yaml"
    overrides.write_text(OVERRIDES)
    rules = [*FILES, overrides]
    networks: list[Network] = []
    shop: dict[str, Any] = {"annotations": {"io.kubernetes.pod.namespace": "shop"}}
    try:
        with (
            Agent(folder / "store", rules=rules) as agent,
            Recorder(folder / "capture") as recorder,
            Runc(busybox_image) as runc,
        ):
            stage = Stage(runc, folder, networks)
            for name in ("plain", "plain-near"):
                stage.start(name)
            for name in ("mighty", "mighty-near"):
                stage.start(name, privileged=True)
            stage.start("capable", capable=True)
            for name in ("shop", "shop-near"):
                stage.start(name, **shop)
            stage.finish()
            host = stage.on_host()
            agent.settle()
            said = recorder.stop()
            live = agent.stored()
            status = agent.status()
            assert status is not None
            yield Seen(
                dict(stage.containers),
                live,
                replay(folder / "capture", rules, folder / "replayed"),
                replay(folder / "capture", [*FILES]),
                recorded(folder / "replayed"),
                status,
                said,
                host,
            )
    finally:
        for network in networks:
            network.delete()


def fits(one: dict[str, Any], rule: str, act: Act | Near, object_: str | None = None) -> bool:
    return (
        one["rule"] == rule
        and re.fullmatch(act.object if object_ is None else object_, one["object"]) is not None
        and re.fullmatch(act.by, one["processes"][0]["name"]) is not None
    )


def expected(where: str) -> Iterator[tuple[Act | Near, str, str]]:
    """(act, rule, object) of all findings that a container is to have."""
    for rule in TRIED:
        for act in (rule.act, rule.near):
            if place(act) == where:
                yield from ((act, name, object_) for name, object_ in act.found.items())
        if place(rule.act) == where:
            yield rule.act, rule.name, rule.act.object
        if rule.act.way == "start" and where in rule.act.alike:
            yield rule.act, rule.name, rule.act.object


def key(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["processes"][0]["name"], one["object"], one["container_full_id"]


def happened(seen: Seen, near: Near) -> bool:
    """Whether the sensor saw what the near miss did."""
    where = place(near)
    ident = "" if where.startswith("host") else seen.containers[where].id
    return any(
        (container, cls) == (ident, near.event)
        and re.fullmatch(near.object, object_)
        and re.fullmatch(near.by, name)
        for container, cls, object_, name in seen.events
    )


def beyond(field: str, processes: int) -> bool:
    """Whether it names an ancestor above the outermost process there is."""
    level = re.fullmatch(r"proc\.aname\[(\d+)\]", field)
    return level is not None and int(level[1]) >= processes


def unknown(finding: dict[str, Any]) -> set[str]:
    """Fields of the output without a value, but for the login name of who has no login, and for
    ancestors beyond those there are."""
    fields = finding["fields"]
    return {
        name
        for name, value in fields.items()
        if value == "<NA>"
        and (name, fields.get("user.loginuid")) != ("user.loginname", "-1")
        and not beyond(name, len(finding["processes"]))
    }


def test_every_rule_of_falco_is_in_the_table():
    loaded = load(FILES)
    assert not loaded.errors
    names = [rule.name for rule in loaded.rules]
    assert sorted(names) == sorted({*(rule.name for rule in RULES), *CANNOT})
    assert [rule.name for rule in STABLE] == [rule.name for rule in load(FILES[:1]).rules]
    assert len(STABLE) == 25 and not {rule.name for rule in STABLE} & CANNOT.keys()
    for name, why in CANNOT.items():
        facts = {"live": None, "near_miss": None, "replay": None}
        conformance.record("falco", name, loads=True, reason=why, **facts)


@pytest.mark.parametrize("rule", TRIED, ids=lambda rule: rule.name)
def test_rule_is_triggered_live_and_its_near_miss_is_not(seen: Seen, rule: Rule):
    where, near = place(rule.act), place(rule.near)
    found = [one for one in seen.of(where, seen.live) if fits(one, rule.name, rule.act)]
    close = [one for one in seen.of(near, seen.live) if fits(one, rule.name, rule.near)]
    did = happened(seen, rule.near)
    live = {key(one) for one in ours(seen, seen.live) if one["rule"] == rule.name}
    again = {key(one) for one in ours(seen, seen.replayed) if one["rule"] == rule.name}
    conformance.record(
        "falco",
        rule.name,
        loads=True,
        live=len(found) == 1,
        near_miss=did and not close,
        replay=live == again,
        reason=None,
    )
    assert len(found) == 1, [(one["rule"], *key(one)) for one in seen.of(where, seen.live)]
    (finding,) = found
    assert unknown(finding) == set(rule.unknown), finding["output"]
    assert finding["fields"].items() and "%" not in finding["output"]
    if where in seen.containers:
        container = seen.containers[where]
        assert (finding["container_name"], finding["state"]) == (where, "resolved")
        assert finding["image"] == container.image.reference
        assert finding["image_digest"] == container.image.digest
    else:
        assert finding["container_id"] == "host"
    assert not close, [(one["rule"], *key(one)) for one in close]
    assert did, "the near miss was not seen by the sensor"
    assert live == again


def ours(seen: Seen, findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of our containers, and of what we did on the host."""
    return [one for where in (*seen.containers, "host") for one in seen.of(where, findings)]


@pytest.mark.parametrize(
    "where", ["plain", "plain-near", "mighty", "mighty-near", "capable", "shop", "shop-near"]
)
def test_nothing_else_is_found(seen: Seen, where: str):
    wanted = list(expected(where))
    more = [
        (one["rule"], *key(one)[:2])
        for one in seen.of(where, seen.live)
        if not any(fits(one, rule, act, object_) for act, rule, object_ in wanted)
    ]
    assert more == []


def test_without_overrides_only_those_rules_are_silent(seen: Seen):
    """The files as Falco ships them: lists that users fill in are empty."""
    live = {(one["rule"], *key(one)) for one in ours(seen, seen.live)}
    plain = {(one["rule"], *key(one)) for one in ours(seen, seen.silent)}
    assert {one[0] for one in live - plain} == {OVERRIDDEN} and plain < live


def test_nothing_was_lost_and_no_stage_had_a_fault(seen: Seen):
    assert (seen.status["losses"], seen.status["faults"]) == ({}, {})
    assert " 0 lost" in seen.recorder
