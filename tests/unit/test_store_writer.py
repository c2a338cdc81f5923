"""What the agent hands to the store comes out again, also for readers beside it."""

from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Loss
from hullwatch.store import compact
from hullwatch.store.catalog import Catalog
from hullwatch.store.counted import rule_hashes
from hullwatch.store.errors import StoreBusy, StoreError
from hullwatch.store.query import Reader
from hullwatch.store.state import OTHERS, RULE_SETS, CountRow, Session
from hullwatch.store.writer import Settings, Writer
from support.enriched import CONTAINER, WALL, Builder
from support.stores import SECOND, Clock, finding, opens, settle, writer


def ask(root, sql, *values):
    with Reader(root) as reader:
        return reader.query(sql, *values).table.to_pylist()


def test_rows_are_readable_a_second_later(tmp_path):
    clock = Clock()
    w = writer(tmp_path, clock)
    w.write(opens(Builder()))
    w.tick()
    assert ask(tmp_path, "SELECT count(*) n FROM events") == [{"n": 0}]
    clock.pass_(1)
    w.tick()
    assert ask(tmp_path, "SELECT count(*) n FROM events") == [{"n": 10}]
    w.close()


def test_tail_and_parquet_give_the_same_rows(tmp_path):
    b = Builder()
    w = writer(tmp_path)
    shell = b.process(7, name="sh", argv=("sh", "-c", "\x1b[31m\n"))
    b.event("exec", shell, "/bin/sh", b"sh\0-c\0\xff", kind2=4, span=1 << 63, marks=6)
    w.write(b.build())
    w.write(opens(b, 50))
    w.flush()
    sql = "SELECT * FROM events ORDER BY mono"
    before = ask(tmp_path, sql)
    w.close()
    assert settle(tmp_path) == 1
    assert not list((tmp_path / "tail").iterdir())
    assert ask(tmp_path, sql) == before
    assert len(before) == 51
    assert before[0]["span"] == 1 << 63
    assert before[0]["mark_names"] == ["str_lost", "io_uring"]


def test_row_groups_hold_their_own_text_and_not_too_much(tmp_path, monkeypatch):
    """A reader takes whole row groups into memory: neither the others' strings nor long ones."""
    monkeypatch.setattr(compact, "ROW_GROUP", 100)
    monkeypatch.setattr(compact, "GROUP_TEXT", 50_000)
    b = Builder()
    process = b.process(7, name="sh")
    for number in range(500):
        b.event("open", process, f"/{number:04}")
    for number in range(500):
        b.event("open", process, f"/{number:04}/" + "x" * 990)
    b.event("open", process, "/" + "y" * 3000)
    w = writer(tmp_path)
    w.write(b.build())
    w.close()
    assert settle(tmp_path) == 1
    (file,) = (tmp_path / "segments").iterdir()
    found = pq.ParquetFile(file)
    groups = [found.metadata.row_group(at) for at in range(found.num_row_groups)]
    rows = [group.num_rows for group in groups]
    assert sum(rows) == 1001
    assert max(rows) == 100
    assert min(rows) < 60  # a thousand bytes each: text decides
    at = found.schema_arrow.get_field_index("object")
    assert max(group.column(at).total_uncompressed_size for group in groups) < 60_000
    objects = {row["object"] for row in ask(tmp_path, "SELECT object FROM events")}
    assert len(objects) == 1001


def test_history_is_sealed_and_sorted_by_container_class_time(tmp_path):
    b = Builder()
    w = writer(tmp_path, seal_rows=20)
    process, host = b.process(1), b.process(2, workload=0)
    for _ in range(10):
        b.event("unlink", process, "/a").event("open", host, "/b").event("open", process, "/c")
    w.write(b.build())
    w.flush()
    settle(tmp_path, w.session)
    (file,) = (tmp_path / "segments").iterdir()
    columns = ["container_id", "class", "mono"]
    rows = [tuple(row.values()) for row in pq.read_table(file, columns=columns).to_pylist()]
    assert rows == sorted(rows)
    assert len(rows) == 30
    w.close()


def test_late_metadata_reaches_stored_events(tmp_path):
    b = Builder()
    b.workloads.items[1] = Workload(cgroup=77, cgroup_path="/x", state="pending")
    w = writer(tmp_path)
    w.write(opens(b))
    w.flush()
    sql = "SELECT DISTINCT container, container_id, image, pod, container_state s FROM events"
    unknown = {"container": None, "container_id": None, "image": None, "pod": None, "s": "pending"}
    assert ask(tmp_path, sql) == [unknown]
    w.put_workloads(
        [
            Workload(
                cgroup=77, cgroup_path="/x", state="resolved", container_id="abcd" * 16,
                name="web", image="example/web:2", pod="web-1", namespace="shop", role="main",
            )
        ]
    )  # fmt: skip
    w.flush()
    assert ask(tmp_path, sql) == [
        {
            "container": "web",
            "container_id": "abcd" * 16,
            "image": "example/web:2",
            "pod": "web-1",
            "s": "resolved",
        }
    ]
    with Reader(tmp_path, container="shop/web-1") as reader:
        assert reader.scope.cgroups == {(1, 77)}
    w.close()


def test_findings_fold_by_id_and_keep_their_extremes(tmp_path):
    w = writer(tmp_path)
    w.add_findings([finding("a"), finding("b", priority="Notice")])
    w.add_findings(
        [finding("a", count=5, last=WALL + 9000), finding("a", count=3, first=WALL - 9000)]
    )
    rows = ask(
        tmp_path, "SELECT id, count, first, last, severity, priority FROM findings ORDER BY id"
    )
    assert [(row["id"], row["count"], row["priority"]) for row in rows] == [
        ("a", 5, "Critical"),
        ("b", 1, "Notice"),
    ]
    assert (rows[0]["last"] - rows[0]["first"]).microseconds == 18
    assert rows[0]["severity"] > rows[1]["severity"]
    w.close()


def test_a_findings_container_is_known_as_soon_as_the_finding_is(tmp_path):
    """Without a tick: the disk may be full, or the agent dead, before the next one."""
    w = writer(tmp_path)
    w.put_workloads(
        [Workload(cgroup=7, cgroup_path="/x", state="resolved", container_id=CONTAINER)]
    )
    w.add_findings([finding("a")])
    assert ask(tmp_path, "SELECT count(*) n FROM findings") == [{"n": 1}]
    assert ask(
        tmp_path, f"SELECT count(*) n FROM workloads WHERE container_id = '{CONTAINER}'"
    ) == [{"n": 1}]
    w.close()


def test_losses_and_counts_add_up(tmp_path):
    w = writer(tmp_path)
    for _ in range(3):
        w.add_losses([Loss("bulk", 10, 77, 4), Loss("vital", 0, (1 << 64) - 1, 1)])
        w.add_counts([CountRow(77, "open", "/x\n", 5), CountRow(77, "open", "/y", 1)])
        w.flush()
    assert ask(tmp_path, "SELECT stage, class, cgroup, sum(count)::INT n FROM losses GROUP BY ALL"
               " ORDER BY stage") == [
        {"stage": "bulk", "class": "open", "cgroup": 77, "n": 12},
        {"stage": "vital", "class": "any", "cgroup": (1 << 64) - 1, "n": 3},
    ]  # fmt: skip
    counts = ask(tmp_path, "SELECT object, sum(count)::INT n FROM counts GROUP BY 1 ORDER BY 1")
    assert counts == [{"object": "/x\n", "n": 15}, {"object": "/y", "n": 3}]
    w.close()


def test_counts_are_bounded_and_none_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("hullwatch.store.state.COUNT_ROWS", 5)
    w = writer(tmp_path)
    for _ in range(2):
        w.add_counts([CountRow(1, "open", f"/{at}", 1) for at in range(20)])
        w.flush()
    counts = ask(tmp_path, "SELECT object, sum(count)::INT n FROM counts GROUP BY 1")
    assert sum(row["n"] for row in counts) == 40
    assert {row["object"]: row["n"] for row in counts}[OTHERS] == 30
    w.close()


def test_only_one_writer(tmp_path):
    w = writer(tmp_path)
    with pytest.raises(StoreBusy, match=r"another agent writes here \(pid \d+\); stop it"):
        writer(tmp_path)
    w.close()
    writer(tmp_path).close()


def test_a_place_that_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: not a directory; choose another --store"):
        writer(tmp_path / "file")


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"state.db: .*move it away"):
        writer(tmp_path)
    (tmp_path / "state.db").unlink()
    writer(tmp_path).close()


def test_sessions_tell_tier_mode_and_end(tmp_path):
    w = writer(tmp_path)
    w.describe(Session(tier="lsm", kernel="6.18", mode="detect", rules="sha256:1"))
    w.close("stopped")
    rows = ask(tmp_path, "SELECT tier, kernel, mode, rules, how, ended IS NOT NULL e FROM sessions")
    assert rows == [
        {
            "tier": "lsm",
            "kernel": "6.18",
            "mode": "detect",
            "rules": "sha256:1",
            "how": "stopped",
            "e": True,
        }
    ]


def test_tails_are_sealed_by_age(tmp_path):
    clock = Clock()
    w = writer(tmp_path, clock, seal_ns=60 * SECOND)
    w.write(opens(Builder()))
    clock.pass_(1)
    w.tick()
    clock.pass_(61)
    w.tick()
    with Reader(tmp_path) as reader:
        (segment,) = reader.catalog.segments()
    assert (segment.state, segment.rows, segment.cgroups) == ("sealed", 10, {77})
    assert segment.min_time // 1000 == (segment.min_mono + WALL) // 1000
    w.close()


def test_container_ids_prune_segments(tmp_path):
    b = Builder()
    w = writer(tmp_path, seal_rows=1)
    w.put_workloads([b.workloads.workload(1)])
    for cgroup in (77, 78, 79):
        w.write(b.event("open", b.process(1, cgroup=cgroup), "/x").build())
        w.flush()
    with Reader(tmp_path, container=CONTAINER[:12]) as reader:
        assert reader.query("SELECT cgroup FROM events").table.to_pylist() == [{"cgroup": 77}]
    w.close()


@pytest.mark.parametrize(("mode", "said"), [(0o700, False), (0o755, False), (0o770, True)])
def test_a_store_that_others_may_write_in_is_told(tmp_path, mode, said):
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(mode)
    writer(root).close()
    notices = ask(root, "SELECT text FROM notices WHERE kind = 'open'")
    assert len(notices) == said
    assert not said or f"(mode 0{mode:o}): chmod 700" in notices[0]["text"]


def test_what_is_made_is_for_the_agents_user_alone(tmp_path):
    before = os.umask(0o022)
    try:
        root = tmp_path / "store"
        w = writer(root)
        w.write(opens(Builder()))
        w.close()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (root, *root.glob("tail/*"))}
    assert modes.pop("store") == 0o700 and set(modes.values()) == {0o600}
    for name in ("lock", "reserve"):
        assert (root / name).stat().st_mode & 0o777 == 0o600


def test_meanings_of_rules_are_kept_for_the_last_sessions_only(tmp_path):
    for number in range(RULE_SETS + 3):
        store = Writer(tmp_path, Session(rules=f"d{number}"), Settings(compaction=False))
        store.keep_rules(f"d{number}", {"a": str(number)})
        store.close()
    with Catalog(tmp_path) as catalog:
        (kept,) = catalog.rows("SELECT count(*) FROM meta WHERE key LIKE 'rules:%'")[0]
        assert kept <= RULE_SETS + 1
        assert rule_hashes(catalog, f"d{number}") == {"a": str(number)}
        assert rule_hashes(catalog, "d0") == {}
