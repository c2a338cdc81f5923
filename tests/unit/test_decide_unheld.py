"""What is answered for the kernel beforehand, and what cannot be."""

from __future__ import annotations

import pytest

from hullwatch.decide.engine import Engine
from hullwatch.decide.plan import Plan
from hullwatch.decide.source import read_policies

HEAD = '@id("one") forbid (principal, action == Action::"connect", resource is Host) when '


def plan(condition: str) -> Plan:
    policies, problems = read_policies([(f"{HEAD}{{ {condition} }};", "one.cedar")])
    assert not problems
    return Plan(Engine(policies))


@pytest.mark.parametrize(
    "condition",
    [
        'context has container && context.container == "a"',
        'context.labels.contains("secret")',
        "context.hour < 6",
        'context has kind && context.kind == "program"',  # a word, no attribute
    ],
)
def test_what_the_kernel_can_be_told_is_held(condition):
    found = plan(condition)
    assert (list(found.policies), found.unheld) == (["one"], {})


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ('context has program && context.program == "/bin/nc"', "program"),
        ("!(context has parent)", "parent"),
        ('context has kind && (context.kind == "agent" || context has uid)', "uid"),
    ],
)
def test_what_it_does_not_know_of_who_acts_is_said(condition, name):
    """A policy that asks for it would never hold there, and nobody would see that it does not."""
    found = plan(condition)
    assert found.unheld == {"one": f"the kernel does not know context.{name}"}
    assert not found.policies
