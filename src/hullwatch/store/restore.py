"""Stored rows to what the sensor once handed on: EVENT and PROC arrays, and interned strings.

Arrow's dictionary columns are taken as they are: Python work is done once per distinct string and
once per process image, never per event. What the store does not keep is what no stage reads: the
tid and ppid of PROC, and raw bytes that are no UTF-8: they come back as the text made of them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullwatch.sensor.batch import String
from hullwatch.sensor.events import classes_mask
from hullwatch.sensor.wire import EVENT, PROC, Class, StrKind
from hullwatch.store import detail
from hullwatch.store.schema import CLASS_NAMES, KIND_NAMES, OP_NAMES

__all__ = ["ADDR", "BIRTH", "EVENT_COLUMNS", "IMAGE_COLUMNS", "Interned", "Procs"]
__all__ += ["address_data", "class_numbers", "events_of", "numbers", "offsets_of", "procs_of"]
__all__ += ["task_events"]

Ints = np.ndarray[Any, Any]
EVENT_COLUMNS = (
    "time", "mono", "wall_offset", "class", "op", "cgroup", "tid", "proc", "object", "object2",
    "object_kind", "ret", "flags", "num", "num2", "port", "labels", "marks", "span",
)  # fmt: skip
# Read for the few rows that an image is made of.
IMAGE_COLUMNS = (
    "mono", "class", "cgroup", "tid", "proc", "parent", "name", "exe", "cmdline", "cwd",
    "env_names", "script", "detail", "uid", "euid", "object2", "num", "num2", "labels",
    "proc_marks",
)  # fmt: skip
BIRTH = classes_mask((Class.EXEC, Class.TASK))
_NUMBER_OF = {name: number for number, name in enumerate(CLASS_NAMES)}
_OP_OF = {name: number for number, name in enumerate(OP_NAMES)}
_KIND_OF = {name: number for number, name in enumerate(KIND_NAMES)}
_SAME = ("cgroup", "tid", "proc", "ret", "flags", "num", "num2", "port", "labels", "marks", "span")
ADDR = int(StrKind.ADDR)
# What the second object of a class is; elsewhere a path or a text, which rules read alike.
_SECOND = np.full(int(Class.CLASS_MAX), int(StrKind.RAW), np.uint8)
_SECOND[
    [Class.CONNECT, Class.SEND, Class.FLOW, Class.BIND, Class.LISTEN, Class.ACCEPT, Class.DUP]
] = ADDR
_SECOND[Class.TLS] = ADDR
_SECOND[[Class.EXEC, Class.TASK]] = int(StrKind.ARGV)
_SECOND[Class.DNS] = int(StrKind.TEXT)
_PID_MASK = (1 << 22) - 1
_COMM = 15
_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")
_FAMILY = re.compile(r"af(\d+)")
_NAMESPACES = tuple(name for name in PROC.names or () if name.startswith("ns_"))


def numbers(column: pa.Array | pa.ChunkedArray) -> Ints:
    """A column of numbers, NULL as 0."""
    if column.null_count:
        column = pc.fill_null(column, 0)
    found: Ints = column.to_numpy()
    return found


def _codes(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """(int32 codes, -1 for NULL; the texts) of a text column; each text once."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array)
    return pc.fill_null(array.indices, -1).to_numpy(), array.dictionary


def _mapped(column: pa.ChunkedArray, known: dict[str, int]) -> Ints:
    """Numbers by name; NULL and names that this version does not know are 0."""
    codes, texts = _codes(column)
    table = np.array([*(known.get(text, 0) for text in texts.to_pylist()), 0], np.uint16)
    return table[codes]


def class_numbers(table: pa.Table) -> Ints:
    return _mapped(table.column("class"), _NUMBER_OF)


def address_data(text: str, family: int) -> bytes:
    """struct hw_addr whose text this is; family: of the socket, 0 where it is not known."""
    if found := _FAMILY.fullmatch(text):
        return struct.pack("<HH", int(found[1]) & 0xFFFF, 0)
    if family != socket.AF_UNIX and (data := _internet(text)) is not None:
        return data
    path = b"" if text == "unix" else text.encode("utf-8", "surrogatepass")
    if path[:1] == b"@":
        path = b"\0" + path[1:]
    return struct.pack("<HH", socket.AF_UNIX, 0) + path


def _internet(text: str) -> bytes | None:
    host, port = text, "0"
    if text.startswith("["):
        host, _, port = text[1:].rpartition("]:")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ip = ipaddress.ip_address(host)
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        return struct.pack("<HH", family, int(port)) + ip.packed
    except (ValueError, struct.error):
        return None


class Interned:
    """Distinct strings of one piece of history: ids from `first` on."""

    def __init__(self, first: int) -> None:
        self.first = self.next = first
        self.strings: list[String] = []
        self._ids: dict[tuple[int, bytes], int] = {}

    def of(self, kind: int, data: bytes) -> int:
        """0 for an empty one."""
        if not data:
            return 0
        ident = self._ids.get((kind, data))
        if ident is None:
            ident = self._ids[kind, data] = self.next
            self.next += 1
            self.strings.append(String(ident, kind, 0, len(data), data))
        return ident

    def text(self, kind: int, text: str | None) -> int:
        return self.of(kind, text.encode("utf-8", "surrogatepass")) if text else 0

    def column(self, column: pa.ChunkedArray, kinds: Ints, families: Ints) -> Ints:
        """Ids of a text column: uint32[n]. kinds: of each row; families: of those of kind ADDR."""
        codes, texts = _codes(column)
        ids = np.zeros(len(codes), np.uint32)
        there = codes >= 0
        for kind in np.flatnonzero(np.bincount(kinds[there], minlength=1)).tolist():
            rows = np.flatnonzero(there & (kinds == kind))
            if kind != ADDR:
                ids[rows] = self._some(codes[rows], texts, kind, 0)
                continue
            of = families[rows]
            for family in np.unique(of).tolist():
                chosen = rows[of == family]
                ids[chosen] = self._some(codes[chosen], texts, kind, family)
        return ids

    def _some(self, codes: Ints, texts: pa.Array, kind: int, family: int) -> Ints:
        used = np.zeros(len(texts), bool)
        used[codes] = True
        at = np.flatnonzero(used)
        values = texts.take(pa.array(at)).to_pylist()
        if kind == ADDR:
            made = [self.of(kind, address_data(text, family)) for text in values]
        else:
            made = [self.text(kind, text) for text in values]
        table = np.zeros(len(texts), np.uint32)
        table[at] = made
        return table[codes]


def events_of(table: pa.Table, interned: Interned) -> Ints:
    """EVENT[n] of rows with EVENT_COLUMNS, in their order."""
    events = np.zeros(len(table), EVENT)
    events["ts"] = numbers(table.column("mono"))
    events["cls"] = cls = class_numbers(table)
    events["op"] = _mapped(table.column("op"), _OP_OF)
    for name in _SAME:
        events[name] = numbers(table.column(name))
    families = events["flags"] >> np.uint32(16)
    kinds = _mapped(table.column("object_kind"), _KIND_OF).astype(np.uint8)
    events["obj"] = interned.column(table.column("object"), kinds, families)
    events["obj2"] = interned.column(table.column("object2"), _SECOND[cls], families)
    return events


def offsets_of(table: pa.Table) -> Ints:
    """What to add to mono for unix ns: int64[n].

    Rows of an earlier version kept whole µs only: then the largest difference, which is nearest.
    """
    column = table.column("wall_offset")
    found = numbers(column)
    if column.null_count:
        mono = numbers(table.column("mono"))
        wall = table.column("time").cast(pa.int64())
        guess = numbers(wall) * 1000 - mono
        missing = column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
        found = np.where(missing, guess[missing].max(), found)
    return found


class Procs(NamedTuple):
    """procs: PROC[m], one a row. partial: how many of them the store knows only in part."""

    procs: Ints
    partial: int


def procs_of(table: pa.Table, interned: Interned, at: int = 0) -> Procs:
    """PROC[n] of rows with IMAGE_COLUMNS. at: if given, when the processes were seen as they are,
    in rows of any class (CLOCK_BOOTTIME ns): what is known of them is then less."""
    procs = np.zeros(len(table), PROC)
    seen = at > 0
    columns = {name: table.column(name).to_pylist() for name in IMAGE_COLUMNS}
    partial = 0
    for row, values in zip(procs, zip(*columns.values(), strict=True), strict=True):
        one = dict(zip(columns, values, strict=True))
        known = None if seen else detail.decode(one["detail"] or "")
        partial += known is None
        key = one["proc"]
        row["ts"] = at or one["mono"]
        row["cls"] = int(Class.TASK) if seen else _NUMBER_OF.get(one["class"], 0)
        row["proc"], row["parent"], row["cgroup"] = key, one["parent"] or 0, one["cgroup"]
        row["tid"] = row["pid"] = key & _PID_MASK
        row["exe"] = interned.text(int(StrKind.PATH), one["exe"])
        row["cwd"] = interned.text(int(StrKind.PATH), one["cwd"])
        row["script"] = interned.text(int(StrKind.RAW), one["script"])
        row["env"] = interned.of(
            int(StrKind.ENV), _joined(detail.split(one["env_names"] or "", None))
        )
        row["comm"] = _comm(one["name"] or "")
        row["marks"] = one["proc_marks"] or 0
        line = one["cmdline"] if seen else one["object2"]
        if not seen:
            row["exec_id"], row["exe_ino"] = one["num2"], one["num"]
            row["labels"] = one["labels"]
        argv = detail.split(line or "", known.argv if known else None)
        row["argv"] = interned.of(int(StrKind.ARGV), _joined(argv))
        _fill(row, known or _guess(one))
    return Procs(procs, partial)


def task_events(procs: Ints) -> Ints:
    """EVENT[n]: the events that say of rows of PROC that they were there."""
    events = np.zeros(len(procs), EVENT)
    for name in ("ts", "proc", "cgroup", "tid", "cls", "labels"):
        events[name] = procs[name]
    events["obj"], events["obj2"], events["flags"] = procs["exe"], procs["argv"], procs["marks"]
    return events


def _fill(row: np.void, known: detail.Detail) -> None:
    for name in (
        "uid", "gid", "euid", "egid", "loginuid", "tty", "cap_effective", "cap_permitted",
        "cap_inheritable", "exe_ctime", "exe_mtime", "vpid", "pgid", "vpgid", "sid",
    ):  # fmt: skip
        row[name] = getattr(known, name)
    row["start"] = known.started
    for name, inode in zip(_NAMESPACES, known.namespaces, strict=False):
        row[name] = inode


def _guess(one: dict[str, Any]) -> detail.Detail:
    """Of a row without `detail`: what its columns and its key say."""
    key = one["proc"]
    return detail.Detail(
        uid=one["uid"] or 0,
        euid=one["euid"] or 0,
        vpid=key & _PID_MASK,
        started=(key >> 22) << 16,  # see kernel/wire.h
    )


def _joined(words: tuple[str, ...]) -> bytes:
    """Each ended by NUL, as the kernel has them."""
    return "".join(word + "\0" for word in words).encode("utf-8", "surrogatepass")


def _comm(name: str) -> bytes:
    """The bytes of a name: what was no UTF-8 had been made longer to be shown."""
    data = name.encode("utf-8", "surrogatepass")
    if len(data) > _COMM:
        data = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), data)
    return data[:_COMM]
