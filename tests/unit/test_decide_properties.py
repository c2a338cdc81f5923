"""Properties of decisions: generated sets and questions, and the cases that ship, against Cedar."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.decide.cases import case_files, read_cases, run_case
from hullwatch.decide.engine import Engine
from hullwatch.decide.question import ACTIONS, Decision, Effect, Entity, Question
from hullwatch.decide.schema import CONTEXT
from support.cedar_oracle import plain_cedar

POLICIES = Path(__file__).resolve().parents[2] / "policies"
CONDITION = {
    "holds": 'context.weekday == "mon"',
    "does not": 'context.weekday == "sun"',
    "fails": 'context.labels.contains("x")',  # no question here has labels
}
QUESTION = Question(
    principal=Entity("Agent", "a"),
    action="tool-call",
    resource=Entity("Tool", "s/t"),
    context={"weekday": "mon"},
)


class Made(NamedTuple):
    effect: str  # permit, forbid, challenge
    state: str  # of CONDITION
    observe: bool
    open: bool
    who: str
    action: str

    def text(self, number: int) -> str:
        word = "permit" if self.effect == "permit" else "forbid"
        notes = [f'@id("p{number}")', f'@fail("{"open" if self.open else "closed"}")']
        notes += ['@mode("observe")'] * self.observe
        notes += ['@effect("challenge")'] * (self.effect == "challenge")
        head = f"({self.who}, {self.action}, resource)"
        return f"{' '.join(notes)} {word} {head} when {{ {CONDITION[self.state]} }};"

    @property
    def asked(self) -> bool:
        return "exec" not in self.action

    @property
    def fits(self) -> bool:
        return '"b"' not in self.who

    @property
    def counts(self) -> bool:
        if self.state == "fails":
            return self.open if self.effect == "permit" else not self.open
        return self.state == "holds"


WHO = ("principal", "principal is Agent", 'principal == Agent::"a"', 'principal == Agent::"b"')
WHAT = ("action", 'action == Action::"tool-call"', 'action == Action::"exec"')


def sets(states: tuple[str, ...], observe: bool = True) -> st.SearchStrategy[list[Made]]:
    return st.lists(
        st.builds(
            Made,
            st.sampled_from(("permit", "forbid", "challenge")),
            st.sampled_from(states),
            st.booleans() if observe else st.just(False),
            st.booleans(),
            st.sampled_from(WHO),
            st.sampled_from(WHAT),
        ),
        max_size=6,
    )


def decide(made: list[Made], approved: bool) -> Decision:
    text = "\n".join(one.text(at) for at, one in enumerate(made))
    return Engine.of([(text, "p.cedar")]).decide(QUESTION, approved=approved)


def meant(made: list[Made], approved: bool) -> Effect:
    """Said again, over the generated values. A head that does not fit holds for nobody; one that
    cannot be evaluated is asked its head first."""
    asked = [one for one in made if one.asked]
    counting = [one.effect for one in asked if one.fits and one.counts]
    if "forbid" in counting:
        return Effect.BLOCK
    if any(one.effect == "permit" and one.fits for one in asked) and "permit" not in counting:
        return Effect.BLOCK
    return Effect.CHALLENGE if "challenge" in counting and not approved else Effect.ALLOW


@settings(max_examples=300, deadline=None)
@given(sets(tuple(CONDITION)), st.booleans())
def test_the_strongest_effect_counts(made: list[Made], approved: bool):
    decided = decide(made, approved)
    assert decided.effect is meant([one for one in made if not one.observe], approved)
    assert decided.wanted is meant(made, approved)
    fails = {f"p{at}" for at, one in enumerate(made) if one.state == "fails"}
    fails &= {f"p{at}" for at, one in enumerate(made) if one.asked and one.fits}
    assert set(decided.failed) == fails


@settings(max_examples=150, deadline=None)
@given(sets(tuple(CONDITION)))
def test_an_approval_never_lifts_a_block(made: list[Made]):
    before, after = decide(made, False), decide(made, True)
    assert (before.effect is Effect.BLOCK) == (after.effect is Effect.BLOCK)
    assert after.effect is not Effect.CHALLENGE


@settings(max_examples=200, deadline=None)
@given(sets(("holds", "does not"), observe=False), st.booleans())
def test_one_look_says_what_two_passes_of_cedar_say(made: list[Made], approved: bool):
    text = "\n".join(one.text(at) for at, one in enumerate(made))
    engine = Engine.of([(text, "p.cedar")])
    expected = plain_cedar(engine.policies.values(), QUESTION, approved)
    assert engine.decide(QUESTION, approved=approved).effect is expected


class Of(NamedTuple):
    """A policy about some of the resources a, b and c. fails: also about whether it is labelled,
    which is not known; asked only for those."""

    effect: str  # permit, forbid, challenge
    holds: frozenset[str]
    fails: bool
    open: bool
    fits: bool

    def text(self, number: int) -> str:
        word = "permit" if self.effect == "permit" else "forbid"
        notes = [f'@id("p{number}")', f'@fail("{"open" if self.open else "closed"}")']
        notes += ['@effect("challenge")'] * (self.effect == "challenge")
        who = f'principal == Agent::"{"a" if self.fits else "b"}"'
        names = ", ".join(f'"{name}"' for name in sorted(self.holds)) or '"-"'
        label = '&& context.labels.contains("x")' if self.fails else ""
        condition = f"[{names}].contains(resource.name) {label}"
        return f'{" ".join(notes)} {word} ({who}, action == Action::"tool-call", resource)' + (
            f" when {{ {condition} }};"
        )

    def counts(self, asked: frozenset[str]) -> bool:
        if not self.fits or not self.holds & asked:
            return False
        return (self.open == (self.effect == "permit")) if self.fails else True


OFS = st.lists(
    st.builds(
        Of,
        st.sampled_from(("permit", "forbid", "challenge")),
        st.frozensets(st.sampled_from("abc")),
        *(st.booleans() for _ in range(3)),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(OFS, st.frozensets(st.sampled_from("abc"), min_size=1), st.booleans(), st.booleans())
def test_of_several_questions_what_holds_for_any_holds(
    made: list[Of], asked: frozenset[str], approved: bool, listed: bool
):
    engine = Engine.of([("\n".join(one.text(at) for at, one in enumerate(made)), "p.cedar")])
    questions = [
        Question(principal=Entity("Agent", "a"), action="tool-call", resource=Entity("Tool", name))
        for name in sorted(asked)
    ]
    decided = engine.decide_any(questions, listed=listed, approved=approved)
    counting = [one.effect for one in made if one.counts(asked)]
    expected = Effect.ALLOW
    if "challenge" in counting and not approved:
        expected = Effect.CHALLENGE
    if listed and any(one.effect == "permit" and one.fits for one in made):
        expected = expected if "permit" in counting else Effect.BLOCK
    if "forbid" in counting:
        expected = Effect.BLOCK
    assert decided.effect is expected
    fails = {
        f"p{at}" for at, one in enumerate(made) if one.fails and one.fits & bool(asked & one.holds)
    }
    assert set(decided.failed) == fails
    again = engine.decide_any([*reversed(questions), *questions], listed=listed, approved=approved)
    assert (again.effect, again.policies) == (decided.effect, decided.policies)


@settings(max_examples=200, deadline=None)
@given(sets(tuple(CONDITION)), st.booleans())
def test_one_of_several_is_one(made: list[Made], approved: bool):
    text = "\n".join(one.text(at) for at, one in enumerate(made))
    engine, other = Engine.of([(text, "p.cedar")]), Engine.of([(text, "p.cedar")])
    one = engine.decide(QUESTION, approved=approved)
    many = other.decide_any([QUESTION, QUESTION], approved=approved)
    assert _but_time(many) == _but_time(one)
    assert _but_time(other.decide(QUESTION, approved=approved)) == _but_time(one)
    assert other.cache.hits == 1, "it was the same question"


def _but_time(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, took=0)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [QUESTION, msgspec.structs.replace(QUESTION, principal=Entity("Agent", "b"))],
        [QUESTION, msgspec.structs.replace(QUESTION, action="exec")],
        [QUESTION, msgspec.structs.replace(QUESTION, action=7)],
    ],
    ids=["none", "two principals", "two actions", "no action"],
)
def test_what_cannot_be_asked_together_fails_every_policy(others):
    text = '@id("p") forbid (principal, action == Action::"tool-call", resource) when { false };'
    engine = Engine.of([(text, "p")])
    decided = engine.decide_any(others)
    assert decided.effect is Effect.BLOCK and decided.failed == ("p",)


VALUE = st.one_of(
    *(st.booleans(), st.integers(), st.text(), st.none(), st.floats(), st.binary()),
    st.lists(st.text()).map(tuple),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.text()),
)
ENTITY = st.builds(
    Entity,
    st.one_of(st.sampled_from(("Agent", "Workload", "Path", "Host", "Address", "Tool")), st.text()),
    st.text(),
    st.dictionaries(st.one_of(st.sampled_from(("name", "ip", "port")), st.text()), VALUE),
)


@settings(max_examples=400, deadline=None)
@given(
    st.builds(
        Question,
        principal=ENTITY,
        action=st.one_of(st.sampled_from(ACTIONS), st.text()),
        resource=ENTITY,
        context=st.dictionaries(st.one_of(st.sampled_from(list(CONTEXT)), st.text()), VALUE),
    ),
    st.booleans(),
)
def test_anything_may_be_asked(question: Question, approved: bool):
    decided = _SHIPPED.decide(question, approved=approved)
    assert isinstance(decided.effect, Effect)
    again = _SHIPPED.decide(question, approved=approved)
    assert (again.effect, again.wanted, again.policies, again.failed) == (
        *(decided.effect, decided.wanted, decided.policies, decided.failed),
    )


_SHIPPED = Engine.load([POLICIES])
CASES = [case for file in case_files([POLICIES]) for case in read_cases(file)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.policy}: {case.name}")
def test_the_cases_that_ship(case):
    result = run_case(_SHIPPED, case)
    assert result.ok, result.error
    if not case.fails:
        assert plain_cedar(_SHIPPED.policies.values(), case.question) is result.decision.wanted


def test_every_policy_that_ships_has_a_case_for_each_way():
    for policy in _SHIPPED.policies.values():
        expected = {case.expect for case in CASES if case.policy == policy.id}
        assert {policy.does, Effect.ALLOW} <= expected, policy.id
        assert policy.reason and policy.controls, policy.id


def test_each_set_that_ships_stands_alone():
    for path in sorted(POLICIES.glob("*.cedar")):
        engine = Engine.load([path])
        for case in read_cases(path.with_suffix(".test.yaml")):
            assert run_case(engine, case).ok, f"{path.name}: {case.name}"
