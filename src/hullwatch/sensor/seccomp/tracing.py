"""An exec that the kernel goes on with, stopped before the new program's first instruction.

The kernel reads path and arguments from the caller's memory again, where others may write. So the
caller is traced for as long as the exec takes (ptrace(2)): what came of it is looked at while it
stands still. If we end meanwhile, so does it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from hullwatch.sensor.seccomp.caller import Caller, status

__all__ = ["traced"]

LETTING_GO = 5.0  # s
INTERRUPTED = 0.05  # s after which it is asked whether the exec has failed
_SEIZE, _INTERRUPT, _DETACH, _CONT = 0x4206, 0x4207, 17, 7
_TRACE_EXEC, _EXIT_KILL = 0x10, 0x100000
_EVENT_EXEC, _EVENT_STOP = 4, 128
_WALL, _WNOTHREAD = 0x40000000, 0x20000000
_MINE = os.WNOHANG | _WALL | _WNOTHREAD  # what this thread traces, and nothing else

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def traced(caller: Caller, go_on: Callable[[], None], fits: Callable[[], bool]) -> bool:
    """False: what it became does not fit, and it was ended. To be called in a thread that traces
    nothing else. go_on: lets the exec happen; if it raises, nothing has. OSError where it may not
    be traced."""
    ours = int(caller.status["PPid"]) == os.getpid()
    _seize(caller.thread)
    try:
        go_on()
    except OSError:
        _leave(caller.thread, ours)
        raise
    return _watch(caller, ours, fits)


def _seize(thread: int) -> None:
    """A signal may have taken a call back that was begun again: then another thread of ours is just
    about to let it go."""
    until = time.monotonic() + LETTING_GO
    while True:
        try:
            _ptrace(_SEIZE, thread, _TRACE_EXEC | _EXIT_KILL)
            return
        except PermissionError:
            tracer = status(thread)["TracerPid"].strip()  # a thread's number
            ours = os.path.exists(f"/proc/self/task/{tracer}")
            if time.monotonic() > until or not (ours or tracer == "0"):
                raise
        time.sleep(0.001)


def _watch(caller: Caller, ours: bool, fits: Callable[[], bool]) -> bool:
    since, pause, interrupted = time.monotonic(), 0.0001, False
    while True:
        told = _told(ours)
        if told == _ENDED:
            return True
        if told is None:
            if not interrupted and time.monotonic() - since > INTERRUPTED:
                interrupted = True
                _try(_INTERRUPT, caller.thread, 0)
            time.sleep(pause)
            pause = min(pause * 1.3, 0.01)
        elif told.event == _EVENT_EXEC:
            if fits():
                _try(_DETACH, told.pid, 0)
                return True
            os.kill(told.pid, signal.SIGKILL)
            while _told(ours) != _ENDED:  # else its parent would wait for it for ever
                time.sleep(0.001)
            return False
        elif told.event == _EVENT_STOP:  # the exec has failed, or is begun anew
            _try(_DETACH, told.pid, 0)
            return True
        else:
            _try(_CONT, told.pid, told.number)  # a signal of its own, on its way


class _Told(NamedTuple):
    """event: of a tracee that stands still. number: of the signal that it got."""

    pid: int
    event: int
    number: int


_ENDED = _Told(0, 0, 0)


def _told(ours: bool) -> _Told | None:
    """Of what this thread traces. Only looked at: a stop is over when it goes on. One that has
    ended is left for whoever waits for it where it is a child of ours; another's is let go by us.

    The kernel tells of stops here whether they are asked for or not (kernel/exit.c)."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WEXITED | os.WNOWAIT | _MINE)
        if found is None:
            return None
        if found.si_code not in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            return _Told(found.si_pid, found.si_status >> 8, found.si_status & 0xFF)
        if not ours:
            os.waitid(os.P_PID, found.si_pid, os.WEXITED | _MINE)
    except ChildProcessError:
        pass
    return _ENDED


def _leave(thread: int, ours: bool) -> None:
    """It has to stand still to be let go."""
    _try(_INTERRUPT, thread, 0)
    while (told := _told(ours)) is None:
        time.sleep(0.001)
    if told != _ENDED:
        _try(_DETACH, told.pid, 0)


def _try(request: int, pid: int, data: int) -> None:
    with contextlib.suppress(OSError):  # it may be killed at any time
        _ptrace(request, pid, data)


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
