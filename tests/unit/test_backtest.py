"""`hullwatch backtest`: the same rules find the same, and what cannot be known is said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from hullwatch.context.enrich import Context
from hullwatch.context.recorded import RecordedResolver
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load
from hullwatch.sensor.batch import Loss
from hullwatch.store.state import CountRow, Session
from hullwatch.store.writer import Settings, Writer
from hullwatch.tally import Brief, Tally
from support.stores import settle
from support.streams import WORKLOADS, Stream

RULES = """
- rule: Secret read
  desc: d
  condition: evt.type in (open, openat, openat2, creat) and fd.name = /etc/shadow
  output: read %fd.name by %proc.cmdline as %user.uid in %container.name
  priority: CRITICAL
- rule: Talk
  desc: d
  condition: evt.type = connect and container.name = agent
  output: to %fd.sip by %proc.pname
  priority: NOTICE
"""
OTHER = RULES.replace("fd.name = /etc/shadow", "fd.name in (/etc/shadow, /etc/passwd)").replace(
    "container.name = agent", "container.name = nobody"
)


class Past:
    """A store with some history, made through the live stages."""

    def __init__(self, folder: Path, mode: str = "detect") -> None:
        self.root = folder / "store"
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES)
        self.ruleset = load([self.rules])
        session = Session(tier="tracepoint", mode=mode, rules=self.ruleset.digest)
        settings = Settings(compaction=False, reserve_bytes=64 << 10, seal_rows=200, headroom=0)
        self.store = Writer(self.root, session, settings)
        self.store.keep_rules(self.ruleset.digest, self.ruleset.hashes)
        self.store.put_workloads(WORKLOADS)
        stream = Stream(11, processes=30)
        stream.offset = time.time_ns() - stream.clock - 3600 * 10**9
        context, engine = Context(RecordedResolver(WORKLOADS), hold=False), Engine(self.ruleset)
        self.matches = 0
        for batch in stream.batches(120):
            for enriched in context.enrich(batch):
                found = engine.process(enriched)
                self.store.write(enriched)
                self.store.add_findings(found)

    def end(self) -> Past:
        self.store.close()
        settle(self.root)
        return self


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[Any], str]:
    code = main(["backtest", *map(str, words)])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()] if "--json" in words else [out]
    return code, rows, err


def test_the_same_rules_find_the_same(tmp_path, capsys):
    past = Past(tmp_path).end()
    args = (past.rules, "--store", past.root, "--against", "findings", "--json")
    code, rows, err = run(capsys, *args)
    assert code == ExitCode.OK, (rows, err)
    kinds = [row["kind"] for row in rows]
    assert "added" not in kinds and "removed" not in kinds and kinds[-1] == "summary"
    assert {row["rule"] for row in rows[:-1]} == {"Secret read", "Talk"}
    summary = rows[-1]
    assert summary["matches"] == sum(row["matches"] for row in rows[:-1]) > 10
    assert summary["sessions"][0]["same_rules"] is True


def test_a_changed_rule_set_says_what_it_adds_and_takes(tmp_path, capsys):
    past = Past(tmp_path).end()
    other = tmp_path / "other.yaml"
    other.write_text(OTHER)
    args = (other, "--store", past.root, "--against", past.rules)
    code, rows, _ = run(capsys, *args, "--json")
    assert code == ExitCode.NO
    added = {row["rule"] for row in rows if row["kind"] == "added"}
    removed = {row["rule"] for row in rows if row["kind"] == "removed"}
    assert (added, removed) == ({"Secret read"}, {"Talk"})
    code, (text,), _ = run(capsys, *args)
    assert code == ExitCode.NO
    assert "+ Secret read in agent" in text and "- Talk in agent" in text
    assert "/etc/passwd" in text
    code, _, _ = run(capsys, other, "--store", past.root, "--against", other)
    assert code == ExitCode.OK


def test_only_what_is_asked_for(tmp_path, capsys):
    past = Past(tmp_path).end()
    base = (past.rules, "--store", past.root, "--json")
    _, rows, _ = run(capsys, *base, "--container", "agent", "--rule", "T*")
    assert {(row["rule"], row["workload"]) for row in rows[:-1]} == {("Talk", "agent")}
    _, everything, _ = run(capsys, *base, "--rule", "T*")
    (theirs,) = [row for row in everything[:-1] if row["workload"] == "agent"]
    assert rows[0] == theirs, "as if nothing else had been left out"
    _, rows, _ = run(capsys, *base, "--image", "acme/*")
    assert {row["workload"] for row in rows[:-1]} == {"agent"}
    _, rows, _ = run(capsys, *base, "--since", "1m")
    assert [row["kind"] for row in rows] == ["summary"] and rows[0]["events"] == 0
    assert run(capsys, *base, "--rule", "None")[0] == ExitCode.NO
    assert run(capsys, *base, "--image", "none")[0] == ExitCode.NO
    assert run(capsys, *base, "--container", "none")[0] == ExitCode.NO


def test_what_was_counted_or_lost_is_said(tmp_path, capsys):
    past = Past(tmp_path)
    past.store.add_counts(
        [
            CountRow(77, "open", "/etc/passwd", 40),
            CountRow(77, "open", "/etc/hosts", 7),
            CountRow(77, "open", "", 3),
            CountRow(77, "connect", "10.0.0.1:443", 5),
        ]
    )
    past.store.add_losses([Loss("bulk", 10, 77, 9)])
    past.end()
    other = tmp_path / "other.yaml"
    other.write_text(OTHER)
    _, _, err = run(capsys, other, "--store", past.root)
    assert "40 open in agent were counted, not kept: 'Secret read' may have matched" in err
    assert "(/etc/passwd)" in err and "/etc/hosts" not in err
    assert "lost at that time: 9 bulk open" in err
    assert "3 repeats were counted" in err and "detect mode" in err
    # The rules of that time: what was counted for them cannot have met them.
    _, _, err = run(capsys, past.rules, "--store", past.root)
    assert "may have matched" not in err


def test_progress_is_said_where_asked(tmp_path, capsys):
    past = Past(tmp_path, "record").end()
    _, _, err = run(capsys, past.rules, "--store", past.root, "--progress")
    assert "100% of about" in err
    _, _, err = run(capsys, past.rules, "--store", past.root)
    assert "of about" not in err and "detect mode" not in err


def test_while_an_agent_writes(tmp_path, capsys):
    past = Past(tmp_path)
    past.store.flush()
    code, rows, _ = run(capsys, past.rules, "--store", past.root, "--json")
    assert code == ExitCode.OK and rows[-1]["events"] > 400
    past.store.close()


def test_errors_are_one_line_and_have_codes(tmp_path, capsys):
    past = Past(tmp_path).end()
    code, _, err = run(capsys, past.rules, "--store", tmp_path / "none")
    assert code == ExitCode.STORE and "no store here" in err
    bad = tmp_path / "bad.yaml"
    bad.write_text("- rule: x\n  condition: no.field = 1\n")
    code, _, err = run(capsys, bad, "--store", past.root)
    assert code == ExitCode.CONTENT and "bad.yaml" in err
    code, _, err = run(capsys, past.rules, "--store", past.root, "--since", "yesterday")
    assert code == ExitCode.USAGE and "--since" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user that may not read")
def test_who_may_not_read_the_store_is_told(tmp_path, capfd):
    past = Past(tmp_path).end()
    assert main(["backtest", str(past.rules), "--store", str(past.root), "--json"]) == 0
    past.root.chmod(0o700)
    capfd.readouterr()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setuid(65534)
            code = main(["backtest", "--rule", "*", "--store", str(past.root)])
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == ExitCode.STORE
    assert "permission denied; run as root" in capfd.readouterr().err


def test_a_finding_that_grows_is_counted_once():
    tally = Tally(samples=1)
    for count in (1, 3, 4):
        tally.add([Brief(id="a", rule="R", container_id="host", count=count, first=5, last=count)])
    tally.add([Brief(id="b", rule="R", container_id="host", count=2, first=3, last=9)])
    (line,) = tally.lines()
    assert (line.matches, line.findings, line.first, line.last) == (6, 2, 3, 9)
    assert len(line.samples) == 1 and line.workload == "host"
    assert tally.only_here(tally) == []
