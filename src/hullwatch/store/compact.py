"""`python -m hullwatch.store.compact DIR`: everything about the store that needs memory or time.

A short-lived process of its own, niced, so that the agent's memory stays small: tails become
Parquet segments, what a killed agent left is recovered, old history goes, one segment is checked.
Safe to kill at any moment: the manifest changes last, and in one statement.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullwatch.store.errors import StoreError
from hullwatch.store.retention import Limits, retain
from hullwatch.store.schema import SCHEMA
from hullwatch.store.segments import NOTHING, Segment, bounds, checksum, listing, order, sound
from hullwatch.store.segments import quarantine as set_aside
from hullwatch.store.state import LossRow, State
from hullwatch.store.tail import TailScan, read_tail

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["compact", "main"]

ROW_GROUP = 65_536
GROUP_TEXT = 32 << 20  # bytes: whoever opens many long paths makes row groups short, not large
_DELTAS = {"time": "DELTA_BINARY_PACKED", "mono": "DELTA_BINARY_PACKED"}
_BYTES_PER_ROW = 40  # of a tail; only to guess how many events a torn end held


def _is_text(field: pa.Field) -> bool:
    return bool(pa.types.is_dictionary(field.type))


_PLAIN = pa.schema([field.with_type(pa.string()) if _is_text(field) else field for field in SCHEMA])


def compact(root: Path, limits: Limits, session: int | None = None) -> int:
    """Bring the store at `root` in order; returns the number of segments made.

    session: the run whose open tail is being written and must be left alone.
    """
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(open(root / "compact.lock", "w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        state = State(root / "state.db")
        stack.callback(state.close)
        _recover(state, root, session)
        made = 0
        for segment in listing(state.link, ("sealed",)):
            made += _to_parquet(state, root, segment)
        retain(state, root, limits)
        _check_one(state, root)
        _sweep(state, root)
    return made


def _recover(state: State, root: Path, session: int | None) -> None:
    """Close the tails that a killed agent left open, up to their last whole message."""
    rows = state.link.execute(
        "SELECT seq, session, boot FROM segments WHERE state='open'"
    ).fetchall()
    open_ = {segment.seq: segment for segment in listing(state.link, ("open",))}
    for seq, owner, boot in rows:
        if owner == session:
            continue
        segment = open_[seq]
        path = segment.path(root)
        try:
            batches, scan = read_tail(path)
        except FileNotFoundError:
            batches, scan = [], TailScan(0, 0, 0, "file is missing")
        found = NOTHING
        for batch in batches:
            found = found.merged(bounds(batch))
        with state.transaction() as link:
            link.execute(
                "UPDATE segments SET state=?, rows=?, bytes=?, min_time=?, max_time=?,"
                " min_mono=?, max_mono=?, cgroups=? WHERE seq=?",
                ("sealed", scan.rows, scan.good, *found[1:], seq),
            )
            if scan.torn or scan.error:
                state.boot = boot
                guess = max(1, scan.torn * scan.rows // scan.good if scan.rows else 1)
                state.add_losses([LossRow("store.torn", "unknown", 0, guess)])
                state.notice(
                    "torn",
                    f"{segment.file}: {scan.rows} events recovered; the last write was cut short:"
                    f" {scan.torn} bytes after them could not be read (about {guess} events)",
                )


def _row_groups(table: pa.Table, position: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """`position` in pieces of at most ROW_GROUP rows and about GROUP_TEXT bytes of text."""
    length = np.zeros(len(table), np.int64)
    for field in SCHEMA:
        if not _is_text(field):
            continue
        for chunk in table.column(field.name).chunks:  # one, as the chunks were combined
            if len(chunk.dictionary):
                each = pc.fill_null(pc.binary_length(chunk.dictionary), 0)
                length += pc.fill_null(each.take(chunk.indices), 0).to_numpy(zero_copy_only=False)
    text = np.cumsum(length[position])
    start, before = 0, 0
    while start < len(position):
        end = int(np.searchsorted(text, before + GROUP_TEXT, "right"))
        end = min(max(end, start + 1), start + ROW_GROUP)
        yield position[start:end]
        start, before = end, int(text[end - 1])


def _to_parquet(state: State, root: Path, segment: Segment) -> int:
    import pyarrow.parquet as pq

    source = segment.path(root)
    try:
        batches, scan = read_tail(source)
    except FileNotFoundError:
        with state.transaction() as link:
            set_aside(link, root, segment, "file is missing")
        return 0
    if missing := segment.rows - scan.rows:
        with state.transaction():
            state.boot = segment.boot
            state.add_losses([LossRow("store.torn", "unknown", 0, missing)])
            state.notice("torn", f"{segment.file}: {missing} of {segment.rows} events unreadable")
    if not batches:
        with state.transaction() as link:
            link.execute("DELETE FROM segments WHERE seq=?", (segment.seq,))
        source.unlink(missing_ok=True)
        return 0
    table = pa.Table.from_batches(batches, schema=SCHEMA).unify_dictionaries().combine_chunks()
    del batches
    position = order(table)
    name = f"segments/{segment.seq:010d}.parquet"
    target, draft = root / name, root / (name + ".tmp")
    target.parent.mkdir(exist_ok=True)
    strings = [field.name for field in SCHEMA if _is_text(field)]
    numbers = ["boot", "wall_offset", "cgroup", "pid", "tid", "proc", "parent", "ppid"]
    numbers += ["uid", "euid", "flags"]
    try:
        with pq.ParquetWriter(
            draft,
            _PLAIN,
            compression="zstd",
            compression_level=3,
            use_dictionary=[*strings, *numbers],
            column_encoding=_DELTAS,
            dictionary_pagesize_limit=4 << 20,
            write_page_checksum=True,
        ) as writer:
            for chosen in _row_groups(table, position):
                # As plain text: of a dictionary Parquet would write the whole into each row group.
                writer.write_table(table.take(pa.array(chosen)).cast(_PLAIN))
        _fsync(draft)
        crc, size = checksum(draft), draft.stat().st_size
        draft.replace(target)
        _fsync(target.parent)
    except OSError:
        draft.unlink(missing_ok=True)  # no room: the tail stays and is as readable
        raise
    with state.transaction() as link:
        link.execute(
            "UPDATE segments SET kind='parquet', state='live', file=?, bytes=?, crc=?, rows=?"
            " WHERE seq=?",
            (name, size, crc, table.num_rows, segment.seq),
        )
    source.unlink(missing_ok=True)
    return 1


def _check_one(state: State, root: Path) -> None:
    """Read one segment's checksum a run, in turn: rot is found before it is needed."""
    row = state.link.execute("SELECT value FROM meta WHERE key='checked'").fetchone()
    last = int(row[0]) if row else 0
    live = listing(state.link, ("live",))
    if not live:
        return
    segment = next((one for one in live if one.seq > last), live[0])
    reason = sound(root, segment, deep=True)
    with state.transaction() as link:
        link.execute("INSERT OR REPLACE INTO meta VALUES ('checked', ?)", (str(segment.seq),))
        if reason:
            set_aside(link, root, segment, reason)


def _sweep(state: State, root: Path) -> None:
    """Remove files that no row of the manifest names: left by a compaction that was killed."""
    known = {name for (name,) in state.link.execute("SELECT file FROM segments")}
    newest = max((int(Path(name).stem) for name in known), default=0)
    for folder in ("tail", "segments"):
        for path in (root / folder).glob("*"):
            number = path.name.split(".")[0]
            # A tail newer than the manifest is being made by the agent right now.
            if f"{folder}/{path.name}" not in known and number.isdigit() and int(number) < newest:
                path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hullwatch.store.compact", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--session", type=int)
    parser.add_argument("--max-bytes", type=int, default=Limits().max_bytes)
    parser.add_argument("--max-age", type=int, default=Limits().max_age, help="seconds")
    parser.add_argument("--findings-age", type=int, default=Limits().findings_age, help="seconds")
    args = parser.parse_args(argv)
    with contextlib.suppress(OSError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        compact(args.store, Limits(args.max_bytes, args.max_age, args.findings_age), args.session)
    except (OSError, sqlite3.Error, StoreError) as error:
        print(f"{args.store}: compaction stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
