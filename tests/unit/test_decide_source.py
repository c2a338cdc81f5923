"""What is refused of a policy's text: the place, the reason and the mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import ANNOTATIONS, PolicyError
from hullwatch.decide.question import ACTIONS, Effect, Fail, Mode
from hullwatch.decide.schema import CONTEXT, ENTITIES, cedar
from hullwatch.decide.source import MAX_FILE, read_files, read_policies

ROOT = Path(__file__).resolve().parents[2]
ANY = "forbid (principal, action, resource)"
CALL = 'forbid (principal, action == Action::"tool-call", resource is Tool)'


def refused(text: str) -> list[str]:
    policies, problems = read_policies([(text, "p.cedar")])
    assert problems or policies or not text.strip()
    return [str(one) for one in problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{CALL}\nwhen {{ context.toolcall == 1 }};",
            "p.cedar:2:16: policy 'p-1': context has no attribute \"toolcall\""
            " (did you mean 'tool_call'?)",
        ),
        (
            f'{CALL} when {{\n  context["labelz"].contains("a") }};',
            "p.cedar:2:11: policy 'p-1': context has no attribute \"labelz\""
            " (did you mean 'labels'?)",
        ),
        (
            # Cedar itself takes this for false, in silence.
            f'{CALL} when {{\n  context has tool_cal && context.tool_cal == "x" }};',
            "p.cedar:2:15: policy 'p-1': context has no attribute \"tool_cal\""
            " (did you mean 'tool_call'?)",
        ),
        (
            f'{CALL} when {{ resource has "nam" }};',
            "p.cedar:1:89: policy 'p-1': resource has no attribute \"nam\" (did you mean 'name'?)",
        ),
        (
            f"{CALL} when {{ context has server.name }};",
            "p.cedar:1:94: policy 'p-1': attributes are flat (leave out what follows the dot)",
        ),
        (
            f"{CALL} when {{\n  context.labels.contains(1) ||\n  true }};",
            "p.cedar:2:3: policy 'p-1': the types Long and String are not compatible",
        ),
        (
            f'{CALL} when {{ true &&\n  context.hour > "a" && true }};',
            "p.cedar:2:3: policy 'p-1': unexpected type: expected Long but saw String",
        ),
        (
            f'{CALL}\nwhen {{ context.tool_call == "x" }};',
            "p.cedar:2:16: policy 'p-1': \"tool_call\" may be missing"
            " (ask for it first: context has tool_call && ...)",
        ),
        (
            f'{ANY}\nwhen {{ resource.path == "x" }};',
            "p.cedar:2:17: policy 'p-1': not every resource has \"path\""
            " (say which kind, or ask for it first: resource has path && ...)",
        ),
        (
            'forbid (principal, action == Action::"tol-call", resource);',
            "p.cedar:1:38: policy 'p-1': there is no action \"tol-call\""
            " (did you mean 'tool-call'?)",
        ),
        (
            "forbid (principal is Agnt, action, resource);",
            "p.cedar:1:22: policy 'p-1': there is no kind Agnt (did you mean 'Agent'?)",
        ),
        (
            f'{CALL} when {{ context.labels = "x" }};',
            "p.cedar:1:91: policy 'p-1': '=' is not a valid operator in Cedar (write ==)",
        ),
        (
            f'{CALL} when {{ context.labels.containz("x") }};',
            "p.cedar:1:91: policy 'p-1': `containz` is not a valid method"
            " (did you mean 'contains'?)",
        ),
        (
            f"{ANY}\n{ANY};",
            "p.cedar:2:1: policy 'p-1': unexpected token `(` (end the policy before it with ';')",
        ),
        (ANY, "p.cedar:1:36: policy 'p-1': the policy is not complete (a policy ends with ';')"),
        (
            f'{ANY} when {{ "a }};',
            "p.cedar:1:45: policy 'p-1': the text in quotes does not end (add the closing \")",
        ),
        (
            f'@efect("challenge") {ANY};',
            "p.cedar:1:2: policy 'p-1': there is no annotation @efect (did you mean 'effect'?)",
        ),
        (
            f"@mode {ANY};",
            "p.cedar:1:2: policy 'p-1': @mode needs a value in quotes (write @mode(\"observe\"))",
        ),
        (
            f'@mode("obsrve") {ANY};',
            "p.cedar:1:7: policy 'p-1': @mode: 'obsrve' is neither observe nor enforce"
            ' (as @mode("observe"))',
        ),
        (
            f'@id("x y") {ANY};',
            "p.cedar:1:5: policy 'p-1': @id: up to 100 letters, digits, '_', '.' and '-'"
            ' (as @id("no-shell"))',
        ),
        (
            f'@review("2027-02-30") {ANY};',
            "p.cedar:1:9: policy 'p-1': @review: '2027-02-30' is no date"
            ' (as @review("2027-01-31"))',
        ),
        (
            f'@controls("ASI02, ASI99") {ANY};',
            "p.cedar:1:11: policy 'p-1': @controls: 'ASI99' is no control that we know;"
            " did you mean 'ASI09'? (as @controls(\"ASI02,LLM06\"))",
        ),
        (
            f'@approvers("alice") {ANY};',
            "p.cedar:1:12: policy 'p-1': @approvers is for challenges"
            ' (add @effect("challenge"), or leave it out)',
        ),
        (
            f'@effect("challenge") @deadline("25h") {ANY};',
            "p.cedar:1:32: policy 'p-1': @deadline: from 1s to 24h (as @deadline(\"15m\"))",
        ),
        (
            f'@effect("challenge") {ANY.replace("forbid", "permit")};',
            "p.cedar:1:9: policy 'p-1': a challenge is written as a forbid:"
            " not without a person's approval (write forbid)",
        ),
        (
            "permit (principal == ?principal, action, resource);",
            "templates (?principal, ?resource) are not used here",
        ),
        (
            'forbid (principal, action == Action::"connect", resource is Tool);',
            "no action is asked about such a thing",
        ),
        (f"{ANY} when {{ {'(' * 60}true{')' * 60} }};", "brackets nest deeper than 50"),
        (f"{ANY} when {{ {'true||' * 3000}true }};", "longer than 4,000 words and signs"),
    ],
)
def test_refused_with_place_and_mend(text: str, said: str):
    (told,) = refused(text)
    assert told.endswith(said) or said in told, told


def test_a_good_policy_beside_bad_ones_is_read():
    policies, problems = read_policies([(f'{ANY};\n@foo("x") {ANY};\n{ANY};', "p.cedar")])
    assert [one.id for one in policies] == ["p-1", "p-3"]
    assert [one.policy for one in problems] == ["p-2"]
    assert [one.place.line for one in policies] == [1, 3]


def test_ids_are_of_one_policy_each():
    told = refused(f'@id("x") {ANY};\n@id("x") {ANY};')
    assert told == [
        "p.cedar:2:1: policy 'x': another policy has this id: p.cedar:1:1"
        ' (give it its own, @id("..."))'
    ]


def test_annotations_are_read():
    text = (
        '@id("x") @effect("challenge") @mode("observe") @fail("open") @owner("ml") '
        '@review("2027-01-31") @controls("ASI02,LLM06") @approvers("alice, oncall") '
        f'@deadline("90s") @people("2") @answer("requester") @reason("not without a person") '
        f'@quarantine("network") {ANY};'
    )
    (policy,), problems = read_policies([(text, "p.cedar")])
    assert not problems
    assert (policy.does, policy.mode, policy.fail) == (Effect.CHALLENGE, Mode.OBSERVE, Fail.OPEN)
    assert (policy.approvers, policy.deadline) == (("alice", "oncall"), 90)
    assert (policy.people, policy.answer) == (2, "requester")
    assert policy.quarantine == "network"
    assert policy.controls == ("ASI02", "LLM06") and str(policy.review) == "2027-01-31"
    assert policy.reason == "not without a person" and policy.owner == "ml"
    assert all(f"@{name}(" in text for name in ANNOTATIONS)


def test_comments_and_quotes_do_not_end_a_policy():
    text = f'// a; "b\n{ANY} // ;\rwhen {{ context.weekday == "a;\\"//b" }}; // end'
    policies, problems = read_policies([(text, "p.cedar")])
    assert not problems and len(policies) == 1


def test_the_head_says_which_actions():
    def actions(head: str) -> tuple[str, ...]:
        (policy,), problems = read_policies([(f"permit (principal, {head}, resource);", "p")])
        assert not problems
        return policy.actions

    assert actions("action") == ACTIONS
    assert actions('action == Action::"exec"') == ("exec",)
    assert actions('action in [Action::"exec", Action::"listen"]') == ("exec", "listen")


def test_files_are_bounded(tmp_path):
    (tmp_path / "big.cedar").write_bytes(b" " * (MAX_FILE + 1))
    texts, problems = read_files([tmp_path])
    assert not texts and "larger than" in str(problems[0])


def test_the_schema_that_ships_is_the_one_that_is_used():
    assert (ROOT / "policies/hullwatch.cedarschema").read_text() == cedar()


def test_every_attribute_is_documented():
    for attributes in (CONTEXT, *ENTITIES.values()):
        assert all(one.doc and one.name == name for name, one in attributes.items())


_PIECES = st.sampled_from(
    [
        *("permit", "forbid", "when", "unless", "principal", "action", "resource", "context"),
        *("(", ")", "{", "}", "[", "]", ";", ",", "@", "@id", '("a")', '"', '"x"', "==", "=", "&&"),
        *("||", "!", "has", "like", "in", "is", "labels", "hour", ".", "::", "Agent", '"exec"'),
        *("Action", "1", "-", "if", "then", "else", "true", "ip", "?principal", "//", "\n", "\\"),
        *(ANY, CALL, "\ud800", "\0", "ä"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(_PIECES, max_size=60).map(" ".join)))
def test_any_text_is_read_or_refused(text: str):
    policies, problems = read_policies([(text, "p.cedar")])
    assert all(one.place.line >= 1 and one.message for one in problems)
    if not problems:
        Engine(policies)
    else:
        with pytest.raises(PolicyError):
            Engine.of([(text, "p.cedar")])


@pytest.mark.parametrize(
    "chain",
    [
        lambda n: "context" + ".a" * (n // 2),
        lambda n: "1" + "+1" * (n // 2) + " == 1",
        lambda n: "true" + "||true" * (n // 2),
        lambda n: "if true then true else " * (n // 5) + "true",
        lambda n: "!" * n + "true",
        lambda n: "-" * n + "1 == 1",
        lambda n: "context" + '["a"]' * (n // 3),
        lambda n: "(" * (n // 2) + "true" + ")" * (n // 2),
        lambda n: "[" * (n // 2) + "]" * (n // 2) + ".isEmpty()",
    ],
)
def test_the_longest_policies_do_not_exhaust_the_stack(chain: Callable[[int], str]):
    for length in (3_900, 50_000):
        refused(f"{ANY} when {{ {chain(length)} }};")
