"""Whose TLS is read, and whose cannot be: that is named, in events and by `doctor`.

Told of batches, it has the prober look at processes when they may begin to speak TLS: as they start
a program that was not seen before, map a library, or say hello.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from hullwatch.context.call import Signal
from hullwatch.context.enriched import ProcessImage
from hullwatch.context.processes import PID_MASK, ProcessTable
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.uprobes import Answer, Reading
from hullwatch.sensor.wire import Class

__all__ = ["Opaque", "TlsCoverage"]

MAX_PROCESSES = 32_768
MAX_OPAQUE = 256  # programs that are named
_LIBRARY = re.compile(r"ssl|tls|crypto|_rust\.abi|boring|nss3|cygrpc|node|jvm", re.IGNORECASE)
_NONE = "no TLS library was found in its files"


class Prober(Protocol):
    """What is asked of prober.py."""

    alive: bool
    refused: int
    counts: dict[str, int]
    failures: dict[str, int]

    def look(self, pid: int) -> None: ...
    def ended(self, pid: int) -> None: ...
    def take(self) -> Iterator[Answer]: ...
    def close(self) -> None: ...


class Opaque(NamedTuple):
    """A program that spoke TLS which cannot be read. exe: its path; why: in words for people."""

    exe: str
    cgroup: int
    pid: int
    why: str


class TlsCoverage:
    """Not for several threads."""

    def __init__(self, prober: Prober, processes: ProcessTable, dictionary: Dictionary) -> None:
        self._prober, self._processes, self._dictionary = prober, processes, dictionary
        self._readings: OrderedDict[int, Reading] = OrderedDict()
        self._programs: OrderedDict[tuple[int, int], None] = OrderedDict()  # device and inode
        self._mapped: OrderedDict[tuple[int, int], None] = OrderedDict()  # cgroup and object
        self._greeted: OrderedDict[int, int] = OrderedDict()  # process key -> cgroup
        self.opaque: OrderedDict[tuple[str, int], Opaque] = OrderedDict()

    @property
    def alive(self) -> bool:
        return self._prober.alive

    def follow(self, batch: Batch) -> Iterator[tuple[Signal, int, int]]:
        """Have looked at what is new in a batch; (signal, pid, cgroup) of what cannot be read."""
        events, procs = batch.events, batch.procs
        for row in procs if len(procs) else ():
            program = int(row["exe_dev"]), int(row["exe_ino"])
            # A process that was there before has its libraries mapped; a new one has not yet.
            if row["cls"] == Class.TASK or _first(self._programs, program):
                self._prober.look(int(row["pid"]))
        for event in events[events["cls"] == int(Class.MMAP)]:
            mapped = int(event["cgroup"]), int(event["obj"])
            if _first(self._mapped, mapped) and _LIBRARY.search(self._dictionary.text(mapped[1])):
                self._prober.look(int(event["proc"]) & PID_MASK)
        for event in events[events["cls"] == int(Class.TLS)]:
            yield from self._greets(int(event["proc"]), int(event["cgroup"]))
        for key in events["proc"][events["cls"] == int(Class.EXIT)].tolist():
            pid = key & PID_MASK
            self._greeted.pop(key, None)
            if self._readings.pop(pid, None) is not None:
                self._prober.ended(pid)
        for answer in self._prober.take():
            self._readings[answer.pid] = answer.reading
            self._readings.move_to_end(answer.pid)
            while len(self._readings) > MAX_PROCESSES:
                self._readings.popitem(last=False)
            for key in [key for key in self._greeted if key & PID_MASK == answer.pid]:
                yield from self._judge(key, self._greeted.pop(key), answer.reading)

    def stats(self) -> dict[str, Any]:
        """For `status` and `doctor`."""
        states = np.array([one.state for one in self._readings.values()])
        return {
            "alive": self.alive,
            "read": int((states == "tapped").sum()),
            "opaque": [one._asdict() for one in self.opaque.values()],
            "refused": self._prober.refused,
            **self._prober.counts,
            "failures": self._prober.failures,
        }

    def close(self) -> None:
        self._prober.close()

    def _greets(self, key: int, cgroup: int) -> Iterator[tuple[Signal, int, int]]:
        """A process said hello over TLS."""
        pid = key & PID_MASK
        reading = self._readings.get(pid)
        if reading is not None and reading.state != "none":
            yield from self._judge(key, cgroup, reading)
        elif pid and _first(self._greeted, key, cgroup):
            self._prober.look(pid)  # it may have mapped a library since

    def _judge(self, key: int, cgroup: int, reading: Reading) -> Iterator[tuple[Signal, int, int]]:
        if reading.state == "tapped":
            return
        why = "; ".join(reading.opaque) or _NONE
        image = self._image(key)
        exe = image.exepath if image is not None else ""
        if (exe, cgroup) in self.opaque:
            return
        pid = key & PID_MASK
        self.opaque[exe, cgroup] = Opaque(exe, cgroup, pid, why)
        while len(self.opaque) > MAX_OPAQUE:
            self.opaque.popitem(last=False)
        said = Signal(kind="tls_opaque", subject=exe, detail=why, time=time.time_ns())
        yield said, pid, cgroup

    def _image(self, key: int) -> ProcessImage | None:
        return next((one for one in self._processes.living() if one.key == key), None)


def _first(known: OrderedDict[Any, Any], key: Any, value: Any = None) -> bool:
    """Remember it; whether it was not known. Bounded."""
    if key in known:
        return False
    known[key] = value
    while len(known) > MAX_PROCESSES:
        known.popitem(last=False)
    return True
