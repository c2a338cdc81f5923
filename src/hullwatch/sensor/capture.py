"""Captures: the sensor's batches in a file, to be replayed through the same stages.

A capture is one Arrow IPC stream (zstd). Each record batch is one drain of the sensor, or a few in
a row, as a single row with list<struct> columns: `events` and `procs` (fields as in kernel/wire.h),
`strings`, `losses`, `workloads` (what the container runtime said by then), and scalars. Any Arrow
reader opens it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from hullwatch.sensor.batch import Batch, Loss, String, merge
from hullwatch.sensor.tier import Facts
from hullwatch.sensor.wire import EVENT, PROC

__all__ = ["CaptureError", "CaptureReader", "CaptureWriter", "workloads_of"]

_FORMAT = "1"
# Drains are small when little happens; what a reader pays is by the batch.
_GATHER_EVENTS = 16384
_GATHER_NS = 500_000_000
# What reading damaged bytes raises; a wrong length may ask for more memory than there is.
_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class CaptureError(Exception):
    """A file that is no capture, or one this version cannot read; names the file and the mend."""


def _type_of(dtype: np.dtype[Any]) -> pa.DataType:
    return pa.binary(dtype.itemsize) if dtype.kind == "S" else pa.from_numpy_dtype(dtype)


def _struct_of(dtype: np.dtype[Any]) -> pa.StructType:
    assert dtype.fields is not None
    return pa.struct([(name, _type_of(dtype.fields[name][0])) for name in dtype.names or ()])


_STRINGS = pa.struct(
    [
        ("id", pa.uint32()),
        ("kind", pa.uint16()),
        ("marks", pa.uint16()),
        ("orig_len", pa.uint32()),
        ("data", pa.binary()),
    ]
)
_LOSSES = pa.struct(
    [("stage", pa.string()), ("cls", pa.uint32()), ("cgroup", pa.uint64()), ("count", pa.uint64())]
)
_SCHEMA = pa.schema(
    [
        ("drained", pa.int64()),
        ("wall_offset", pa.int64()),
        ("dict_base", pa.uint32()),
        ("tier", pa.string()),
        ("events", pa.list_(_struct_of(EVENT))),
        ("procs", pa.list_(_struct_of(PROC))),
        ("strings", pa.list_(_STRINGS)),
        ("losses", pa.list_(_LOSSES)),
        ("workloads", pa.list_(pa.binary())),
    ]
)


def _one_list(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _from_numpy(rows: np.ndarray) -> pa.ListArray:
    arrays = []
    for name in rows.dtype.names or ():
        column = np.ascontiguousarray(rows[name])
        kind = _type_of(column.dtype)
        if column.dtype.kind == "S":
            arrays.append(
                pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, pa.py_buffer(column)])
            )
        else:
            arrays.append(pa.array(column, kind))
    return _one_list(pa.StructArray.from_arrays(arrays, list(rows.dtype.names or ())))


def _to_numpy(values: pa.StructArray, dtype: np.dtype[Any]) -> np.ndarray:
    rows = np.zeros(len(values), dtype)
    assert dtype.fields is not None
    for name in dtype.names or ():
        field = values.field(name)
        kind = dtype.fields[name][0]
        if kind.kind == "S":
            data = field.buffers()[1]
            at = field.offset * kind.itemsize
            rows[name] = np.frombuffer(data, kind, len(field), at) if data is not None else b""
        else:
            rows[name] = field.to_numpy()
    return rows


class CaptureWriter:
    """Writes a new file (mode 0600: it holds command lines). OSError if the disk refuses."""

    def __init__(self, path: Path | str, facts: Facts) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)  # it may have been there before
        self._file = os.fdopen(fd, "wb")
        metadata = {
            "hullwatch.capture": _FORMAT,
            "host": os.uname().nodename,
            "kernel": facts.release,
            "machine": facts.machine,
            "tier": facts.tier.value,
            "boot_id": _BOOT_ID.read_text().strip(),
            "started": str(time.time_ns()),
        }
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        schema = _SCHEMA.with_metadata(metadata)
        self._writer = pa.ipc.new_stream(self._file, schema, options=options)
        self.events = 0
        self._waiting: list[Batch] = []
        self._said: list[bytes] = []

    def write(self, batch: Batch, workloads: Sequence[msgspec.Struct] = ()) -> None:
        """One drain, and what became known of containers with it (context.workload.Workload)."""
        self._said += [msgspec.json.encode(value) for value in workloads]
        if len(batch.events) or batch.strings or batch.losses or self._said:
            self._waiting.append(batch)
            self.events += len(batch.events)
        if not self._waiting:
            return
        waiting = sum(len(held.events) for held in self._waiting)
        if waiting >= _GATHER_EVENTS or batch.drained - self._waiting[0].drained >= _GATHER_NS:
            self.flush()

    def flush(self) -> None:
        """Write what waits: at most half a second's events."""
        if not self._waiting:
            return
        batch = merge(self._waiting)
        strings = pa.array([entry._asdict() for entry in batch.strings], _STRINGS)
        losses = pa.array([loss._asdict() for loss in batch.losses], _LOSSES)
        row = [
            pa.array([batch.drained], pa.int64()),
            pa.array([batch.wall_offset], pa.int64()),
            pa.array([batch.dict_base], pa.uint32()),
            pa.array([batch.tier]),
            _from_numpy(batch.events),
            _from_numpy(batch.procs),
            _one_list(strings),
            _one_list(losses),
            _one_list(pa.array(self._said, pa.binary())),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(row, schema=_SCHEMA))
        self._file.flush()
        self._waiting.clear()
        self._said.clear()

    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """May be called again."""
        if self._file.closed:
            return
        self.flush()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class CaptureReader:
    """Reads batches in order. `about` is what the capture says of itself; `torn` is set when the
    file ends in the middle of a batch, as after a crash, or is damaged: all before that is read."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        try:
            self._file = pa.OSFile(str(path), "rb")
        except FileNotFoundError:
            raise CaptureError(f"{path}: no such file") from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise CaptureError(f"{path}: {why}") from None
        try:
            # A batch is decoded sooner than threads are woken for it.
            alone = pa.ipc.IpcReadOptions(use_threads=False)
            self._stream = pa.ipc.open_stream(self._file, options=alone)
        except _DAMAGE:
            raise CaptureError(
                f"{path}: not a capture; make one with `hullwatch record FILE`"
            ) from None
        metadata = self._stream.schema.metadata or {}
        self.about = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in metadata.items()
        }
        version = self.about.get("hullwatch.capture")
        if version != _FORMAT:
            raise CaptureError(
                f"{path}: capture format {version or 'unknown'}, this version reads {_FORMAT};"
                " use the hullwatch that wrote it"
            )
        if not self._stream.schema.equals(_SCHEMA):
            raise CaptureError(
                f"{path}: its columns are not those of format {_FORMAT}; record it again"
            )
        self.torn = ""

    def __iter__(self) -> Iterator[tuple[Batch, list[bytes]]]:
        """(batch, new workload values as JSON), the file's order."""
        while True:
            try:
                row = self._stream.read_next_batch()
                row.validate(full=True)
                read = _batch_of(row), _list(row, "workloads").to_pylist()
            except StopIteration:
                return
            except _DAMAGE as error:
                self.torn = str(error) or type(error).__name__
                return
            yield read

    def close(self) -> None:
        self._file.close()


def workloads_of(path: Path | str) -> list[bytes]:
    """All that a capture knows of containers, as JSON values in its order; reads nothing else."""
    only = pa.ipc.IpcReadOptions(included_fields=[_SCHEMA.get_field_index("workloads")])
    found: list[bytes] = []
    with pa.OSFile(str(path), "rb") as file:
        stream = pa.ipc.open_stream(file, options=only)
        try:
            for row in stream:
                row.validate(full=True)
                found += row.column("workloads").flatten().to_pylist()
        except _DAMAGE:
            pass  # a torn end; CaptureReader says so
    return found


def _list(row: pa.RecordBatch, name: str) -> pa.Array:
    """The one list in a column. Not by `flatten`, whose first use imports pyarrow.compute."""
    values = row.column(name)[0].values
    if values is None:
        raise ValueError(f"no {name}")
    return values


def _columns(values: pa.StructArray) -> Iterator[tuple[Any, ...]]:
    return zip(*(values.field(at).to_pylist() for at in range(values.type.num_fields)), strict=True)


def _batch_of(row: pa.RecordBatch) -> Batch:
    return Batch(
        events=_to_numpy(_list(row, "events"), EVENT),
        procs=_to_numpy(_list(row, "procs"), PROC),
        strings=tuple(map(String._make, _columns(_list(row, "strings")))),
        losses=tuple(map(Loss._make, _columns(_list(row, "losses")))),
        dict_base=row.column("dict_base")[0].as_py(),
        wall_offset=row.column("wall_offset")[0].as_py(),
        drained=row.column("drained")[0].as_py(),
        tier=row.column("tier")[0].as_py(),
    )
