"""Calls and signals as events, and calls out of events again: so a replay knows them, too."""

from __future__ import annotations

import time
from typing import TypeVar, get_args

import numpy as np

from hullwatch.context.call import Call, Kind, Signal, Source, Status
from hullwatch.sensor.clock import read_offset
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.told import Told
from hullwatch.sensor.wire import Class

_T = TypeVar("_T")

__all__ = ["call_of", "told_call", "told_signal"]

_KINDS: tuple[Kind, ...] = get_args(Kind)
_STATUS: tuple[Status, ...] = get_args(Status)
_SOURCES: tuple[Source, ...] = get_args(Source)
_ENDED = 1


def _mono(wall: int) -> int:
    """CLOCK_BOOTTIME ns of a unix time, as the clocks are now; between the boot and now."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return min(max(wall - read_offset()[0], 0), now)


def told_call(call: Call) -> Told:
    """The event of a call's begin, or of its end where it has one."""
    flags = (_ENDED if call.end else 0) | _KINDS.index(call.kind) << 8
    flags |= _STATUS.index(call.status) << 16 | _SOURCES.index(call.source) << 24
    return Told(
        ts=_mono(call.end or call.begin),
        cls=int(Class.CALL),
        proc=0,
        cgroup=call.cgroup,
        tid=call.pid,
        span=call.id,
        text=call.name,
        text2=call.server,
        num=call.request_bytes,
        num2=call.response_bytes,
        flags=flags,
        ret=-1 if call.status in ("error", "lost") else 0,
    )


def told_signal(signal: Signal, pid: int, cgroup: int, proc: int = 0) -> Told:
    """kind and detail are one text, `kind: detail`. proc: the process' key, where it is known: it
    may have ended."""
    return Told(
        ts=_mono(signal.time),
        cls=int(Class.SIGNAL),
        proc=proc,
        cgroup=cgroup,
        tid=pid,
        span=signal.call,
        text=signal.subject,
        text2=f"{signal.kind}: {signal.detail}",
        flags=int(signal.held),
    )


def call_of(event: np.void, dictionary: Dictionary, wall_offset: int, known: Call | None) -> Call:
    """The call that an event of class CALL tells of. known: what was known of it before."""
    flags, moment = int(event["flags"]), int(event["ts"]) + wall_offset
    ended = bool(flags & _ENDED)
    begin = known.begin if known else moment
    return Call(
        id=int(event["span"]),
        kind=_one(_KINDS, flags >> 8),
        source=_one(_SOURCES, flags >> 24),
        name=dictionary.text(int(event["obj"])),
        begin=begin,
        end=moment if ended else 0,
        status=_one(_STATUS, flags >> 16),
        server=dictionary.text(int(event["obj2"])),
        pid=int(event["tid"]),
        cgroup=int(event["cgroup"]),
        request_bytes=int(event["num"]),
        response_bytes=int(event["num2"]),
    )


def _one(of: tuple[_T, ...], number: int) -> _T:
    """A capture may hold anything: what is out of range is the first."""
    at = number & 0xFF
    return of[at] if at < len(of) else of[0]
