"""The rules that ship, and the rules that others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hullwatch.detect import load, run_cases
from hullwatch.detect.explain import explain
from hullwatch.detect.finding import SEVERITY
from hullwatch.detect.frameworks import ATLAS, ATTACK, NAMES, OWASP_AGENTIC, OWASP_LLM
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class
from support.conformance import record

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
FALCO = ROOT.parent / "shared" / "conformance" / "falco"
FRAMEWORK_ID = re.compile(r"(ASI|LLM)\d.*|T\d.*|AML\..*")
CASES = sorted(RULES.rglob("*.test.yaml"))


@pytest.fixture(scope="module")
def pack() -> RuleSet:
    return load([RULES])


def test_the_pack_loads_clean(pack: RuleSet) -> None:
    assert not pack.errors and not pack.warnings
    assert len(pack.rules) >= 60


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_beside_the_rules(pack: RuleSet, path: Path) -> None:
    results = list(run_cases(pack, [path]))
    for result in results:
        record("own", result.case.rule, scene=result.ok)
    failed = [result for result in results if not result.ok]
    assert not failed, [(result.case.rule, result.case.name, result.error) for result in failed]


def test_every_rule_has_a_case_of_each_kind(pack: RuleSet) -> None:
    seen: dict[str, set[bool]] = {}
    for result in run_cases(pack, CASES):
        seen.setdefault(result.case.rule, set()).add(result.case.expect)
    assert [rule.name for rule in pack.rules if seen.get(rule.name) != {True, False}] == []


def test_every_rule_is_mapped_to_ids_that_exist(pack: RuleSet) -> None:
    for rule in pack.rules:
        ids = [tag for tag in rule.tags if FRAMEWORK_ID.fullmatch(tag)]
        assert [tag for tag in ids if tag not in NAMES] == [], rule.name
        assert any(tag in OWASP_AGENTIC or tag in OWASP_LLM for tag in ids), rule.name
        assert any(tag in ATTACK for tag in ids), rule.name
        # Whatever else is there is a word: no id with a slip of the pen.
        rest = [tag for tag in rule.tags if tag not in ids]
        assert [tag for tag in rest if not re.fullmatch("[a-z0-9_]+", tag)] == [], rule.name


def test_the_frameworks_are_whole() -> None:
    assert [*OWASP_AGENTIC] == [f"ASI{number:02}" for number in range(1, 11)]
    assert [*OWASP_LLM] == [f"LLM{number:02}" for number in range(1, 11)]
    assert all(re.fullmatch(r"T\d{4}(\.\d{3})?", one) for one in ATTACK)
    assert all(re.fullmatch(r"AML\.T\d{4}(\.\d{3})?", one) for one in ATLAS)


def test_every_rule_says_what_it_means_and_what_to_do(pack: RuleSet) -> None:
    for rule in pack.rules:
        desc = " ".join(rule.definition.desc.split())
        assert len(re.findall(r"[.!?](?= |$)", desc)) >= 2, rule.name
        assert rule.priority in SEVERITY, rule.name


def test_no_rule_needs_every_open_of_a_container(pack: RuleSet) -> None:
    """Opens are what there is most of: the kernel must be able to rule most of them out."""
    for rule in pack.rules:
        told = explain(pack, rule.name)
        assert "open" not in told.classes or "all of its events" not in told.verdict, rule.name


def test_explain_names_the_frameworks(pack: RuleSet) -> None:
    told = explain(pack, "Python start-up hook written")
    assert told.frameworks["ASI04"] == "Agentic Supply Chain Vulnerabilities"
    assert told.frameworks["T1546.018"] == "Python Startup Hooks"
    assert told.frameworks["AML.T0010.001"] == "AI Supply Chain Compromise: AI Software"


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
