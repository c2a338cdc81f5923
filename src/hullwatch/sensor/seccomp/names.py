"""Names of files given and changed: another name is another path to open a file by."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from hullwatch.sensor.seccomp.abi import syscall
from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.walk import Spot, name_of, spot
from hullwatch.sensor.seccomp.wish import (
    AT_FDCWD,
    HERE,
    Arguments,
    Asked,
    Changed,
    Result,
    Wish,
    by_fd,
    error,
    of_path,
    signed,
    start_of,
)

__all__ = ["link", "linkat", "rename", "renameat", "renameat2"]

MAX_MOVED = 512  # files and folders in one that is renamed
_AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = 0x400, 0x1000
_EXCHANGE = 2


def link(caller: Caller, given: Arguments) -> Wish:
    return _linking(caller, HERE, given[0], HERE, given[1], 0)


def linkat(caller: Caller, given: Arguments) -> Wish:
    return _linking(caller, given[0], given[1], given[2], given[3], signed(given[4]))


def _linking(
    caller: Caller, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int
) -> Wish:
    """Another name for a file: as opening it both ways."""
    old, new = caller.text(old_at), caller.text(new_at)
    start = start_of(caller, old_fd, old)
    to = start_of(caller, new_fd, new)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        if not old and flags & _AT_EMPTY_PATH:
            source = start
        else:
            source = spot(caller, start, old, follow=bool(flags & _AT_SYMLINK_FOLLOW)).fd
        made = spot(caller, to, new, follow=False, entry=True)
    if made.fd >= 0:
        raise error(errno.EEXIST)
    path = name_of(source, caller)

    def do() -> Result:
        with acting(rights):
            follow = _AT_SYMLINK_FOLLOW
            return syscall("linkat", AT_FDCWD, by_fd(source), made.folder, made.name, follow)

    return Wish((*_both(path), _made(made, caller)), do)


def rename(caller: Caller, given: Arguments) -> Wish:
    return _renaming(caller, HERE, given[0], HERE, given[1], 0)


def renameat(caller: Caller, given: Arguments) -> Wish:
    return _renaming(caller, given[0], given[1], given[2], given[3], 0)


def renameat2(caller: Caller, given: Arguments) -> Wish:
    return _renaming(caller, given[0], given[1], given[2], given[3], signed(given[4]))


def _renaming(
    caller: Caller, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int
) -> Wish:
    """As opening what moves both ways, and writing what it replaces."""
    old, new = caller.text(old_at), caller.text(new_at)
    start = start_of(caller, old_fd, old)
    to = start_of(caller, new_fd, new)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        source = spot(caller, start, old, follow=False, entry=True)
        target = spot(caller, to, new, follow=False, entry=True)
        if source.fd < 0:
            raise error(errno.ENOENT)
        if source.folder < 0 or target.folder < 0:
            raise error(errno.EBUSY)
        asked = [*_moved(source.fd, caller), _made(target, caller)]
        if flags & _EXCHANGE and target.fd >= 0:
            asked += _moved(target.fd, caller)

    def do() -> Result:
        with acting(rights):
            _is_still(source)
            if flags & _EXCHANGE:
                _is_still(target)
            ends = (source.folder, source.name, target.folder, target.name)
            return syscall("renameat2", *ends, flags)

    return Wish(tuple(asked), do)


def _is_still(found: Spot) -> None:
    try:
        there = os.stat(found.name, dir_fd=found.folder, follow_symlinks=False)
    except FileNotFoundError:
        raise Changed from None
    if found.fd < 0 or not os.path.samestat(there, os.fstat(found.fd)):
        raise Changed


def _both(path: str) -> tuple[Asked, Asked]:
    return of_path("open-read", path), of_path("open-write", path)


def _moved(fd: int, caller: Caller) -> list[Asked]:
    """Of a folder, all that lies in it too, as that gets other paths. EXDEV where it is too much:
    programs then copy, which is asked about file by file."""
    path = name_of(fd, caller)
    asked = [*_both(path)]
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        for count, below in enumerate(_below(fd, path)):
            if count >= MAX_MOVED:
                raise error(errno.EXDEV)
            asked += _both(below)
    return asked


def _below(fd: int, path: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    top = os.fsdecode(by_fd(fd))
    for folder, folders, files, _ in os.fwalk(f"{top}/.", onerror=fail):
        for name in (*folders, *files):
            yield f"{path}{folder.removeprefix(f'{top}/.')}/{name}"


def _made(found: Spot, caller: Caller) -> Asked:
    folder = name_of(found.folder, caller)
    return of_path("open-write", f"{folder.rstrip('/')}/{os.fsdecode(found.name)}")
