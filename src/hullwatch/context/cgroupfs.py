"""The cgroup v2 tree of this host: where it is, what is in it, id to path and back."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cgroup_id", "cgroup_path", "find_v2_root", "walk"]

_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
_MAX_CGROUPS = 100_000


def find_v2_root(mountinfo: str = "/proc/self/mountinfo") -> str | None:
    """Where cgroup2 is mounted (``/sys/fs/cgroup``, or ``…/unified`` on a hybrid host)."""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                if after.startswith("cgroup2 "):
                    return _unescape(before.split(" ")[4])
    except (OSError, IndexError):
        return None
    return None


def _unescape(path: str) -> str:
    """Octal escapes of proc(5): space, tab, newline, backslash."""
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(escape, char)
    return path


def cgroup_id(directory: str) -> int:
    """The v2 id of a cgroup directory: its inode number (kernfs, 64-bit kernels ≥ 5.5)."""
    return Path(directory).lstat().st_ino


def walk(v2_root: str) -> Iterator[tuple[int, str]]:
    """(id, path below the root) of every cgroup, parents first; at most 100,000."""
    todo = [("/", v2_root)]
    seen = 0
    while todo and seen < _MAX_CGROUPS:
        path, directory = todo.pop()
        try:
            yield cgroup_id(directory), path
            with os.scandir(directory) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:  # removed under our feet
            continue
        seen += 1
        todo.extend((path.rstrip("/") + "/" + name, directory + "/" + name) for name in names)


class _FileHandle(ctypes.Structure):
    _fields_ = [
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int32),
        ("cgroup", ctypes.c_uint64),
    ]


def cgroup_path(v2_root: str, cgroup: int) -> str | None:
    """The path of a live cgroup by its id, without a walk; None if it is gone or not allowed.

    A kernfs file handle is just the 64-bit id (fs/kernfs/mount.c); open_by_handle_at(2) needs
    CAP_DAC_READ_SEARCH.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = _FileHandle(8, _FILEID_KERNFS, cgroup)
    try:
        mount = os.open(v2_root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fd = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(mount)
    if fd < 0:
        return None
    try:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return None
    finally:
        os.close(fd)
    root = os.path.realpath(v2_root)
    if path == root:
        return "/"
    return path[len(root) :] if path.startswith(root + "/") else None
