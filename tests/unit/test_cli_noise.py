"""`suppress`, `findings top` and `rules health` over a small store."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from hullwatch.store.loaded import LoadedRule, put
from hullwatch.store.state import State
from support.stores import finding, writer

DAY = 86_400 * 10**9
RULES = """
- rule: Data read
  desc: d
  condition: evt.type = openat and fd.name startswith /data
  output: read %fd.name
  priority: WARNING
- rule: Bad
  desc: d
  condition: evt.type = connect and container.id != host
  output: o
  priority: CRITICAL
- rule: "Off"
  desc: d
  condition: evt.type = openat
  output: o
  priority: NOTICE
  enabled: false
- rule: Ordinary socket
  desc: d
  condition: evt.type = socket and fd.l4proto = tcp
  output: o
  priority: NOTICE
- rule: Broken
  desc: d
  condition: evt.type = openat and proc.nmae = x
  output: o
  priority: NOTICE
"""
CASES = """
- rule: Data read
  cases:
    - {name: yes, expect: match, process: {name: cat}, event: {type: openat, path: /data/x}}
"""
BUILDER = {"image": "acme/builder:1", "container_name": "builder", "state": "resolved"}
CHAIN = [
    {"pid": 9, "name": "git", "exepath": "/usr/bin/git", "cmdline": "git gc"},
    {"pid": 8, "name": "make", "exepath": "/usr/bin/make", "cmdline": "make all"},
]


def read(ident: str, number: int, **fields: object) -> dict:
    """A finding of numbered files, read by git in acme/builder."""
    now = time.time_ns()
    objects = [f"/data/{number}/part-{n}.bin" for n in range(3)]
    evidence = [
        {"object": one, "command": "git gc", "count": 2, "first": now, "last": now}
        for one in objects
    ]
    given = {
        "rule": "Data read",
        "priority": "WARNING",
        "severity": 3,
        "event": "open",
        "object": objects[0],
        "evidence": evidence,
        "distinct": 3,
        "shape": "/data/*/part-*.bin",
        "processes": CHAIN,
        "uid": 0,
        "count": 6,
        "time": now,
        "first": now,
        "last": now,
    }
    return finding(ident, **given | BUILDER | fields)


OTHER = {"image": "acme/other:1", "container_name": "other"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    place = tmp_path / "store"
    monkeypatch.setenv("HULLWATCH_STORE", str(place))
    (tmp_path / "x.yaml").write_text(RULES)
    (tmp_path / "x.test.yaml").write_text(CASES)
    w = writer(place)
    w.add_findings(
        [
            *(read(f"a{n}", n) for n in range(9)),
            read("b0", 50, processes=CHAIN[1:], **OTHER),
            read("c0", 51, event="connect", rule="Bad", priority="CRITICAL", severity=5,
                 object="8.8.8.8:443", evidence=[], count=3),
        ]
    )  # fmt: skip
    w.close()
    return place


@pytest.fixture
def rules(tmp_path):
    return ("--rules", str(tmp_path / "x.yaml"))


class Run:
    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *argv, code=0):
        self.capsys.readouterr()
        ended = main(list(argv))
        self.out, self.err = self.capsys.readouterr()
        assert ended == code, self.out + self.err
        assert "Traceback" not in self.err
        return self.out

    def json(self, *argv):
        return [json.loads(line) for line in self(*argv, "--json").splitlines()]


@pytest.fixture
def run(capsys):
    return Run(capsys)


WHO = ("--owner", "me", "--reason", "nightly gc", "--expires", "30d")
GIT = "proc.name = git and container.image.repository = acme/builder"


# --- suppress -----------------------------------------------------------------------------


def test_add_list_show_remove(store, rules, run):
    out = run("suppress", "add", "--rule", "Data read", "--when", GIT, *WHO, *rules)
    assert "would have kept quiet 9 (54 events); 1 remain (6 events)" in out
    ident = out.split("suppress show ")[1].split()[0]
    (row,) = run.json("suppress", "list")
    assert (row["id"], row["state"], row["owner"], row["when"]) == (ident, "in force", "me", GIT)
    assert row["days_left"] == 29 and row["hits"] == 0
    w = writer(store)
    assert [one.id for one in w.suppressions()] == [ident]
    assert w.suppressions() is None  # nobody wrote since
    w.add_findings([read("q1", 3, suppressed_by=ident, count=7)])
    w.close()
    (row,) = run.json("suppress", "list")
    assert (row["hits"], row["findings"]) == (7, 1) and row["last_hit"]
    assert "nightly gc" in run("suppress", "show", ident[:4])
    assert "[q1]" in run.out
    assert [one["id"] for one in run.json("findings", "--suppressed")] == ["q1"]
    assert "q1" not in {one["id"] for one in run.json("findings")}
    (status,) = [json.loads(run("status", "--json", code=ExitCode.AGENT))]
    assert status["noise"]["suppressed_events"] == 7 and status["store"]["findings"] == 11
    assert "1 suppression in force" in run("status", code=ExitCode.AGENT)
    assert f"{ident} by me" in run.out  # a notice
    run("suppress", "remove", ident)
    assert run.json("suppress", "list") == []
    assert [one["state"] for one in run.json("suppress", "list", "--removed")] == ["removed"]
    w = writer(store)
    assert w.suppressions() == []
    w.close()
    run("suppress", "remove", ident, code=ExitCode.NO)
    run("suppress", "show", "nope", code=ExitCode.NO)


def test_what_is_expired_says_so(store, rules, run):
    run("suppress", "add", "--rule", "Bad", "--all", *WHO[:4], "--expires", "1ms", *rules)
    assert "quiets everything that 'Bad' finds" in run.err
    time.sleep(0.01)
    (row,) = run.json("suppress", "list")
    assert (row["state"], row["days_left"]) == ("expired", 0)
    w = writer(store)
    assert w.suppressions() == []
    w.close()
    assert "0 suppressions in force, 1 expired" in run("status", code=ExitCode.AGENT)


def test_a_trial_writes_nothing(store, rules, run):
    run("suppress", "add", "--rule", "Data read", "--when", GIT, *WHO, *rules, "--dry-run")
    assert run.json("suppress", "list") == []


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ((), ExitCode.USAGE, "give --when CONDITION, or --all"),
        (("--when", GIT, "--all"), ExitCode.USAGE, "give --when CONDITION, or --all"),
        (("--when", "proc.nmae = x"), ExitCode.CONTENT, "condition:1:1: unknown field"),
        (("--when", "evt.type = connect"), ExitCode.CONTENT, "never holds for what rule"),
        (("--all", "--rule", "Data raed"), ExitCode.CONTENT, "did you mean 'Data read'?"),
        (("--all", "--expires", "400d"), ExitCode.USAGE, "at most a year"),
        (("--all", "--owner", " "), ExitCode.USAGE, "--owner"),
    ],
)
def test_refusals(store, rules, run, argv, code, said):
    given = dict(zip(WHO[::2], WHO[1::2], strict=True)) | {"--rule": "Data read"}
    flags = [one for one in argv if one == "--all"]
    rest = [one for one in argv if one != "--all"]
    given |= dict(zip(rest[::2], rest[1::2], strict=True))
    words = [word for pair in given.items() for word in pair]
    run("suppress", "add", *words, *flags, *rules, code=code)
    assert said in run.err
    assert run.json("suppress", "list", "--removed") == []


def test_what_findings_do_not_keep_is_said(store, rules, run):
    words = ("--rule", "Data read", "--when", "evt.res = EACCES", *WHO, *rules)
    assert "findings do not keep evt.res" in run("suppress", "add", *words)


# --- top ----------------------------------------------------------------------------------


def test_top_proposes_the_narrowest_that_covers_most(store, rules, run):
    first, second = run.json("findings", "top", *rules)
    assert (first["rule"], first["findings"], first["events"]) == ("Data read", 10, 60)
    assert first["condition"] == (
        "container.image.repository = acme/builder and proc.name = git"
        " and proc.exepath = /usr/bin/git and proc.pname = make"
        ' and fd.name glob "/data/*/part-*.bin"'
    )
    tried = first["tried"]
    assert (tried["findings"], tried["left_findings"], tried["untold"]) == (9, 1, 0)
    assert first["warnings"] == []
    assert second["condition"].endswith("fd.sip = 8.8.8.8 and fd.sport = 443")
    assert "critical" in second["warnings"][0]
    # What is printed can be run as it is.
    words = shlex.split(first["command"])[1:]
    run(*words, *rules)
    assert "would have kept quiet 9" in run.out


def test_top_by_place_and_the_text(store, rules, run):
    rows = run.json("findings", "top", "--by", "image", *rules)
    assert [(one["rule"], one["where"]) for one in rows] == [
        ("Data read", "acme/builder:1"),
        ("Data read", "acme/other:1"),
        ("Bad", "acme/builder:1"),
    ]
    out = run("findings", "top", "--by", "workload", *rules)
    assert " 1  Data read  in builder: 9 findings of 54 events, 82 % of all, rising" in out
    assert "look      these are critical" in out
    run("findings", "top", "--by", "moon", *rules, code=ExitCode.USAGE)
    assert run.json("findings", "top", "--since", "2100-01-01", *rules) == []


def test_top_applies(store, rules, run):
    run("findings", "top", "--apply", "1", *rules, code=ExitCode.USAGE)
    assert "--owner" in run.err
    run("findings", "top", "--apply", "1", *WHO, *rules)
    (row,) = run.json("suppress", "list")
    assert row["rule"] == "Data read" and "acme/builder" in row["when"]
    run("findings", "top", "--apply", "9", *WHO, *rules, code=ExitCode.USAGE)
    run("findings", "--apply", "1", code=ExitCode.USAGE)


def test_where_nothing_is_the_same_nothing_is_proposed(store, rules, run):
    w = writer(store)
    for number in range(40):
        chain = [CHAIN[0] | {"name": f"p{number}", "exepath": f"/bin/p{number}"}]
        image = f"acme/i{chr(97 + number % 26)}{number}:1"
        w.add_findings([read(f"z{number}", number, processes=chain, image=image)])
    w.close()
    first = run.json("findings", "top", *rules)[0]
    assert first["condition"] == "" and first["command"] == ""


# --- evidence -----------------------------------------------------------------------------


def test_evidence_is_shown(store, run):
    out = run("findings", "show", "a1")
    assert "3 distinct" in out and "2 x" in out and "/data/1/part-2.bin  git gc" in out
    assert "(and 2 more like /data/*/part-*.bin)" in run("findings")
    w = writer(store)
    w.add_findings([read("many", 1, distinct=312), read("over", 1, shapes=40)])
    w.close()
    assert "and at least 309 more" in run("findings", "show", "many")
    assert "at least 39 more shapes" in run("findings", "show", "over")


# --- health -------------------------------------------------------------------------------


def test_health(store, rules, run):
    def states():
        return {one["rule"]: one["state"] for one in run.json("rules", "health", *rules)}

    found = states()
    assert found["Data read"] == found["Bad"] == "fired"
    assert found["Off"] == "disabled" and found["rule 'Broken'"] == "refused"
    assert found["Ordinary socket"] == "not loaded"  # that store was of record mode
    hashes = {row["rule"]: row["hash"] for row in run.json("rules", "list", *rules)}
    state = State(store / "state.db")
    now = time.time_ns()
    put(state, [LoadedRule("Ordinary socket", hashes["Ordinary socket"])], now - 40 * DAY)
    assert states()["Ordinary socket"] == "silent"
    put(state, [LoadedRule("Ordinary socket", "another")], now - 20 * DAY)
    put(state, [LoadedRule("Ordinary socket", hashes["Ordinary socket"])], now - 10 * DAY)
    assert states()["Ordinary socket"] == "too young"  # it was another rule in between
    assert run.json("rules", "health", "--days", "5", *rules)
    state.link.execute("UPDATE sessions SET mode = 'detect'")
    assert states()["Ordinary socket"] == "cannot match"
    put(state, [LoadedRule("Ordinary socket", hashes["Ordinary socket"], "why")], now)
    state.close()
    out = run("rules", "health", *rules)
    assert "only with --record" in out and "have no test case" in run.err
    assert "0 have not fired for 30 days, 1 cannot match" in run("status", code=ExitCode.AGENT)
    rows = {row["rule"]: row for row in run.json("rules", "health", *rules)}
    assert rows["Data read"]["cases"] and not rows["Bad"]["cases"]
    assert (rows["Data read"]["findings"], rows["Data read"]["events"]) == (10, 60)


def test_a_store_of_an_older_version_is_read_as_it_is(store, rules, run):
    state = State(store / "state.db")
    state.link.executescript(
        "DROP TABLE suppressions; DROP TABLE rules;"
        "ALTER TABLE findings DROP COLUMN suppressed_by; PRAGMA user_version = 1;"
    )
    state.close()
    assert len(run.json("findings")) == 11
    assert run.json("suppress", "list") == []
    assert {row["state"] for row in run.json("rules", "health", *rules)} >= {"fired", "not loaded"}
    assert run.json("hunt", "SELECT count(*) AS n FROM findings WHERE suppressed_by IS NULL") == [
        {"n": 11}
    ]
    run("status", code=ExitCode.AGENT)


# --- the terminal of `hullwatch up` --------------------------------------------------------


def test_what_an_earlier_run_has_told_is_a_repeat_on_the_terminal(capsys):
    from hullwatch.cli.alert import Alerts

    alerts = Alerts()
    alerts.known({"old": 50})
    for count in (51, 499, 500):
        alerts.show(read("old", 1, count=count))
    alerts.show(read("new", 1, count=51))
    out = capsys.readouterr().out
    assert out.count("Data read") == 2 and "again: 500 times by now" in out
