"""What goes on in the kernel when the agent does not: its programs, held by names in bpffs.

    /sys/fs/bpf/hullwatch/PID-START/NAME     one for each attached program, and for `handlers`

A program ends when nobody holds it any more. An agent that ends in order takes its names along; one
that was killed leaves them, and what policies that fail closed forbid stays forbidden until the
next agent has taken over, or somebody lets go (`hullwatch policy release`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hullwatch.sensor.libbpf import lib

__all__ = ["BPFFS", "Pinned", "Pins", "left", "mount", "release"]

BPFFS = Path("/sys/fs/bpf")
_MAGIC = 0xCAFE4A11  # include/uapi/linux/magic.h: BPF_FS_MAGIC
_MODE = 0o700


class Pinned(NamedTuple):
    """What an agent holds, or left. alive: that process is there."""

    path: Path
    pid: int
    programs: int
    alive: bool


class Pins:
    """Of this process. descriptors: by name, of what is to go on."""

    def __init__(self, descriptors: Callable[[], Mapping[str, int]], root: Path = BPFFS) -> None:
        pid = os.getpid()
        self._descriptors = descriptors
        self._root = root
        self.path = root / "hullwatch" / f"{pid}-{_started(pid)}"

    def hold(self) -> None:
        """OSError."""
        self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
        for name, descriptor in self._descriptors().items():
            path = self.path / name
            if path.exists():
                continue
            code = lib().bpf_obj_pin(descriptor, os.fsencode(path))
            if code < 0:
                number = -code if code != -1 else ctypes.get_errno() or errno.EPERM
                raise OSError(number, os.strerror(number), str(path))

    def let_go(self) -> None:
        release(self.path)

    def take_over(self) -> None:
        """Let go of what agents left that are gone."""
        for one in left(self._root):
            if not one.alive:
                release(one.path)


def mount(root: Path = BPFFS) -> str:
    """Have bpffs there; '' or why it is not. Needs CAP_SYS_ADMIN where it is not there yet."""
    if not root.is_dir():
        return f"there is no {root}"
    if _is_bpffs(root):
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(root), b"bpf", ctypes.c_ulong(0x2 | 0x4 | 0x8), b"mode=0700"):
        return f"bpffs cannot be mounted on {root}: {os.strerror(ctypes.get_errno())}"
    return ""


def left(root: Path = BPFFS) -> list[Pinned]:
    """All that agents hold or left there; nothing where it cannot be looked at."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted((root / "hullwatch").iterdir()):
            pid, _, started = path.name.partition("-")
            if pid.isdigit() and stat.S_ISDIR(path.lstat().st_mode):
                alive = _started(int(pid)) == started
                found.append(Pinned(path, int(pid), len(list(path.iterdir())), alive))
    return found


def release(path: Path) -> int:
    """Let go of all in a folder of `left`; how many there were. OSError."""
    names = list(path.iterdir()) if path.exists() else []
    for name in names:
        name.unlink()
    if path.exists():
        path.rmdir()
    return len(names)


def _is_bpffs(path: Path) -> bool:
    class _Stat(ctypes.Structure):
        _fields_ = (("kind", ctypes.c_long), ("rest", ctypes.c_byte * 256))

    found = _Stat()
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.statfs(os.fsencode(path), ctypes.byref(found)) == 0 and found.kind == _MAGIC


def _started(pid: int) -> str:
    """In clock ticks since boot; '' if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
