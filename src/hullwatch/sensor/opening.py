"""What a thread that waits in a system call opens a file for.

A permission event says neither reading nor writing. The registers of a thread that waits cannot be
changed by its siblings, so /proc/TID/syscall tells it where the flags are an argument. Where they
lie in memory (openat2), or the kernel opens for somebody (io_uring), it is not known.
"""

from __future__ import annotations

import os
import time
from typing import Literal

__all__ = ["Purpose", "purpose_of"]

Purpose = Literal["read", "write", "exec", ""]
"""'': not known, or both."""

# Number -> which argument has the flags. The 32-bit calls stand beside the 64-bit ones: what has
# their numbers among those opens nothing.
_FLAGS: dict[str, dict[int, int]] = {
    # open, openat, open_by_handle_at; of i386 after them
    "x86_64": {2: 1, 257: 2, 304: 2, 5: 1, 295: 2, 342: 2},
    "aarch64": {56: 2, 265: 2, 5: 1, 322: 2, 371: 2},
}
_CREAT = {"x86_64": (85, 8), "aarch64": (8,)}
_EXEC = {"x86_64": (59, 322, 11, 358, 520, 545), "aarch64": (221, 281, 11, 387)}
_X32 = 0x40000000
_MACHINE = os.uname().machine
_PAUSES = (0.0, 0.0, 0.0002, 0.001, 0.005, 0.02)
"""s, after each look: it has told of itself a moment before it sleeps, and may have lost the CPU in
between. Not for longer, as others wait, too."""


def purpose_of(thread: int) -> Purpose:
    """Of a thread that waits for an answer."""
    for pause in _PAUSES:
        said = _syscall(thread)
        if said != b"running\n":
            return read_purpose(said)
        time.sleep(pause)
    return read_purpose(_syscall(thread))


def _syscall(thread: int) -> bytes:
    """Nothing where it has ended."""
    try:
        with open(f"/proc/{thread}/syscall", "rb") as file:
            return file.read(256)
    except OSError:
        return b""


def read_purpose(said: bytes, machine: str = _MACHINE) -> Purpose:
    """Of a line of /proc/TID/syscall (proc(5)): number, six arguments, stack, code."""
    words = said.split()
    if len(words) < 7:
        return ""
    number = int(words[0])
    if number > 0:
        number &= ~_X32
    if number in _EXEC.get(machine, ()):
        return "exec"
    if number in _CREAT.get(machine, ()):
        return "write"
    place = _FLAGS.get(machine, {}).get(number)
    if place is None:
        return ""
    flags = int(words[1 + place], 16)
    how = flags & os.O_ACCMODE
    if how == os.O_RDONLY:
        return "" if flags & os.O_TRUNC else "read"
    return "write" if how == os.O_WRONLY else ""
