"""Hunts: what they may ask, what they may not, and what they say when they cannot."""

from __future__ import annotations

import pytest

from hullwatch.sensor.wire import StrKind
from hullwatch.store.errors import QueryError, StoreError, StoreMissing
from hullwatch.store.query import Reader
from hullwatch.store.schema import COLUMNS
from support.enriched import WALL, Builder
from support.stores import finding, opens, settle, writer


@pytest.fixture
def store(tmp_path):
    """Some history as Parquet, some in the tail that is being written."""
    b = Builder()
    w = writer(tmp_path)
    w.put_workloads([b.workloads.workload(1)])
    w.write(opens(b, 40))
    w.flush()
    w._seal()
    settle(tmp_path, w.session)
    process = b.process(55, name="sh", argv=("sh",))
    b.event("exec", process, "/bin/sh", b"sh", kind2=int(StrKind.ARGV), num2=9)
    b.event("exit", process, flags=3 << 8)
    w.write(b.build())
    w.add_findings([finding()])
    w.flush()
    yield tmp_path
    w.close()


@pytest.fixture
def reader(store):
    with Reader(store) as made:
        yield made


def test_hunts_span_parquet_and_tail(reader):
    rows = reader.hunt("SELECT class, count(*) n FROM events GROUP BY ALL ORDER BY n DESC, class")
    assert rows.table.to_pylist() == [
        {"class": "open", "n": 40},
        {"class": "exec", "n": 1},
        {"class": "exit", "n": 1},
    ]


def test_processes_have_their_end(reader):
    (row,) = reader.hunt("SELECT * FROM processes").table.to_pylist()
    assert (row["name"], row["exit_code"], row["signal"], row["exec_id"]) == ("sh", 3, 0, 9)
    assert row["ended"] > row["started"]
    assert row["container"] == "agent"


@pytest.mark.parametrize(
    "name", ["events", "processes", "findings", "workloads", "losses", "counts", "notices"]
)
def test_every_table_can_be_described_and_read(reader, name):
    assert reader.tables()[name]
    reader.hunt(f"SELECT * FROM {name}")
    reader.hunt(f"DESCRIBE {name}")


def test_time_compares_with_now(reader):
    sql = "SELECT count(*) n FROM events WHERE time < now() - INTERVAL 1 hour"
    assert reader.hunt(sql).table.to_pylist() == [{"n": 42}]


def test_every_stored_column_is_there(reader):
    names = {name for name, _ in reader.tables()["events"]}
    assert {column.name for column in COLUMNS} <= names


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM read_text('/etc/passwd')", "files cannot be read"),
        ("SELECT * FROM read_csv('/etc/passwd')", "files cannot be read"),
        ("SELECT * FROM glob('/*')", "files cannot be read"),
        ("SELECT * FROM '/etc/passwd'", "hunt"),
        ("COPY events TO '/tmp/x.csv'", "COPY is not allowed"),
        ("ATTACH '/tmp/x.db'", "ATTACH is not allowed"),
        ("INSTALL httpfs", "is not allowed"),
        ("LOAD httpfs", "LOAD is not allowed"),
        ("SET memory_limit='20GB'", "SET is not allowed"),
        ("PRAGMA database_list", "PRAGMA is not allowed"),
        ("CREATE TABLE x (a INT)", "CREATE is not allowed"),
        ("DROP VIEW events", "DROP is not allowed"),
        ("CALL pragma_version()", "is not allowed"),
        ("SELECT 1; SELECT 2", "2 statements; give exactly one SELECT"),
        ("", "0 statements"),
        ("SELECT * FROM evens", 'Did you mean "events"'),
        ("SELECT nme FROM events", "name"),
        ("SELEC", "syntax error"),
        ("SELECT * FROM reader", "does not exist"),
        ("SELECT CAST('x' AS INT)", "Could not convert"),
    ],
)
def test_what_a_hunt_may_not(reader, sql, says):
    with pytest.raises(QueryError) as caught:
        reader.hunt(sql)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hunt_cannot_overwrite_a_segment(store, reader):
    (segment,) = (store / "segments").iterdir()
    before = segment.read_bytes()
    for sql in (
        f"COPY (SELECT 1) TO '{segment}'",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{segment}'",
    ):
        with pytest.raises(QueryError):
            reader.hunt(sql)
    assert segment.read_bytes() == before


def test_limits_of_rows_time_and_memory(store, reader):
    answer = reader.hunt("SELECT * FROM events", limit=5)
    assert (answer.table.num_rows, answer.truncated) == (5, True)
    assert not reader.hunt("SELECT * FROM events", limit=42).truncated
    with (
        Reader(store, timeout=0.3) as hasty,
        pytest.raises(QueryError, match=r"longer than 0\.3 s"),
    ):
        hasty.hunt(
            "SELECT count(*) FROM range(1000000000) a, range(100000) b WHERE a.range != b.range"
        )
    with Reader(store, memory="50MB") as poor, pytest.raises(QueryError, match="memory"):
        poor.hunt("SELECT list(range) FROM range(200000000)")


def test_since_leaves_out_segments_and_keeps_the_tail(store):
    assert count(Reader(store, since=WALL + 10**15)) == 2
    assert count(Reader(store, until=WALL + 10**15)) == 42


def count(reader):
    with reader:
        return reader.hunt("SELECT count(*) n FROM events").table.to_pylist()[0]["n"]


def test_a_reader_sees_one_moment_while_the_agent_goes_on(store):
    with Reader(store) as reader:
        settle(store)  # as if the tail were compacted under it
        assert reader.hunt("SELECT count(*) n FROM events").table.to_pylist() == [{"n": 42}]


def test_segments_that_retention_takes_away_are_not_called_corrupt(store):
    with Reader(store) as reader:
        settle(store, 1, max_bytes=1)
        answer = reader.hunt("SELECT count(*) n, count(DISTINCT object) FROM events")
        assert answer.warnings == ()
        assert answer.table.to_pylist()[0]["n"] == 2


def test_no_store(tmp_path):
    with pytest.raises(StoreMissing, match="no store here; start `hullwatch up`"):
        Reader(tmp_path)


def test_an_unknown_container_is_named_with_those_that_are_known(store):
    with pytest.raises(StoreError, match="'agnt': not known here; known: agent"):
        Reader(store, container="agnt")


def test_retention_by_size_takes_the_oldest(tmp_path):
    b = Builder()
    w = writer(tmp_path)
    for number in range(4):
        w.write(opens(b, 100, f"n{number}-"))
        w.flush()
        w._seal()
    settle(tmp_path, w.session)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "segments").iterdir())
    settle(tmp_path, w.session, max_bytes=sum(sizes[-2:]) + 10)
    kept = sorted(path.name for path in (tmp_path / "segments").iterdir())
    assert kept == ["0000000003.parquet", "0000000004.parquet"]
    w.close()


def test_retention_by_age_is_time_lived(tmp_path, monkeypatch):
    from hullwatch.store import clock

    w = writer(tmp_path)
    w.write(opens(Builder(), 10))
    w.add_findings([finding()])
    w.close()
    settle(tmp_path)
    real = clock.now
    later = 2 * 86400 * 10**9
    monkeypatch.setattr(
        clock,
        "now",
        lambda: real()._replace(boottime=real().boottime + later, wall=real().wall + later),
    )
    settle(tmp_path, max_age=86400 * 3)
    assert count(Reader(tmp_path)) == 10
    settle(tmp_path, max_age=86400)
    assert count(Reader(tmp_path)) == 0
    with Reader(tmp_path) as reader:
        assert reader.hunt("SELECT count(*) n FROM findings").table.to_pylist() == [{"n": 1}]
