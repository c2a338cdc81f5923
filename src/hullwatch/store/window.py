"""Enriched batches to Arrow: what waits to be written, as numpy columns and distinct strings.

Python work is done once per distinct process image, workload or dictionary id of a window, never
per row. A window holds values, not slots, so it outlives the context's live tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hullwatch.context.enriched import Enriched, ProcessImage, Tables
from hullwatch.sensor.events import CLASSES, Grade, classes_mask
from hullwatch.sensor.wire import Class, Mark
from hullwatch.store import detail
from hullwatch.store.schema import CLASS_NAMES, GRADES, KIND_NAMES, OP_NAMES, SCHEMA

__all__ = ["Window", "encode", "losses_of"]

CMDLINE_CUT = 1024
"""Characters of cmdline kept on rows other than exec and task, which have all of it."""

_DENSE_LIMIT = 1 << 23
_PID_MASK = np.uint64((1 << 22) - 1)
_IDENTITY = classes_mask((Class.SETID, Class.CAPSET))
_BIRTH = classes_mask((Class.EXEC, Class.TASK))
_GRADE_OF = np.array(
    [
        0 if number in CLASSES and CLASSES[number].grade is Grade.VITAL else 1
        for number in range(int(Class.CLASS_MAX))
    ],
    np.int32,
)
_STATIC = {
    name: pa.array(values, pa.string())
    for name, values in (
        ("class", CLASS_NAMES),
        ("op", OP_NAMES),
        ("grade", GRADES),
        ("kind", KIND_NAMES),
    )
}
Ints = np.ndarray[Any, Any]


class _Codes:
    """Distinct integers to dense codes; `make(number)` is asked once per distinct number.

    A table indexed by number - base + 1 where numbers lie close, a dict where they do not.
    """

    def __init__(self) -> None:
        self._table = np.full(1024, -1, np.int32)
        self._sparse: dict[int, int] = {}
        self._base = 0
        self._used: list[Ints] = []

    def reset(self, base: int = 0) -> None:
        for used in self._used:
            self._table[used] = -1
        self._used.clear()
        self._sparse.clear()
        self._base = base

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._sparse.pop(number, None)
            at = number - self._base + 1 if number else 0
            if 0 <= at < len(self._table):
                self._table[at] = -1

    def of(self, numbers: Ints, make: Callable[[int], int]) -> Ints:
        if not len(numbers):
            return np.empty(0, np.int32)
        at = numbers.astype(np.int64) - (self._base - 1)
        at[numbers == 0] = 0  # of ids it is "none", and has a place of its own below the base
        low, high = int(at.min()), int(at.max())
        if low < 0 or high >= _DENSE_LIMIT:
            return self._of_sparse(numbers, make)
        if high >= len(self._table):
            grown = np.full(1 << (high.bit_length() + 1), -1, np.int32)
            grown[: len(self._table)] = self._table
            self._table = grown
        codes = self._table[at]
        missing = codes < 0
        if missing.any():
            new = np.unique(at[missing])
            above = self._base - 1
            self._table[new] = [make(number + above if number else 0) for number in new.tolist()]
            self._used.append(new)
            codes = self._table[at]
        return codes

    def _of_sparse(self, numbers: Ints, make: Callable[[int], int]) -> Ints:
        distinct, inverse = np.unique(numbers, return_inverse=True)
        codes = np.empty(len(distinct), np.int32)
        for position, number in enumerate(distinct.tolist()):
            code = self._sparse.get(number)
            if code is None:
                code = self._sparse[number] = make(number)
            codes[position] = code
        return codes[inverse]


class _Strings:
    """One string column of a window: distinct values, -1 for NULL."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._codes: dict[str, int] = {}
        self.size = 0

    def code(self, value: str | None) -> int:
        if value is None:
            return -1
        code = self._codes.get(value)
        if code is None:
            code = self._codes[value] = len(self.values)
            self.values.append(value)
            self.size += len(value)
        return code

    def array(self, codes: Ints) -> pa.DictionaryArray:
        """Only the values that `codes` use: columns that share strings do not all carry them."""
        used = np.zeros(len(self.values) + 1, bool)  # the last one takes the -1
        used[codes] = True
        used[-1] = False
        if used[:-1].all():
            return _dictionary(codes, _text_array(self.values))
        kept = np.flatnonzero(used)
        remap = np.full(len(used), -1, np.int32)
        remap[kept] = np.arange(len(kept), dtype=np.int32)
        return _dictionary(remap[codes], _text_array([self.values[at] for at in kept.tolist()]))


def _text_array(values: list[str]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # a lone surrogate: keep it visible, as invalid UTF-8 is
        kept = [value.encode("utf-8", "backslashreplace").decode() for value in values]
        return pa.array(kept, pa.string())


def _dictionary(codes: Ints, values: pa.Array) -> pa.DictionaryArray:
    null = codes < 0
    indices = pa.array(codes, pa.int32(), mask=null if null.any() else None)
    return pa.DictionaryArray.from_arrays(indices, values, safe=False)


def _numbers(values: Ints, null: Ints | None = None) -> pa.Array:
    # The mask keeps "unknown" apart from 0.
    return pa.array(np.ascontiguousarray(values), mask=null)


_IMAGE_TEXT = ("name", "exe", "cmdline", "script", "cwd", "env_names")
_IMAGE = (*_IMAGE_TEXT, "cmdline_full", "parent", "has_parent", "ppid", "uid", "euid", "marks")
_UNKNOWN = (-1,) * 7 + (0, 0, -1, -1, -1, 0)


class _Part(NamedTuple):
    """One batch: its rows, and for each row the codes of what it refers to."""

    events: Ints
    wall_offset: int
    tier: str
    images: Ints
    workloads: Ints
    objects: Ints
    objects2: Ints
    births: Ints
    details: Ints
    names: dict[int, str]


class Window:
    """Rows waiting to be written. `add` while a batch's tables live, `take` at any later time."""

    def __init__(self, boot: int = 0) -> None:
        self.boot = boot
        self._images, self._workloads, self._ids = _Codes(), _Codes(), _Codes()
        self._clear()

    def _clear(self) -> None:
        self.rows = 0
        self.extra = 0
        self._parts: list[_Part] = []
        self._text = {name: _Strings() for name in (*_IMAGE_TEXT, "detail")}
        self._image_rows: list[tuple[int, ...]] = []
        self._containers, self._objects = _Strings(), _Strings()
        self._container_of: list[int] = []
        self._object_of: list[tuple[int, int]] = []
        self._images.reset()
        self._workloads.reset()

    @property
    def nbytes(self) -> int:
        """About how much memory this window holds."""
        text = sum(strings.size for strings in self._text.values())
        return self.rows * 100 + self.extra + 2 * (text + self._objects.size)

    def add(self, enriched: Enriched) -> None:
        events = enriched.batch.events
        tables = enriched.tables
        self._images.forget(enriched.released_images)
        self._workloads.forget(enriched.released_workloads)
        if not len(events):
            return
        if not self._parts:
            self._ids.reset(enriched.batch.dict_base)
        if tables is None:
            raise ValueError("an Enriched with rows needs its tables")
        classes = events["cls"]
        changed = _IDENTITY[classes]
        if changed.any():  # ids of these images have moved: read them anew
            self._images.forget(np.unique(enriched.image[changed]).tolist())
        images = self._images.of(
            enriched.image, lambda slot: self._image(tables.processes.image(slot))
        )
        workloads = self._workloads.of(enriched.workload, lambda slot: self._workload(tables, slot))
        objects = self._ids.of(events["obj"], lambda number: self._object(tables, number))
        objects2 = self._ids.of(events["obj2"], lambda number: self._object(tables, number))
        births = _BIRTH[classes]
        details = self._details(tables, enriched.image[births])
        batch, names = enriched.batch, enriched.names
        self._parts.append(
            _Part(
                events,
                batch.wall_offset,
                batch.tier,
                images,
                workloads,
                objects,
                objects2,
                births,
                details,
                names,
            )
        )
        self.extra += sum(map(len, enriched.names.values()))
        self.rows += len(events)

    def _image(self, image: ProcessImage | None) -> int:
        known = image is not None and (image.known or image.name)
        self._image_rows.append(self._image_row(image) if image and known else _UNKNOWN)
        return len(self._image_rows) - 1

    def _image_row(self, image: ProcessImage) -> tuple[int, ...]:
        cmdline = image.cmdline
        short = cmdline if len(cmdline) <= CMDLINE_CUT else cmdline[: CMDLINE_CUT - 1] + "…"
        text = self._text
        parent = image.parent
        return (
            text["name"].code(image.name),
            text["exe"].code(image.exepath or None),
            text["cmdline"].code(short),
            text["script"].code(image.script or None),
            text["cwd"].code(image.cwd or None),
            text["env_names"].code(" ".join(image.env_names)),
            text["cmdline"].code(cmdline),
            parent.key if parent else 0,
            1 if parent else 0,
            parent.pid if parent else -1,
            image.uid,
            image.euid,
            image.marks,
        )

    def _details(self, tables: Tables, slots: Ints) -> Ints:
        """Codes of `detail`, one a birth."""
        text, image = self._text["detail"], tables.processes.image
        codes = [text.code(detail.encode(image(slot))) for slot in slots.tolist()]
        return np.array(codes, np.int32)

    def _workload(self, tables: Tables, slot: int) -> int:
        container = tables.workloads.workload(slot).container_id
        self._container_of.append(self._containers.code(container))
        return len(self._container_of) - 1

    def _object(self, tables: Tables, number: int) -> int:
        kind, text = tables.dictionary.told(number)
        if not kind:
            self._object_of.append((-1, -1 if number == 0 else -2))
        else:
            self._object_of.append((self._objects.code(text), min(kind, len(KIND_NAMES) - 1)))
        return len(self._object_of) - 1

    def held(self) -> list[Ints]:
        """The EVENT arrays that wait: what is lost if they cannot be written."""
        return [part.events for part in self._parts]

    def drop(self) -> None:
        self._clear()

    def take(self) -> pa.RecordBatch:
        """All rows as one RecordBatch of `schema.SCHEMA`; the window is empty afterwards."""
        if not self._parts:
            return pa.RecordBatch.from_pylist([], schema=SCHEMA)
        columns = self._columns()
        self._clear()
        return pa.RecordBatch.from_arrays([columns[field.name] for field in SCHEMA], schema=SCHEMA)

    def _columns(self) -> dict[str, pa.Array]:
        parts = self._parts
        sizes = [len(part.events) for part in parts]
        ev = _joined([part.events for part in parts])
        images = _joined([part.images for part in parts])
        workloads = _joined([part.workloads for part in parts])
        objects = _joined([part.objects for part in parts])
        objects2 = _joined([part.objects2 for part in parts])
        births = _joined([part.births for part in parts])
        details = np.full(len(ev), -1, np.int32)
        details[births] = _joined([part.details for part in parts])
        mono = ev["ts"].astype(np.int64)
        offset = np.repeat([part.wall_offset for part in parts], sizes).astype(np.int64)
        cls = np.minimum(ev["cls"], len(CLASS_NAMES) - 1).astype(np.int32)
        op = np.minimum(ev["op"], len(OP_NAMES) - 1).astype(np.int32)
        image = {
            name: np.array(values, np.uint64 if name == "parent" else np.int64)[images]
            for name, values in zip(_IMAGE, zip(*self._image_rows, strict=True), strict=True)
        }
        object_of = np.array(self._object_of, np.int32)
        text, kind = object_of[objects, 0], object_of[objects, 1]
        lost = (kind == -2) | (object_of[objects2, 1] == -2)
        marks = ev["marks"] | np.where(lost, int(Mark.STR_LOST), 0).astype(np.uint16)
        tiers = _Strings()
        tier = np.repeat([tiers.code(part.tier or None) for part in parts], sizes)
        for name in ("cwd", "env_names"):
            image[name] = np.where(births, image[name], -1)
        image["cmdline"] = np.where(births, image["cmdline_full"], image["cmdline"])
        texts = {name: self._text[name].array(image[name].astype(np.int32)) for name in _IMAGE_TEXT}
        unknown_uid = image["uid"] < 0
        no_parent = image["has_parent"] == 0
        return texts | {
            "time": pa.array((mono + offset) // 1000, pa.int64()).view(SCHEMA.field("time").type),
            "mono": _numbers(mono),
            "wall_offset": _numbers(offset),
            "boot": _numbers(np.full(len(ev), self.boot, np.int32)),
            "class": _dictionary(cls, _STATIC["class"]),
            "op": _dictionary(np.where(op == 0, -1, op).astype(np.int32), _STATIC["op"]),
            "grade": _dictionary(_GRADE_OF[cls], _STATIC["grade"]),
            "cgroup": _numbers(ev["cgroup"]),
            "container_id": self._containers.array(
                np.array(self._container_of, np.int32)[workloads]
            ),
            "pid": _numbers((ev["proc"] & _PID_MASK).astype(np.uint32)),
            "tid": _numbers(ev["tid"]),
            "proc": _numbers(ev["proc"]),
            "parent": _numbers(image["parent"], no_parent),
            "ppid": _numbers(np.maximum(image["ppid"], 0).astype(np.uint32), no_parent),
            "uid": _numbers(image["uid"].astype(np.uint32), unknown_uid),
            "euid": _numbers(image["euid"].astype(np.uint32), unknown_uid),
            "detail": self._text["detail"].array(details),
            "object": self._objects.array(text),
            "object2": self._objects.array(object_of[objects2, 0]),
            "object_kind": _dictionary(np.maximum(kind, -1).astype(np.int32), _STATIC["kind"]),
            "dest_name": self._dest_names(sizes),
            "ret": _numbers(ev["ret"]),
            "flags": _numbers(ev["flags"]),
            "num": _numbers(ev["num"]),
            "num2": _numbers(ev["num2"]),
            "port": _numbers(ev["port"]),
            "labels": _numbers(ev["labels"]),
            "marks": _numbers(marks),
            "proc_marks": _numbers(image["marks"].astype(np.uint32)),
            "span": _numbers(ev["span"], ev["span"] == 0),
            "tier": tiers.array(tier.astype(np.int32)),
        }

    def _dest_names(self, sizes: list[int]) -> pa.DictionaryArray:
        codes = np.full(sum(sizes), -1, np.int32)
        strings = _Strings()
        start = 0
        for size, part in zip(sizes, self._parts, strict=True):
            if part.names:
                rows = np.fromiter(part.names.keys(), np.int64, len(part.names))
                codes[start + rows] = [strings.code(name) for name in part.names.values()]
            start += size
        return strings.array(codes)


def _joined(arrays: list[Ints]) -> Ints:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def losses_of(events: Ints) -> Counter[tuple[int, int]]:
    """EVENT[n] to (class, cgroup) -> rows, without a loop over rows."""
    total: Counter[tuple[int, int]] = Counter()
    for cls in np.unique(events["cls"]).tolist():
        groups, counts = np.unique(events["cgroup"][events["cls"] == cls], return_counts=True)
        for cgroup, count in zip(groups.tolist(), counts.tolist(), strict=True):
            total[(cls, cgroup)] += count
    return total


def encode(enriched: Enriched, boot: int = 0) -> pa.RecordBatch:
    """One Enriched as one RecordBatch of `schema.SCHEMA`."""
    window = Window(boot)
    window.add(enriched)
    return window.take()
