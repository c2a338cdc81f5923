"""A profile as a rule file decides what the locked profile decides."""

from __future__ import annotations

import random

import pytest

from hullwatch.detect import Engine, load, run_cases
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.kinds import BY_NAME
from hullwatch.detect.baseline.objects import ANY
from hullwatch.detect.baseline.policy import as_cases, as_rules, outside
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import WALL
from support.baselines import DIGEST, RULES, Town

ODD = ['/a "b"/c', "/d'e", "/f\\g", "/h\ti", "/ü/☃", "/x,y", "/(z)", "/ {n}", "/e=f"]
ACCEPTED = (("read", "/srv/**"), ("connect", "*.accepted.example:443"), ("exec", "/opt/x"))


def _do(town: Town, rng: random.Random, box: int) -> None:
    kind = rng.choice(list(BY_NAME))
    host = rng.choice(["", "a.accepted.example=", f"n{rng.randrange(90)}.example.com="])
    name = {
        "connect": rng.choice(
            [f"{host}198.51.100.{rng.randrange(1, 99)}:443", f"/run/s{rng.randrange(9)}.sock"]
        ),
        "listen": f"0.0.0.0:{rng.randrange(1, 60)}",
        "dns": f"n{rng.randrange(90)}.example.com",
    }.get(
        kind,
        rng.choice(
            [
                *ODD,
                f"/d{rng.randrange(3)}/f{rng.randrange(60)}",
                f"/proc/{rng.randrange(1, 999)}/stat",
                f"/srv/a/b{rng.randrange(9)}",
                "/opt/x",
                f"/tmp/tmp.{rng.randrange(10**8):08x}",
            ]
        ),
    )
    town.wait(0.01)
    town.do(kind, name, box, **({"ret": -2} if rng.random() < 0.1 and kind == "read" else {}))


@pytest.mark.parametrize("image", [DIGEST, "acme/plain:1"])
@pytest.mark.parametrize("seed", range(8))
def test_the_file_decides_as_the_lock_does(seed, image):
    rng = random.Random(seed)
    town = Town(RULES)
    boxes = [town.box(image, "one"), town.box(image, "two"), town.box("other/image:2")]
    for _ in range(400):
        _do(town, rng, rng.choice(boxes))
    town.judge()
    town.wait(1)
    town.baselines.judge(image, town.wall, ACCEPTED)
    profile, entries = _stored(town.baselines, image)
    exported = load_texts([(as_rules(profile, entries), "profile.yaml")])
    assert not exported.errors and not exported.warnings
    for _ in range(400):
        _do(town, rng, rng.choice(boxes))
    made = town.scene.enriched()
    novel = town.baselines.observe(made)
    drift = [m.row.ts for m in town.engine._plainly(made) if m.rule.name == "drift"]
    by_file = [match.row.ts for match in Engine(exported)._plainly(made)]
    assert sorted(by_file) == sorted(drift) and len(drift) > 20
    quick = sum(m.count for m in town.engine.match(made, novel) if m.rule.name == "drift")
    assert quick == len(drift)
    after = _stored(town.baselines, image)
    assert {row.kind for row in outside(*after, after[1])} <= set(BY_NAME)


def _stored(baselines: Baselines, image: str) -> tuple[ProfileRow, list[EntryRow]]:
    from hullwatch.detect.baseline.baselines import profile_row

    profile = baselines.profiles[image]
    return profile_row(profile), [baselines.row(at) for at in profile.all()]


def test_the_file_comes_with_cases_that_pass(tmp_path):
    town = Town()
    for kind, name in (
        ("exec", "/usr/bin/python3"),
        ("read", "/etc/{odd}"),
        ("connect", "api.example.com=198.51.100.7:443"),
        ("connect", "/run/x.sock"),
        ("dns", "api.example.com"),
    ):
        town.do(kind, name)
    town.judge()
    profile, entries = _stored(town.baselines, DIGEST)
    (tmp_path / "p.yaml").write_text(as_rules(profile, entries))
    (tmp_path / "p.test.yaml").write_text(as_cases(profile, entries))
    rules = load([tmp_path])
    assert not rules.errors and len(rules.rules) == len(BY_NAME)
    results = list(run_cases(rules, [tmp_path / "p.test.yaml"]))
    assert len(results) == 2 * len(BY_NAME)
    assert all(one.ok for one in results), [(r.case.rule, r.case.name, r.error) for r in results]


def test_a_kind_of_which_too_much_was_seen_has_no_rule_and_that_is_said():
    profile = ProfileRow(DIGEST, "acme/agent:3", WALL, 0, WALL + 9, (), 0)
    entries = [EntryRow(DIGEST, "read", ANY, WALL, WALL, 1, ())]
    text = as_rules(profile, entries)
    rules = load_texts([(text, "p.yaml")])
    assert len(rules.rules) == len(BY_NAME) - 1
    assert "# read: more was seen than a profile holds, so no rule." in text


def test_names_are_data_in_the_file():
    """A workload chooses its file names; none may become a condition or another YAML item."""
    evil = [
        '"\n- rule: x',
        "') or evt.num > 0 or fd.name in ('",
        "*a",
        "&b",
        "!!python/object:x",
        "#",
    ]
    profile = ProfileRow(DIGEST, "acme/agent:3\n- rule: y", WALL, 0, None, (), 0)
    entries = [EntryRow(DIGEST, "read", name, WALL, WALL, 1, ()) for name in evil]
    rules = load_texts([(as_rules(profile, entries), "p.yaml")])
    assert not rules.errors and len(rules.rules) == len(BY_NAME)
    (names,) = rules.lists.values()
    assert len(names.items) == len(evil)
