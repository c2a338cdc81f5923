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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sigma", reason="needs pySigma: pip install -e '.[dev]'")

from hullwatch.detect.output import escape
from support.agent import Agent
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

DRIVER = Path(__file__).with_name("attacks") / "driver.py"
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
class Judged:
    """What was found in each of the two containers, and what was lost."""

    hits: Found
    misses: Found
    replayed_hits: Found
    replayed_misses: Found
    seen_hits: set[str]
    seen_misses: set[str]
    status: dict[str, Any]
    lost: int


def of(found: Found, acts: Iterable[Act]) -> Found:
    own = set(objects(acts))
    return {one for one in found if one[1] in own}


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
) -> Iterator[Judged]:
    if reason := missing("runc", "ip", "clang") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sigma")
    nearly = [act for acts in NEAR.values() for act in acts]
    recording = Recording(folder / "run.hwcap")
    with Agent(folder / "store", rules=[SIGMA]) as agent, Runc(busybox_image) as runc:
        with recording:
            hits = drive(runc, python_image, folder, "sigma-hits", [*HITS.values()])
            misses = drive(runc, python_image, folder, "sigma-nearly", nearly)
            agent.settle()
        status = agent.status() or {}
        live = {(one["rule"], one["container_full_id"], one["object"]) for one in agent.stored()}
    replayed, lost = recording.findings([SIGMA])
    (folder / "seen.yaml").write_text(SEEN)
    seen, _ = recording.findings([folder / "seen.yaml"])

    def within(found: set[tuple[str, str, str]], container: str) -> Found:
        return {(rule, thing) for rule, inside, thing in found if inside == container}

    yield Judged(
        within(live, hits),
        within(live, misses),
        within(replayed, hits),
        within(replayed, misses),
        {thing for _, thing in within(seen, hits)},
        {thing for _, thing in within(seen, misses)},
        status,
        lost,
    )


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
    hits, misses = [HITS[rule.title]], NEAR[rule.title]
    found, missed = of(judged.hits, hits), of(judged.misses, misses)
    replayed = (of(judged.replayed_hits, hits), of(judged.replayed_misses, misses))
    live = (rule.title, escape(hits[0].object)) in found
    silent = rule.title not in {title for title, _ in missed}
    record("sigma", rule.title, live=live, near_miss=silent, replay=replayed == (found, missed))
    assert live and silent
    assert found == expected(hits)
    assert missed == expected(misses)
    assert replayed == (found, missed)


def test_every_act_was_seen(judged: Judged):
    assert set(objects(HITS.values())) - judged.seen_hits == set()
    nearly = [act for acts in NEAR.values() for act in acts]
    assert set(objects(nearly)) - judged.seen_misses == set()


def test_nothing_else_is_found(judged: Judged):
    assert judged.hits == expected(HITS.values())
    assert judged.misses == expected(act for acts in NEAR.values() for act in acts)
    assert (judged.replayed_hits, judged.replayed_misses) == (judged.hits, judged.misses)


def test_nothing_was_lost(judged: Judged):
    assert (judged.status["losses"], judged.status["faults"], judged.lost) == ({}, {}, 0)
