"""Rules that load and cannot match on a tier: found, with the reason, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from hullwatch.detect import load, load_texts
from hullwatch.detect.reach import Sight, unreachable
from hullwatch.sensor.tier import Tier

PACK = Path(__file__).resolve().parents[2] / "rules"
TRACE, RECORD = Sight(Tier.TRACEPOINT), Sight(Tier.TRACEPOINT, record=True)
LSM, ARM = Sight(Tier.LSM), Sight(Tier.TRACEPOINT, machine="aarch64")


@pytest.mark.parametrize(
    ("condition", "never_on"),
    [
        ("evt.type = openat and fd.num > 5", {LSM}),
        ("evt.type = openat and fd.num >= 0", set()),
        ("evt.type = openat and evt.res = ENOENT", set()),
        ("evt.type = openat and evt.rawres = 7", {LSM}),
        ("evt.type = openat and not evt.rawres = 7", set()),
        ("evt.type = connect and evt.rawres = 7", set()),
        ("evt.type = socket and fd.l4proto = tcp", {TRACE, LSM, ARM}),
        ("evt.type = socket and fd.type = unix", {TRACE, LSM, ARM}),
        ("evt.type = socket and fd.typechar = 4", set()),  # raw ones are seen
        ("evt.type = open", {ARM}),
        ("evt.type in (open, openat)", set()),
        ("evt.type = socket or evt.type = open", set()),
    ],
)
def test_what_a_machine_cannot_show(condition: str, never_on: set[Sight]) -> None:
    text = f"- rule: r\n  desc: d\n  priority: ERROR\n  output: o\n  condition: {condition}\n"
    rules = load_texts([(text, "x.yaml")])
    assert not rules.errors
    found = {sight for sight in (TRACE, RECORD, LSM, ARM) if unreachable(rules, sight)}
    assert found == never_on


def test_the_reason_is_said() -> None:
    text = "- rule: r\n  desc: d\n  priority: ERROR\n  output: o\n  condition: evt.type = open\n"
    rules = load_texts([(text, "x.yaml")])
    assert unreachable(rules, ARM) == {"r": "aarch64 has none of the system calls that it is about"}


@pytest.mark.parametrize("sight", [TRACE, RECORD, LSM, ARM], ids=str)
def test_every_rule_of_the_pack_can_match_everywhere(sight: Sight) -> None:
    assert unreachable(load([PACK]), sight) == {}
