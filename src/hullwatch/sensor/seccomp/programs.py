"""Programs executed: what it is, and what has to run once the kernel has done it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.walk import name_of, spot
from hullwatch.sensor.seccomp.wish import (
    HERE,
    Arguments,
    Asked,
    Changed,
    Result,
    Running,
    Wish,
    by_fd,
    error,
    signed,
    start_of,
)

__all__ = ["execve", "execveat"]


_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000
_MAX_INTERPRETERS = 5  # fs/exec.c
_HEAD = 256  # BINPRM_BUF_SIZE


def execve(caller: Caller, given: Arguments) -> Wish:
    return _executing(caller, HERE, given[0], given[1], 0)


def execveat(caller: Caller, given: Arguments) -> Wish:
    return _executing(caller, given[0], given[1], given[2], signed(given[4]))


def _executing(caller: Caller, fd: int, path_at: int, argv_at: int, flags: int) -> Wish:
    path, argv = caller.text(path_at), caller.texts(argv_at)
    start = start_of(caller, fd, path)
    cwd = caller.folder(HERE)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        if not path and flags & _AT_EMPTY_PATH:
            program = start
        else:
            program = spot(caller, start, path, follow=not flags & _AT_SYMLINK_NOFOLLOW).fd
        mode = os.fstat(program).st_mode
        if stat.S_ISLNK(mode):
            raise error(errno.ELOOP)
        if not stat.S_ISREG(mode):
            raise error(errno.EACCES)
        chain = list(_interpreted(caller, cwd, program))

    def do() -> Result:
        if (caller.text(path_at), caller.texts(argv_at)) != (path, argv):
            raise Changed
        return Running(files, argv)

    files = frozenset(map(_id, chain))
    names = dict.fromkeys(name_of(one, caller) for one in chain)
    return Wish(tuple(Asked("exec", (("Binary", name),), argv) for name in names), do)


def _interpreted(caller: Caller, cwd: int, program: int) -> Iterator[int]:
    """The program, and where it is a script what runs it: each is executed."""
    for _ in range(_MAX_INTERPRETERS):
        yield program
        try:
            fd = os.open(by_fd(program), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # it may be run and not read: then it is no script
            return
        try:
            head = os.read(fd, _HEAD)
        finally:
            os.close(fd)
        words = head[2:].split(b"\n", 1)[0].replace(b"\0", b" ").split()
        if not head.startswith(b"#!") or not words:
            return
        start = caller.open_root() if words[0].startswith(b"/") else cwd
        program = spot(caller, start, words[0], follow=True).fd


def _id(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
