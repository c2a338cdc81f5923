"""One segment of history as Arrow columns, whatever it is by now: a tail, Parquet, or gone.

The agent may turn a tail into Parquet, and retention may remove it, at any moment. So a segment is
opened once and then read from what is held: an open file stays readable when its name is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hullwatch.store.catalog import Catalog
from hullwatch.store.errors import StoreError
from hullwatch.store.schema import BY_NAME, COLUMNS, SCHEMA
from hullwatch.store.segments import Segment, listing, sound
from hullwatch.store.tail import read_tail

__all__ = ["Gone", "Piece"]

_ATTEMPTS = 5
_TEXT = [column.name for column in COLUMNS if pa.types.is_dictionary(column.type)]


class Gone(Exception):
    """A segment that cannot be read any more; the text names it and says why."""


class Piece:
    """An open segment; a context manager. Raises Gone, or StoreError where it may not be read.

    torn: rows of a sealed tail that are not there.
    """

    def __init__(self, catalog: Catalog, segment: Segment) -> None:
        self.torn = 0
        self._file: pq.ParquetFile | None = None
        self._table = pa.table({})
        for _ in range(_ATTEMPTS):
            now = _now(catalog, segment)
            try:
                self._open(catalog, now)
                return
            except FileNotFoundError:
                continue  # sealed, compacted or removed this moment: ask the manifest again
            except PermissionError as error:
                path = now.path(catalog.root)
                raise StoreError(path, "permission denied", "run as root") from error
            except (OSError, pa.ArrowException) as error:
                raise Gone(_said(now, error)) from error
        raise Gone(f"{segment.file}: file is missing; its events are left out")

    def _open(self, catalog: Catalog, now: Segment) -> None:
        path = now.path(catalog.root)
        if now.kind == "tail":
            batches, scan = read_tail(path)
            self._table = pa.Table.from_batches(batches, schema=SCHEMA)
            if now.state == "sealed":
                self.torn = now.rows - scan.rows
            return
        if reason := sound(catalog.root, now):
            path.stat()  # FileNotFoundError
            raise Gone(f"{now.file}: {reason}; its {now.rows} events are left out")
        there = pq.read_schema(path).names
        text = [name for name in _TEXT if name in there]
        self._file = pq.ParquetFile(path, read_dictionary=text)
        self._segment = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, columns: Sequence[str], at: np.ndarray | None = None) -> pa.Table:
        """These columns, text as dictionaries; of all rows, or of those at these positions."""
        if self._file is None:
            table = self._table.select(list(columns))
            return (table if at is None else table.take(pa.array(at))).unify_dictionaries()
        there = set(self._file.schema_arrow.names)
        known = [name for name in columns if name in there]
        try:
            table = self._file.read(known) if at is None else self._rows(known, at)
        except (OSError, pa.ArrowException) as error:
            raise Gone(_said(self._segment, error)) from error
        for name in columns:
            if name not in there:  # written by an earlier version
                table = table.append_column(name, pa.nulls(len(table), BY_NAME[name].type))
        return table.unify_dictionaries()

    def _rows(self, columns: list[str], at: np.ndarray) -> pa.Table:
        """Reads only the row groups that hold one of these positions."""
        assert self._file is not None
        whole = self._file.metadata
        sizes = np.array([whole.row_group(n).num_rows for n in range(whole.num_row_groups)])
        ends = np.cumsum(sizes)
        of = np.searchsorted(ends, at, "right")
        wanted = np.unique(of)
        begins = np.zeros(len(sizes), np.int64)
        begins[wanted] = np.cumsum(sizes[wanted]) - sizes[wanted]
        table = self._file.read_row_groups(wanted.tolist(), columns)
        return table.take(pa.array(at - (ends - sizes)[of] + begins[of]))


def _now(catalog: Catalog, segment: Segment) -> Segment:
    found = [one for one in listing(catalog.link) if one.seq == segment.seq]
    if not found:
        raise Gone(f"{segment.file}: removed meanwhile; its events are left out")
    return found[0]


def _said(segment: Segment, error: Exception) -> str:
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{segment.file}: {what}; its events are left out"
