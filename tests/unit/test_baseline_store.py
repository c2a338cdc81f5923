"""Baselines in the store: kept, merged whoever writes, learnt from history, asked by commands."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from hullwatch.cli import main
from hullwatch.detect.baseline.baselines import Baselines, profile_row
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.sensor.dictionary import address_of
from hullwatch.sensor.wire import StrKind
from hullwatch.store import baselines as stored
from hullwatch.store.behaviour import read_history
from hullwatch.store.state import CountRow, State
from support.baselines import DIGEST, Town
from support.enriched import CONTAINER, WALL, Builder
from support.stores import writer

ADDRESS = b"\x02\0\xbb\x01\x08\x08\x08\x08"


def dump(baselines: Baselines) -> dict[str, tuple[ProfileRow, frozenset[EntryRow]]]:
    return {
        image: (
            profile_row(one),
            frozenset(
                row._replace(containers=tuple(sorted(row.containers)))
                for row in map(baselines.row, one.all())
            ),
        )
        for image, one in baselines.profiles.items()
    }


def lived() -> Town:
    town = Town()
    for n in range(60):
        town.wait(1)
        town.do("read", f"/lib/f{n}.so", town.box(ident=str(n % 3)))
        town.do("exec", "/bin/a", town.box("other/image:1"))
    town.judge()
    return town


def test_what_is_written_is_read_again(tmp_path):
    town, w = lived(), writer(tmp_path)
    changes = town.baselines.changes()
    assert w.add_baselines(changes)
    town.baselines.saved(changes)
    assert not town.baselines.changes()
    again = Baselines()
    for row, entries in w.baseline_rows():
        again.load(row, entries)
    assert dump(again) == dump(town.baselines)
    assert not again.changes()
    w.close()


def test_only_what_is_new_is_written_each_second(tmp_path):
    town = lived()
    town.baselines.saved(town.baselines.changes())
    town.do("exec", "/bin/a", town.box("other/image:1"))
    town.judge()
    assert not town.baselines.changes(counts=False)
    assert [row.name for row in town.baselines.changes().entries] == ["/bin/a"]
    town.do("exec", "/bin/b", town.box("other/image:1"))
    town.judge()
    assert [row.name for row in town.baselines.changes(counts=False).entries] == ["/bin/b"]


def test_two_who_write_undo_nothing_of_each_other(tmp_path):
    def entry(first: int, last: int, count: int, *containers: str) -> EntryRow:
        return EntryRow(DIGEST, "exec", "/bin/a", first, last, count, containers)

    state = State(tmp_path / "state.db")
    made = Baselines()
    for row in (entry(50, 60, 9, "c1", "c2"), entry(40, 55, 3, "c3", "c2"), entry(70, 70, 1, "c1")):
        one = Baselines()
        one.learn(row)
        made.learn(row)
        with state.transaction() as link:
            stored.put(link, one.changes())
    (found,) = stored.entries_of(state.link, DIGEST)
    assert found[:6] == entry(40, 70, 9)[:6] and set(found.containers) == {"c1", "c2", "c3"}
    assert stored.profiles(state.link)[0].first == 40
    state.close()


def test_a_name_that_made_way_and_an_image_that_did_are_gone_from_the_store(tmp_path):
    state = State(tmp_path / "state.db")
    town = Town(baselines=Baselines(images=3))

    def save() -> None:
        changes = town.baselines.changes()
        with state.transaction() as link:
            stored.put(link, changes)
        town.baselines.saved(changes)

    town.wait(100)
    for n in range(40):
        town.do("read", f"/lib/f{n}.so", ts=10**11 + n + 1000)
    town.judge()
    save()
    town.do("read", "/lib/older.so", ts=10**11)
    town.judge()
    save()
    names = {row.name for row in stored.entries_of(state.link, DIGEST)}
    assert "/lib/older.so" in names and "/lib/f31.so" not in names and "/lib/*" in names
    for n in range(4):
        town.wait(1)
        town.do("exec", "/bin/a", town.box(f"image/{n}"))
        town.judge()
    save()
    assert {row.image for row in stored.profiles(state.link)} == set(town.baselines.profiles)
    state.close()


def test_the_agent_follows_what_the_command_line_decides(tmp_path):
    town, w = lived(), writer(tmp_path)

    def second() -> list[str]:
        return [row.image for row in w.keep_baselines(town.baselines, True)]

    second()
    before = town.baselines.generation
    assert second() == [] and town.baselines.generation == before
    other = State(tmp_path / "state.db")
    with other.transaction() as link:
        stored.judge(link, DIGEST, town.wall, [("exec", "/opt/*")])
    assert second() == [DIGEST] and second() == []
    profile = town.baselines.profiles[DIGEST]
    assert profile.locked == town.wall and profile.accepted == {("exec", "/opt/*")}
    assert len(profile) == 33 and town.baselines.generation > before
    town.wait(1)
    town.do("exec", "/bin/x")
    assert town.judge() == [("drift", "/bin/x")]
    with other.transaction() as link:
        stored.forget(link, DIGEST)
    second()
    assert len(town.baselines.profiles[DIGEST]) == 0
    assert town.baselines.profiles[DIGEST].locked is None
    other.close()
    w.close()


def test_a_full_disk_keeps_what_was_learnt_for_later(tmp_path, monkeypatch):
    town, w = lived(), writer(tmp_path)

    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(stored, "put", fails)
        assert not w.add_baselines(town.baselines.changes())
    assert town.baselines.changes().entries
    assert w.add_baselines(town.baselines.changes())
    w.close()


# --- history --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a container of example/agent:1 did, a day ago and now; as events, and as counts."""
    monkeypatch.setenv("HULLWATCH_STORE", str(tmp_path))
    b, w = Builder(), writer(tmp_path)
    w.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    python = b.process(100)
    b.event("exec", python, "/usr/bin/python3")
    b.event("open", python, "/etc/hosts").event("open", python, "/etc/hosts")
    b.event("open", python, "/etc/gone", ret=-2)
    b.event("open", python, "/var/log/a.log", flags=1)
    b.event("rename", python, "/tmp/a", "/app/b")
    b.event("connect", python, ADDRESS, kind=int(StrKind.ADDR), dest="API.example", ret=-115)
    b.event("listen", python, b"\x02\0\x90\x1f\0\0\0\0", kind=int(StrKind.ADDR))
    b.event("dns", python, "api.example", kind=int(StrKind.DNS))
    b.event("open", b.process(7, workload=0, cgroup=1, name="sshd"), "/etc/ssh/sshd_config")
    w.write(b.build())
    w.add_counts([CountRow(77, "open", "/etc/hosts", 900), CountRow(77, "open", "/etc/lost", 5)])
    w.close()
    return tmp_path


def test_history_gives_what_the_agent_would_have_learnt(store):
    history = read_history(store, "example/agent:1", 0, lambda *_: None)
    found = {(row.kind, row.name): row for row in history.rows}
    assert set(found) == {
        ("exec", "/usr/bin/python3"),
        ("read", "/etc/hosts"),
        ("write", "/var/log/a.log"),
        ("write", "/app/b"),
        ("connect", "api.example:443"),
        ("listen", "0.0.0.0:8080"),
        ("dns", "api.example"),
    }
    assert (history.containers, history.unclear) == (1, 1)
    hosts = found["read", "/etc/hosts"]
    assert hosts.count == 902 and hosts.containers == (CONTAINER[:12],)
    assert 0 <= hosts.first - (WALL + 5_000_002_000) < 1000


def test_addresses_are_read_as_they_were_written():
    for text in ("10.0.0.1:443", "[::1]:80", "10.0.0.1", "/run/x.sock", "@abstract", "::1"):
        assert str(address_of(text)) == text
    assert address_of("af16") is None and address_of("unix") is None


# --- commands -------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*argv: str, code: int = 0) -> str:
        ended = main(["baseline", *argv])
        said = capsys.readouterr()
        assert ended == code, said
        return said.out + said.err

    return call


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_profile_from_learning_to_drift(store, run, tmp_path):
    assert "no image has done anything yet" in run("list")
    (learnt,) = lines(run("learn", "example/agent", "--since", "2020-01-01", "--json"))
    assert (learnt["learnt"], learnt["unclear"], learnt["state"]) == (7, 1, "learning")
    (again,) = lines(run("learn", "example/agent", "--since", "2020-01-01", "--json"))
    assert again["learnt"] == 0 and again["kinds"] == learnt["kinds"]
    shown = run("show", "agent:1")
    assert "/usr/bin/python3" in shown and "902" in shown and "api.example:443" in shown
    head, *rows = lines(run("show", "agent:1", "--kind", "exec", "--json"))
    assert head["state"] == "learning" and [row["name"] for row in rows] == ["/usr/bin/python3"]
    assert "not locked" in run("diff", "agent:1", code=1)
    (locked,) = lines(run("lock", "agent:1", "--accept", "exec /opt/x", "--json"))
    assert locked["state"] == "locked" and locked["accepted"] == [["exec", "/opt/x"]]
    assert "no difference" in run("diff", "agent:1")
    later = 2 * 10**18
    state = State(store / "state.db")
    made = Baselines()
    for name in ("/opt/x", "/tmp/evil"):
        made.learn(EntryRow("example/agent:1", "exec", name, later, later, 1, ()))
    with state.transaction() as link:
        stored.put(link, made.changes())
    state.close()
    (drift,) = lines(run("diff", "agent:1", "--json", code=1))
    assert (drift["change"], drift["kind"], drift["name"]) == ("+", "exec", "/tmp/evil")
    # Accepting keeps the time of the lock.
    (kept,) = lines(run("lock", "agent:1", "--accept", "exec /tmp/evil", "--json"))
    assert kept["locked"] == locked["locked"] and kept["drift"] == 0
    run("diff", "agent:1")
    (one,) = lines(run("list", "--json"))
    assert one["entries"] == 9 and one["state"] == "locked"
    assert "learning" in run("unlock", "agent:1")
    assert "9 entries forgotten" in run("forget", "agent:1")
    assert lines(run("list", "--json"))[0]["entries"] == 0


def test_two_digests_of_a_repository_are_compared(store, run):
    state = State(store / "state.db")
    made = Baselines()
    for digest, names in (("a", "both old"), ("b", "both new")):
        image = "sha256:" + digest * 64
        for name in names.split():
            made.learn(EntryRow(image, "exec", f"/bin/{name}", WALL, WALL, 1, ("c",)))
        made.profiles[image].name = "example/app:1"
    with state.transaction() as link:
        stored.put(link, made.changes())
    state.close()
    changes = {
        (r["change"], r["name"]) for r in lines(run("diff", "aaaa", "bbbb", "--json", code=1))
    }
    assert changes == {("+", "/bin/new"), ("-", "/bin/old")}
    assert "+exec" in run("diff", "aaaa", "bbbb", code=1)
    assert "may be" in run("show", "example/app", code=1)


def test_an_exported_profile_passes_rules_check_and_test(store, run, capsys):
    run("learn", "agent:1", "--since", "2020-01-01")
    run("lock", "agent:1")
    file = store / "agent.yaml"
    assert "rules test" in run("export", "agent:1", "-o", str(file))
    assert main(["rules", "check", str(file)]) == 0
    assert main(["rules", "test", str(file)]) == 0
    assert "12 passed, 0 failed" in capsys.readouterr().out
    assert file.read_text() in run("export", "agent:1")


def test_mistakes_are_said_with_their_mend(store, run):
    assert "`hullwatch baseline list` names them" in run("show", "nothing", code=1)
    run("learn", "agent:1", "--since", "2020-01-01")
    assert "KIND one of exec" in run("lock", "agent:1", "--accept", "/bin/x", code=2)
    assert "one of exec" in run("show", "agent:1", "--kind", "files", code=2)
    assert "No such file" in run("export", "agent:1", "-o", "/nowhere/x.yaml", code=1)


def test_a_store_from_before_baselines_is_still_read(store, run):
    link = sqlite3.connect(store / "state.db")
    link.executescript(
        "DROP TABLE baselines; DROP TABLE baseline_entries; DROP TABLE calls; DROP TABLE call_sets;"
        "DROP TABLE quarantines;"
        "ALTER TABLE findings DROP COLUMN spans; PRAGMA user_version = 3;"
    )
    link.close()
    assert "no image has done anything yet" in run("list")
    run("learn", "agent:1", "--since", "2020-01-01")
    assert len(lines(run("list", "--json"))) == 1


def test_status_tells_what_is_known_and_what_was_dropped():
    from hullwatch.cli.status import _baselines

    town = Town(baselines=Baselines(images=2))
    for n in range(4):
        town.wait(1)
        town.do("exec", "/bin/a", town.box(f"image/{n}"))
        town.judge()
    told = "\n".join(text for _, text in _baselines(town.baselines.stats()))
    assert "2 images, 0 locked, 2 things" in told and "2 images forgotten to make room" in told
    assert list(_baselines(Baselines().stats())) == []


def test_a_finding_is_shown_with_its_counts(tmp_path, capsys):
    from support.stores import finding

    w = writer(tmp_path)
    w.add_findings([finding("f1", why="image x has executed 2 programs; /tmp/x was never one")])
    w.close()
    assert main(["findings", "show", "f1", "--store", str(tmp_path)]) == 0
    assert "why        image x has executed 2 programs" in capsys.readouterr().out
