"""Content of calls in the store: files of its own, gone when their time is over."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest

from hullwatch.agent.content import Item
from hullwatch.cli import main
from hullwatch.store.content import ContentFiles, held, purge, read
from support.stores import writer

HOUR = 3600
BEGIN = 1_700_000_000 // HOUR * HOUR


class Clock:
    def __init__(self) -> None:
        self.now = float(BEGIN)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def files(root):
    return sorted(path.name for path in (root / "content").iterdir())


def item(call: int = 1, text: str = "text", container: str = "c" * 64, **more: Any) -> Item:
    said: dict[str, Any] = {
        "time": call,
        "name": "x",
        "size": len(text),
        "cut": False,
        "workload": "agent",
    }
    return Item(call=call, text=text, container=container, **(said | more))


def test_what_is_kept_is_found_by_its_call(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    kept.add([item(1, "one", time=2), item(2, "two"), item(1, "zero", time=1)])
    assert [one.text for one in read(tmp_path, 1, clock.now)] == ["zero", "one"]
    assert read(tmp_path, 3, clock.now) == []
    (path,) = (tmp_path / "content").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_kept_for_longer_than_was_promised(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    kept.add([item(1)])
    clock.now += HOUR
    kept.add([item(2)])
    clock.now = BEGIN + 24 * HOUR - 1
    kept.prune()
    assert len(files(tmp_path)) == 2 and kept.removed == 0
    clock.now += 1
    assert read(tmp_path, 1, clock.now) == []  # shown no more, even where nobody removes it
    kept.prune()
    assert len(files(tmp_path)) == 1 and kept.removed == 1
    clock.now += HOUR
    kept.prune()
    assert files(tmp_path) == [] and kept.bytes == 0


def test_the_time_it_was_kept_for_holds_when_nothing_is_kept_any_more(tmp_path, clock):
    ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock).add([item(1)])
    later = ContentFiles(tmp_path, HOUR, 1 << 20, clock)
    clock.now += 2 * HOUR
    later.prune(keep=False)
    assert len(files(tmp_path)) == 1
    later.prune()  # an agent that keeps content, for less long
    assert files(tmp_path) == []
    ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock).add([item(1)])
    clock.now += 24 * HOUR
    later.prune(keep=False)
    assert files(tmp_path) == []


def test_the_oldest_goes_first_where_it_is_too_much(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    for number in range(40):
        kept.add([item(number + 1, "x" * 50_000, container=f"{number % 2}")])
        kept.prune()
        clock.now += HOUR / 4
    assert 900_000 < kept.bytes <= 1 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "content").iterdir()) == kept.bytes
    there = [number for number in range(40) if read(tmp_path, number + 1, clock.now)]
    assert there == list(range(there[0], 40)) and kept.removed


def test_one_workload_alone_cannot_lose_all_at_once(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    for number in range(60):
        kept.add([item(number + 1, "x" * 50_000)])
        kept.prune()
    assert kept.bytes > 800_000


def test_a_clock_that_was_set_back_makes_nothing_last(tmp_path, clock):
    kept = ContentFiles(tmp_path, HOUR, 1 << 20, clock)
    kept.add([item(1)])
    clock.now -= 30 * 24 * HOUR
    kept.prune()
    assert files(tmp_path) == []


def test_a_line_that_a_kill_cut_costs_no_other(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    kept.add([item(1, "one")])
    (path,) = (tmp_path / "content").iterdir()
    path.write_bytes(path.read_bytes() + b'{"time":1,"call":')
    kept.add([item(1, "two", time=3)])
    assert [one.text for one in read(tmp_path, 1, clock.now)] == ["one", "two"]


def test_a_purge_removes_one_containers_files_or_all(tmp_path, clock):
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20, clock)
    kept.add([item(1, container="a"), item(2, container="../b"), item(3, container="host")])
    assert {one.parent for one in tmp_path.rglob("*.jsonl")} == {tmp_path / "content"}
    assert purge(tmp_path, "../b") == 1 and purge(tmp_path, "none") == 0
    assert {row.container: row.items for row in held(tmp_path, clock.now)} == {"a": 1, "host": 1}
    kept.add([item(4, container="../b")])  # goes on after a purge
    assert purge(tmp_path) == 3 and files(tmp_path) == []
    assert purge(tmp_path / "nowhere") == 0 and held(tmp_path / "nowhere") == []


def test_names_that_are_not_ours_are_left_alone(tmp_path, clock):
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "notes.txt").write_text("mine")
    kept = ContentFiles(tmp_path, HOUR, 1 << 20, clock)
    kept.prune()
    purge(tmp_path)
    assert files(tmp_path) == ["notes.txt"]


# --- the command line ---------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    writer(tmp_path).close()
    kept = ContentFiles(tmp_path, 24 * HOUR, 1 << 20)
    kept.add([item(1, "one"), item(2, "two"), item(3, "three", container="d" * 64, workload="b")])
    return tmp_path


def run(capsys, *argv):
    code = main([*argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_kept_is_listed_by_workload(store, capsys):
    code, out, _ = run(capsys, "content", "list", "--store", str(store), "--json")
    rows = {row["workload"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0 and {name: row["items"] for name, row in rows.items()} == {"agent": 2, "b": 1}
    assert rows["agent"]["bytes"] == 6 and rows["agent"]["until"] > rows["agent"]["since"]
    code, out, _ = run(capsys, "content", "list", "--store", str(store))
    assert code == 0 and "agent" in out and "one" not in out.split()


def test_what_is_kept_is_purged(store, capsys):
    code, _, err = run(capsys, "content", "purge", "--store", str(store))
    assert code == 2 and "--all" in err
    code, _, err = run(capsys, "content", "purge", "nobody", "--store", str(store))
    assert code == 1 and "nothing is kept of nobody" in err
    assert run(capsys, "content", "purge", "agent", "--store", str(store))[0] == 0
    assert len(files(store)) == 1
    assert run(capsys, "content", "purge", "--all", "--store", str(store), "--json")[0] == 0
    assert files(store) == []
    code, _, err = run(capsys, "content", "list", "--store", str(store))
    assert code == 0 and "no content is kept" in err


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--content", "*"], "would be every container"),
        (["--content", "a b"], "no spaces"),
        (["--content", "a", "--content-limit", "10"], "256 to 65536"),
        (["--content", "a", "--content-keep", "soon"], "give a duration"),
        (["--content", "a", "--content-keep", "10ms"], "at least 1s"),
        (["--content", "a", "--content-max-bytes", "10"], "1048576"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path, capsys, monkeypatch, argv, why
):
    monkeypatch.setattr("os.umask", lambda mask: mask)  # `up` has a process of its own
    code, _, err = run(capsys, "up", "--store", str(tmp_path / "store"), *argv)
    assert code == 2 and why in err and not (tmp_path / "store").exists()
