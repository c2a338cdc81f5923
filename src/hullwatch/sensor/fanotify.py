"""Permission events of fanotify(7): whoever opens or executes a file waits until it is answered.

Nothing of policy is here. The kernel opens the object itself for the event, so its path
(`/proc/self/fd/N`) is the kernel's own. When the group is closed, or its process ends in any way,
the kernel lets everything that waits go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from typing import NamedTuple

__all__ = ["EXEC", "OPEN", "Event", "Group"]

# include/uapi/linux/fanotify.h
_CLOEXEC, _NONBLOCK, _CLASS_CONTENT = 0x1, 0x2, 0x4
_UNLIMITED_QUEUE, _UNLIMITED_MARKS, _REPORT_TID = 0x10, 0x20, 0x100
_ADD, _REMOVE, _MOUNT, _FILESYSTEM = 0x1, 0x2, 0x10, 0x100
_ALLOW, _DENY = 1, 2
OPEN, EXEC = 0x10000, 0x40000
_EVENT = struct.Struct("=IBBHQii")  # length, version, -, length of this, mask, fd, thread
_ANSWER = struct.Struct("=iI")
_VERSION = 3
_AT_FDCWD = -100
_HIGH = 512
_AT_ONCE = 64  # events that are read; each is an open descriptor
_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """fd: the object, opened for reading without a further event; `Group.answer` closes it. thread:
    who waits; 0: of a pid namespace that cannot be seen from here."""

    fd: int
    thread: int
    exec: bool


class Group:
    """OSError where the kernel or the rights (CAP_SYS_ADMIN) do not allow it. Never blocks.

    unreadable: events of what could not be opened for us; the kernel refused those by itself.
    """

    def __init__(self) -> None:
        flags = _CLASS_CONTENT | _CLOEXEC | _NONBLOCK | _REPORT_TID
        flags |= _UNLIMITED_QUEUE | _UNLIMITED_MARKS
        # Never waits for the other end of a pipe, nor changes when a file was read last.
        opened = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME | _LARGEFILE
        made = _checked(_libc.fanotify_init(flags, opened), "fanotify_init")
        # A dying process closes its highest descriptor first (task_work is last in, first out),
        # and a group of inotify with a watch on a file that somebody waits for does not close
        # before that wait is over (fsnotify_destroy_group): this one has to be above it.
        self.fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        os.close(made)
        self.unreadable = 0
        self._waiting: set[int] = set()

    def mark(self, fd: int, mask: int, *, filesystem: bool) -> None:
        """All of the file system that fd is of, or only the mount. mask: OPEN, EXEC. OSError."""
        self._mark(_ADD, fd, mask, filesystem)

    def unmark(self, fd: int, mask: int, *, filesystem: bool) -> None:
        with contextlib.suppress(OSError):  # unmounted meanwhile
            self._mark(_REMOVE, fd, mask, filesystem)

    def _mark(self, how: int, fd: int, mask: int, filesystem: bool) -> None:
        how |= _FILESYSTEM if filesystem else _MOUNT
        path = b"/proc/self/fd/%d" % fd  # an O_PATH descriptor itself is not taken
        done = _libc.fanotify_mark(self.fd, how, ctypes.c_uint64(mask), _AT_FDCWD, path)
        _checked(done, "fanotify_mark")

    def read(self) -> list[Event]:
        """What waits, at most 64; none: nothing does."""
        try:
            data = os.read(self.fd, _AT_ONCE * _EVENT.size)
        except BlockingIOError:
            return []
        except OSError:
            # The first of them could not be opened (a device that is not there, too many files).
            self.unreadable += 1
            return []
        events = []
        at = 0
        while at + _EVENT.size <= len(data):
            length, version, _, _, mask, fd, thread = _EVENT.unpack_from(data, at)
            if version != _VERSION or length < _EVENT.size:
                raise OSError(f"fanotify: version {version} of events is not known here")
            if fd >= 0:
                self._waiting.add(fd)
                events.append(Event(fd, thread, bool(mask & EXEC)))
            at += length
        return events

    def answer(self, event: Event, allow: bool) -> None:
        """Whoever waits goes on, or gets EPERM. Nothing, where that was said before."""
        if event.fd not in self._waiting:
            return
        # No event: it was killed meanwhile.
        with contextlib.suppress(OSError):
            os.write(self.fd, _ANSWER.pack(event.fd, _ALLOW if allow else _DENY))
        self.forget(event)

    def forget(self, event: Event) -> None:
        """Whoever waited has ended."""
        self._waiting.discard(event.fd)
        os.close(event.fd)

    def close(self) -> None:
        os.close(self.fd)


_LARGEFILE = {"x86_64": 0o100000, "aarch64": 0o400000}.get(os.uname().machine, 0)


def _checked(value: int, what: str) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return value
