"""`hullwatch policy suggest`: what was seen may be, all else may not, whatever it is called."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from hullwatch.decide.cases import cases_of, run_case
from hullwatch.decide.engine import Engine
from hullwatch.decide.habits import MANY_ADDRESSES, MANY_FILES, STAR, hosts, networks, paths
from hullwatch.decide.question import Effect, Entity, Mode, Question
from hullwatch.decide.suggest import KINDS, Suggestion, Terms, suggest
from hullwatch.detect.baseline.objects import ANY, end_object, listen_object, path_object
from hullwatch.sensor.dictionary import address_of
from support.pasts import Past

TERMS = Terms(("agent",), "ml", date(2099, 1, 31), enforce=True)


def engine(made: Suggestion) -> Engine:
    """Whose cases pass, and of which there is one for each way of every policy."""
    found = Engine.of([(made.policies, "p.cedar")])
    cases = cases_of(made.cases, "p.test.yaml")
    for case in cases:
        assert run_case(found, case).ok, (case, run_case(found, case).error)
    assert {case.policy for case in cases if case.expect is Effect.BLOCK} == set(found.policies)
    return found


def effect(found: Engine, action: str, kind: str, ident: str, who: str = "agent") -> Effect:
    return found.decide(question(action, kind, ident, who)).effect


def question(action: str, kind: str, ident: str, who: str = "agent") -> Question:
    return Question(
        principal=Entity("Workload", who),
        action=action,
        resource=Entity(kind, ident),
        context={"labels": ()},
    )


ODD = st.text(st.sampled_from('ab/.*"\\\n\t{}é\x00\x1b\u202e7'), min_size=1, max_size=12)
PATHS = st.lists(ODD.map(lambda text: "/d/" + text.replace("\0", "0")), max_size=6)


@settings(max_examples=40, deadline=None)
@given(PATHS, PATHS, ODD, ODD, ODD)
def test_what_was_seen_may_be_whatever_it_is_called(run, written, server, tool, who):
    about = (who, server)
    terms = TERMS._replace(workloads=(who, "b"), owner=f"x{server}", image=tool, about=about)
    seen = {
        "exec": {path_object(name): 3 for name in run},
        "write": {path_object(name): 0 for name in written},
        "tool": {(server, tool): 1},
    }
    made = suggest(seen, terms)
    found = engine(made)
    assert len(found.policies) == 2 * 4, made.policies
    assert {one.principal.id for one in found.policies.values()} <= {who, "b"}
    for action, kind, names in (("exec", "Binary", run), ("open-write", "Path", written)):
        for name in names:
            asked = question(action, kind, name, who)
            asked.context["image"] = tool
            assert found.decide(asked).effect is Effect.ALLOW, (name, made.policies)
            asked.context["image"] = tool + "2"
            assert found.decide(asked).effect is Effect.BLOCK


def test_another_workload_is_not_spoken_of():
    found = engine(suggest({"exec": {"/bin/a": 1}}, TERMS))
    assert effect(found, "exec", "Binary", "/bin/b") is Effect.BLOCK
    assert effect(found, "exec", "Binary", "/bin/b", "other") is Effect.ALLOW
    assert effect(found, "open-read", "Path", "/etc/shadow") is Effect.ALLOW, "reading is free"
    assert effect(found, "connect", "Host", "a.example:443") is Effect.BLOCK, "none was seen"
    assert effect(found, "tool-call", "Tool", "a/b") is Effect.ALLOW, "calls may not have been seen"


def test_it_only_observes_unless_told_otherwise():
    found = engine(suggest({"exec": {"/bin/a": 1}}, TERMS._replace(enforce=False)))
    asked = found.decide(question("exec", "Binary", "/bin/b"))
    assert (asked.effect, asked.wanted) == (Effect.ALLOW, Effect.BLOCK)
    for one in found.policies.values():
        assert one.mode is Mode.OBSERVE and one.owner == "ml" and one.review == date(2099, 1, 31)
        assert one.controls and one.reason


def test_many_files_of_a_folder_become_the_folder():
    few = {f"/data/few/{at}": 1 for at in range(MANY_FILES - 1)}
    many = {f"/data/many/{at}": 2 for at in range(MANY_FILES)}
    each = {f"{folder}/{at}": 1 for folder in ("/etc/x", "/usr/bin", "") for at in "abcdef"}
    made = paths(few | many | each | {"/data/many/deep/x": 1}, folders=True)
    assert set(made.patterns) == {f"/data/many/{STAR}"} and set(made.texts) == {*few, *each}
    seen = made.patterns[f"/data/many/{STAR}"]
    assert (seen.of, seen.times, str(seen)) == (4, 8, "4 names, seen 8 times")
    assert set(paths(many).texts) == set(many), "programs are named one by one"
    wild = {f"/run/{{n}}/out/{name}{{n}}": 1 for name in "abcd"} | {"/run/{n}/out/deep/x": 1}
    assert set(paths(wild, folders=True).patterns) == {f"/run/{STAR}/out/{STAR}"}


def test_what_a_baseline_folded_and_a_person_accepted_are_patterns():
    made = paths({"/usr/lib/*": 9, "/srv/**": 0, "/proc/{n}/stat": 1, "/a{star}b": 1, "/srv/x": 1})
    assert set(made.patterns) == {f"/usr/lib/{STAR}", f"/srv/{STAR}", f"/proc/{STAR}/stat"}
    assert set(made.texts) == {"/a*b"}
    found = engine(suggest({"exec": {"/proc/{n}/a{star}b": 1}}, TERMS))
    assert effect(found, "exec", "Binary", "/proc/12/a*b") is Effect.ALLOW
    assert effect(found, "exec", "Binary", "/proc/12/axb") is Effect.BLOCK


def test_subdomains_become_a_domain_only_where_several_were_seen_and_it_has_one_owner():
    some = [f"{name}.example.com" for name in "ab"]
    several = [f"{name}.cdn.example.org" for name in "abc"]
    shared = [
        f"{n}.{of}" for n in "abc" for of in ("s3.amazonaws.com", "github.io", "co.uk", "com")
    ]
    made = hosts(dict.fromkeys([*some, *several, *shared, "*.folded.example", "qdrant"], 1))
    assert set(made.patterns) == {f"{STAR}.cdn.example.org", f"{STAR}.folded.example"}
    assert set(made.texts) == {*some, *shared, "qdrant"}


def test_neighbours_become_a_network():
    near = {f"10.0.0.{at}": 1 for at in range(MANY_ADDRESSES)}
    made = networks(near | {"10.0.1.1": 1, "2001:db8::1": 1})
    assert set(made) == {"10.0.0.0/24", "10.0.1.1/32", "2001:db8::1/128"}


def test_destinations_are_hosts_addresses_and_sockets_at_their_ports():
    seen = {
        "api.example.com:443": 1, "10.0.0.7:5432": 1, "[2001:db8::1]:80": 1, "{ip}:8443": 5,
        "unix:/run/x.sock": 1, "127.0.0.1:1": 1, "10.0.0.2:53": 1, "unix:@a{n}": 1,
    }  # fmt: skip
    found = engine(suggest({"connect": seen}, TERMS))
    for kind, ident in (
        ("Host", "api.example.com:443"), ("Address", "10.0.0.7:5432"),
        ("Address", "[2001:db8::1]:80"), ("Address", "203.0.113.9:8443"),
        ("Address", "/run/x.sock"), ("Address", "@a12"),
    ):  # fmt: skip
        assert effect(found, "connect", kind, ident) is Effect.ALLOW, ident
    for kind, ident in (
        ("Host", "api.example.com:80"), ("Host", "example.com:443"), ("Address", "10.0.0.7:443"),
        ("Address", "10.0.0.8:5432"), ("Address", "/run/y.sock"), ("Address", "10.0.0.2:53"),
    ):  # fmt: skip
        assert effect(found, "connect", kind, ident) is Effect.BLOCK, ident


def test_a_long_baseline_becomes_several_policies():
    names = {f"/bin/program-{at}": 1 for at in range(1000)}
    ends = {f"host{at}.d{at}.example:{at + 1000}": 1 for at in range(200)}
    found = engine(suggest({"exec": names, "connect": ends}, TERMS))
    assert {"agent-exec", "agent-exec-2", "agent-exec-3", "agent-hosts-2"} <= set(found.policies)
    assert effect(found, "exec", "Binary", "/bin/program-999") is Effect.ALLOW
    assert effect(found, "connect", "Host", "host199.d199.example:1199") is Effect.ALLOW


def test_a_kind_of_which_too_much_was_seen_has_no_list_and_that_is_said():
    made = suggest({"exec": {"/bin/a": 1}, "write": {ANY: 9}}, TERMS)
    (warning,) = made.warnings
    assert warning.startswith("write: more was seen") and f"// LOOK AT: {warning}" in made.policies
    assert effect(engine(made), "open-write", "Path", "/x") is Effect.ALLOW
    assert set(KINDS) == {"exec", "write", "connect", "tool", "model"}


def test_a_pattern_for_all_is_left_out_and_what_is_wide_is_said():
    made = suggest({"exec": {"/{n}": 1, "/bin/a": 1}, "connect": {"{name}:80": 9}}, TERMS)
    found = engine(made)
    assert effect(found, "exec", "Binary", "/1234") is Effect.BLOCK
    assert effect(found, "exec", "Binary", "/bin/a") is Effect.ALLOW
    assert effect(found, "connect", "Host", "any.example:80") is Effect.ALLOW
    one, two = made.warnings
    assert one.startswith("exec /{n}: left out") and two.startswith("connect {name}:80: many")


# --- the command --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Past().store(tmp_path_factory.mktemp("store"))
    for image in ("example/agent:1", "acme/worker:2"):
        assert main(["baseline", "learn", image, "--store", str(root)]) == ExitCode.OK
    return root


def run(capsys: Any, *words: object, code: int = ExitCode.OK) -> Any:
    capsys.readouterr()
    assert main(["policy", *map(str, words)]) == code, capsys.readouterr()
    return capsys.readouterr()


@pytest.mark.parametrize("text", ["agent", "example/agent:1"])
def test_what_is_suggested_would_have_stopped_nothing(capsys, tmp_path, store, text):
    out = tmp_path / "agent.cedar"
    said = run(capsys, "suggest", text, "-o", out, "--store", store)
    assert "policies for agent" in said.out and "cases, all pass" in said.out
    assert "0 warnings" in run(capsys, "check", out).out
    assert " 0 failed" in run(capsys, "test", out).out
    said = run(capsys, "backtest", out, "--store", store)
    assert said.out == "nothing would have been stopped\n"
    assert "7 policies" in said.err, said.err
    text = out.read_text()
    assert '@mode("observe")' in text and "/data/out/*" in text and "seen once" in text
    # Only a TLS client said so: the address is what a permit can go by.
    assert "203.0.113.9/32" in text and '"www.example.com"' in text
    # One thing less, and it is seen.
    out.write_text(text.replace('"/usr/bin/git"', '"/usr/bin/cvs"'))
    run(capsys, "backtest", out, "--store", store, code=ExitCode.NO)


def test_options(capsys, tmp_path, store):
    out = tmp_path / "w.cedar"
    words = ("suggest", "worker", "-o", out, "--store", store, "--json")
    (value,) = [json.loads(run(capsys, *words, "--enforce", "--image", "--owner", "ml").out)]
    assert value["workloads"] == ["worker"] and value["seen"]["write"] == 1
    assert value["cases_file"] == str(tmp_path / "w.test.yaml")
    text = out.read_text()
    assert "@mode" not in text and '@owner("ml")' in text
    assert 'context.image == "acme/worker:2"' in text and '"agent"' not in text
    assert "--force" in run(capsys, *words, code=ExitCode.USAGE).err
    run(capsys, *words, "--force")
    assert run(capsys, "backtest", out, "--store", store).out == "nothing would have been stopped\n"
    said = run(capsys, "suggest", "nobody", "--store", store, code=ExitCode.NO)
    assert "no image 'nobody' here" in said.err


def test_nothing_known_is_said(capsys, tmp_path):
    root = Past().store(tmp_path / "store")
    said = run(capsys, "suggest", "worker", "--store", root, code=ExitCode.NO)
    assert "baseline learn" in said.err and not list(tmp_path.glob("*.cedar"))


def test_names_of_a_baseline_are_what_is_asked():
    """The two ways of naming a destination agree."""
    for text in ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"):
        assert end_object(address_of(text)) == "10.0.0.1:80"
    assert listen_object(address_of("10.0.0.1:80")) == "10.0.0.1:80"
