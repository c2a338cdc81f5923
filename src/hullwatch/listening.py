"""The tap's side of the agent: calls out of what processes say, and who cannot be heard.

Made whatever the rights are; `start` takes root's. What is heard is told as events among the
kernel's, like calls that gateways tell of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hullwatch.agent.content import Content
from hullwatch.agent.secrets.canaries import Canaries
from hullwatch.agent.tap import Listener
from hullwatch.agent.tls import TlsCoverage
from hullwatch.context.call import Call, Signal
from hullwatch.context.enrich import Context
from hullwatch.context.processes import PID_MASK
from hullwatch.context.told import told_call, told_signal
from hullwatch.prober import Prober
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.tap import Piece
from hullwatch.sensor.wire import Class

__all__ = ["Listening"]


class Listening:
    """keyed: bytes -> hash, of API keys and sessions. content: of chosen workloads. canaries: whose
    values are looked for. problem: what an operator should be told of, once; '' if nothing."""

    def __init__(
        self,
        sensor: Sensor,
        context: Context,
        keyed: Callable[[bytes], str],
        content: Content | None,
        canaries: Canaries,
    ) -> None:
        self._sensor, self._context = sensor, context
        self._listener = Listener(
            sensor.tap,
            self._heard,
            lambda text: keyed(text.encode()),
            content,
            canaries,
            self._noticed,
        )
        self._tls: TlsCoverage | None = None
        self._ended: list[int] = []
        self.problem = ""

    def start(self) -> None:
        """Attach, and start the process that hooks libraries. BpfError, SensorError, OSError."""
        self._sensor.tap.start()
        prober = Prober(self._sensor.tls_programs())
        self._tls = TlsCoverage(prober, self._context.processes, self._context.dictionary)

    def take(self, pieces: Iterator[Piece]) -> None:
        """What was heard before the events that are drained with it."""
        self._listener.take(pieces, self._sensor.wall_offset)

    def follow(self, batch: Batch) -> None:
        """After the context has learnt of the batch."""
        events = batch.events
        ended = events["proc"][events["cls"] == int(Class.EXIT)] & np.uint64(PID_MASK)
        self._ended += ended.tolist()
        if self._ended and not self._sensor.tap.behind:  # what they said last has been heard
            self._listener.ended(self._ended, time.time_ns())
            self._ended.clear()
        if self._tls is None:
            return
        alive = self._tls.alive
        for signal, pid, cgroup in self._tls.follow(batch):
            self._noticed(signal, pid, cgroup)
        if alive and not self._tls.alive:
            self.problem = "the process that hooks TLS libraries has ended: new ones are not read"

    def stats(self) -> dict[str, Any]:
        """For `status`: of the tap, and of TLS."""
        return {
            "tap": self._listener.stats(),
            "tls": self._tls.stats() if self._tls is not None else {},
        }

    def close(self) -> None:
        if self._tls is not None:
            self._tls.close()

    def _heard(self, call: Call) -> None:
        self._context.calls.put(call)
        self._sensor.told.put(told_call(call))

    def _noticed(self, signal: Signal, pid: int, cgroup: int) -> None:
        self._sensor.told.put(told_signal(signal, pid, cgroup))
