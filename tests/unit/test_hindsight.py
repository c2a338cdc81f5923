"""`hullwatch policy backtest`: what policies would have stopped, and what history cannot answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hullwatch import hindsight
from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from support.pasts import CALL, Past


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Past().store(tmp_path_factory.mktemp("store"))


def run(capsys: Any, tmp_path: Path, store: Path, policies: str, *more: str) -> tuple[Any, ...]:
    """Exit code, lines, summary."""
    (tmp_path / "p.cedar").write_text(policies)
    args = ["policy", "backtest", str(tmp_path / "p.cedar"), "--store", str(store), "--json"]
    capsys.readouterr()
    code = main([*args, *more])
    out, err = capsys.readouterr()
    *lines, summary = [json.loads(line) for line in out.splitlines()] or [err]
    assert code == (ExitCode.NO if lines else ExitCode.OK), err
    return code, lines, summary


def objects(lines: list[Any]) -> set[str]:
    return {example["object"] for line in lines for example in line["examples"]}


def test_a_forbid_says_what_it_would_have_blocked(capsys, tmp_path, store):
    policy = """@id("no-git") @mode("observe") @reason("no git here")
    forbid (principal, action == Action::"exec", resource)
    when { resource.name == "git" && resource has upper && resource.upper }
    when { context has parent && context.parent == "/usr/bin/python3" }
    when { context has command && context.command like "git*" };"""
    code, (line,), summary = run(capsys, tmp_path, store, policy)
    assert code == ExitCode.NO
    assert (line["effect"], line["enforced"], line["policies"]) == ("block", "allow", ["no-git"])
    assert (line["workload"], line["action"], line["times"]) == ("agent", "exec", 1)
    assert line["image"] == "example/agent:1" and line["reason"] == "no git here"
    (example,) = line["examples"]
    assert (example["pid"], example["process"], example["object"]) == (101, "git", "/usr/bin/git")
    assert example["time"] == line["first"] == line["last"]
    assert summary["kind"] == "summary" and summary["events"] == 3, "the host's are not asked"
    assert summary["policies"] == 1 and summary["distinct"] == 3


def test_a_challenge_is_told_apart_with_the_tool_call(capsys, tmp_path, store):
    policy = """@id("ask") @effect("challenge")
    forbid (principal, action == Action::"open-read", resource)
    when { context has tool_call && context.tool_call == "search" && context.server == "web" };"""
    (tmp_path / "p.cedar").write_text(policy)
    args = ["policy", "backtest", str(tmp_path / "p.cedar"), "--store", str(store)]
    assert main(args) == ExitCode.CONTENT
    assert '"server" may be missing' in capsys.readouterr().err
    good = policy.replace("&& context.server", "&& context has server && context.server")
    _, (line,), _ = run(capsys, tmp_path, store, good)
    assert (line["effect"], line["times"]) == ("challenge", 1)
    assert line["examples"][0]["calls"] == [f"web: search ({CALL:016x})"]


LIST = """@id("list") permit (principal == Workload::"agent", action == Action::"connect", resource)
when {{ {} }};"""


def test_a_list_of_hosts_holds_for_any_name_and_says_nothing_of_resolvers(capsys, tmp_path, store):
    by_name = 'resource is Host && resource.name == "api.example.com"'
    _, (line,), _ = run(capsys, tmp_path, store, LIST.format(by_name), "--limit", "9")
    # Not the address that the other name was asked for last, nor loopback, nor port 53, nor a Unix
    # socket; what was refused did not happen; a name that only a TLS client said permits nothing.
    assert objects([line]) == {"198.51.100.7:8443", "203.0.113.9:443"}
    assert line["policies"] == [] and "none of them holds" in line["reason"]
    by_sni = 'resource is Host && resource.name == "sni.example"'
    assert "203.0.113.9:443" in objects(
        run(capsys, tmp_path, store, LIST.format(by_sni), "--limit", "9")[1]
    )
    by_path = 'resource is Address && resource has path && resource.path == "/run/other.sock"'
    _, (line,), _ = run(capsys, tmp_path, store, LIST.format(by_path), "--limit", "9")
    assert "/run/agent.sock" in objects([line]), "a list that names a socket is about sockets"
    # But it may forbid.
    forbid = 'forbid (principal, action == Action::"connect", resource is Host) when {{ {} }};'
    named = forbid.format('resource.name == "sni.example"')
    assert objects(run(capsys, tmp_path, store, named)[1]) == {"203.0.113.9:443"}
    ends = (
        "resource is Address && (resource has path || resource has ip && (resource.ip.isInRange("
        'ip("203.0.113.0/24")) || resource.ip.isInRange(ip("198.51.100.7"))))'
    )
    assert run(capsys, tmp_path, store, LIST.format(ends))[0] == ExitCode.OK


def test_what_is_only_observed_has_its_own_reason(capsys, tmp_path, store):
    policy = """@mode("observe") permit (principal, action == Action::"listen", resource)
    when { false };
    @id("ask") @effect("challenge") @reason("ask first")
    forbid (principal, action == Action::"listen", resource);"""
    _, (line,), _ = run(capsys, tmp_path, store, policy)
    assert (line["effect"], line["enforced"], line["policies"]) == ("block", "challenge", [])
    assert "none of them holds" in line["reason"]


def test_a_forbid_holds_for_resolvers_too(capsys, tmp_path, store):
    policy = """forbid (principal, action == Action::"connect", resource is Address)
    when { resource has port && [53, 8080].contains(resource.port) };"""
    _, (line,), _ = run(capsys, tmp_path, store, policy)
    assert objects([line]) == {"10.0.0.2:53", "127.0.0.1:8080"}


def test_labels_secrets_plugins_rights_and_listening(capsys, tmp_path, store):
    asked = {
        'forbid (principal, action == Action::"connect", resource)'
        ' when { context.labels.contains("secret") };': "203.0.113.5:443",
        'forbid (principal, action == Action::"use-secret", resource)'
        ' when { resource has kind && resource.kind == "mounted_secret" };': "/run/secrets/db",
        'forbid (principal, action == Action::"load-plugin", resource)'
        ' when { resource has plugin && resource.plugin == "python_startup" }'
        " when { resource has upper && resource.upper };": "/srv/site-packages/new.pth",
        'forbid (principal, action == Action::"listen", resource)'
        " when { resource has port && resource.port == 9000 };": "0.0.0.0:9000",
        'forbid (principal, action == Action::"privilege", resource)'
        ' when { context has privilege && context.privilege == "mount" };': "/mnt",
        'forbid (principal, action == Action::"open-write", resource)'
        ' when { resource.path == "/data/state.db" };': "/data/state.db",
    }
    for policy, found in asked.items():
        _, (line,), summary = run(capsys, tmp_path, store, policy)
        assert objects([line]) == {found} and line["workload"] == "agent"
        assert summary["failed"] == {} and summary["unknown"] == []


def test_calls_are_asked_of_containers_and_of_agents_outside(capsys, tmp_path, store):
    _, lines, summary = run(
        capsys, tmp_path, store,
        'forbid (principal, action in [Action::"tool-call", Action::"model-call"], resource);',
    )  # fmt: skip
    told = {(line["workload"], line["action"], line["times"]) for line in lines}
    assert told == {("agent", "tool-call", 2), ("agent", "model-call", 1), ("desk", "tool-call", 1)}
    assert (summary["calls"], summary["events"]) == (4, 0)
    policy = """@id("leak") forbid (principal, action == Action::"tool-call", resource)
    when { context has secret_kinds && context.secret_kinds.contains("b") };"""
    _, (line,), _ = run(capsys, tmp_path, store, policy)
    assert (line["times"], line["distinct"]) == (1, 1)


def test_what_history_cannot_answer_is_said(capsys, tmp_path, store):
    policy = """@id("unsure") forbid (principal, action in [Action::"open-read", Action::"exec"],
    resource) when { context has bytes && context.bytes > 9 };
    @id("counted") forbid (principal, action == Action::"open-read", resource)
    when { resource.path == "/etc/counted" };"""
    _, lines, summary = run(capsys, tmp_path, store, policy)
    assert lines == [], "an event that was only counted is no line"
    assert summary["unknown"] == [{"policy": "unsure", "attributes": ["bytes"]}]
    (counted,) = summary["counted"]
    assert (counted["policies"], counted["count"]) == (["counted"], 40)
    assert counted["objects"] == ["/etc/counted"]
    assert (summary["only_counted"], summary["repeats"], summary["lost"]) == (40, 10, 1)
    assert summary["losses"] == {"bulk open": 9}
    main(["policy", "backtest", str(tmp_path / "p.cedar"), "--store", str(store)])
    said = capsys.readouterr()
    assert said.out == "nothing would have been stopped\n"
    for part in (
        "unsure reads bytes, which history does not have",
        "40 events in agent were counted, not kept: as open-read, block by counted",
        "10 repeats were counted",
        "1 events have no object",
        "lost at that time: 9 bulk open",
        "distinct questions a second",
    ):
        assert part in said.err, part


def test_only_what_is_asked_for(capsys, tmp_path, store):
    policy = 'forbid (principal, action == Action::"open-write", resource);'
    _, lines, _ = run(capsys, tmp_path, store, policy)
    assert {line["workload"] for line in lines} == {"agent", "worker"}
    for words in (["worker"], ["dddd"], ["acme/*"]):
        _, (line,), _ = run(capsys, tmp_path, store, policy, "--workload", *words)
        assert (line["workload"], line["times"], objects([line])) == ("worker", 1, {"/srv/work"})
    _, (first, *_), _ = run(capsys, tmp_path, store, policy, "--limit", "2")
    assert (first["workload"], first["times"], len(first["examples"])) == ("agent", 7, 2)
    _, lines, summary = run(capsys, tmp_path, store, policy, "--since", "1m")
    assert lines == [] and summary["events"] == 0
    code = main(["policy", "backtest", "agent", "--store", str(store), "--workload", "nobody"])
    assert code == ExitCode.NO and "known: " in capsys.readouterr().err


def test_history_is_read_in_pieces(capsys, tmp_path, store, monkeypatch):
    policy = 'forbid (principal, action in [Action::"open-write", Action::"exec"], resource);'
    whole = run(capsys, tmp_path, store, policy)[1]
    monkeypatch.setattr(hindsight, "_SLICE", 1)
    monkeypatch.setattr(hindsight, "_MAX_DECIDED", 1)
    args = ["policy", "backtest", str(tmp_path / "p.cedar"), "--store", str(store)]
    assert run(capsys, tmp_path, store, policy)[1] == whole
    main([*args, "--progress"])
    assert "100% of about" in capsys.readouterr().err


def test_the_set_in_force_alone_or_with_more(capsys, tmp_path, store):
    def ask(*paths: object) -> tuple[int, str, str]:
        code = main(["policy", "backtest", *map(str, paths), "--store", str(store)])
        return code, *capsys.readouterr()

    code, _, err = ask("applied")
    assert code == ExitCode.NO and "no set is in force" in err
    one, two = tmp_path / "one.cedar", tmp_path / "two.cedar"
    one.write_text('@id("one") forbid (principal, action == Action::"listen", resource);')
    two.write_text('@id("two") forbid (principal, action == Action::"use-secret", resource);')
    assert main(["policy", "apply", str(one), "--store", str(store)]) == ExitCode.OK
    capsys.readouterr()
    code, out, _ = ask("applied")
    assert code == ExitCode.NO and "one: policy one" in out and "two" not in out
    assert ask()[1] == out
    code, out, _ = ask("applied", two)
    assert "one: policy one" in out and "two: policy two" in out
    code, _, err = ask("applied", one)
    assert code == ExitCode.CONTENT and "another policy has this id" in err


def test_a_program_that_replaced_another_is_asked_for_by_the_one_before(capsys, tmp_path):
    past = Past()
    shell = past.builder.process(300, past.agent, name="sh")
    past.exec(shell)
    child = past.builder.process(300, past.agent, key=shell.key, name="nc")
    past.exec(child)
    root = past.store(tmp_path / "store")
    policy = """forbid (principal, action == Action::"exec", resource)
    when { context has program && context.program == "/usr/bin/sh" }
    when { context has parent && context.parent == "/usr/bin/python3" };"""
    _, (line,), _ = run(capsys, tmp_path, root, policy)
    assert objects([line]) == {"/usr/bin/nc"}


def test_what_an_image_does_for_the_first_time_is_new_again(capsys, tmp_path):
    past = Past()
    for _ in range(3):
        past.open("/data/again", flags=1)
    root = past.store(tmp_path / "store")
    policy = """forbid (principal, action == Action::"open-write", resource)
    when { context has first_seen && context.first_seen }
    when { context has baseline && context.baseline == "STATE" };"""
    _, lines, summary = run(capsys, tmp_path, root, policy)
    assert lines == [] and summary["unknown"] == []
    words = ("example/agent:1", "--store", str(root))
    assert main(["baseline", "learn", *words, "--learning", "0.001ms"]) == ExitCode.OK
    learning, locked = (policy.replace("STATE", state) for state in ("learning", "locked"))
    _, (line,), _ = run(capsys, tmp_path, root, learning, "--limit", "20")
    assert "/data/again" in objects([line]) and line["times"] == line["distinct"] == 8
    assert run(capsys, tmp_path, root, locked)[1] == []
    assert main(["baseline", "lock", *words, "--at", "2h"]) == ExitCode.OK
    assert run(capsys, tmp_path, root, learning)[1] == []
    # A locked one learns no more: each time is new.
    _, (still,), _ = run(capsys, tmp_path, root, locked, "--limit", "20")
    assert (still["times"], still["distinct"]) == (10, 8)
    assert {**still, "times": 8} == line


def test_errors_are_one_line_and_have_codes(capsys, tmp_path, store):
    args = ["policy", "backtest", "agent", "--store"]
    assert main([*args, str(tmp_path / "none")]) == ExitCode.STORE
    assert "no store here" in capsys.readouterr().err
    assert main([*args, str(store), "--since", "yesterday"]) == ExitCode.USAGE
    (tmp_path / "p.cedar").write_text("// none")
    args = ["policy", "backtest", str(tmp_path / "p.cedar"), "--store", str(store)]
    assert main(args) == ExitCode.CONTENT
