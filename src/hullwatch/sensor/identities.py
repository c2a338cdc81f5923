"""Files known by what they are, whatever name they are reached by.

A path is a name: a hard link, a renaming or a bind mount gives the same file another one. A file
that matters is remembered by device and inode, and a watch of inotify(7) on it tells when it is
gone, before its inode number can be another file's.
"""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = ["Identities", "Key"]

MAX_FILES = 8192
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_DELETE_SELF, _IGNORED = 0x400, 0x8000  # include/uapi/linux/inotify.h
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of a name
_libc = ctypes.CDLL(None, use_errno=True)

Key = tuple[int, int]
"""Device and inode."""


class Identities:
    """OSError. Does not close while somebody waits for permission to open a file that is known
    (sensor/fanotify.py): to be made, and kept open, by a process that outlives who answers.

    refused: files that were not remembered, as there are too many."""

    def __init__(self, limit: int = MAX_FILES) -> None:
        self.fd = int(_libc.inotify_init1(_NONBLOCK | _CLOEXEC))
        if self.fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"inotify_init1: {os.strerror(code)}")
        self._limit = limit
        self._paths: dict[Key, dict[str, str]] = {}
        self._watches: dict[int, Key] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, key: Key, scope: str) -> str:
        """The name by which it is known in a scope (a container); ''."""
        known = self._paths.get(key)
        return known.get(scope, "") if known else ""

    def learn(self, fd: int, key: Key, scope: str, path: str) -> None:
        """fd: of the file, O_PATH will do. The first name stays."""
        if key in self._paths:
            self._paths[key].setdefault(scope, path)
            return
        if len(self._paths) >= self._limit:
            self.refused += 1
            return
        watch = _libc.inotify_add_watch(
            self.fd, b"/proc/self/fd/%d" % fd, ctypes.c_uint32(_DELETE_SELF)
        )
        if watch < 0:
            self.refused += 1
            return
        self._paths[key] = {scope: path}
        self._watches[watch] = key

    def drain(self) -> None:
        """Forget those that are gone."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            at = 0
            while at + _EVENT.size <= len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                if mask & (_IGNORED | _DELETE_SELF):
                    self._paths.pop(self._watches.get(watch, (-1, -1)), None)
                if mask & _IGNORED:
                    self._watches.pop(watch, None)

    def close(self) -> None:
        os.close(self.fd)
