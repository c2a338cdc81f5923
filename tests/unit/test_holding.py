"""Policies at the system call, without an agent: what nobody tells there is named."""

from __future__ import annotations

import pytest

from hullwatch.decide.engine import Engine
from hullwatch.holding import untold


@pytest.mark.parametrize(
    ("action", "reads", "missing"),
    [
        ("connect", "context has first_seen && context.first_seen", "first_seen"),
        ("exec", 'context has baseline && context.baseline == "locked"', "baseline"),
        ("exec", 'context.labels.contains("secret")', "labels"),
        ("exec", 'context has command && context.command like "*x"', ""),
        ("tool-call", 'context has baseline && context.baseline == "locked"', ""),
    ],
)
def test_what_only_an_agent_knows_is_named(action: str, reads: str, missing: str):
    text = (
        f'@id("p") forbid (principal, action == Action::"{action}", resource) when {{ {reads} }};'
    )
    said = list(untold(Engine.of([(text, "p.cedar")])))
    assert said == ([f"policies: p reads {missing}, which only an agent knows"] if missing else [])
