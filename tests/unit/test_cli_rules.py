"""`hullwatch rules`: thin over detect, with places and codes."""

from __future__ import annotations

import json
import shlex

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode

GOOD = """
- rule: Shell in agent
  desc: A shell was started
  condition: evt.type in (execve, execveat) and proc.name = sh
  output: shell %proc.cmdline
  priority: WARNING
"""
BAD = """
- rule: Broken
  desc: No such field
  condition: evt.type = open and proc.nmae = sh
  output: x
  priority: WARNING
"""
CASES = """
- rule: Shell in agent
  cases:
    - {name: sh, expect: match, process: {name: sh}, event: {type: execve}}
    - {name: ls, expect: EXPECT, process: {name: ls}, event: {type: execve}}
"""


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "a.test.yaml").write_text(CASES.replace("EXPECT", "no match"))
    return tmp_path


def run(capsys, *argv, code=0):
    capsys.readouterr()
    assert main(["rules", *map(str, argv)]) == code
    return capsys.readouterr()


def test_list_and_explain(rules, capsys):
    (row,) = map(json.loads, run(capsys, "list", "--rules", rules, "--json").out.splitlines())
    assert (row["rule"], row["priority"], row["events"]) == ("Shell in agent", "warning", ["exec"])
    assert "Shell in agent" in run(capsys, "list", "--rules", rules).out
    said = run(capsys, "explain", "shell", "--rules", rules).out
    assert "A shell was started" in said
    assert "proc.name" in said
    assert json.loads(run(capsys, "explain", "shell", "--rules", rules, "--json").out)["hash"]
    assert "no rule 'x'" in run(capsys, "explain", "x", "--rules", rules, code=ExitCode.NO).err


def test_check_names_file_line_and_reason(rules, capsys):
    assert "1 rules can run, 0 errors" in run(capsys, "check", rules).out
    (rules / "b.yaml").write_text(BAD)
    said = run(capsys, "check", rules, code=ExitCode.CONTENT).out
    assert f"{rules}/b.yaml:4:" in said
    assert "proc.nmae" in said
    found = run(capsys, "check", rules, "--json", code=ExitCode.CONTENT).out
    (error,) = [json.loads(line) for line in found.splitlines()]
    assert (error["kind"], error["line"]) == ("error", 4)
    refused = run(capsys, "explain", "Broken", "--rules", rules, code=ExitCode.CONTENT)
    assert "refused" in refused.err


def test_explain_ends_with_a_command_that_works(rules, capsys):
    name = """It's "one" $(id)"""
    (rules / "a.yaml").write_text(GOOD.replace("Shell in agent", json.dumps(name)))
    said = run(capsys, "explain", "It's", "-r", rules).out
    sql = shlex.split(said.splitlines()[-1])[2]
    assert sql == "SELECT * FROM findings WHERE rule = 'It''s \"one\" $(id)'"


def test_cases_beside_the_rules(rules, capsys):
    assert "2 passed, 0 failed" in run(capsys, "test", rules).out
    assert "2 passed, 0 failed" in run(capsys, "test", rules / "a.yaml").out
    (rules / "a.test.yaml").write_text(CASES.replace("EXPECT", "match"))
    said = run(capsys, "test", rules, code=ExitCode.NO).out
    assert "Shell in agent: ls: did not match, and should" in said
    for broken in ("nonsense: [", "- {rule: x, cases: 3}", "- {rule: x, cases: [y]}", "- 5"):
        (rules / "a.test.yaml").write_text(broken)
        assert "a.test.yaml" in run(capsys, "test", rules, code=ExitCode.CONTENT).err


def test_nothing_there(tmp_path, capsys):
    missing = tmp_path / "none"
    said = run(capsys, "list", "--rules", missing, code=ExitCode.CONTENT).err
    assert f"{missing}: no such file or directory" in said
