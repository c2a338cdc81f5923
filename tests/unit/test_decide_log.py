"""The decision log: nothing can be taken out, changed, moved or cut off without being named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.decide.log import ENDS, FILE, HEAD, KEY, Entry, Head, Log, LogError
from hullwatch.decide.question import Effect


def entry(at: int = 0, **more):
    return Entry(time=10**18 + at, principal="Agent:a", resource=f"Tool:t{at}", **more)


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    log = Log(folder)
    for number in range(10):
        log.append(entry(number, effect=Effect.BLOCK))
    log.close()
    return folder


def attacked(ten: Path, *statements: tuple[str, tuple[object, ...]]):
    """What `verify` says after somebody with a database tool was there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "log"
        shutil.copytree(ten, folder)
        link = sqlite3.connect(folder / FILE)
        link.executescript("DROP TRIGGER decisions_kept; DROP TRIGGER decisions_unchanged")
        for statement, values in statements:
            link.execute(statement, values)
        link.commit()
        link.close()
        return check(folder)


def check(folder: Path, noted: Head | None = None):
    log = Log(folder, write=False)
    try:
        return log.verify(noted)
    finally:
        log.close()


def test_what_is_written_is_read_and_verified(ten):
    log = Log(ten, write=False)
    assert [one.number for one in log.entries()] == [*range(1, 11)]
    assert [one.resource for one in log.entries(newest=2)] == ["Tool:t8", "Tool:t9"]
    assert [one.number for one in log.entries(after=9)] == [10]
    assert log.entries(since=10**18 + 9)[0].number == 10
    checked = log.verify()
    assert checked.ok and (checked.entries, checked.head.number) == (10, 10)
    assert Head.of(str(checked.head)) == checked.head
    log.close()


def test_files_are_for_their_owner_only(ten):
    for name in (FILE, KEY, HEAD):
        assert (ten / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("statement", ["DELETE FROM decisions", "UPDATE decisions SET kind = 'x'"])
def test_the_database_itself_refuses_changes(ten, statement):
    link = sqlite3.connect(ten / FILE)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        link.execute(statement)
    link.close()


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(1, 10), min_size=1))
def test_entries_that_are_taken_out(ten, numbers):
    checked = attacked(
        ten, *(("DELETE FROM decisions WHERE number = ?", (one,)) for one in numbers)
    )
    assert not checked.ok and checked.bad == min(numbers)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10), st.data())
def test_an_entry_that_is_taken_out_and_the_rest_moved_up(ten, number, data):
    checked = attacked(
        ten,
        ("DELETE FROM decisions WHERE number = ?", (number,)),
        ("UPDATE decisions SET number = -number WHERE number > ?", (number,)),
        ("UPDATE decisions SET number = -number - 1 WHERE number < 0", ()),
    )
    assert not checked.ok and checked.bad == number


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10), st.data())
def test_a_byte_that_is_changed(ten, number, data):
    log = Log(ten, write=False)
    body = bytearray(msgspec.json.encode(log.entries()[number - 1]))
    log.close()
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    checked = attacked(
        ten, ("UPDATE decisions SET body = ? WHERE number = ?", (bytes(body), number))
    )
    assert not checked.ok and checked.bad == number


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.sampled_from(["time = 5", "kind = 'approved'", "held = 'x'"]))
def test_a_column_that_is_changed(ten, number, change):
    checked = attacked(ten, (f"UPDATE decisions SET {change} WHERE number = ?", (number,)))
    assert not checked.ok and checked.bad == number


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10), st.integers(1, 10))
def test_two_entries_that_change_places(ten, one, other):
    if one == other:
        return
    checked = attacked(
        ten,
        ("UPDATE decisions SET number = 0 WHERE number = ?", (one,)),
        ("UPDATE decisions SET number = ? WHERE number = ?", (one, other)),
        ("UPDATE decisions SET number = ? WHERE number = 0", (other,)),
    )
    assert not checked.ok and checked.bad == min(one, other)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9))
def test_an_end_that_is_cut_off(ten, left):
    checked = attacked(ten, ("DELETE FROM decisions WHERE number > ?", (left,)))
    assert not checked.ok and checked.bad == left + 1 and "cut off" in checked.what


def test_an_entry_of_somebody_without_the_key(ten):
    body = msgspec.json.encode(entry(10, number=11, kind="approved"))
    row = (11, 10**18 + 10, "approved", "", body, bytes(32))
    checked = attacked(ten, ("INSERT INTO decisions VALUES (?,?,?,?,?,?)", row))
    assert checked.bad == 11


def test_a_log_that_goes_on_after_it_was_cut_stays_bad(ten, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(ten, folder)
    link = sqlite3.connect(folder / FILE)
    link.executescript("DROP TRIGGER decisions_kept; DELETE FROM decisions WHERE number > 7")
    link.close()
    log = Log(folder)
    for number in range(9):
        log.append(entry(number))
    log.close()
    checked = check(folder)
    assert checked.bad == 10 and "made anew" in checked.what


def test_a_head_that_is_taken_away(ten, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(ten, folder)
    (folder / HEAD).unlink()
    assert "head is missing" in check(folder).what
    with pytest.raises(LogError):  # and it is not made anew
        Log(folder).append(entry())


def test_a_log_and_a_head_that_are_put_back_need_a_head_noted_elsewhere(ten, tmp_path):
    folder = tmp_path / "log"
    shutil.copytree(ten, folder)
    log = Log(folder)
    noted = log.append(entry(10))
    log.close()
    for name in (FILE, HEAD):
        shutil.copy(ten / name, folder / name)
    for name in (f"{FILE}-wal", f"{FILE}-shm"):
        (folder / name).unlink(missing_ok=True)
    assert check(folder).ok
    assert check(folder, noted).bad == 11


def test_a_head_may_lie_elsewhere(tmp_path):
    log = Log(tmp_path / "log", tmp_path / "apart" / "head")
    log.append(entry())
    assert log.verify().ok and not (tmp_path / "log" / HEAD).exists()
    log.close()


def test_what_is_noted_is_written_in_its_place(tmp_path):
    log = Log(tmp_path)
    log.note(entry(1))
    assert log.entries() == []
    log.append(entry(2))
    log.note(entry(3))
    log.close()
    assert [one.resource for one in Log(tmp_path).entries()] == ["Tool:t1", "Tool:t2", "Tool:t3"]


def test_writers_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hullwatch.decide.log import Log, Entry\n"
        "log = Log(Path(sys.argv[1]))\n"
        "for number in range(60): log.append(Entry(time=number, principal=sys.argv[2]))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    Log(tmp_path).close()
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], env=env)
        for n in range(3)
    ]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    checked = check(tmp_path)
    assert checked.ok and checked.entries == 180 == checked.head.number


def test_a_writer_that_is_killed_leaves_a_log_that_holds(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hullwatch.decide.log import Log, Entry\n"
        "log = Log(Path(sys.argv[1]))\n"
        "while True: print(log.append(Entry(time=1)).number, flush=True)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        running = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True
        )
        assert running.stdout
        told = [int(running.stdout.readline()) for _ in range(20)]
        running.kill()
        told += [int(line) for line in running.stdout.read().splitlines() if line]
        running.wait()
        checked = check(tmp_path)
        assert checked.ok and checked.entries >= told[-1]


def test_what_is_open_and_what_is_widened(tmp_path):
    log = Log(tmp_path)
    log.append(entry(1, kind="held", held="a"), entry(2, kind="held", held="b"))
    assert [one.held for one in log.open()] == ["a", "b"]
    log.append(entry(3, kind="approved", held="a", scope="tool", expires=100))
    assert [one.held for one in log.open()] == ["b"]
    assert [one.held for one in log.widened(99)] == ["a"] and not log.widened(100)
    log.append(entry(4, kind="revoked", held="a"))
    assert not log.widened(99)
    assert [one.kind for one in log.about("a")] == ["held", "approved", "revoked"]
    assert set(ENDS) >= {"approved", "denied", "lost"}


def test_an_approval_that_somebody_wrote_into_the_file_grants_nothing(tmp_path):
    log = Log(tmp_path)
    log.append(entry(1))
    forged = entry(2, number=2, kind="approved", held="a", scope="tool", expires=1 << 62)
    row = (2, forged.time, "approved", "a", msgspec.json.encode(forged), bytes(32))
    link = sqlite3.connect(tmp_path / FILE)
    link.execute("INSERT INTO decisions VALUES (?,?,?,?,?,?)", row)
    link.commit()
    assert not log.widened(1) and not log.about("a")
    assert log.verify().bad == 2


def test_a_folder_that_is_gone_is_told_until_it_is_back(tmp_path):
    log = Log(tmp_path / "log")
    log.note(Entry())
    (tmp_path / "log").rename(tmp_path / "aside")
    for _ in range(3):  # what was written has no head
        with pytest.raises(LogError, match="head"):
            log.flush()
    (tmp_path / "aside").rename(tmp_path / "log")
    log.flush()
    assert log.verify().ok and log.verify().entries == 1
    log.close()
