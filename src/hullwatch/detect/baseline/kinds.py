"""The kinds of behaviour that a baseline tells apart: one row each, and which events are of it."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

import numpy as np

from hullwatch.detect.baseline.objects import (
    dns_object,
    end_object,
    listen_object,
    path_object,
)
from hullwatch.detect.row import Event, Object
from hullwatch.sensor.wire import Class, Mark

__all__ = [
    "BY_NAME",
    "CLASSES",
    "KINDS",
    "NONE",
    "SECOND",
    "Kind",
    "are_sure",
    "kind_numbers",
    "kind_of",
    "kind_of_action",
    "named",
]


class Kind(NamedTuple):
    """fold: names of one group that are kept; most: entries of one image. verb, things: as a
    finding says it."""

    number: int
    name: str
    classes: tuple[Class, ...]
    fold: int
    most: int
    verb: str
    things: str


KINDS: tuple[Kind, ...] = (
    Kind(0, "exec", (Class.EXEC, Class.TASK), 256, 1_000, "executed", "programs"),
    Kind(1, "read", (Class.OPEN,), 32, 2_000, "read", "files"),
    Kind(
        2,
        "write",
        (
            *(Class.RENAME, Class.LINK, Class.SYMLINK, Class.UNLINK),
            *(Class.MKDIR, Class.RMDIR, Class.CHMOD, Class.CHOWN),
        ),
        32,
        1_000,
        "written",
        "files",
    ),
    Kind(3, "connect", (Class.CONNECT, Class.SEND), 64, 1_000, "contacted", "destinations"),
    Kind(4, "listen", (Class.LISTEN,), 16, 200, "listened at", "addresses"),
    Kind(5, "dns", (Class.DNS,), 64, 1_000, "asked for", "domain names"),
)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
CLASSES: tuple[int, ...] = tuple(int(cls) for kind in KINDS for cls in kind.classes)
SECOND: tuple[int, ...] = (int(Class.RENAME), int(Class.LINK), int(Class.SYMLINK))
"""Classes whose second object is the one: the name that there is afterwards."""

NONE = 255
_READ, _WRITE = BY_NAME["read"], BY_NAME["write"]
_OPEN, _CONNECT = int(Class.OPEN), int(Class.CONNECT)
_ATTEMPT, _ACCMODE = int(Mark.ATTEMPT), 3
_UNSURE = np.zeros(1 << 16, np.uint16)  # marks, by class
_UNSURE[int(Class.CONNECT)] = _UNSURE[int(Class.SEND)] = int(Mark.HELD) | _ATTEMPT
_NUMBERS = np.full(1 << 16, NONE, np.uint8)
for _kind in KINDS:
    _NUMBERS[[int(cls) for cls in _kind.classes]] = _kind.number


def kind_numbers(events: np.ndarray) -> np.ndarray:
    """uint8[n]: the number of each event's kind, NONE for what is none: other classes, and what
    failed. An open for writing is `write`, whether it reads as well or not, as in verdicts."""
    cls, ret = events["cls"], events["ret"]
    found = _NUMBERS[cls]
    found[(cls == _OPEN) & (events["flags"] & _ACCMODE != 0)] = _WRITE.number
    failed = (ret < 0) & (events["marks"] & _ATTEMPT == 0)
    failed &= (cls != _CONNECT) | (ret != -errno.EINPROGRESS)
    found[failed] = NONE
    return found


def are_sure(events: np.ndarray) -> np.ndarray:
    """bool[n]: not of what policy may stop yet, or has stopped, as far as the event tells; nor of
    what it is not asked about, as nothing is opened."""
    named = (events["cls"] == _OPEN) & (events["flags"] & os.O_PATH != 0)
    found: np.ndarray = (events["marks"] & _UNSURE[events["cls"]] == 0) & ~named
    return found


def kind_of(event: Event) -> Kind | None:
    """The same for one event."""
    begun = event.cls == _CONNECT and event.ret == -errno.EINPROGRESS
    if event.ret < 0 and not event.marks & _ATTEMPT and not begun:
        return None
    return kind_of_action(event.cls, bool(event.flags & _ACCMODE))


def kind_of_action(cls: int, write: bool) -> Kind | None:
    """What events of a class are that succeed; write: of an open."""
    if cls == _OPEN:
        return _WRITE if write else _READ
    number = int(_NUMBERS[cls])
    return None if number == NONE else KINDS[number]


def named(kind: Kind, obj: Object | None, name: str | None = None) -> str:
    """What a baseline calls an event's object; '' where it has none. name: the destination's."""
    if obj is None:
        return ""
    if kind.name == "connect":
        return end_object(obj.address, name)
    if kind.name == "listen":
        return listen_object(obj.address)
    if kind.name == "dns":
        return dns_object(obj.text)
    return path_object(obj.text)
