"""History comes back as the sensor's batches: what a rule can read of an event is what it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.enrich import Context
from hullwatch.context.enriched import Enriched
from hullwatch.context.recorded import RecordedResolver
from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.row import Env, row_of
from hullwatch.detect.ruleset import RuleSet
from hullwatch.replay import Replay
from hullwatch.store.history import History, Run
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
