"""What the sensor hands on: one drain of the rings as columns.

A batch is immutable and self-contained except for dictionary ids, which refer to `strings` of
this batch or an earlier one of the same stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hullwatch.sensor.wire import EVENT, PROC

__all__ = ["Batch", "Loss", "Name", "String", "in_order", "merge"]


class String(NamedTuple):
    """A dictionary record. data is raw bytes as the kernel sent them (see enum hw_str_kind)."""

    id: int
    kind: int
    marks: int
    orig_len: int
    data: bytes


class Loss(NamedTuple):
    """`count` records of class `cls` (0 = any) of `cgroup` (0 = unknown) lost at `stage`."""

    stage: str
    cls: int
    cgroup: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants


class Name(NamedTuple):
    """A DNS answer that a container got: from whom (dictionary id of an address), and what."""

    ts: int
    cgroup: int
    server: int
    name: str
    addresses: tuple[str, ...]


def _none(dtype: np.dtype[Any]) -> np.ndarray:
    return np.empty(0, dtype)


@dataclass(frozen=True, slots=True)
class Batch:
    """events: EVENT[n] and procs: PROC[m], each ordered by ts (CLOCK_BOOTTIME ns).

    Every row of procs has its exec or task event among the events (same ts and proc).
    dict_base: ids below it are gone for good; a consumer may forget them after this batch.
    wall_offset: add to ts for unix ns, as measured when the batch was drained.
    """

    events: np.ndarray = field(default_factory=lambda: _none(EVENT))
    procs: np.ndarray = field(default_factory=lambda: _none(PROC))
    strings: tuple[String, ...] = ()
    losses: tuple[Loss, ...] = ()
    dict_base: int = 1
    wall_offset: int = 0
    drained: int = 0
    tier: str = ""
    names: tuple[Name, ...] = ()


def in_order(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Several EVENT or PROC arrays as one, by time; nothing is copied that need not be."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return np.empty(0, EVENT)
    rows: np.ndarray = parts[0] if len(parts) == 1 else np.concatenate(parts)
    ts = rows["ts"]
    if len(rows) > 1 and (ts[1:] < ts[:-1]).any():
        rows = rows[np.argsort(ts, kind="stable")]
    return rows


def merge(batches: Sequence[Batch]) -> Batch:
    """Consecutive batches of one stream as one, as if they had been drained together."""
    last = batches[-1]
    procs = [batch.procs for batch in batches if len(batch.procs)]
    return Batch(
        events=in_order([batch.events for batch in batches]),
        procs=in_order(procs) if procs else np.empty(0, PROC),
        strings=tuple(entry for batch in batches for entry in batch.strings),
        losses=tuple(loss for batch in batches for loss in batch.losses),
        names=tuple(name for batch in batches for name in batch.names),
        dict_base=batches[0].dict_base,
        wall_offset=last.wall_offset,
        drained=last.drained,
        tier=last.tier,
    )
