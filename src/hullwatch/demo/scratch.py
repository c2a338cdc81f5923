"""Where containers keep their things, and how to be rid of what a killed run left there.

All that one process makes (mounts, bundles, runtime state) lies below one folder named by the
process, so leftovers are found by their path alone and two runs side by side leave each other in
peace.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = [
    "MountError",
    "dead_sessions",
    "ends_with_us",
    "is_dead",
    "mount",
    "poll",
    "remove_tree",
    "session_below",
    "session_name",
    "unmount_below",
]

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")


class MountError(OSError):
    """mount(2) or umount2(2) failed."""


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat, which tells a process from a later one with the same pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def ends_with_us() -> Callable[[], None]:
    """A `preexec_fn`: whoever ends the demo with -9 must not leave the child behind."""
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def session_name() -> str:
    """A name for this process that no other has, before or after."""
    return f"{os.getpid()}-{_start_time(os.getpid())}"


def session_below(root: Path) -> Path:
    """The folder of what this process makes, below `root`. Short, as socket paths hold 107 bytes,
    and not on overlayfs or 9p, where an overlay can have no upper directory."""
    path = root / session_name()
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def is_dead(name: str) -> bool:
    """Is `name` the session_name() of a process that is gone?"""
    pid, dash, start = name.partition("-")
    return bool(dash) and pid.isdigit() and start.isdigit() and _start_time(int(pid)) != start


def dead_sessions(root: Path) -> list[Path]:
    """Folders below `root` of processes that are gone and did not clean up."""
    return [path for path in root.iterdir() if is_dead(path.name)] if root.is_dir() else []


def mount(source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2) without the cost of a process. Raises MountError."""
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()
    )
    if done != 0:
        error = ctypes.get_errno()
        raise MountError(error, f"mount {kind} at {target} ({options}): {os.strerror(error)}")


def _unescape(field: str) -> str:
    return field.encode().decode("unicode_escape")


def unmount_below(folder: Path) -> None:
    """Detach every mount at or below `folder`, innermost first."""
    prefix = f"{folder}/"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [_unescape(line.split()[4]) for line in lines]
    for target in reversed(targets):
        if target == str(folder) or target.startswith(prefix):
            _libc.umount2(os.fsencode(target), _MNT_DETACH)


def remove_tree(folder: Path) -> None:
    """Unmount and delete, whatever is there."""
    if folder.exists():
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def poll(question: Callable[[], T | None], *, seconds: float, waiting_for: str) -> T:
    """The first answer that is not None or False; raises TimeoutError naming what never came."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while True:
        answer = question()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {waiting_for}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
