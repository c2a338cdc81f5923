"""History comes back as the sensor's batches: what a rule can read of an event is what it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.enrich import Context
from hullwatch.context.enriched import Enriched
from hullwatch.context.recorded import RecordedResolver
from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.row import Env, row_of
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import make_image
from hullwatch.replay import Replay
from hullwatch.sensor.dictionary import decode_address
from hullwatch.sensor.wire import EVENT, Class
from hullwatch.store.batches import in_time
from hullwatch.store.detail import decode, encode, split
from hullwatch.store.history import History, Run
from hullwatch.store.restore import address_data
from hullwatch.store.schema import SCHEMA
from hullwatch.store.state import connect
from hullwatch.store.tail import read_tail
from hullwatch.store.writer import Writer
from support.stores import Clock, settle, writer
from support.streams import SECOND, WORKLOADS, Stream, fields

FIELDS = fields()
Values = dict[tuple[int, int, int], dict[str, Any]]


def values_of(parts: Iterable[Enriched]) -> Values:
    """Every event to the value of every field: by time, process and class."""
    env = Env(HostAccounts.read())
    found: Values = {}
    for enriched in parts:
        env.wall_offset = enriched.batch.wall_offset
        for at, event in enumerate(enriched.batch.events):
            row = row_of(enriched, at, 1)
            key = int(event["ts"]), int(event["proc"]), int(event["cls"])
            assert key not in found
            found[key] = {name: source.read_row(row, env) for name, source in FIELDS.items()}
            found[key]["names"] = row.name
    return found


def live(stream: Stream, store: Writer, context: Context, count: int, events: int = 12) -> Values:
    """Through context and into the store, as `hullwatch up` does it; the values at that time."""
    found: Values = {}
    for batch in stream.batches(count, events):
        for enriched in context.enrich(batch):
            found |= values_of([enriched])
            store.write(enriched)
    return found


def begin(root: Path, seal_rows: int = 150) -> tuple[Writer, Context]:
    store = writer(root, Clock(), flush_rows=40, seal_rows=seal_rows)
    store.put_workloads(WORKLOADS)
    return store, Context(RecordedResolver(WORKLOADS), hold=False)


def replayed(run: Run) -> Values:
    return values_of(Replay(run, RuleSet()).enriched())


def pretend(root: Path, store: Writer, mono: int, wall: int) -> None:
    """This run of the agent began then."""
    store._state.link.execute(
        "UPDATE sessions SET started=?, mono=? WHERE session=?", (wall, mono, store.session)
    )


def same(then: Values, now: Values) -> None:
    assert then.keys() == now.keys()
    for key, before in then.items():
        wrong = {
            name: (value, now[key][name])
            for name, value in before.items()
            if now[key][name] != value
        }
        assert not wrong, f"{key}: {wrong}"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_every_field_of_every_event_is_what_it_was(seed: int) -> None:
    """Parquet, a sealed tail and an open one, together."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, context = begin(root)
        stream = Stream(seed)
        then = live(stream, store, context, 25)
        settle(root, store.session)
        then |= live(stream, store, context, 10)
        store.flush()
        history = History(root)
        (run,) = history.runs()
        try:
            same(then, replayed(run))
            assert run.partial == run.strangers == run.begin == 0
            assert run.events == len(then) and not run.gone
        finally:
            history.close()
            store.close()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_who_was_there_before_the_span_is_known(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store, context = begin(root)
        stream = Stream(seed)
        pretend(root, store, stream.clock - 20 * SECOND, stream.clock - 20 * SECOND + stream.offset)
        stream.offset += 0
        then = live(stream, store, context, 30)
        settle(root, store.session)
        cut = stream.clock + 1
        offset = stream.offset
        later = live(stream, store, context, 15)
        store.close()
        history = History(root, since=cut + offset)
        runs = history.runs()
        try:
            if not later:
                return
            now: Values = {}
            for run in runs:
                now |= replayed(run)
            # The wall clock may step: the span then begins where the steps say.
            wanted = {key: value for key, value in (then | later).items() if key[0] >= run.begin}
            same(wanted, now)
            assert run.strangers == 0
        finally:
            history.close()


def test_runs_and_boots_are_read_apart(tmp_path: Path) -> None:
    """Keys and cgroups of one boot mean nothing in another."""
    told: list[Values] = []
    for boot, seed in ((1, 7), (2, 7), (2, 8)):
        store, context = begin(tmp_path)
        store._window.boot = store.boot = boot
        told.append(live(Stream(seed), store, context, 10))
        store.close()
        store_boot(tmp_path, boot)
        settle(tmp_path)
    history = History(tmp_path)
    runs = history.runs()
    assert [run.about.boot for run in runs] == [1, 2, 2]
    for then, run in zip(told, runs, strict=True):
        same(then, replayed(run))
    history.close()


def store_boot(root: Path, boot: int) -> None:
    """The newest run was of this boot, which has the same containers."""
    link = connect(root / "state.db", write=True)
    newest = "session=(SELECT max(session) FROM sessions)"
    link.execute(f"UPDATE sessions SET boot=? WHERE {newest}", (boot,))
    (first,) = link.execute("SELECT min(boot) FROM workloads").fetchone()
    link.execute("CREATE TEMP TABLE copied AS SELECT * FROM workloads WHERE boot=?", (first,))
    link.execute("UPDATE copied SET boot=?", (boot,))
    link.execute("INSERT OR IGNORE INTO workloads SELECT * FROM copied")
    link.close()


def test_what_retention_took_is_said_and_the_rest_is_known_in_part(tmp_path: Path) -> None:
    store, context = begin(tmp_path, seal_rows=60)
    stream = Stream(3)
    live(stream, store, context, 30)
    store.close()
    settle(tmp_path)
    link = connect(tmp_path / "state.db", write=True)
    (oldest,) = link.execute("SELECT file FROM segments ORDER BY seq LIMIT 1").fetchone()
    link.execute("DELETE FROM segments WHERE file=?", (oldest,))
    link.close()
    (tmp_path / oldest).unlink()
    history = History(tmp_path)
    (run,) = history.runs()
    now = replayed(run)
    assert run.begin > 0 and run.strangers > 0
    # Of a stranger its rows still say the name, though not the terminal.
    strangers = {key for key in now if now[key]["proc.name"] and not now[key]["proc.tty"]}
    assert strangers
    history.close()


def test_a_segment_that_is_gone_or_broken_is_named(tmp_path: Path) -> None:
    store, context = begin(tmp_path, seal_rows=60)
    then = live(Stream(4), store, context, 60)
    store.close()
    settle(tmp_path)
    segments = sorted((tmp_path / "segments").iterdir())
    assert len(segments) > 3
    segments[1].unlink()
    segments[2].write_bytes(segments[2].read_bytes()[:-100])
    history = History(tmp_path)
    (run,) = history.runs()
    now = replayed(run)
    assert 0 < len(now) < len(then) and now.keys() < then.keys()
    assert len(run.gone) == 2
    assert any("file is missing" in text for text in run.gone)
    assert any("the manifest says" in text for text in run.gone)
    history.close()


def test_a_torn_tail_is_read_up_to_its_end(tmp_path: Path) -> None:
    store, context = begin(tmp_path, seal_rows=10_000)
    then = live(Stream(5), store, context, 20)
    store.flush()
    (tail,) = (tmp_path / "tail").iterdir()
    os.truncate(tail, tail.stat().st_size - 40)
    history = History(tmp_path)
    (run,) = history.runs()
    now = replayed(run)
    assert 0 < len(now) < len(then)
    same({key: then[key] for key in now}, now)
    history.close()
    store.close()


def test_rows_of_an_earlier_version_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """Parquet without the columns that came later, and a tail without them."""
    store, context = begin(tmp_path, seal_rows=10_000)
    stream = Stream(6)
    then = live(stream, store, context, 15)
    store.close()
    settle(tmp_path)
    (segment,) = (tmp_path / "segments").iterdir()
    old = [name for name in SCHEMA.names if name not in ("detail", "wall_offset")]
    pq.write_table(pq.read_table(segment).select(old), segment)
    link = connect(tmp_path / "state.db", write=True)
    link.execute("UPDATE segments SET bytes=?", (segment.stat().st_size,))
    link.close()
    history = History(tmp_path)
    (run,) = history.runs()
    now = replayed(run)
    assert now.keys() == then.keys() and run.partial > 0
    for name in (
        "proc.name",
        "proc.exepath",
        "fd.name",
        "evt.type",
        "container.name",
        "proc.pname",
    ):
        assert all(now[key][name] == then[key][name] for key in then), name
    # Times to the microsecond: that is all there was.
    name = "evt.rawtime"
    assert all(abs(now[key][name] - then[key][name]) < 400_000_000 for key in then)
    history.close()

    batch = pa.RecordBatch.from_pylist([], schema=pa.schema([SCHEMA.field(name) for name in old]))
    path = tmp_path / "old.arrows"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream_:
        stream_.write_batch(batch)
    batches, scan = read_tail(path)
    assert [one.schema for one in batches] == [SCHEMA] and not scan.error


def test_events_of_one_moment_come_as_the_sensor_gives_them() -> None:
    """Vital ring, bulk ring, process images, packets: see Sensor.drain."""
    kinds = (Class.DNS, Class.EXEC, Class.OPEN, Class.FORK)
    events = np.zeros(8, EVENT)
    events["cls"] = [*kinds, *kinds]
    events["ts"] = [5] * 4 + [4] * 4
    ordered = events[in_time(events)]
    assert ordered["ts"].tolist() == [4] * 4 + [5] * 4
    assert ordered["cls"].tolist() == [*reversed(kinds), *reversed(kinds)]


@pytest.mark.parametrize("text", [
    "1.2.3.4:80", "1.2.3.4", "[2001:db8::1]:443", "2001:db8::1", "/run/x.sock", "@abstract", "unix",
    "af16", "[::1]:22", "0.0.0.0",
])  # fmt: skip
def test_an_address_comes_back_from_its_text(text: str) -> None:
    assert str(decode_address(address_data(text, 0))) == text


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)))
def test_arguments_come_apart_as_they_were(words: list[str]) -> None:
    program = make_image(argv=tuple(words))
    known = decode(encode(program))
    assert known is not None
    line = "\0".join(words).rstrip("\0").replace("\0", " ")
    assert split(line, known.argv) == tuple(words)


def test_only_what_is_wanted_is_given_and_ancestors_are_known(tmp_path: Path) -> None:
    store, context = begin(tmp_path)
    then = live(Stream(9), store, context, 30)
    store.close()
    history = History(tmp_path, cgroups=frozenset({(store.boot, 77)}))
    (run,) = history.runs()
    now = replayed(run)
    inside = {key for key in then if then[key]["container.name"] == "agent"}
    assert inside and inside <= now.keys() and len(now) < len(then)
    same({key: then[key] for key in inside}, {key: now[key] for key in inside})
    history.close()
