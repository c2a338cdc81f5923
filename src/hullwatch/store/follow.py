"""Events as they are stored: reads the open tail while it grows, and moves on to the next.

Needs no running agent to ask, costs the agent nothing, and misses nothing: a follower that is
slow reads later what was written meanwhile (as long as retention keeps it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from hullwatch.store.catalog import Catalog
from hullwatch.store.segments import listing

__all__ = ["follow_events"]


class _Growing:
    """A file that waits for more at its end until `ended` says that there will be none.

    The agent writes whole messages at once, so a wait within one is short.
    """

    closed = False

    def __init__(self, file: BinaryIO, ended: Callable[[], bool], poll: float) -> None:
        self._file, self._ended, self._poll = file, ended, poll

    def read(self, count: int = -1) -> bytes:
        data = b""
        while len(data) < count:
            more = self._file.read(count - len(data))
            data += more
            if not more:
                if self._ended():
                    # Once more: it may have been written to between the read and its end.
                    return data + (self._file.read(count - len(data)) or b"")
                time.sleep(self._poll)
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None: ...


def follow_events(
    root: Path | str, poll: float = 0.2, stop: Callable[[], bool] = lambda: False
) -> Iterator[pa.RecordBatch | None]:
    """Batches stored from now on; None when the follower is in place. StoreError, StoreMissing."""
    root = Path(root)
    with Catalog(root) as catalog:
        known = listing(catalog.link)
        open_now = [segment for segment in known if segment.state == "open"]
        last = (open_now[-1].seq if open_now else max((s.seq for s in known), default=0)) - 1
        skip_bytes = open_now[-1].path(root).stat().st_size if open_now else 0
        if not open_now:
            last += 1
        yield None
        while not stop():
            following = [segment for segment in listing(catalog.link) if segment.seq > last]
            if not following:
                time.sleep(poll)
                continue
            segment = following[0]
            last = segment.seq
            if segment.kind != "tail":  # already Parquet: we were slow, or have just begun
                import pyarrow.parquet as pq

                yield from pq.ParquetFile(segment.path(root)).iter_batches()
                continue
            seq = segment.seq

            def ended(seq: int = seq) -> bool:
                row = catalog.rows("SELECT state FROM segments WHERE seq=?", seq)
                return stop() or not row or row[0][0] != "open"

            try:
                file = open(segment.path(root), "rb", buffering=0)  # noqa: SIM115
            except FileNotFoundError:
                last -= 1
                continue
            with file:
                yield from _tail(file, ended, poll, skip_bytes)
            skip_bytes = 0


def _tail(
    file: BinaryIO, ended: Callable[[], bool], poll: float, skip: int
) -> Iterator[pa.RecordBatch]:
    """Batches of one tail that end after byte `skip`."""
    try:
        stream = pa.ipc.open_stream(pa.PythonFile(_Growing(file, ended, poll), "r"))
        while True:
            batch = stream.read_next_batch()
            if file.tell() > skip:
                yield batch
    except (StopIteration, OSError, pa.ArrowInvalid):
        return  # its end, or a torn one: recovery counts what was lost there
