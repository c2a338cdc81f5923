"""Events in order of time, cut where the live path would have seen one thing before the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hullwatch.sensor.events import CLASSES, Grade, classes_mask
from hullwatch.sensor.wire import Class
from hullwatch.store.restore import BIRTH

__all__ = ["Part", "cuts", "in_time", "merged", "part_of"]

Ints = np.ndarray[Any, Any]
_ROWS = 16_384
_SPAN = 1_000_000_000  # ns of one batch: what looks at times between batches sees them so finely
_IDS = classes_mask((Class.SETID, Class.CAPSET))
_TASK = int(Class.TASK)
# Of events of one moment the sensor gives those of its vital ring first, then the bulk ring's, then
# process images, then packets (sensor.drain).
_RANK = np.array(
    [
        2
        if number in (Class.EXEC, Class.TASK)
        else 3
        if number in (Class.DNS, Class.TLS)
        else int(number not in CLASSES or CLASSES[number].grade is not Grade.VITAL)
        for number in range(int(Class.CLASS_MAX))
    ],
    np.uint8,
)


def in_time(events: Ints) -> Ints:
    """Positions of EVENT rows by time; those of one moment as the sensor would give them."""
    ts = events["ts"]
    order: Ints = np.argsort(ts, kind="stable")
    same = ts[order[1:]] == ts[order[:-1]]
    if same.any():
        tied = np.zeros(len(order), bool)
        tied[1:] |= same
        tied[:-1] |= same
        at = np.flatnonzero(tied)
        rows = order[at]
        some = events[rows]
        order[at] = rows[np.lexsort((some["proc"], _RANK[some["cls"]], some["ts"]))]
    return order


def cuts(events: Ints, offsets: Ints, begin: int) -> Iterator[tuple[int, int]]:
    """(from, to) of the batches of EVENT rows that are in order of time.

    offsets: wall offset a row; a batch has one. begin: a row at which a batch must begin.
    Rules see a process's ids and capabilities as they are after its batch, so a change of them
    begins one: what came before is judged by what was then. A snapshot is one batch, as parents
    may come after children in it.
    """
    if not len(events):
        return
    ts = events["ts"].astype(np.int64)
    new = np.zeros(len(events), bool)
    new[1:] = (ts[1:] // _SPAN != ts[:-1] // _SPAN) | (offsets[1:] != offsets[:-1])
    new |= _IDS[events["cls"]] & (events["ret"] >= 0)
    snapshot = np.flatnonzero(events["cls"] == _TASK)
    if len(snapshot):
        new[: int(snapshot[-1]) + 1] = False
    if 0 < begin < len(events):
        new[begin] = True
    new[0] = True
    starts = np.flatnonzero(new)
    for first, last in zip(starts.tolist(), [*starts[1:].tolist(), len(events)], strict=True):
        for at in range(first, last, _ROWS):
            yield at, min(at + _ROWS, last)


class Part(NamedTuple):
    """Rows in order of time; a PROC row for each EXEC and TASK among them, in their order."""

    first_id: int
    events: Ints
    offsets: Ints
    procs: Ints

    def split(self, limit: int) -> tuple[Part, Part]:
        """Those before CLOCK_BOOTTIME `limit`, and the rest."""
        at = int(np.searchsorted(self.events["ts"], np.uint64(limit)))
        born = int(BIRTH[self.events["cls"][:at]].sum())
        events, offsets, procs = self.events, self.offsets, self.procs
        return (
            Part(self.first_id, events[:at], offsets[:at], procs[:born]),
            Part(self.first_id, events[at:], offsets[at:], procs[born:]),
        )


def part_of(first_id: int, events: Ints, offsets: Ints, procs: Ints) -> Part:
    """In order of time. procs: one for each EXEC and TASK, in the order of these."""
    order = in_time(events)
    number = np.cumsum(BIRTH[events["cls"]]) - 1
    events = events[order]
    born = number[order[BIRTH[events["cls"]]]]
    return Part(first_id, events, offsets[order], procs[born])


def merged(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    return part_of(
        min(part.first_id for part in parts),
        np.concatenate([part.events for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.procs for part in parts]),
    )
