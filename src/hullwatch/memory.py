"""The C library's memory, given back to the system (glibc; elsewhere nothing happens)."""

from __future__ import annotations

import ctypes

__all__ = ["be_frugal", "give_back"]


def be_frugal() -> None:
    """Before anything is allocated: have memory given back. By default glibc keeps what a burst
    took, in a heap for each thread."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((-8, 1), (-3, 128 << 10), (-1, 128 << 10)):
            libc.mallopt(option, value)  # M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


def give_back() -> None:
    """What is free, wherever in the heap."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
