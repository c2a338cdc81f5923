"""The rules that ship, and the rules that others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from hullwatch.detect import explain, load, run_cases
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
FALCO = ROOT.parent / "shared" / "conformance" / "falco"
CASES = sorted(RULES.rglob("*.test.yaml"))


@pytest.fixture(scope="module")
def pack() -> RuleSet:
    return load([RULES])


def test_the_pack_loads_clean(pack: RuleSet) -> None:
    assert not pack.errors and not pack.warnings
    assert len(pack.rules) >= 20


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_beside_the_rules(pack: RuleSet, path: Path) -> None:
    failed = [result for result in run_cases(pack, [path]) if not result.ok]
    assert not failed, [(result.case.rule, result.case.name, result.error) for result in failed]


def test_every_rule_has_a_case_of_each_kind(pack: RuleSet) -> None:
    seen: dict[str, set[bool]] = {}
    for result in run_cases(pack, CASES):
        seen.setdefault(result.case.rule, set()).add(result.case.expect)
    assert [rule.name for rule in pack.rules if seen.get(rule.name) != {True, False}] == []


def test_every_rule_names_a_framework(pack: RuleSet) -> None:
    for rule in pack.rules:
        assert any(tag.startswith(("ASI", "LLM")) or tag[:1] == "T" for tag in rule.tags), rule.name


def test_the_pack_leaves_others_macros_alone(pack: RuleSet) -> None:
    assert all(name.startswith("hw_") for name in (*pack.macros, *pack.lists))


@pytest.mark.skipif(not FALCO.exists(), reason="no ../shared/conformance beside the project")
@pytest.mark.parametrize(
    ("file", "count"), [("falco_rules.yaml", 25), ("falco-incubating_rules.yaml", 31)]
)
def test_falco_rules_load_unmodified(file: str, count: int) -> None:
    rules = load([FALCO / file])
    assert not rules.errors, [str(error) for error in rules.errors]
    assert len(rules.rules) == count
    for rule in rules.rules:
        told = explain(rules, rule.name)
        # One rule stays off until its users fill in a list: it is said to be so.
        assert told.events or "can never hold" in told.warnings[0]
        assert told.fields and told.expanded


@pytest.mark.skipif(not FALCO.exists(), reason="no ../shared/conformance beside the project")
def test_falco_rules_print_all_their_fields() -> None:
    from hullwatch.detect.engine import Engine

    rules = load([FALCO])
    scene = Scene()
    slot = scene.container(image="a/b:1")
    sh = scene.process("sh", workload=slot)
    nc = scene.process("nc", parent=sh, argv=("nc", "-e", "/bin/sh"))
    scene.event(Class.EXEC, nc, call="execve", obj=scene.string("/usr/bin/nc"))
    enriched = scene.enriched()
    engine = Engine(rules)
    row = engine.row(enriched, 0)
    for rule in rules.rules:
        line, fields = rule.output.fill(row, engine.env)
        assert "%" not in line.replace("date +%%s", "")
        assert fields["proc.cmdline"] == "nc -e /bin/sh"


def test_explain_says_what_decides_a_field(pack: RuleSet) -> None:
    told = explain(pack, "Cloud metadata service contacted from an AI container")
    known = {field.name: field.known for field in told.fields}
    assert known["fd.sip"] == "the object"
    assert known["container.id"] == "the container"
    assert told.events == ("connect",)
    assert {macro.name for macro in told.macros} == {"hw_connect", "hw_container"}
    with pytest.raises(KeyError):
        explain(pack, "no such rule")
