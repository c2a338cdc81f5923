"""Pieces of history and the manifest that says which of them count.

A segment is one row of the SQLite table `segments`: first a tail being written (open), then a
closed tail (sealed), then Parquet (live). Files without a row do not exist for any reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

__all__ = ["Bounds", "Segment", "bounds", "checksum", "listing", "quarantine", "sound", "wanted"]

CGROUPS_KEPT = 512
"""Distinct cgroups listed for one segment; above that the segment may hold any."""


class Segment(NamedTuple):
    """One row of the manifest. Times in ns; cgroups None = any."""

    seq: int
    kind: str
    state: str
    file: str
    boot: int
    rows: int
    bytes: int
    crc: int | None
    min_time: int | None
    max_time: int | None
    min_mono: int | None
    max_mono: int | None
    cgroups: frozenset[int] | None
    lived: int
    reason: str

    def path(self, root: Path) -> Path:
        return root / self.file


_FIELDS = (
    "seq, kind, state, file, boot, rows, bytes, crc, min_time, max_time, min_mono, max_mono,"
    " cgroups, lived, reason"
)


def listing(
    link: sqlite3.Connection, states: Sequence[str] = ("open", "sealed", "live")
) -> list[Segment]:
    """Segments in the order they were written."""
    marks = ",".join("?" * len(states))
    rows = link.execute(
        f"SELECT {_FIELDS} FROM segments WHERE state IN ({marks}) ORDER BY seq", tuple(states)
    )
    return [
        Segment._make(
            (*row[:12], frozenset(json.loads(row[12])) if row[12] else None, row[13] or 0, row[14])
        )
        for row in rows
    ]


def wanted(
    segments: Sequence[Segment],
    since: int | None = None,
    until: int | None = None,
    cgroups: frozenset[int] | None = None,
) -> list[Segment]:
    """Those which can hold rows of [since, until] (unix ns) and of the cgroups."""
    return [
        segment
        for segment in segments
        if not (since is not None and segment.max_time is not None and segment.max_time < since)
        and not (until is not None and segment.min_time is not None and segment.min_time > until)
        and not (
            cgroups is not None and segment.cgroups is not None and not cgroups & segment.cgroups
        )
    ]


class Bounds(NamedTuple):
    """What the manifest keeps of a segment's rows."""

    rows: int
    min_time: int | None
    max_time: int | None
    min_mono: int | None
    max_mono: int | None
    cgroups: str | None

    def merged(self, other: Bounds) -> Bounds:
        def pick(choose: Any, a: int | None, b: int | None) -> int | None:
            return choose(a, b) if a is not None and b is not None else (b if a is None else a)

        return Bounds(
            self.rows + other.rows,
            pick(min, self.min_time, other.min_time),
            pick(max, self.max_time, other.max_time),
            pick(min, self.min_mono, other.min_mono),
            pick(max, self.max_mono, other.max_mono),
            _cgroups(set(_listed(self.cgroups)) | set(_listed(other.cgroups)))
            if self.cgroups is not None and other.cgroups is not None
            else None,
        )


NOTHING = Bounds(0, None, None, None, None, "[]")


def _listed(cgroups: str | None) -> list[int]:
    return json.loads(cgroups) if cgroups else []


def _cgroups(found: set[int]) -> str | None:
    return json.dumps(sorted(found)) if len(found) <= CGROUPS_KEPT else None


def bounds(batch: pa.RecordBatch) -> Bounds:
    if not batch.num_rows:
        return NOTHING
    time = batch.column("time").view(pa.int64()).to_numpy()
    mono = batch.column("mono").to_numpy()
    cgroups = np.unique(batch.column("cgroup").to_numpy()).tolist()
    return Bounds(
        batch.num_rows,
        # Whole µs are stored, so the last ns of the µs still belongs.
        int(time.min()) * 1000,
        int(time.max()) * 1000 + 999,
        int(mono.min()),
        int(mono.max()),
        _cgroups(set(cgroups)),
    )


def checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def sound(root: Path, segment: Segment, deep: bool = False) -> str:
    """'' or what is wrong with a Parquet segment's file: cheap signs, or the whole checksum."""
    path = segment.path(root)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != segment.bytes:
                return f"{size} bytes, the manifest says {segment.bytes}"
            head = file.read(4)
            file.seek(-4, os.SEEK_END)
            if head != b"PAR1" or file.read(4) != b"PAR1":
                return "not a Parquet file"
    except FileNotFoundError:
        return "file is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if deep and segment.crc is not None and checksum(path) != segment.crc:
        return "checksum does not match"
    return ""


def quarantine(link: sqlite3.Connection, root: Path, segment: Segment, reason: str) -> None:
    """Take a bad segment out of the manifest and its file out of the way."""
    target = root / "quarantine" / Path(segment.file).name
    with contextlib.suppress(OSError):
        target.parent.mkdir(exist_ok=True)
        segment.path(root).replace(target)
    link.execute(
        "UPDATE segments SET state='quarantined', file=?, reason=? WHERE seq=?",
        (f"quarantine/{target.name}", reason, segment.seq),
    )
    link.execute(
        "INSERT INTO notices (time, mono, kind, text) VALUES"
        " (CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000000, NULL, 'corrupt', ?)",
        (f"{segment.file}: {reason}; {segment.rows} events set aside in quarantine/",),
    )


def order(table: pa.Table) -> np.ndarray[Any, Any]:
    """Row order by container, class, time within the boot. Dictionary columns must be unified."""
    keys = [table.column("mono").combine_chunks().to_numpy()]
    for name in ("class", "container_id"):
        column = table.column(name).combine_chunks()
        values = column.dictionary.to_pylist()
        ranked = sorted(range(len(values)), key=lambda at: values[at] or "")
        rank = np.empty(len(values) + 1, np.int32)
        rank[ranked] = np.arange(len(values), dtype=np.int32)
        rank[-1] = -1
        keys.append(rank[column.indices.fill_null(-1).to_numpy()])
    return np.lexsort(keys)
