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

from hullwatch.sensor.seccomp.caller import Caller

__all__ = ["traced"]

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
    _ptrace(_SEIZE, caller.thread, _TRACE_EXEC | _EXIT_KILL)
    try:
        go_on()
    except OSError:
        _leave(caller.thread, ours)
        raise
    return _watch(caller, ours, fits)


def _watch(caller: Caller, ours: bool, fits: Callable[[], bool]) -> bool:
    since, pause, interrupted = time.monotonic(), 0.0001, False
    while True:
        stopped = os.waitid(os.P_ALL, 0, os.WSTOPPED | _MINE)
        if stopped is not None:
            pid, event, number = stopped.si_pid, stopped.si_status >> 8, stopped.si_status & 0xFF
            if event == _EVENT_EXEC:
                if fits():
                    _end(pid, 0)
                    return True
                os.kill(pid, signal.SIGKILL)
                while not _ended(ours):  # else its parent would wait for it for ever
                    time.sleep(0.001)
                return False
            if event == _EVENT_STOP:  # the exec has failed, or is begun anew
                _end(pid, 0)
                return True
            _try(_CONT, pid, number)  # a signal of its own, on its way
            continue
        if _ended(ours):
            return True
        if not interrupted and time.monotonic() - since > INTERRUPTED:
            interrupted = True
            _try(_INTERRUPT, caller.thread, 0)
        time.sleep(pause)
        pause = min(pause * 1.3, 0.01)


def _ended(ours: bool) -> bool:
    """A child of ours is left for whoever waits for it; another's is let go by being waited for."""
    try:
        keep = os.WNOWAIT if ours else 0
        return os.waitid(os.P_ALL, 0, os.WEXITED | _MINE | keep) is not None
    except ChildProcessError:
        return True


def _leave(thread: int, ours: bool) -> None:
    """It has to stand still to be let go."""
    _try(_INTERRUPT, thread, 0)
    while not _ended(ours):
        if os.waitid(os.P_ALL, 0, os.WSTOPPED | _MINE) is not None:
            _end(thread, 0)
            return
        time.sleep(0.001)


def _end(pid: int, number: int) -> None:
    _try(_DETACH, pid, number)


def _try(request: int, pid: int, data: int) -> None:
    with contextlib.suppress(OSError):  # it may be killed at any time
        _ptrace(request, pid, data)


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
