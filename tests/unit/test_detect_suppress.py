"""Suppressions: exactly what they say, until when they say, and never by doubt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.detect import load_texts
from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.engine import Engine
from hullwatch.detect.finding import Finding
from hullwatch.detect.row import Env
from hullwatch.detect.scene import WALL, Scene
from hullwatch.detect.suppress import Suppression, Suppressions
from hullwatch.sensor.wire import Class

EACCES = 13
RULES = load_texts(
    [
        (
            """
- macro: from_builder
  condition: (container.image.repository = acme/builder)
- rule: Data read
  desc: d
  condition: evt.type = openat and fd.name startswith /data
  output: o %fd.name
  priority: WARNING
- rule: Data read by git
  desc: d
  condition: evt.type = openat and fd.name startswith /data and proc.name = git
  output: o
  priority: WARNING
- rule: Program that is not there
  desc: d
  condition: hw.class = exec_failed
  output: o
  priority: WARNING
""",
            "x.yaml",
        )
    ]
)
assert not RULES.errors


def suppression(condition: str, rule: str = "Data read", **more: object) -> Suppression:
    given: dict = {
        "id": "s1",
        "rule": rule,
        "condition": condition,
        "owner": "me",
        "reason": "known",
        "created": WALL,
        "expires": WALL + 10**15,
    }
    return Suppression(**given | more)


class Stage:
    """An engine, a container of acme/builder and one that is pending."""

    def __init__(self, *suppressions: Suppression) -> None:
        self.scene = Scene()
        self.engine = Engine(RULES, HostAccounts())
        self.engine.suppress(suppressions)
        assert not self.engine.suppressions.errors
        self.builder = self.scene.container(image="acme/builder:1", name="builder")
        self.pending = self.scene.container(state="pending")

    def reads(self, path: str, name: str = "cat", slot: int | None = None) -> None:
        workload = self.builder if slot is None else slot
        process = self.scene.process(name, workload=workload)
        obj = self.scene.string(path)
        self.scene.event(Class.OPEN, process, call="openat", obj=obj, ret=3)

    def found(self) -> list[Finding]:
        return self.engine.process(self.scene.enriched())


def quiet(found: list[Finding]) -> dict[tuple[str, str], int]:
    return {(one.rule, one.object): one.count for one in found if one.suppressed_by}


def told(found: list[Finding]) -> dict[tuple[str, str], int]:
    return {(one.rule, one.object): one.count for one in found if not one.suppressed_by}


def test_kept_quiet_is_kept_and_the_rest_is_told() -> None:
    stage = Stage(suppression("proc.name = cat and from_builder and fd.name = /data/a"))
    stage.reads("/data/a")
    stage.reads("/data/b")
    stage.reads("/data/a", name="tac")
    stage.reads("/data/a", slot=0)
    found = stage.found()
    assert quiet(found) == {("Data read", "/data/a"): 1}
    assert sum(told(found).values()) == 2 and len([f for f in found if not f.suppressed_by]) == 3
    assert {one.suppressed_by for one in found} == {"s1", ""}


def test_only_of_its_own_rule_or_of_a_pattern() -> None:
    stage = Stage(suppression("proc.name = git"))
    stage.reads("/data/a", name="git")
    found = stage.found()
    assert quiet(found) == {("Data read", "/data/a"): 1}
    assert told(found) == {("Data read by git", "/data/a"): 1}
    stage = Stage(suppression("proc.name = git", rule="Data read*"))
    stage.reads("/data/a", name="git")
    assert len(quiet(stage.found())) == 2


def test_what_is_not_known_yet_is_told() -> None:
    stage = Stage(suppression("container.image.repository != acme/other"))
    stage.reads("/data/a", slot=stage.pending)
    assert not quiet(stage.found())
    stage.reads("/data/a")
    assert quiet(stage.found())


def test_events_of_one_match_that_differ_in_what_is_asked_are_told_apart() -> None:
    """The rule does not ask for the result, so the engine would take them as one match."""
    stage = Stage(suppression("evt.rawres = -13"))
    process, obj = stage.scene.process("cat"), stage.scene.string("/data/a")
    for ret in (-EACCES, 3, -EACCES, 4):
        stage.scene.event(Class.OPEN, process, call="openat", obj=obj, ret=ret)
    found = stage.found()
    assert (quiet(found), told(found)) == (
        {("Data read", "/data/a"): 2},
        {("Data read", "/data/a"): 2},
    )


def test_even_by_what_only_the_single_event_has() -> None:
    stage = Stage(suppression("evt.num <= 2"))
    process, obj = stage.scene.process("cat"), stage.scene.string("/data/a")
    for _ in range(5):
        stage.scene.event(Class.OPEN, process, call="openat", obj=obj, ret=3)
    found = stage.found()
    assert (sum(quiet(found).values()), sum(told(found).values())) == (2, 3)


def test_a_failed_exec_is_quieted_by_what_is_said_of_its_process() -> None:
    stage = Stage(suppression("proc.name = cat", rule="Program that is not there"))
    process = stage.scene.process("cat")
    stage.scene.event(Class.EXEC_FAILED, process, call="execve", obj=stage.scene.string("/x"))
    assert len(quiet(stage.found())) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(-5, 5))
def test_it_ends_at_its_end_by_the_time_of_the_event(seconds: int) -> None:
    stage = Stage(suppression("proc.name = cat", expires=WALL + seconds * 10**9))
    stage.reads("/data/a")  # at WALL
    (finding,) = stage.found()
    assert bool(finding.suppressed_by) is (seconds > 0)


def test_removed_is_over_and_a_change_takes_effect_at_once() -> None:
    stage = Stage()
    stage.reads("/data/a")
    first = stage.found()
    stage.engine.suppress([suppression("proc.name = cat")])
    stage.reads("/data/a")
    second = stage.found()
    stage.engine.suppress([suppression("proc.name = cat", removed=WALL)])
    stage.reads("/data/a")
    third = stage.found()
    assert [one.suppressed_by for one in (*first, *second, *third)] == ["", "s1", ""]
    assert third[0].id == first[0].id and third[0].count == 2


def test_the_verdicts_for_the_kernel_do_not_change() -> None:
    """What is suppressed is still reported, so that it is counted."""
    stage = Stage(suppression("", rule="Data read*"))
    stage.reads("/data/a")
    enriched = stage.scene.enriched()
    assert stage.engine.process(enriched)
    obj, tables = int(enriched.batch.events["obj"][0]), enriched.tables
    cls, workload = int(Class.OPEN), int(enriched.workload[0])
    assert tables is not None
    assert stage.engine.verdict(cls, False, obj, workload, tables) == "report"


@pytest.mark.parametrize(
    ("condition", "rule", "said"),
    [
        ("proc.nam = x", "Data read", "condition:1:1: unknown field 'proc.nam'"),
        ("proc.name = x and", "Data read", "condition:1:"),
        ("proc.name = x and no_macro", "Data read", "condition:1:19: there is no macro"),
        ("evt.type = connect", "Data read", "never holds for what rule 'Data read' finds"),
        ("proc.name = a and not proc.name = a", "Data read", "never holds"),
        ("proc.name = a or not proc.name = a", "Data read", "holds for everything"),
        ("proc.name = x", "Data raed", "there is no rule 'Data raed'"),
        ("proc.name = x", "Nothing*", "there is no rule 'Nothing*'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place_and_quiets_nothing(
    condition: str, rule: str, said: str
) -> None:
    made = Suppressions(RULES, [suppression(condition, rule)], Env(HostAccounts()))
    ((_, problem),) = made.errors
    assert said in str(problem)
    engine, scene = Engine(RULES, HostAccounts()), Scene()
    engine.suppress([suppression(condition, rule)])
    obj = scene.string("/data/a")
    scene.event(Class.OPEN, scene.process("cat"), call="openat", obj=obj, ret=3)
    assert not engine.process(scene.enriched())[0].suppressed_by


def test_a_hint_names_the_rule_that_was_meant() -> None:
    made = Suppressions(RULES, [suppression("", "Data raed")], Env(HostAccounts()))
    assert "did you mean 'Data read'?" in str(made.errors[0][1])
