"""The store's own clock: time that has passed for this store, whatever the wall clock says.

Within a boot it follows CLOCK_BOOTTIME. Over a reboot or a pause it adds the wall clock's
difference, never a negative one. So a step of the wall clock, either way, ages no segment.
"""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["Reading", "advance", "boot_id", "now"]


class Reading(NamedTuple):
    """boot: id of the boot; boottime, wall: ns; lived: ns this store has lived, the clock."""

    boot: str
    boottime: int
    wall: int
    lived: int = 0


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def now() -> Reading:
    return Reading(boot_id(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())


def advance(last: Reading | None, current: Reading) -> Reading:
    """`current` with its `lived` set from the last reading kept."""
    if last is None:
        return current._replace(lived=0)
    if last.boot == current.boot:
        passed = current.boottime - last.boottime
    else:
        passed = current.wall - last.wall
    return current._replace(lived=last.lived + max(0, passed))
