"""Files opened and cut: held first without being opened, decided on, then opened for the caller."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from hullwatch.sensor.seccomp.abi import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    syscall,
)
from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.walk import Spot, in_our_root, name_of, spot
from hullwatch.sensor.seccomp.wish import (
    AT_FDCWD,
    HERE,
    Arguments,
    Asked,
    Changed,
    Given,
    Result,
    Wish,
    by_fd,
    error,
    of_path,
    signed,
    start_of,
)

__all__ = ["creat", "open_", "openat", "openat2_", "truncate"]

_PATH_MAX = 4096
_HELD = os.O_PATH | os.O_CLOEXEC
# Whatever a reopening through /proc cannot have, or what was done by then.
_ONCE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_TMPFILE = os.O_TMPFILE


def open_(caller: Caller, given: Arguments) -> Wish:
    return _opening(caller, HERE, given[0], signed(given[1]), given[2])


def creat(caller: Caller, given: Arguments) -> Wish:
    return _opening(caller, HERE, given[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, given[1])


def openat(caller: Caller, given: Arguments) -> Wish:
    return _opening(caller, given[0], given[1], signed(given[2]), given[3])


def openat2_(caller: Caller, given: Arguments) -> Wish:
    size = given[3]
    if size < 24:
        raise error(errno.EINVAL)
    if size > _PATH_MAX:
        raise error(errno.E2BIG)
    how = caller.read(given[2], size)
    if any(how[24:]):
        raise error(errno.E2BIG)
    flags, mode, resolve = struct.unpack_from("=QQQ", how)
    if flags >> 32:
        raise error(errno.EINVAL)
    return _opening(caller, given[0], given[1], signed(flags), mode, resolve)


def _opening(
    caller: Caller, fd: int, address: int, flags: int, mode: int, resolve: int = 0
) -> Wish:
    path = caller.text(address)
    start = start_of(caller, fd, path)
    caller.open_root()
    rights = caller.rights()
    creates = bool(flags & os.O_CREAT) and flags & _TMPFILE != _TMPFILE
    follow = not flags & os.O_NOFOLLOW and flags & _ONCE != os.O_CREAT | os.O_EXCL
    with acting(rights):
        if resolve:
            found = _resolved(caller, start, path, follow, creates, resolve)
        else:
            found = _found(caller, start, path, follow, creates)
    if found.fd < 0:
        folder = name_of(found.folder, caller)
        made = f"{folder.rstrip('/')}/{os.fsdecode(found.name)}"
        asked = [of_path("open-write", made)]
    else:
        directory = stat.S_ISDIR(os.fstat(found.fd).st_mode)
        asked = _reading_or_writing(flags, name_of(found.fd, caller), directory)

    def do() -> Result:
        with acting(rights):
            return Given(_opened(found, flags, mode & 0o7777, follow), bool(flags & os.O_CLOEXEC))

    quick = found.fd < 0 or stat.S_IFMT(os.fstat(found.fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR)
    return Wish(tuple(asked), do, quick)


def _reading_or_writing(flags: int, path: str, directory: bool) -> list[Asked]:
    """A pipe or socket is no file: its name begins without a slash."""
    if flags & os.O_PATH or not path.startswith("/"):
        return []
    access = flags & os.O_ACCMODE
    asked = []
    if access != os.O_WRONLY:
        asked.append(of_path("open-read", path, directory))
    if access != os.O_RDONLY or flags & os.O_TRUNC or flags & _TMPFILE == _TMPFILE:
        asked.append(of_path("open-write", path))
    return asked


def _found(caller: Caller, start: int, path: bytes, follow: bool, creates: bool) -> Spot:
    """What is there; where it would be made, if it is not."""
    try:
        return spot(caller, start, path, follow=follow)
    except FileNotFoundError:
        if not creates:
            raise
    return spot(caller, start, path, follow=follow, entry=True)


def _resolved(
    caller: Caller, start: int, path: bytes, follow: bool, creates: bool, resolve: int
) -> Spot:
    """With the bounds of openat2(2), which only the kernel can keep; no links of /proc."""
    bounded = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)
    if path.startswith(b"/") and not bounded:
        resolve |= RESOLVE_IN_ROOT
    elif path.startswith(b"/"):
        start = caller.folder(HERE) if start == caller.root else start
    elif not bounded and not in_our_root(caller):
        resolve |= RESOLVE_NO_SYMLINKS
    resolve |= RESOLVE_NO_MAGICLINKS
    try:
        flags = _HELD | (0 if follow else os.O_NOFOLLOW)
        return Spot(caller.keep(openat2(start, path, flags, resolve=resolve)))
    except FileNotFoundError:
        folder, _, name = path.rstrip(b"/").rpartition(b"/")
        if not creates or name in (b"", b".", b".."):
            raise
    folder = folder or (b"/" if path.startswith(b"/") else b".")
    held = caller.keep(openat2(start, folder, _HELD | os.O_DIRECTORY, resolve=resolve))
    return Spot(-1, held, name)


def _opened(found: Spot, flags: int, mode: int, follow: bool) -> int:
    if found.fd < 0:
        try:
            how = flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return syscall("openat", found.folder, found.name, how, mode)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            raise Changed from None
    if flags & _ONCE & ~os.O_NOFOLLOW == os.O_CREAT | os.O_EXCL:
        raise error(errno.EEXIST)
    kind = os.fstat(found.fd).st_mode
    if flags & os.O_PATH:
        if flags & os.O_DIRECTORY and not stat.S_ISDIR(kind):
            raise error(errno.ENOTDIR)
        return os.dup(found.fd)
    if stat.S_ISLNK(kind):
        raise error(errno.ELOOP)
    if stat.S_ISDIR(kind) and flags & os.O_CREAT and flags & _TMPFILE != _TMPFILE:
        raise error(errno.EISDIR)
    if stat.S_ISSOCK(kind):
        raise error(errno.ENXIO)
    how = flags & ~_ONCE | os.O_CLOEXEC
    return syscall("openat", AT_FDCWD, by_fd(found.fd), how, mode)


def truncate(caller: Caller, given: Arguments) -> Wish:
    path = caller.text(given[0])
    start = start_of(caller, HERE, path)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        found = spot(caller, start, path, follow=True)
    length = ctypes.c_long(given[1]).value

    def do() -> Result:
        with acting(rights):
            return syscall("truncate", by_fd(found.fd), length)

    return Wish((of_path("open-write", name_of(found.fd, caller)),), do)
