"""Faults: what is kept, what is reported, and that nothing is lost in silence."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hullwatch.store.errors import StoreError
from hullwatch.store.query import Reader
from support.enriched import Builder
from support.stores import SECOND, Clock, finding, opens, settle, writer

ROOT = Path(__file__).resolve().parents[2]


def ask(root, sql):
    with Reader(root) as reader:
        return reader.query(sql).table.to_pylist()


def one(root, sql):
    return next(iter(ask(root, sql)[0].values()))


def lost(root, stage="store"):
    return one(root, f"SELECT coalesce(sum(count), 0)::BIGINT FROM losses WHERE stage = '{stage}'")


def notices(root):
    return {row["kind"]: row["text"] for row in ask(root, "SELECT kind, text FROM notices")}


@contextmanager
def small_disk(path, size):
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "hullwatch-test", str(path)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


# --- kill -9 ------------------------------------------------------------------------------

_AGENT = """
import sys
from support.enriched import Builder
from support.stores import finding, opens, writer
w = writer(__import__("pathlib").Path(sys.argv[1]))
b = Builder()
number = 0
while True:
    w.write(b.many(2000, paths=500, images=20))
    w.add_findings([finding(f"f{number}")])
    w.flush()
    number += 1
    print(number, flush=True)  # so many findings, and so many flushes, were accepted
"""


@pytest.mark.parametrize("after", [3, 8, 20])
def test_kill_9_loses_no_finding_and_no_flushed_event(tmp_path, after):
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        text=True,
    )
    assert agent.stdout
    accepted = 0
    while accepted < after:
        accepted = int(agent.stdout.readline())
    agent.send_signal(signal.SIGKILL)
    accepted = max([accepted, *(int(line) for line in agent.stdout.read().split())])
    agent.wait()
    assert one(tmp_path, "SELECT count(*) FROM findings") >= accepted
    assert one(tmp_path, "SELECT count(*) FROM events") >= accepted * 2000
    w = writer(tmp_path)
    settle(tmp_path, w.session)
    assert one(tmp_path, "SELECT count(*) FROM events") >= accepted * 2000
    assert "ended without a goodbye" in notices(tmp_path)["killed"]
    assert ask(tmp_path, "SELECT how FROM sessions ORDER BY session")[0] == {"how": "killed"}
    w.close()


def test_a_torn_tail_is_recovered_and_the_rest_is_counted(tmp_path):
    w = writer(tmp_path)
    b = Builder()
    for _ in range(3):
        w.write(opens(b, 100))
        w.flush()
    (tail,) = (tmp_path / "tail").iterdir()
    w.close()
    # As kill -9 leaves it: open in the manifest, its last write cut.
    w2 = writer(tmp_path)
    with w2._state.transaction() as link:
        link.execute("UPDATE segments SET state='open', rows=0")
    os.truncate(tail, tail.stat().st_size - 100)
    assert one(tmp_path, "SELECT count(*) FROM events") == 200
    settle(tmp_path, w2.session)
    assert one(tmp_path, "SELECT count(*) FROM events") == 200
    text = notices(tmp_path)["torn"]
    assert "200 events recovered" in text
    assert tail.name in text
    assert 50 <= lost(tmp_path, "store.torn") <= 150  # an estimate, and said to be one
    w2.close()


def test_a_compaction_killed_at_its_worst_moment_is_redone(tmp_path):
    w = writer(tmp_path)
    w.write(opens(Builder(), 10))
    w.close()
    (tail,) = (tmp_path / "tail").iterdir()
    kept = tail.read_bytes()
    (tmp_path / "segments" / "0000000001.parquet").write_bytes(b"half a fil")
    settle(tmp_path)
    assert one(tmp_path, "SELECT count(*) FROM events") == 10
    # Killed after the manifest and before the tail was removed: not counted twice.
    tail.write_bytes(kept)
    assert one(tmp_path, "SELECT count(*) FROM events") == 10
    w = writer(tmp_path)
    w.write(opens(Builder(), 1))
    w.close()
    settle(tmp_path)
    assert not list((tmp_path / "tail").iterdir())
    assert one(tmp_path, "SELECT count(*) FROM events") == 11


# --- no room ------------------------------------------------------------------------------


def test_disk_full_keeps_findings_counts_events_and_recovers(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        clock = Clock()
        w = writer(disk, clock, reserve_bytes=256 << 10, headroom=512 << 10, retry_ns=SECOND)
        w.write(opens(Builder(), 10))
        w.flush()
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
        for number in range(30):
            w.write(opens(Builder(), 100))
            w.add_findings([finding(f"full{number}", output="o" * 2000)])
            clock.pass_(1)
            w.tick()
        stats = w.stats()
        assert stats.lost == 3000
        assert "full" in stats.stalled or "space" in stats.stalled
        assert stats.findings_waiting == 0
        assert stats.findings_reserved > 0
        # Readers see them although SQLite could not take them.
        found = {row["id"] for row in ask(disk, "SELECT id FROM findings")}
        assert found == {f"full{number}" for number in range(30)}
        ballast.unlink()
        clock.pass_(20)
        w.tick()
        w.write(opens(Builder(), 7))
        w.flush()
        assert w.stats().stalled == ""
        assert w.stats().findings_reserved == 0
        assert one(disk, "SELECT count(*) FROM events") == 17
        assert one(disk, "SELECT count(*) FROM findings") == 30
        assert lost(disk) == 3000
        assert "counted as lost" in notices(disk)["stalled"]
        assert "3000 events were lost" in notices(disk)["resumed"]
        w.close()


def test_findings_of_a_full_disk_survive_kill_9(tmp_path):
    with small_disk(tmp_path / "disk", "3m") as disk:
        w = writer(disk, reserve_bytes=256 << 10)
        with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * 4096)
        for number in range(20):
            w.add_findings([finding(f"full{number}", output="o" * 4000)])
        assert w.stats().findings_waiting == 0
        os.close(w._lock)  # as dead as the kernel would make it; nothing was closed or flushed
        (disk / "ballast").unlink()
        after = writer(disk, reserve_bytes=256 << 10)
        assert one(disk, "SELECT count(*) FROM findings") == 20
        assert after.stats().findings_reserved == 0
        after.close()


def test_when_the_reserve_is_full_too_findings_wait_in_memory(tmp_path, monkeypatch):
    import sqlite3

    w = writer(tmp_path, reserve_bytes=4096)

    def refuse(bodies):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(w._state, "add_findings", refuse)
    monkeypatch.setattr("hullwatch.store.backlog.FINDINGS", 5)
    for number in range(12):
        w.add_findings([finding(f"f{number}", output="o" * 1000)])
    stats = w.stats()
    assert stats.findings_waiting == 5
    assert stats.findings_reserved + stats.findings_waiting + stats.lost == 12
    monkeypatch.undo()
    clock_passes(w, 11)
    assert w.stats().findings_waiting == 0
    w.flush()
    assert one(tmp_path, "SELECT count(*) FROM findings") == 12 - stats.lost
    row = ask(tmp_path, "SELECT class, sum(count)::INT n FROM losses GROUP BY 1")
    assert row == [{"class": "finding", "n": stats.lost}]
    w.close()


def clock_passes(w, seconds):
    w._now.pass_(seconds)
    w.tick()


def test_a_file_size_limit_is_a_full_disk(tmp_path):
    w = writer(tmp_path)
    w.write(opens(Builder(), 10))
    w.flush()
    (tail,) = (tmp_path / "tail").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tail.stat().st_size + 100, hard))
    try:
        w.write(opens(Builder(), 25))
        w.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert w.stats().lost == 25
    assert w.stats().stalled == "File too large"
    clock_passes(w, 3)
    w.write(opens(Builder(), 5))
    w.flush()
    assert one(tmp_path, "SELECT count(*) FROM events") == 15
    assert lost(tmp_path) == 25
    w.close()


# --- read-only ----------------------------------------------------------------------------


def test_read_only_at_start_says_what_and_how_to_mend(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError) as caught:
            writer(disk / "store")
        assert str(disk / "store") in str(caught.value)
        assert "read-only; remount it writable or choose another --store" in str(caught.value)


def test_read_only_while_running_counts_and_recovers(tmp_path):
    with small_disk(tmp_path / "disk", "8m") as disk:
        clock = Clock()
        w = writer(disk, clock)
        w.write(opens(Builder(), 10))
        w.flush()
        # A file system that turns read-only takes no regard of open files; tmpfs does.
        w._tail.close()
        w._tail.fd = os.open(w._tail.path, os.O_RDONLY)
        w._state.link.execute("PRAGMA query_only=1")
        for _ in range(4):
            w.write(opens(Builder(), 10))
            w.add_losses([])
            clock.pass_(1)
            w.tick()
        w.add_findings([finding("ro")])
        assert w.stats().lost == 40
        assert w.stats().stalled
        assert {row["id"] for row in ask(disk, "SELECT id FROM findings")} == {"ro"}
        w._state.link.execute("PRAGMA query_only=0")
        clock.pass_(20)
        w.tick()
        w.write(opens(Builder(), 3))
        w.flush()
        assert w.stats().stalled == ""
        assert one(disk, "SELECT count(*) FROM events") == 13
        assert one(disk, "SELECT count(*) FROM findings") == 1
        assert lost(disk) == 40
        w.close()


def test_a_store_on_read_only_media_can_be_read(tmp_path):
    with small_disk(tmp_path / "disk", "8m") as disk:
        w = writer(disk)
        w.write(opens(Builder(), 10))
        w.add_findings([finding()])
        w.close()
        settle(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert one(disk, "SELECT count(*) FROM events") == 10
        assert one(disk, "SELECT count(*) FROM findings") == 1


# --- the clock ----------------------------------------------------------------------------


def test_a_clock_step_is_reported_and_order_is_kept(tmp_path):
    b = Builder()
    w = writer(tmp_path)
    w.write(opens(b, 5, "before"))
    b.wall_offset -= 3600 * SECOND
    w.write(opens(b, 5, "after"))
    w.flush()
    rows = ask(tmp_path, "SELECT time, mono, object FROM events ORDER BY mono")
    assert [row["object"][:10] for row in rows] == ["/data/befo"] * 5 + ["/data/afte"] * 5
    assert rows[0]["time"] > rows[9]["time"]
    assert "stepped by -3600.000 s" in notices(tmp_path)["clock"]
    w.close()


@pytest.mark.parametrize("step", [-400 * 86400, 400 * 86400])
def test_a_clock_step_ages_no_history(tmp_path, monkeypatch, step):
    from hullwatch.store import clock as store_clock

    w = writer(tmp_path)
    w.write(opens(Builder(), 5))
    w.add_findings([finding()])
    w.close()
    settle(tmp_path)
    real = store_clock.now
    monkeypatch.setattr(
        store_clock, "now", lambda: real()._replace(wall=real().wall + step * SECOND)
    )
    settle(tmp_path, max_age=86400, findings_age=86400)
    assert one(tmp_path, "SELECT count(*) FROM events") == 5
    assert one(tmp_path, "SELECT count(*) FROM findings") == 1


# --- damage -------------------------------------------------------------------------------


def three_segments(root):
    w = writer(root)
    b = Builder()
    for number in range(3):
        w.write(opens(b, 100, f"s{number}-"))
        w.flush()
        w._seal()
    w.close()
    assert settle(root) == 3
    return sorted((root / "segments").iterdir())


@pytest.mark.parametrize("how", ["cut", "empty", "header", "middle", "gone"])
def test_a_corrupt_segment_is_skipped_named_and_set_aside(tmp_path, how):
    victim = three_segments(tmp_path)[1]
    data = victim.read_bytes()
    if how == "gone":
        victim.unlink()
    else:
        middle = data[:500] + bytes(1500) + data[2000:]
        damaged = {"cut": data[:-50], "empty": b"", "header": b"XXXX" + data[4:], "middle": middle}
        victim.write_bytes(damaged[how])
    with Reader(tmp_path) as reader:
        answer = reader.query("SELECT count(*) n, count(DISTINCT object) o, sum(num) FROM events")
    row = answer.table.to_pylist()[0]
    assert (row["n"], row["o"]) == (200, 200)
    (warning,) = answer.warnings
    assert str(victim) in warning
    assert "skipped with its 100 events" in warning
    with Reader(tmp_path) as again:
        assert again.query("SELECT count(*) n FROM events").warnings == ()
        state = again.catalog.rows("SELECT state, reason FROM segments WHERE seq=2")
    assert state[0][0] == "quarantined"
    assert state[0][1]
    assert victim.name in notices(tmp_path)["corrupt"]
    assert (tmp_path / "quarantine" / victim.name).exists() == (how != "gone")


def test_rot_in_a_sealed_tail_is_told_and_counted(tmp_path):
    w = writer(tmp_path)
    b = Builder()
    for _ in range(3):
        w.write(opens(b, 100))
        w.flush()
    w.close()
    (tail,) = (tmp_path / "tail").iterdir()
    data = tail.read_bytes()
    tail.write_bytes(data[: len(data) * 2 // 3] + bytes(64) + data[len(data) * 2 // 3 + 64 :])
    with Reader(tmp_path) as reader:
        left = reader.query("SELECT count(*) n FROM events").table.to_pylist()[0]["n"]
        assert f"{300 - left} of 300 events unreadable" in reader.warnings[0]
    assert left in (100, 200)
    settle(tmp_path)
    assert lost(tmp_path, "store.torn") == 300 - left
    assert one(tmp_path, "SELECT count(*) FROM events") == left


def test_a_leftover_file_in_the_way_of_a_new_tail(tmp_path):
    (tmp_path / "tail").mkdir()
    (tmp_path / "tail" / "0000000001.arrows").write_bytes(b"left of a start that failed")
    w = writer(tmp_path)
    w.write(opens(Builder(), 3))
    w.flush()
    assert one(tmp_path, "SELECT count(*) FROM events") == 3
    w.close()


def test_rot_that_no_query_meets_is_found_by_the_check(tmp_path):
    victim = three_segments(tmp_path)[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    for _ in range(4):
        settle(tmp_path)
    assert "checksum does not match" in notices(tmp_path)["corrupt"]
    assert one(tmp_path, "SELECT count(*) FROM events") == 200


def test_files_removed_under_the_agent_are_noticed(tmp_path):
    import shutil

    clock = Clock()
    root = tmp_path / "store"
    w = writer(root, clock)
    w.write(opens(Builder(), 10))
    w.flush()
    shutil.rmtree(root)
    clock.pass_(2)
    w.tick()
    w.write(opens(Builder(), 4))
    w.add_findings([finding()])
    clock.pass_(2)
    w.tick()
    assert one(root, "SELECT count(*) FROM events") == 4
    assert lost(root) == 10
    assert "removed" in notices(root)["vanished"]
    w.close()


def test_released_slots_do_not_leak_into_rows_after_a_stall(tmp_path):
    b = Builder()
    w = writer(tmp_path)
    old = b.process(5, name="old")
    w.write(b.event("open", old, "/a").build())
    w._window.drop()
    w._stall = "disk full"
    b.images.items[old.slot] = replace(old, program=replace(old.program, name="new"))
    w.write(replace(b.event("open", old.slot, "/b").build(), released_images=(old.slot,)))
    w._stall = ""
    w.write(b.event("open", old.slot, "/c").build())
    w.flush()
    assert ask(tmp_path, "SELECT name, object FROM events") == [{"name": "new", "object": "/c"}]
    w.close()


def test_the_compaction_process_runs_and_its_failure_is_said(tmp_path):
    w = writer(tmp_path, compaction=True, seal_rows=5)
    w.write(opens(Builder(), 10))
    w.flush()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "segments").glob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        w.tick()
    w._compactor.close()
    (tmp_path / "compact.lock").unlink()
    (tmp_path / "compact.lock").mkdir()
    w._compactor.start(w.session)
    w._compactor._child.wait()
    clock_passes(w, 1)
    clock_passes(w, 1)
    assert "compact.lock" in notices(tmp_path)["compaction"]
    w.close()
