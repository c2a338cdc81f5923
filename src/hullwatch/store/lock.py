"""One writer to a store: an flock on DIR/lock, which the kernel drops when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from hullwatch.store.errors import StoreBusy, StoreError

__all__ = ["acquire", "explain", "holder", "make"]

_MENDS = {
    errno.EROFS: ("its file system is read-only", "remount it writable or choose another --store"),
    errno.EACCES: ("permission denied", "run as root or choose another --store"),
    errno.EPERM: ("permission denied", "run as root or choose another --store"),
    errno.ENOSPC: ("no space left", "free some, lower --max-bytes or choose another --store"),
    errno.EDQUOT: ("quota exceeded", "free some, lower --max-bytes or choose another --store"),
    errno.EFBIG: ("file size limit reached", "raise RLIMIT_FSIZE of the agent"),
    errno.ENOTDIR: ("not a directory", "choose another --store"),
    errno.EEXIST: ("not a directory", "choose another --store"),
}


def explain(root: Path, error: OSError) -> StoreError:
    """An OSError as a StoreError that says what to do."""
    what, mend = _MENDS.get(error.errno or 0, (error.strerror or str(error), ""))
    return StoreError(root, what, mend)


def make(root: Path) -> None:
    """Make the directory, unless it is there. StoreError."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise explain(root, error) from error


def acquire(root: Path) -> int:
    """Make the directory, take the lock; returns its fd. StoreError, StoreBusy."""
    make(root)
    try:
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise explain(root, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreBusy(
            root,
            f"another agent writes here (pid {pid or 'unknown'})",
            "stop it or choose another --store",
        ) from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        raise explain(root, error) from error
    return fd


def holder(root: Path) -> int:
    """pid of the agent that writes to this store, 0 if none does."""
    try:
        fd = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 20, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return 0
