"""What /proc adds to the snapshot of processes at start: their arguments and environment names.

The kernel side cannot read another process's memory; /proc can. Values of variables are never kept.
"""

from __future__ import annotations

__all__ = ["arguments", "environment_names"]

_ARGV_ROOM, _ENV_ROOM = 16384, 1 << 17


def _read(pid: int, name: str, limit: int) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def arguments(pid: int) -> bytes:
    """NUL-separated argv, b'' for kernel threads and processes that are gone."""
    return _read(pid, "cmdline", _ARGV_ROOM)


def environment_names(pid: int) -> bytes:
    """NUL-separated names; a last variable that was cut off is left out."""
    raw = _read(pid, "environ", _ENV_ROOM)
    names = [entry.partition(b"=")[0] for entry in raw.split(b"\0")[:-1]]
    return b"".join(name + b"\0" for name in names if name)
