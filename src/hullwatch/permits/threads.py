"""Who asks, as /proc has it: what there is of a thread that waits; nothing where it has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from hullwatch.agent.plugins import kind_of
from hullwatch.decide.question import Value
from hullwatch.decide.schema import clean
from hullwatch.opened import loaded_as

__all__ = ["FACTS", "plugins", "program", "started", "uid"]


def program(thread: int) -> str | None:
    try:
        return clean(os.readlink(f"/proc/{thread}/exe"))
    except OSError:
        return None


def plugins(names: tuple[str, ...], thread: int) -> tuple[str, ...]:
    """As which kind of code it loads a file, by each of its names; '': it does not."""
    if not any(map(kind_of, names)):  # as most are not: who asks is not looked at
        return ("",) * len(names)
    programs = (program(thread) or "").removesuffix(" (deleted)"), _name(thread)
    return tuple(loaded_as(name, *programs) for name in names)


def _name(thread: int) -> str:
    try:
        with open(f"/proc/{thread}/comm", errors="replace") as file:
            return file.read(64).rstrip("\n")
    except OSError:
        return ""


def _stat(thread: int) -> list[str]:
    """Fields of /proc/TID/stat after the name: state, parent, ...; none where it has ended."""
    try:
        with open(f"/proc/{thread}/stat", errors="replace") as file:
            return file.read(4096).rpartition(")")[2].split()
    except OSError:
        return []


def started(thread: int) -> str:
    fields = _stat(thread)
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def parent(thread: int) -> str | None:
    fields = _stat(thread)
    return program(int(fields[1])) if fields else None


def uid(thread: int) -> int | None:
    """Effective; the owner of /proc/TID says root of who may not be dumped."""
    try:
        with open(f"/proc/{thread}/status", errors="replace") as file:
            for line in file:
                if line.startswith("Uid:"):
                    return int(line.split()[2])
    except OSError:
        pass
    return None


FACTS: Mapping[str, Callable[[int], Value | None]] = {
    "program": program,
    "parent": parent,
    "uid": uid,
}
