"""The governor: a budget kept with few changes, each of them announced."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.sensor.governor import Governor


def steps(governor: Governor, count: int, used: float, rate: float = 50000.0) -> list[int]:
    return [governor.step(used, 1.0, rate) for _ in range(count)]


def test_stays_at_zero_within_the_budget():
    governor = Governor(budget=0.02, cores=2)
    assert governor.allowed == pytest.approx(0.04)
    assert set(steps(governor, 100, 0.039)) == {0}
    assert governor.changes() == []


def test_one_burst_changes_nothing():
    governor = Governor(budget=0.02, cores=2)
    assert steps(governor, 1, 0.5) + steps(governor, 20, 0.001) == [0] * 21


def test_goes_up_level_by_level_and_says_so():
    governor = Governor(budget=0.02, cores=2)
    levels = steps(governor, 10, 0.5)
    assert sorted(levels) == levels and levels[-1] == 2
    assert levels.count(1) >= 2
    first, second = governor.changes()
    assert (first.old, first.new, second.old, second.new) == (0, 1, 1, 2)
    assert first.at < second.at
    assert "4.0% allowed" in first.reason and "50000 bulk events" in first.reason
    assert governor.changes() == []


def test_comes_down_when_the_load_is_gone():
    governor = Governor(budget=0.02, cores=2)
    steps(governor, 10, 0.5)
    levels = steps(governor, 40, 0.001)
    assert levels[-1] == 0
    assert [c.new for c in governor.changes()] == [1, 2, 1, 0]


def test_holds_between_the_marks():
    governor = Governor(budget=0.02, cores=2)
    steps(governor, 10, 0.5)
    steps(governor, 20, 0.035)
    assert governor.level == 2


def test_swings_ever_less_under_a_load_that_stays():
    """At level 2 the load is light, at lower levels it is heavy: each probe costs a few seconds."""
    governor = Governor(budget=0.02, cores=2)
    level, high = 0, 0
    for _ in range(2000):
        level = governor.step(0.01 if level == 2 else 0.2, 1.0, 50000)
        high += level == 2
    late = [c for c in governor.changes() if c.at > 1000]
    assert high > 1700
    assert len(late) < 60


def test_work_of_other_kinds_is_not_blamed_on_bulk_events():
    governor = Governor(budget=0.02, cores=2)
    assert set(steps(governor, 50, 0.5, rate=3.0)) == {0}


def test_steps_of_any_length_and_bad_clocks():
    governor = Governor(budget=0.02, cores=2)
    assert governor.step(1.0, 0.0, 1e6) == 0
    assert governor.step(-5.0, 1.0, 1e6) == 0
    for _ in range(4):
        governor.step(0.05, 0.1, 1e6)
    assert governor.level > 0


@pytest.mark.parametrize(("budget", "cores"), [(0, 1), (1.5, 1), (0.02, 0), (-1, 2)])
def test_refuses_a_budget_that_makes_no_sense(budget: float, cores: int):
    with pytest.raises(ValueError, match="budget"):
        Governor(budget=budget, cores=cores)


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(0, 1e7)), max_size=200))
def test_moves_one_level_at_a_time_and_announces_each(load: list[tuple[float, float]]):
    governor = Governor(budget=0.02, cores=4)
    levels = [0] + [governor.step(used, 1.0, rate) for used, rate in load]
    assert all(0 <= level <= 2 for level in levels)
    moved = [(a, b) for a, b in itertools.pairwise(levels) if a != b]
    assert moved == [(c.old, c.new) for c in governor.changes()]
    assert all(abs(a - b) == 1 for a, b in moved)
