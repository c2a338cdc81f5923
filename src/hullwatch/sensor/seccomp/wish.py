"""What a notified call wants, as a value: what is asked, and how it is done for the caller.

A pointer's memory is read once. What was read is asked about, and is what the call is then done
with, here; the kernel never reads the caller's memory again for it. The one call that cannot be
done for another is exec: `Running` says what has to have come of it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import NamedTuple

from hullwatch.sensor.seccomp.caller import Caller

__all__ = [
    "AT_FDCWD", "HERE", "Arguments", "Asked", "Changed", "Given", "Result", "Running", "Wish",
    "by_fd", "error", "of_path", "signed", "start_of",
]  # fmt: skip

AT_FDCWD = -100
HERE = AT_FDCWD & 0xFFFFFFFF  # as a register has it
Arguments = tuple[int, ...]


class Changed(Exception):
    """What was decided on is not there any more: look and ask again."""


class Asked(NamedTuple):
    """names: (kind, id) of one object; several where it is known by several. argv: of an exec.
    directory: it is one. plugin: as which kind of code it is loaded; '' for all other actions."""

    action: str
    names: tuple[tuple[str, str], ...]
    argv: tuple[bytes, ...] = ()
    directory: bool = False
    plugin: str = ""


class Given(NamedTuple):
    """A descriptor as the result; who takes it closes it."""

    fd: int
    close_on_exec: bool


class Running(NamedTuple):
    """The kernel goes on with an exec. files: (device, inode) that the process may then run: of the
    program, and of what interprets it."""

    files: frozenset[tuple[int, int]]
    argv: tuple[bytes, ...]


Result = int | Given | Running


class Wish(NamedTuple):
    """asked: all of it has to be allowed; nothing: whatever it is, no policy is about it. do: in a
    thread of its own, may wait, but where it is `quick`; OSError, Changed."""

    asked: tuple[Asked, ...]
    do: Callable[[], Result]
    quick: bool = False


def signed(value: int) -> int:
    """A 32-bit argument."""
    return ctypes.c_int(value & 0xFFFFFFFF).value


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def by_fd(fd: int) -> bytes:
    """The path that leads to what is open here, and nowhere else."""
    return b"/proc/self/fd/%d" % fd


def of_path(action: str, path: str, directory: bool = False) -> Asked:
    return Asked(action, (("Path", path),), directory=directory)


def start_of(caller: Caller, fd: int, path: bytes) -> int:
    """The folder that a path begins at which is given with this descriptor."""
    return caller.open_root() if path.startswith(b"/") else caller.folder(fd)
