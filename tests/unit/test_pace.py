"""The pace of a finding that grows: the first at once, the newest state in the end."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.detect.finding import Finding
from hullwatch.pace import BURST, Pace

TEMPLATE = (
    "rule priority source rule_hash output event object object2 container_id container_full_id"
    " container_name image image_digest pod namespace".split()
)


def state(ident: str, count: int) -> Finding:
    numbers = dict.fromkeys(("time", "severity", "proc", "uid", "cgroup", "span"), 0)
    plain = {"id": ident, "count": count, "state": "host", "tags": [], "fields": {}}
    texts = dict.fromkeys(TEMPLATE, "")
    return msgspec.convert(plain | texts | numbers | {"processes": []}, Finding)


def test_the_first_passes_a_few_repeats_and_then_one_a_second() -> None:
    pace = Pace()
    passed = [pace.admit([state("a", n)], 10.0) for n in range(100)]
    assert [bool(one) for one in passed] == [True] * (BURST + 1) + [False] * (99 - BURST)
    assert pace.admit([state("b", 1)], 10.0)
    assert pace.due(10.5) == []
    assert pace.due(11.0) == [state("a", 99)]
    assert pace.due(12.0) == []


def test_what_an_earlier_run_told_is_a_repeat() -> None:
    pace = Pace(burst=0)
    pace.known(["a"])
    assert pace.admit([state("a", 7)], 0.5) == []
    assert pace.due(0.9) == [] and pace.due(1.5) == [state("a", 7)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.5)), max_size=60), st.integers(0, 3)
)
def test_the_newest_state_of_each_always_passes_in_the_end(steps, burst) -> None:
    pace, now = Pace(burst), 0.0
    passed: dict[str, list[int]] = {}
    newest: dict[str, int] = {}
    for count, (ident, later) in enumerate(steps, 1):
        now += later
        newest[ident] = count
        for one in (*pace.admit([state(ident, count)], now), *pace.due(now)):
            passed.setdefault(one.id, []).append(one.count)
        assert ident in passed  # the first at once
    for one in pace.due(None):
        passed.setdefault(one.id, []).append(one.count)
    assert {ident: counts[-1] for ident, counts in passed.items()} == newest
    assert all(counts == sorted(set(counts)) for counts in passed.values())
