"""A path as the caller would reach it, held by a descriptor that neither reads nor writes (O_PATH).

What is opened is then decided on by the kernel's own name for it, and used through the descriptor:
links, renames and mounts in between change nothing.

The kernel walks where it can. Below /proc it is walked here, step by step: there the kernel would
take `self` for us, and a caller may go through links that are no text (`/proc/PID/root`).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from hullwatch.sensor.seccomp.abi import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    filesystem,
    openat2,
)
from hullwatch.sensor.seccomp.caller import Caller

__all__ = ["Spot", "in_our_root", "name_of", "spot"]

MAX_LINKS = 40  # as fs/namei.c
_PROC, _PROC_ROOT_INODE = 0x9FA0, 1  # linux/magic.h; include/linux/proc_fs.h
_HELD = os.O_PATH | os.O_CLOEXEC
_DELETED = b" (deleted)"


class Spot(NamedTuple):
    """fd: what is there, -1: nothing. folder, name: where it would be made; -1 where `fd` is all
    that is known."""

    fd: int
    folder: int = -1
    name: bytes = b""


def spot(caller: Caller, start: int, path: bytes, *, follow: bool, entry: bool = False) -> Spot:
    """start: descriptor of the folder that a relative path begins at. entry: where it would be made
    is wanted, too; else nothing there is ENOENT. OSError as the call itself would give it."""
    if not path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    root = caller.open_root()
    if not entry:
        found = _by_kernel(caller, start, root, path, follow)
        if found is not None:
            return Spot(found)
    walked = _Walk(caller, root).go(start, path, follow)
    if walked.fd < 0 and not entry:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return walked


def name_of(fd: int, caller: Caller) -> str:
    """The kernel's path of what is open here; it begins with a slash only for a file."""
    said = os.readlink(b"/proc/self/fd/%d" % fd)
    if said.endswith(_DELETED):
        # A file may really be called so.
        try:
            there = os.stat(said.lstrip(b"/"), dir_fd=caller.open_root(), follow_symlinks=False)
            real = os.path.samestat(there, os.fstat(fd))
        except OSError:
            real = False
        if not real:
            said = said.removesuffix(_DELETED)
    return os.fsdecode(said)


def in_our_root(caller: Caller) -> bool:
    return os.path.samestat(os.fstat(caller.open_root()), os.stat("/"))


def _by_kernel(caller: Caller, start: int, root: int, path: bytes, follow: bool) -> int | None:
    """None: it is to be walked here."""
    flags = _HELD | (0 if follow else os.O_NOFOLLOW)
    absolute = path.startswith(b"/")
    if not absolute and not in_our_root(caller):
        return None  # links in it lead to another root than ours
    begin, resolve = (root, RESOLVE_IN_ROOT) if absolute else (start, 0)
    try:
        fd = caller.keep(openat2(begin, path, flags, resolve=resolve | RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        # What is not there for us may be there for the caller: `/proc/self/fd/63`.
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.EAGAIN, errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    return None if _in_proc(fd) else fd


def _in_proc(fd: int) -> bool:
    return filesystem(fd) == _PROC


class _Walk:
    def __init__(self, caller: Caller, root: int) -> None:
        self._caller = caller
        self._root = root
        self._links = 0

    def go(self, start: int, path: bytes, follow: bool) -> Spot:
        keep = self._caller.keep
        here = self._root if path.startswith(b"/") else start
        if not stat.S_ISDIR(os.fstat(here).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        left = _steps(path)
        must = path.endswith(b"/")  # be a folder
        folder, name = -1, b""
        while left:
            step = left.pop()
            if step == b".":
                folder = -1
                continue
            if step == b"..":
                if not _same(here, self._root):
                    here = keep(os.open(b"..", _HELD | os.O_DIRECTORY, dir_fd=here))
                folder = -1
                continue
            try:
                there = keep(os.open(step, _HELD | os.O_NOFOLLOW, dir_fd=here))
            except FileNotFoundError:
                if left or must:
                    raise
                return Spot(-1, here, step)
            if stat.S_ISLNK(os.fstat(there).st_mode) and (left or follow or must):
                target = self._target(here, step, there)
                if isinstance(target, bytes):
                    must = must or (target.endswith(b"/") and not left)
                    left += _steps(target)
                    if target.startswith(b"/"):
                        here = self._root
                    continue
                there = target
            folder, name, here = here, step, there
        if must and not stat.S_ISDIR(os.fstat(here).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Spot(here, folder, name)

    def _target(self, folder: int, name: bytes, link: int) -> bytes | int:
        """A text to walk on, or what a link of /proc leads to."""
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not _in_proc(link):
            return os.readlink(b"", dir_fd=link)
        if name in (b"self", b"thread-self") and os.fstat(folder).st_ino == _PROC_ROOT_INODE:
            return self._self(folder, name)
        try:
            os.close(openat2(folder, name, _HELD, resolve=RESOLVE_NO_MAGICLINKS))
        except OSError as error:
            if error.errno == errno.ELOOP:
                return self._caller.keep(os.open(name, _HELD, dir_fd=folder))
        return os.readlink(b"", dir_fd=link)

    def _self(self, proc: int, name: bytes) -> bytes:
        """By the number that the caller has in the pid namespace of this /proc."""
        process = self._number(proc, True)
        if name == b"self":
            return b"%d" % process
        return b"%d/task/%d" % (process, self._number(proc, False))

    def _number(self, proc: int, process: bool) -> int:
        """From ours inwards: that by which this /proc shows the same thread."""
        numbers = self._caller.numbers(process)
        field = b"NStgid:" if process else b"NSpid:"
        for at, number in enumerate(numbers):
            try:
                fd = os.open(f"{number}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
            except OSError:
                continue
            try:
                lines = os.read(fd, 1 << 14).splitlines()
            finally:
                os.close(fd)
            shown = next((line.split()[1:] for line in lines if line.startswith(field)), [])
            if list(map(int, shown)) == numbers[at:]:
                return number
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _steps(path: bytes) -> list[bytes]:
    """The last first."""
    return [step for step in reversed(path.split(b"/")) if step]


def _same(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))
