"""Which hooks this kernel allows: the tier, found by asking and trying, with the reason.

lsm         BPF LSM programs attach: the kernel's path for every file operation, io_uring included
tracepoint  BTF and tracepoints only: paths of rename, unlink ... are the caller's text
none        no BPF at all: nothing to run here
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["Facts", "Tier", "cgroup2_root", "read_facts"]

_SYS_LSM_LIST_MODULES = 461  # Linux 6.8, same number on every architecture
_LSM_ID_BPF = 109  # include/uapi/linux/lsm.h


class Tier(StrEnum):
    LSM = "lsm"
    TRACEPOINT = "tracepoint"
    NONE = "none"

    @classmethod
    def parse(cls, text: str | None) -> Tier | None:
        """A tier by name; None for None; ValueError says which there are."""
        if text is None:
            return None
        if text not in (cls.LSM, cls.TRACEPOINT):
            raise ValueError(f"no tier {text!r}: choose lsm or tracepoint")
        return cls(text)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about this kernel. bpf_lsm: True, False, or None if it could not be told.

    reason says why the tier is no better; mend how to get the better one ('' = nothing to do).
    """

    tier: Tier
    release: str
    machine: str
    btf: bool
    bpf_lsm: bool | None
    cgroup2: str
    reason: str = ""
    mend: str = ""


def cgroup2_root(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where the v2 tree is mounted, e.g. '/sys/fs/cgroup'; '' if it is not."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if right.startswith("cgroup2 "):
                fields = left.split(" ")
                if fields[3] == "/":
                    return fields[4]
    return ""


def _active_lsms() -> set[str] | None:
    try:
        return set(Path("/sys/kernel/security/lsm").read_text().strip().split(","))
    except OSError:
        pass
    ids = (ctypes.c_uint64 * 32)()
    size = ctypes.c_uint32(ctypes.sizeof(ids))
    libc = ctypes.CDLL(None, use_errno=True)
    count = libc.syscall(_SYS_LSM_LIST_MODULES, ids, ctypes.byref(size), 0)
    if count < 0:
        return None
    return {"bpf"} if _LSM_ID_BPF in list(ids)[:count] else set()


def read_facts() -> Facts:
    """Ask the running kernel. Never raises; tier is what to try first, the loader may fall back."""
    uname = os.uname()
    btf = os.path.exists("/sys/kernel/btf/vmlinux")
    lsms = _active_lsms()
    bpf_lsm = None if lsms is None else "bpf" in lsms
    cgroup2 = cgroup2_root()
    common = (uname.release, uname.machine, btf, bpf_lsm, cgroup2)
    if os.geteuid() != 0:
        return Facts(Tier.NONE, *common, "not root", "run as root, or with CAP_BPF and CAP_PERFMON")
    if not btf:
        return Facts(
            Tier.NONE,
            *common,
            "no BTF",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian's has it)",
        )
    if not cgroup2:
        return Facts(
            Tier.NONE, *common, "no cgroup v2 tree", "mount -t cgroup2 none /sys/fs/cgroup/unified"
        )
    if bpf_lsm:
        return Facts(Tier.LSM, *common)
    return Facts(
        Tier.TRACEPOINT,
        *common,
        "BPF LSM is not active" if lsms is not None else "the kernel does not say which LSMs run",
        'add "bpf" to the lsm= kernel parameter and boot again',
    )
