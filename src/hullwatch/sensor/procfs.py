"""What /proc adds to the snapshot of processes at start: their arguments and environment names.

The kernel side cannot read another process's memory; /proc can. Values of variables are never kept.
"""

from __future__ import annotations

__all__ = ["arguments", "environment_names"]

# As kernel/common.h and process.bpf.c keep of a process that starts.
_ARGV_ROOM, _ENV_ROOM, _ENV_NAME = 16384, 8192, 128
# Linux allows 2 MiB of arguments and environment by default, and reads a page at a time.
_READ = 1 << 21


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(_READ)
    except OSError:
        return b""


def arguments(pid: int) -> tuple[bytes, int]:
    """(NUL-separated argv, cut to what is kept; its whole length); b"" where there is none."""
    raw = _read(pid, "cmdline")
    return raw[:_ARGV_ROOM], len(raw)


def environment_names(pid: int) -> tuple[bytes, bool]:
    """(NUL-separated names, cut?).

    What has no '=' is left out: programs that write a title over their environment (sshd, nginx)
    leave ends of values standing there.
    """
    parts = (entry.partition(b"=") for entry in _read(pid, "environ").split(b"\0"))
    names = b"".join(name[:_ENV_NAME] + b"\0" for name, equals, _ in parts if name and equals)
    if len(names) <= _ENV_ROOM:
        return names, False
    return names[: names.rindex(b"\0", 0, _ENV_ROOM) + 1], True
