"""Removal of what killed test runs left: containerds, containers, namespaces, mounts, folders.

One place, in one order: a folder goes last, as its path is what tells its processes from others.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from support import containerd, runc
from support.scratch import dead_sessions, remove_tree, scratch

__all__ = ["remove_leftovers"]


def remove_leftovers() -> None:
    """Remove what runs have left whose process is gone; those of live ones stay."""
    with (scratch() / ".cleaning").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dead: list[Path] = dead_sessions()
        for folder in dead:
            containerd.end_all(folder / "containerd")
        runc.delete_all(dead)
        for folder in dead:
            remove_tree(folder)
