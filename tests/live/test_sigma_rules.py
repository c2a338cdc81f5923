"""Every rule of SigmaHQ's, unmodified, triggered in a real container, and its near misses.

For each rule the event that meets it (support.sigma_events) is made to happen in one container, and
those that are one character away from it, or that a filter of the rule excepts, in another
(support.sigma_acts). Each act has paths
and ports of its own, so that a finding's object tells whose it is. What has to be found, also by
other rules, says the plain way (support.sigma_plain). A recording of the run, replayed, has to give
the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sigma", reason="needs pySigma: pip install -e '.[dev]'")

from hullwatch.detect.output import escape
from support.agent import Agent
from support.attacks.driven import DRIVER
from support.bundles import Mount
from support.conformance import record
from support.images import Image
from support.needs import missing
from support.recording import Recording
from support.runc import Network, Runc
from support.scratch import REPOSITORY
from support.sigma_acts import NAMED, SHM, Act, compile_actor, hit, near, prepare
from support.sigma_plain import Plain, matches, read
from support.watch import missing_bpf

SIGMA = REPOSITORY.parent / "shared" / "conformance" / "sigma"
if not SIGMA.exists():
    pytest.skip("no ../shared/conformance beside the project", allow_module_level=True)
pytestmark = pytest.mark.timeout(600)

RULES = read(SIGMA)
_APART = 20  # numbers of a rule's near misses are below its own times this
HITS = {rule.title: hit(rule, number) for number, rule in enumerate(RULES, 1)}
NEAR = {rule.title: near(rule, number * _APART) for number, rule in enumerate(RULES, 1)}

# Silence proves nothing unless the act was seen.
SEEN = """
- rule: Seen
  desc: Every event that an act may consist of.
  condition: hw.class in (exec, open, connect) and evt.rawres >= 0
  output: seen
  priority: DEBUG
"""

Found = set[tuple[str, str]]
"""(rule, object)."""


def expected(acts: Iterable[Act]) -> Found:
    return {
        (rule.title, escape(thing))
        for act in acts
        for category, event, thing in act.events()
        for rule in RULES
        if rule.category == category and matches(rule.tree, event)
    }


def objects(acts: Iterable[Act]) -> list[str]:
    return [escape(thing) for act in acts for _, _, thing in act.events()]


@dataclass
class Box:
    """One of the two containers. seen: objects of all events, by the recording."""

    acts: list[Act]
    expected: Found
    live: Found
    replayed: Found
    seen: set[str]

    def agrees(self, title: str, acts: list[Act]) -> bool:
        """Acts of a rule: all were seen, what is found by any rule is what has to be, and the rule
        is found nowhere else."""
        own = set(objects(acts))
        wanted = about(self.expected, title, own)
        return own <= self.seen and about(self.live, title, own) == wanted

    def replays(self, title: str, acts: list[Act]) -> bool:
        own = set(objects(acts))
        return about(self.replayed, title, own) == about(self.live, title, own)


def about(found: Found, title: str, things: set[str]) -> Found:
    return {one for one in found if one[1] in things or one[0] == title}


@dataclass
class Judged:
    hits: Box
    misses: Box
    status: dict[str, Any]
    lost: int


def drive(runc: Runc, image: Image, folder: Path, name: str, acts: Sequence[Act]) -> str:
    """A container in which all acts are carried out, one after the other; its id."""
    place = folder / name
    place.mkdir()
    (place / "list.json").write_text(json.dumps([[act.object, act.code()] for act in acts]))
    (place / "driver.py").write_text(DRIVER.read_text())
    (place / "shm").mkdir()
    addresses = {act.event.get("DestinationIp", NAMED) for act in acts}
    addresses.discard("127.0.0.1")
    with Network(name) as network:
        for address in addresses:
            network.add_address(f"{address}/32")
        bundle = runc.make(
            ["python3", "/driver/driver.py", "/driver/list.json"],
            name=name,
            image=image,
            mounts=[Mount(place, "/driver"), Mount(place / "shm", SHM)],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            network=network.path,
        )
        prepare(bundle.rootfs, place / "shm", compile_actor(folder / "actor"), acts)
        container = runc.launch(bundle)
        said = [
            json.loads(line) for line in container.wait_for_output("done", 400).splitlines()[:-1]
        ]
    failed = [f"{one['attack']}: {one['error']}" for one in said if one["error"]]
    assert not failed, f"{len(failed)}: " + "\n".join(failed[:5])
    assert len(said) == len(acts)
    return container.id


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Judged:
    if reason := missing("runc", "ip", "clang") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sigma")
    done, nearly = [*HITS.values()], [act for acts in NEAR.values() for act in acts]
    recording = Recording(folder / "run.hwcap")
    with Agent(folder / "store", rules=[SIGMA]) as agent, Runc(busybox_image) as runc:
        with recording:
            hits = drive(runc, python_image, folder, "sigma-hits", done)
            misses = drive(runc, python_image, folder, "sigma-nearly", nearly)
            agent.settle()
        status = agent.status() or {}
        live = {(one["rule"], one["container_full_id"], one["object"]) for one in agent.stored()}
    replayed, lost = recording.findings([SIGMA])
    (folder / "seen.yaml").write_text(SEEN)
    seen = recording.matches([folder / "seen.yaml"])

    def box(container: str, acts: list[Act]) -> Box:
        def within(found: set[tuple[str, str, str]]) -> Found:
            return {(rule, thing) for rule, inside, thing in found if inside == container}

        things = {thing for _, thing in within(seen)}
        return Box(acts, expected(acts), within(live), within(replayed), things)

    return Judged(box(hits, done), box(misses, nearly), status, lost)


def test_each_rule_has_acts_with_objects_of_its_own():
    assert len(HITS) == len(NEAR) == len(RULES) == 135
    for told in (
        [thing for act in HITS.values() for thing in objects([act])],
        # Near misses of one rule may share a program that has to lie where it does.
        [thing for acts in NEAR.values() for thing in set(objects(acts))],
    ):
        assert len(told) == len(set(told))
    for rule in RULES:
        assert (rule.title, HITS[rule.title].object) in expected([HITS[rule.title]])
        assert 0 < len(NEAR[rule.title]) < _APART
        assert rule.title not in {title for title, _ in expected(NEAR[rule.title])}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.title)
def test_found_in_its_act_and_in_no_near_miss(judged: Judged, rule: Plain):
    title, act, nearly = rule.title, HITS[rule.title], NEAR[rule.title]
    facts = {
        "live": judged.hits.agrees(title, [act]),
        "near_miss": judged.misses.agrees(title, nearly),
        "replay": judged.hits.replays(title, [act]) and judged.misses.replays(title, nearly),
    }
    record("sigma", title, **facts)
    own = set(objects([act]))
    assert (title, escape(act.object)) in judged.hits.live
    assert about(judged.hits.live, title, own) == about(judged.hits.expected, title, own)
    assert all(facts.values()), facts


@pytest.mark.parametrize("which", ["hits", "misses"])
def test_every_act_was_seen_and_nothing_else_found(judged: Judged, which: str):
    box: Box = getattr(judged, which)
    assert set(objects(box.acts)) - box.seen == set()
    assert box.live == box.expected
    assert box.replayed == box.live


def test_nothing_was_lost(judged: Judged):
    assert (judged.status["losses"], judged.status["faults"], judged.lost) == ({}, {}, 0)
