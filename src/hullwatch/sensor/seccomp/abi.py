"""System calls that Python has no function for, through syscall(2). Errors are OSError.

Sources: include/uapi/linux/{seccomp,landlock,openat2,prctl}.h, asm-generic/unistd.h (numbers from
424 on are the same everywhere).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Any

from hullwatch.sensor.syscalls import SYSCALLS

__all__ = [
    "ARCH", "AUDIT_ARCH", "RESOLVE_BENEATH", "RESOLVE_IN_ROOT", "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS", "filesystem", "number", "openat2", "pidfd_getfd", "prctl",
    "read_memory", "syscall", "write_memory",
]  # fmt: skip


# What `uname -m` says -> name in the table of system calls, AUDIT_ARCH (uapi/linux/audit.h); others
# are not served.
_ARCHES = {"x86_64": ("x86_64", 0xC000003E), "aarch64": ("arm64", 0xC00000B7)}
ARCH, AUDIT_ARCH = _ARCHES.get(platform.machine(), ("", 0))

# Calls that the sensor has no row for: x86-64, arm64.
_MORE = {
    "seccomp": (317, 277),
    "capget": (125, 90),
    "getsockname": (51, 204),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "open_tree_attr": (467, 467),
}
_NUMBERS: dict[str, int | None] = {
    **{name: numbers[ARCH == "arm64"] for name, numbers in _MORE.items()},
    **{row.name: getattr(row, ARCH or "x86_64") for row in SYSCALLS if row.name},
}

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 2, 4, 8, 16
_HOW = struct.Struct("=QQQ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_writev.restype = ctypes.c_ssize_t


def number(name: str) -> int | None:
    """On this architecture; None where it does not have the call. KeyError: nobody has."""
    return _NUMBERS[name]


def syscall(name: str, *arguments: Any) -> int:
    """Once: it is not begun again where a signal ends it. The other threads run on."""
    wanted = _NUMBERS[name]
    if wanted is None:
        raise OSError(38, f"{name}: {os.strerror(38)}")
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _checked(_libc.syscall(ctypes.c_long(wanted), *words), name)


def prctl(option: int, *arguments: int) -> int:
    words = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *words), "prctl")


def openat2(folder: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    return syscall("openat2", folder, path, how, len(how))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    return syscall("pidfd_getfd", pidfd, fd, 0)


def filesystem(fd: int) -> int:
    """f_type of statfs(2)."""
    into = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, into), "fstatfs")
    return int.from_bytes(into.raw[:8], "little")


class _Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Of another process, as much as can be read up to `length`; EFAULT where nothing can."""
    into = ctypes.create_string_buffer(length)
    here = _Piece(ctypes.cast(into, ctypes.c_void_p), length)
    there = _Piece(address, length)
    done = _libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return into.raw[: _checked(done, "process_vm_readv")]


def write_memory(pid: int, address: int, data: bytes) -> None:
    held = ctypes.create_string_buffer(data, len(data))
    here = _Piece(ctypes.cast(held, ctypes.c_void_p), len(data))
    there = _Piece(address, len(data))
    done = _libc.process_vm_writev(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if _checked(done, "process_vm_writev") != len(data):
        raise OSError(14, f"process_vm_writev: {os.strerror(14)}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)
