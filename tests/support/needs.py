"""What a live test needs of its machine, and which of it is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["in_vm", "missing"]

_CAP_SYS_ADMIN = 21
_PACKAGES = {
    "runc": "runc",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "containerd": "containerd",
    "ctr": "containerd",
    "clang": "clang",
}


def in_vm() -> bool:
    """Does this run in a guest that tests/vm has booted?"""
    return os.environ.get("HULLWATCH_VM") == "1"


def missing(*programs: str) -> str | None:
    """Why containers cannot be run here with these programs; None if they can."""
    if os.geteuid() != 0:
        return "needs root (it starts containers)"
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff"))
    if not int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1:
        return "needs CAP_SYS_ADMIN (it mounts overlays and makes namespaces)"
    if not Path("/sys/fs/cgroup").is_dir():
        return "needs cgroups at /sys/fs/cgroup"
    for program in programs:
        if shutil.which(program) is None:
            return f"needs {program}: apt-get install {_PACKAGES.get(program, program)}"
    return None
