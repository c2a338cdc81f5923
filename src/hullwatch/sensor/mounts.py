"""Which mounts of a container are watched, and how.

A mark on a *file system* covers it wherever it is mounted, later and in other namespaces too; it is
put on what is the container's own. A mark on a *mount* covers what comes through that mount only;
it is put on what the host has mounted as well, so that nobody on the host waits for an answer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

__all__ = ["Mount", "Plan", "plan", "read_mounts", "resolve"]

MAX_MOUNTINFO = 1 << 20  # bytes; 100,000 mounts is the kernel's own limit for a namespace
# Opening a file on these asks nobody else. What may be answered late or never (FUSE, network) could
# keep us from answering others.
LOCAL = frozenset(
    "overlay ext2 ext3 ext4 xfs btrfs f2fs zfs tmpfs ramfs erofs squashfs vfat exfat ntfs3 iso9660"
    " bcachefs hugetlbfs".split()
)
# Of the kernel itself. It refuses permission events for proc (Linux 5.1).
PSEUDO = frozenset(
    "proc sysfs cgroup cgroup2 devpts mqueue devtmpfs securityfs debugfs tracefs bpf pstore"
    " configfs binfmt_misc efivarfs nsfs autofs rpc_pipefs selinuxfs".split()
)
_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x02, 0x04, 0x08, 0x10
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A line of mountinfo (proc(5)). root: which folder of the file system."""

    id: int
    device: int
    root: str
    point: str
    kind: str
    options: str

    @property
    def upper(self) -> str:
        """An overlay's writable layer, as whoever mounted it named it; ''."""
        named = (one.partition("=") for one in self.options.split(","))
        return next((unescaped(value) for name, _, value in named if name == "upperdir"), "")


class Plan(NamedTuple):
    """filesystems, mounts: to be marked. gaps: what cannot be watched, to be told."""

    filesystems: tuple[Mount, ...]
    mounts: tuple[Mount, ...]
    gaps: tuple[str, ...]


def read_mounts(text: str) -> list[Mount]:
    """Lines that are none are left out."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if len(words) < 6 or len(rest) < 3:
            continue
        major, _, minor = words[2].partition(":")
        if not (words[0].isdecimal() and major.isdecimal() and minor.isdecimal()):
            continue
        device = os.makedev(int(major), int(minor))
        point = unescaped(words[4])
        found.append(Mount(int(words[0]), device, words[3], point, rest[0], rest[2]))
    return found


def plan(mounts: Iterable[Mount], host: Collection[Mount], *, late: bool = False) -> Plan:
    """host: our own namespace's. late: these came after the container's start, made by itself."""
    shown = list(mounts)
    taken = {one.device for one in host}
    host_root = {one.device for one in host if one.point == "/"}
    # An overlay of the container's own may be mounted on the host, too, where runtimes keep it.
    own_root = {one.device for one in shown if one.point == "/" and one.kind == "overlay"}
    filesystems: dict[int, Mount] = {}
    single: list[Mount] = []
    gaps: list[str] = []
    for one in shown:
        if one.kind in PSEUDO:
            continue
        # An overlay may have a layer of FUSE below it.
        strange = late and one.kind == "overlay" and one.device not in own_root
        if one.kind not in LOCAL or strange:
            gaps.append(f"{one.point} ({one.kind})")
        elif one.device not in taken or (one.device in own_root and one.device not in host_root):
            filesystems.setdefault(one.device, one)
        else:
            single.append(one)
    return Plan(tuple(filesystems.values()), tuple(single), tuple(gaps))


def resolve(root: int, path: str, *, links: bool = False, beneath: bool = False) -> int:
    """A descriptor (O_PATH) of a path, with the folder root as the root. links: follow symbolic
    ones, which stay below it. beneath: `..` out of it is an error. OSError."""
    how = (ctypes.c_uint64 * 3)()
    how[0] = os.O_PATH | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    how[2] = _NO_MAGICLINKS | (_BENEATH if beneath else _IN_ROOT) | (0 if links else _NO_SYMLINKS)
    name = path.lstrip("/") or "."
    fd = int(
        _libc.syscall(_OPENAT2, root, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def mount_id(fd: int) -> int:
    """Of the mount that a descriptor goes through; 0 if it cannot be told."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("mnt_id:"):
                    return int(line[7:])
    except (OSError, ValueError):
        pass
    return 0


def unescaped(path: str) -> str:
    """Octal escapes of proc(5)."""
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(escape, char)
    return path
