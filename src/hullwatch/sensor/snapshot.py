"""The part of a sensor's start that takes root: attaching, and /proc/PID/environ of others."""

from __future__ import annotations

from hullwatch.sensor.batch import Batch
from hullwatch.sensor.sensor import Sensor

__all__ = ["begin"]

_BATCHES = 4  # a ring holds two, and programs go on being started


def begin(sensor: Sensor) -> list[Batch]:
    """Attach; the first batches, which hold every process there is."""
    sensor.start()
    batches = [sensor.drain()]
    while len(batches[-1].procs) and len(batches) < _BATCHES:
        batches.append(sensor.drain())
    return batches
