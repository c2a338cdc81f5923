"""Calls told to the kernel: which processes act for which call, stamped on their events.

See kernel/span.h. A server is an actor whose calls come and go; a process is of it by being named
here, or by being started by one that is. Map writes are user space's, except for a server's list of
calls, which several change: that is done by a program in the kernel.
"""

from __future__ import annotations

import errno
import os
import struct

import numpy as np

from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.wire import ACTING, CALL_CHANGE, CALLS, CALLS_AT_ONCE, OF_THREAD

__all__ = ["CALLS_AT_ONCE", "Spans", "thread_actor"]

_ACTING = struct.Struct("<QQ")
_CHANGE = struct.Struct("<QQII")
assert _ACTING.size == ACTING.itemsize and _CHANGE.size == CALL_CHANGE.itemsize
_NO_CALLS = bytes(CALLS.itemsize)


def thread_actor(tid: int) -> int:
    """The actor that is one thread; tid: on the host."""
    return OF_THREAD | tid


class Spans:
    """Safe from several threads: each method is one system call or a few.

    refused: changes that there was no room for, by what they were.
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._acting = programs.object.map("acting")
        self._running = programs.object.map("running")
        self._change = programs.object.programs["call_change"]
        self.refused: dict[str, int] = {"servers": 0, "processes": 0, "calls": 0}

    def new_server(self) -> int:
        """An actor whose calls come and go; 0: there are too many."""
        actor = int.from_bytes(os.urandom(8), "little") & ~OF_THREAD or 1
        return actor if self._add_actor(actor) else 0

    def add_thread(self, tid: int) -> int:
        """The actor of a thread of the host; 0: there are too many."""
        actor = thread_actor(tid)
        return actor if self._add_actor(actor) else 0

    def _add_actor(self, actor: int) -> bool:
        try:
            self._running.add(struct.pack("<Q", actor), _NO_CALLS)
        except BpfError:
            self.refused["servers"] += 1
            return False
        self._programs.set(calls=1)
        return True

    def drop_actor(self, actor: int) -> None:
        self._running.delete(struct.pack("<Q", actor))

    def serves(self, tgid: int, server: int) -> bool:
        """The process, and those that it starts from now on outside of a call, are the server's.
        A call that it was started in stays its own where the server has none."""
        key = struct.pack("<I", tgid)
        known = self._acting.lookup(key)
        span = _ACTING.unpack(known)[0] if known else 0
        try:
            self._acting.update(key, _ACTING.pack(span, server))
        except BpfError:
            self.refused["processes"] += 1
            return False
        self._programs.set(calls=1)
        return True

    def forget(self, tgid: int, server: int) -> None:
        """The process is of this server no more, if it was; what it started stays as it is."""
        key = struct.pack("<I", tgid)
        known = self._acting.lookup(key)
        if known is None:
            return
        span, of = _ACTING.unpack(known)
        if of != server:
            return
        if span:
            self._acting.update(key, _ACTING.pack(span, 0))
        else:
            self._acting.delete(key)

    def begin(self, actor: int, call: int) -> bool:
        """From now on the actor serves this call, too. False: too many at once, no such actor."""
        code = self._change.run(_CHANGE.pack(actor, call, 1, 0))
        if code == -errno.ENOSPC:
            self.refused["calls"] += 1
        return code in (0, -errno.EEXIST)

    def end(self, actor: int, call: int) -> bool:
        """The call is over. False: it was not there."""
        return self._change.run(_CHANGE.pack(actor, call, 0, 0)) == 0

    def acting(self) -> dict[int, tuple[int, int]]:
        """tgid -> (span, server) of all processes that act for something."""
        found = {}
        for key, value in self._acting.items():
            found[struct.unpack("<I", key)[0]] = _ACTING.unpack(value)
        return found

    def serving(self) -> dict[int, list[int]]:
        """server -> the processes that are its own (tgid), those that act for a call of it too."""
        found: dict[int, list[int]] = {}
        for tgid, (_, server) in self.acting().items():
            found.setdefault(server, []).append(tgid)
        return found

    def running(self) -> dict[int, tuple[int, ...]]:
        """actor -> its calls."""
        found = {}
        for key, value in self._running.items():
            calls = np.frombuffer(value, CALLS)["calls"][0]
            found[struct.unpack("<Q", key)[0]] = tuple(calls[calls != 0].tolist())
        return found
