"""The rules of SigmaHQ, unmodified: loaded, met, missed, and judged as the plain way judges."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.detect import load
from hullwatch.detect.engine import Engine
from hullwatch.detect.explain import explain
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import Scene

pytest.importorskip("sigma", reason="needs pySigma: pip install -e '.[dev]'")
SIGMA = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "sigma"
if not SIGMA.exists():
    pytest.skip("no ../shared/conformance beside the project", allow_module_level=True)

from support.conformance import record  # noqa: E402
from support.sigma_events import ACCOUNTS, BASE, add, literals, meeting, near_miss  # noqa: E402
from support.sigma_excepted import excepted  # noqa: E402
from support.sigma_plain import Event, Plain, matches, read  # noqa: E402

PLAIN = read(SIGMA)
BY_CATEGORY = {category: [rule for rule in PLAIN if rule.category == category] for category in BASE}
FIELDS = {category: literals(rules) for category, rules in BY_CATEGORY.items()}
MEETING = {rule.title: meeting(rule)[0] for rule in PLAIN}


@pytest.fixture(scope="module")
def rules() -> RuleSet:
    return load([SIGMA])


def found(rules: RuleSet, category: str, events: list[Event], how: int = 0) -> Counter[str]:
    """Matches by rule, of the real engine."""
    scene = Scene()
    for event in events:
        add(scene, category, event, how)
    counted: Counter[str] = Counter()
    for match in Engine(rules, ACCOUNTS).match(scene.enriched()):
        counted[match.rule.name] += match.count
    return counted


def plainly(category: str, events: list[Event]) -> Counter[str]:
    return Counter(
        rule.title
        for event in events
        for rule in BY_CATEGORY[category]
        if matches(rule.tree, event)
    )


def test_all_load_and_none_is_refused(rules: RuleSet) -> None:
    assert not rules.errors, [str(error) for error in rules.errors]
    assert not rules.warnings, [str(warning) for warning in rules.warnings]
    assert len(rules.rules) == len(PLAIN) == 135
    assert {rule.name for rule in rules.rules} == {rule.title for rule in PLAIN}


def test_each_is_explained_with_its_file(rules: RuleSet) -> None:
    for rule in rules.rules:
        told = explain(rules, rule.name)
        assert told.classes and told.fields
        assert rule.place.path.startswith(str(SIGMA)) and rule.place.line == 1
        assert any(tag.startswith("attack.") for tag in rule.tags)


@pytest.mark.parametrize("rule", PLAIN, ids=lambda rule: rule.title)
def test_a_meeting_event_and_a_near_miss(rules: RuleSet, rule: Plain) -> None:
    met, missed = (
        [found(rules, rule.category, [event], how)[rule.title] for how in range(3)]
        for event in (MEETING[rule.title], near_miss(rule))
    )
    record("sigma", rule.title, scene=(met, missed) == ([1, 1, 1], [0, 0, 0]))
    assert (met, missed) == ([1, 1, 1], [0, 0, 0])


def test_what_filters_except(rules: RuleSet) -> None:
    filters = 0
    for rule in PLAIN:
        for event, _ in excepted(rule):
            assert found(rules, rule.category, [event])[rule.title] == 0
            filters += 1
    assert filters >= 30


def test_an_event_that_no_rule_is_about(rules: RuleSet) -> None:
    for category, event in BASE.items():
        assert plainly(category, [event]) == found(rules, category, [event]) == {}


def mutated(draw: st.DrawFn, category: str, event: Event) -> Event:
    """Some fields put together anew, from what all rules of the log source look for."""
    made = dict(event)
    fields = FIELDS[category]
    for field in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        piece = st.sampled_from(fields[field])
        if field in ("User", "LogonId"):
            made["User"], made["LogonId"] = draw(st.sampled_from((("root", 0), ("app", 1000))))
        elif field == "Initiated":
            made[field] = draw(st.sampled_from(("true", "false")))
        elif field.endswith("Port"):
            made[field] = draw(st.one_of(piece.map(int), st.integers(1, 65535)))
        elif field.endswith("Ip"):
            made[field] = draw(st.one_of(piece, st.just("::1"), st.just("2001:db8::1")))
        elif field.endswith("Hostname"):
            made[field] = draw(piece)
        else:
            made[field] = draw(texts(piece, str(made[field])))
    if made.get("Initiated") == "false":
        made.pop("DestinationHostname", None)  # the name of this end is never known
    return made


def texts(piece: st.SearchStrategy[str], before: str) -> st.SearchStrategy[str]:
    one = st.one_of(piece, st.just(before), st.sampled_from(("x", " ", "/", "-i", "é", "\n", "")))
    whole = st.lists(one, min_size=1, max_size=4).map(lambda parts: "".join(parts) or "x")
    case = st.sampled_from((str, str, str.upper, str.lower, str.swapcase))
    return st.builds(lambda text, how: how(text), whole, case)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[str, list[Event]]:
    category = draw(st.sampled_from(sorted(BASE)))
    first = st.sampled_from([MEETING[rule.title] for rule in BY_CATEGORY[category]])
    events = [
        mutated(draw, category, draw(st.one_of(first, st.just(BASE[category]))))
        for _ in range(draw(st.integers(1, 8)))
    ]
    return category, events


@settings(max_examples=250, deadline=None)
@given(scenes(), st.integers(0, 2))
def test_compiled_rules_equal_the_plain_way(
    rules: RuleSet, scene: tuple[str, list[Event]], how: int
) -> None:
    category, events = scene
    assert found(rules, category, events, how) == plainly(category, events)


def test_case_matters_where_sigma_says_so(rules: RuleSet) -> None:
    """Each meeting event with one text's case turned round: only `re` and `cased` may mind."""
    differ = 0
    for rule in PLAIN:
        event = MEETING[rule.title]
        for field in ("Image", "CommandLine", "ParentCommandLine", "TargetFilename"):
            if field in event:
                turned = {**event, field: event[field].swapcase()}
                expected = plainly(rule.category, [turned])
                assert found(rules, rule.category, [turned]) == expected
                differ += expected[rule.title] == 0
    assert differ >= 3, "no rule minds"


def test_the_comparison_proves_something(rules: RuleSet) -> None:
    """Every rule is met by the events that it is compared on."""
    for category in BASE:
        events = [MEETING[rule.title] for rule in BY_CATEGORY[category]]
        counted = plainly(category, events)
        assert found(rules, category, events) == counted
        assert set(counted) == {rule.title for rule in BY_CATEGORY[category]}
