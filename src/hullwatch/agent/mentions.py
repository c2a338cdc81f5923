"""Canaries in what programs are started with, and in the names of files and hosts.

Each text is looked at once, when it is new; an event that has it tells. Of the environment the
kernel gives no values: what is in it is seen when it is used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from hullwatch.agent.planted import Planted
from hullwatch.agent.secrets.canaries import Canaries, used
from hullwatch.context.call import Signal
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.wire import StrKind

__all__ = ["Mentions"]

MAX_TEXTS = 1024  # with a canary in them
MAX_TOLD = 4096
_WHERE: dict[int, str] = {
    StrKind.ARGV: "on a command line",
    StrKind.PATH: "in a file's name",
    StrKind.RAW: "in a file's name",
    StrKind.JOINED: "in a file's name",
    StrKind.DNS: "in a name asked of DNS",
    StrKind.SNI: "in the name of a host",
}


class Mentions:
    """follow: (signal, process key, cgroup) for each use by a process, once. Not for several
    threads."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._texts: OrderedDict[int, tuple[str, tuple[Planted, ...]]] = OrderedDict()
        self._told: OrderedDict[tuple[int, int], None] = OrderedDict()  # process, text

    def follow(self, batch: Batch) -> Iterator[tuple[Signal, int, int]]:
        if not self._canaries:
            return
        for string in batch.strings:
            where = _WHERE.get(string.kind)
            if where and (found := self._canaries.find(string.data)):
                self._texts[string.id] = where, found
                if len(self._texts) > MAX_TEXTS:
                    self._texts.popitem(last=False)
        if not self._texts:
            return
        ids = np.fromiter(self._texts, np.uint32)
        for rows, names in ((batch.procs, ("argv",)), (batch.events, ("obj", "obj2"))):
            for name in names if len(rows) else ():
                for row in rows[np.isin(rows[name], ids)]:
                    yield from self._tell(row, int(row[name]), batch.wall_offset)

    def _tell(self, row: np.void, text: int, offset: int) -> Iterator[tuple[Signal, int, int]]:
        key = int(row["proc"]), text
        if key in self._told:
            return
        self._told[key] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        where, found = self._texts[text]
        for one in found:
            signal = used(one, where, int(row["ts"]) + offset, int(row["span"]))
            yield signal, key[0], int(row["cgroup"])
