"""`hullwatch policy`: thin over decide, with places and codes."""

from __future__ import annotations

import io
import json

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode

GOOD = """
@id("no-shell") @owner("ml") @reason("no shells here")
forbid (principal is Agent, action == Action::"exec", resource)
when { resource.name == "sh" };
@id("ask") @effect("challenge") @mode("observe")
forbid (principal, action == Action::"tool-call", resource is Tool)
when { context.labels.contains("secret") };
"""
CASES = """
- policy: no-shell
  cases:
    - {name: sh, expect: block, principal: "Agent::a", action: exec, resource: "Binary::/bin/sh"}
    - {name: ls, expect: EXPECT, principal: "Agent::a", action: exec, resource: "Binary::/bin/ls"}
- policy: ask
  cases:
    - name: secret
      expect: challenge
      principal: Agent::a
      action: tool-call
      resource: Tool::s/t
      context: {labels: [secret]}
"""


@pytest.fixture
def policies(tmp_path):
    (tmp_path / "a.cedar").write_text(GOOD)
    (tmp_path / "a.test.yaml").write_text(CASES.replace("EXPECT", "allow"))
    return tmp_path / "a.cedar"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def run(capsys, *argv, code=0):
    capsys.readouterr()
    assert main(["policy", *map(str, argv)]) == code, capsys.readouterr()
    return capsys.readouterr()


def rows(said):
    return [json.loads(line) for line in said.out.splitlines()]


def test_list(policies, capsys):
    shell, ask = rows(run(capsys, "list", policies, "--json"))
    assert (shell["policy"], shell["does"], shell["actions"]) == ("no-shell", "block", ["exec"])
    assert (ask["does"], ask["mode"], ask["deadline_s"]) == ("challenge", "observe", 900)
    assert "no-shell" in run(capsys, "list", policies).out


def test_check(policies, capsys):
    assert "2 policies can be used, 0 warnings" in run(capsys, "check", policies).out
    policies.write_text(GOOD.replace("context.labels", "context.labelz"))
    said = run(capsys, "check", policies, code=ExitCode.CONTENT).out
    assert "a.cedar:7:16: policy 'ask': context has no attribute \"labelz\"" in said
    (row,) = rows(run(capsys, "check", policies, "--json", code=ExitCode.CONTENT))
    assert (row["line"], row["column"], row["mend"]) == (7, 16, "did you mean 'labels'?")
    policies.write_text(f'@review("2020-01-01") {GOOD}')
    assert "warning: " in run(capsys, "check", policies).out
    assert "no set that ships" in run(capsys, "check", "agnt", code=ExitCode.CONTENT).err
    assert "did you mean 'agent'" in run(capsys, "check", "agnt", code=ExitCode.CONTENT).err


def test_the_sets_that_ship(capsys):
    assert " 0 warnings" in run(capsys, "check", "agent", "model-server").out
    said = run(capsys, "test", "agent", "rag-worker")
    assert ", 0 failed" in said.out and "no case" not in said.err


def test_test(policies, capsys):
    assert "3 passed, 0 failed" in run(capsys, "test", policies).out
    cases = policies.with_name("a.test.yaml")
    cases.write_text(CASES.replace("EXPECT", "challenge"))
    said = run(capsys, "test", policies, code=ExitCode.NO).out
    assert "no-shell: ls: allow, and should challenge" in said
    shell = rows(run(capsys, "test", policies, "--json", code=ExitCode.NO))
    assert [row["passed"] for row in shell] == [True, False, True]
    cases.write_text(CASES.replace("EXPECT", "allow").partition("- policy: ask")[0])
    assert "1 policies have no case: ask" in run(capsys, "test", policies).err
    cases.write_text("- policy: nobody\n  cases: []\n")
    run(capsys, "test", policies, code=ExitCode.NO)


def test_a_case_is_of_its_policy(policies, capsys):
    """The right effect for another policy's reason, or because nothing could be evaluated."""
    twin = GOOD.partition('@id("ask")')[0].replace("no-shell", "twin").replace('"sh"', '"ash"')
    policies.write_text(GOOD + twin)
    case = "{name: sh, expect: block, principal: 'Agent::a', action: exec, resource: 'Binary::sh'}"
    cases = policies.with_name("a.test.yaml")
    cases.write_text(f"- {{policy: twin, cases: [{case}]}}")
    said = run(capsys, "test", policies, code=ExitCode.NO).out
    assert "twin: sh: block (by no-shell), but not by this policy" in said
    asks = case.replace("exec", "tool-call").replace("Binary", "Tool").replace("block", "challenge")
    for labels, fails, told in (
        ("null", "false", "could not be evaluated"),
        ("[secret]", "true", "could be evaluated, and should not"),
    ):
        one = asks.replace("}", f", context: {{labels: {labels}}}, fails: {fails}}}")
        cases.write_text(f"- {{policy: ask, cases: [{one}]}}")
        assert told in run(capsys, "test", policies, code=ExitCode.NO).out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b", "must be a sequence"),
        ("- policy: no-shell", "needs 'policy' and 'cases'"),
        ("- {policy: p, cases: [a]}", "must be a mapping"),
        ("- {policy: p, cases: [{expect: no}]}", "expect must be allow, challenge or block"),
        ("- {policy: p, cases: [{expext: no}]}", "a case has no 'expext' (did you mean 'expect'?)"),
        ("- {policy: p, cases: [{expect: allow, action: exce}]}", "did you mean 'exec'?"),
        ("- [", "cannot be read"),
        (
            "- {policy: p, cases: [{expect: allow, action: exec, resource: 'Tool::a'}]}",
            "exec is asked about a Binary, not a Tool",
        ),
        (
            "- {policy: p, cases: [{expect: allow, action: exec, resource: '/a'}]}",
            "written KIND::ID",
        ),
        (
            "- {policy: p, cases: [{expect: allow, action: exec, resource: 'Binary::a',"
            " principal: 'Agent::a', context: {labels: 3}}]}",
            "context: labels is Set<String>, not 3",
        ),
    ],
)
def test_broken_cases(policies, capsys, text, said):
    policies.with_name("a.test.yaml").write_text(text)
    assert said in run(capsys, "test", policies, code=ExitCode.CONTENT).err


SHELL = ("--principal", "Agent::a", "--action", "exec", "--resource", "Binary::/bin/sh")


def test_explain(policies, store, capsys, monkeypatch):
    chosen = ("--policies", policies, "--store", store)
    said = run(capsys, "explain", *SHELL, *chosen).out
    assert said.startswith("block   no shells here")
    assert "a.cedar:2:1, of ml" in said and '@id("no-shell")' in said
    question = {"principal": "Agent::a", "action": "tool-call", "resource": "Tool::s/t"}
    (row,) = rows(
        run(
            *(capsys, "explain", json.dumps(question), "--context", "labels=secret", "--json"),
            *chosen,
        )
    )
    assert row["decision"]["effect"] == "allow" and row["decision"]["wanted"] == "challenge"
    assert [one["said"] for one in row["policies"]] == ["holds"]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(question)))
    assert "does not hold" in run(capsys, "explain", "-", *chosen).out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["{"], "is no JSON"),
        (["[]"], "must be an object"),
        (["--action", "exec"], "resource is written KIND::ID"),
        ([*SHELL, "--context", "labelz=a"], "did you mean 'labels'?"),
        ([*SHELL, "--context", "hour"], "write NAME=VALUE"),
        ([*SHELL, "--context", "hour=x"], "a whole number"),
        ([*SHELL, "--context", "first_seen=1"], "true or false"),
    ],
)
def test_questions_that_cannot_be_asked(policies, capsys, options, said):
    assert said in run(capsys, "explain", *options, code=ExitCode.USAGE).err


def test_a_set_is_put_into_force_and_back(policies, store, capsys):
    on = ("--store", store)
    assert "no set was put into force" in run(capsys, "show", *on, code=ExitCode.NO).err
    assert "no set before" in run(capsys, "rollback", *on, code=ExitCode.STORE).err
    (first,) = rows(run(capsys, "apply", policies, "--note", "begin", "--json", *on))
    assert (first["policies"], first["cases"], first["note"]) == (2, 3, "begin")
    policies.write_text(GOOD.partition('@id("ask")')[0])
    assert "1 cases fail" in run(capsys, "apply", policies, *on, code=ExitCode.NO).err
    policies.with_name("a.test.yaml").unlink()
    assert "is in force: 1 policies" in run(capsys, "apply", policies, *on).out
    # What is in force is what is explained and listed.
    assert len(rows(run(capsys, "list", "--json", *on))) == 1
    (back,) = rows(run(capsys, "rollback", "--json", *on))
    assert back["version"] == first["version"]
    assert len(rows(run(capsys, "list", "--json", *on))) == 2
    assert [row["what"] for row in rows(run(capsys, "show", "--json", *on))] == [
        *("apply", "apply", "rollback")
    ]
    assert f"in force: {first['version'][:12]}" in run(capsys, "show", *on).out
    assert GOOD.strip() in run(capsys, "show", first["version"][:8], *on).out
    policies.write_text("forbid")
    run(capsys, "apply", policies, *on, code=ExitCode.CONTENT)
    (store / "policy" / "log.jsonl").write_text("{}\n")
    assert "damaged" in run(capsys, "show", *on, code=ExitCode.STORE).err


def test_diff(policies, store, capsys):
    on = ("--store", store)
    assert "give --against" in run(capsys, "diff", policies, *on, code=ExitCode.NO).err
    run(capsys, "apply", policies, *on)
    assert "0 policies differ; 0 of 3 cases" in run(capsys, "diff", policies, *on).out
    policies.write_text(GOOD.replace('== "sh"', '== "bash"'))
    said = run(capsys, "diff", policies, *on, code=ExitCode.NO).out
    assert "changed  no-shell\n" in said
    assert '    -when { resource.name == "sh" };' in said
    assert "answer   no-shell: sh\n    block by no-shell -> allow" in said
    kinds = rows(run(capsys, "diff", policies, "--json", *on, code=ExitCode.NO))
    assert [row["kind"] for row in kinds] == ["policy", "answer"]
    # The sets that ship, against each other: no state is needed.
    said = run(capsys, "diff", "agent", "--against", "rag-worker", *on, code=ExitCode.NO).out
    assert "added    agent-trifecta" in said and "removed  rag-worker-models" in said


def test_schema(capsys):
    assert 'action "tool-call"' in run(capsys, "schema").out
    assert any(row["name"] == "labels" for row in rows(run(capsys, "schema", "--json")))
