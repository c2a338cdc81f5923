"""The one table of stored event columns.

Segments (Parquet), tails (Arrow IPC), the `events` view and the exporters all read this table.
Adding a column: a row here and its line in `window.Window.take`; older segments show NULL for it.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.labels import names_of
from hullwatch.sensor.syscalls import SYSCALLS
from hullwatch.sensor.wire import Class, Mark, ProcMark, StrKind

__all__ = [
    "BY_NAME",
    "CLASS_NAMES",
    "COLUMNS",
    "GRADES",
    "KIND_NAMES",
    "LABEL_NAMES",
    "MARK_NAMES",
    "OP_NAMES",
    "PROC_MARK_NAMES",
    "SCHEMA",
    "SORT_KEYS",
    "TEXT",
    "Column",
]

TEXT = pa.dictionary(pa.int32(), pa.string())
TIME = pa.timestamp("us", "UTC")


class Column(NamedTuple):
    """name, Arrow type, what it holds."""

    name: str
    type: pa.DataType
    doc: str


COLUMNS: tuple[Column, ...] = (
    # µs, not ns: it compares with DuckDB's now() and its bounds reach Parquet statistics.
    # The exact ns are in mono.
    Column("time", TIME, "wall clock, UTC, µs; mono + the wall offset when it was drained"),
    Column("mono", pa.int64(), "CLOCK_BOOTTIME ns; orders the events of one boot exactly"),
    Column("wall_offset", pa.int64(), "mono + this = unix ns, as rules and findings had it"),
    Column("boot", pa.int32(), "which boot of the machine: mono, proc and cgroup belong to it"),
    Column("class", TEXT, "event class, see sensor/events.py"),
    Column("op", TEXT, "system call, NULL where it was none"),
    Column("grade", TEXT, "vital or bulk"),
    Column("cgroup", pa.uint64(), "cgroup v2 id"),
    Column("container_id", TEXT, "full id as known when the event was stored; '' on the host"),
    Column("pid", pa.uint32(), "process id in the host's namespace"),
    Column("tid", pa.uint32(), "thread id in the host's namespace"),
    Column("proc", pa.uint64(), "process key: unique within a boot, pid reuse or not"),
    Column("parent", pa.uint64(), "process key of the parent, NULL where unknown"),
    Column("ppid", pa.uint32(), "pid of the parent, NULL where unknown"),
    Column("name", TEXT, "comm of the process image"),
    Column("exe", TEXT, "the kernel's path of the running program"),
    Column("cmdline", TEXT, "comm and arguments; whole on exec and task rows, else cut with '…'"),
    Column("cwd", TEXT, "working directory, exec and task rows only"),
    Column("env_names", TEXT, "names of environment variables, exec and task rows only"),
    Column("script", TEXT, "script the interpreter runs, NULL if none"),
    Column("detail", TEXT, "exec and task rows only, JSON: all else of the image, see detail.py"),
    Column("uid", pa.uint32(), "real user id"),
    Column("euid", pa.uint32(), "effective user id"),
    Column("object", TEXT, "first object: a path, an address, a name"),
    Column("object2", TEXT, "second object, by class"),
    Column("object_kind", TEXT, "what object is: path, raw, joined, addr, text, dns, sni, ..."),
    Column("dest_name", TEXT, "domain name that this container resolved to the destination"),
    Column("ret", pa.int32(), "result of the call, negative errno"),
    Column("flags", pa.uint32(), "by class"),
    Column("num", pa.uint64(), "by class"),
    Column("num2", pa.uint64(), "by class"),
    Column("port", pa.uint16(), "port of the client side"),
    Column("labels", pa.uint32(), "label bits of the process; label_names spells them out"),
    Column("marks", pa.uint16(), "enum hw_mark bits; mark_names() spells them out"),
    Column("proc_marks", pa.uint32(), "enum hw_proc_mark bits of the process image"),
    Column("span", pa.uint64(), "tool call, NULL = none"),
    Column("tier", TEXT, "sensor tier that saw it"),
)

BY_NAME = {column.name: column for column in COLUMNS}
SCHEMA = pa.schema([pa.field(column.name, column.type) for column in COLUMNS])
SORT_KEYS = ("container_id", "class", "mono")

# Static dictionaries: the code in the event is the index. An index without a name keeps its number.
CLASS_NAMES: tuple[str, ...] = tuple(
    CLASSES[number].name if number in CLASSES else f"class_{number}"
    for number in range(int(Class.CLASS_MAX))
)
OP_NAMES: tuple[str, ...] = tuple(row.name or f"op_{number}" for number, row in enumerate(SYSCALLS))
KIND_NAMES: tuple[str, ...] = tuple(
    {int(kind): str(kind.name).lower() for kind in StrKind}.get(number, f"kind_{number}")
    for number in range(32)
)
GRADES: tuple[str, ...] = ("vital", "bulk")
PROC_MARK_NAMES: tuple[str, ...] = tuple(
    str(mark.name).lower() for mark in sorted(ProcMark, key=int)
)
MARK_NAMES: tuple[str, ...] = tuple(
    str(mark.name).lower() for mark in sorted(Mark, key=int) if int(mark) < 1 << 16
)
LABEL_NAMES: tuple[str, ...] = tuple(name for bit in range(32) for name in names_of(1 << bit))
