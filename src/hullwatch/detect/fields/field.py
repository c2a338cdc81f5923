"""What a rule field is: one row of the tables in this folder."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hullwatch.detect.row import Env, Event
from hullwatch.sensor.events import CLASSES

__all__ = ["ALL", "Field", "Getter", "Type", "Where", "each"]
__all__ += ["of_event", "of_image", "of_row", "of_workload"]


class Type(enum.Enum):
    """STRING also stands for flags, modes and enums, which are compared as text."""

    STRING = "string"
    INT = "number"
    BOOL = "boolean"
    IP = "address"
    NET = "network"


class Where(enum.Enum):
    """Which part of an event decides a field's value."""

    EVENT = "the event's numbers"
    OBJ = "the object"
    OBJ2 = "the second object"
    IMAGE = "the process"
    WORKLOAD = "the container"
    NAME = "the destination's domain name"
    ROW = "the single event"


ALL: frozenset[int] = frozenset(CLASSES)


# A getter takes (part, env, argument); None means no value, as Falco's NULL.
Getter = Callable[[Any, Env, Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    name, type, doc: as `rules explain` shows them.
    where: event class -> the part that decides it; a class that is not there has no value.
    event, object, image, workload, domain, row: getters by part.
    arg: '' takes none; 'index' a number; 'key' a text; 'index?' may be left out, and then
      any of the values (the getter returns a tuple) may match.
    reads: which columns of Event the event getter reads (op and cls are always there).
    mutable: may change while the process lives. minimum: the smallest value it can have.
    own: of an image, reads numbers that are one process's own, or an ancestor's (pid, times ...):
      beyond its program, its ids and its container.
    parts: fields that stand for it in a condition (fd.ip: fd.sip or fd.cip).
    addresses: the object's getter has a value for socket addresses only.
    text: of an object that is no address, the getter gives the text (None where it is empty).
    quiet: of a row, the value that it has (if any) for all that `Baselines.quiet` says is known.
    many: of an event, the getter returns a tuple: one member that matches is enough.
    why: of a row, a sentence for the finding: what the value was counted from.
    """

    name: str
    type: Type
    doc: str
    where: dict[int, Where]
    event: Getter | None = None
    object: Getter | None = None
    image: Getter | None = None
    workload: Getter | None = None
    row: Getter | None = None
    arg: str = ""
    reads: frozenset[str] = frozenset()
    mutable: bool = False
    own: bool = False
    minimum: int | None = None
    deprecated: str = ""
    parts: tuple[str, ...] = ()
    domain: Getter | None = None
    addresses: bool = False
    text: bool = False
    quiet: Any = None
    many: bool = False
    why: Getter | None = None


def each(where: Where, classes: Iterable[int] = ALL) -> dict[int, Where]:
    """The same part for all of the classes."""
    return {int(cls): where for cls in classes}


def of_event(
    name: str,
    kind: Type,
    get: Callable[[Event], Any],
    reads: str,
    doc: str,
    classes: Iterable[int] = ALL,
    deprecated: str = "",
) -> Field:
    """A field that the event's numbers decide. reads: names of Event's columns."""
    columns = frozenset(reads.split())
    where = each(Where.EVENT, classes)
    return Field(
        name, kind, doc, where, event=lambda e, _, __: get(e), reads=columns, deprecated=deprecated
    )


def of_image(
    name: str,
    kind: Type,
    get: Callable[[Any], Any],
    doc: str,
    *,
    mutable: bool = False,
    own: bool = False,
    classes: Iterable[int] = ALL,
) -> Field:
    """A field of the process image."""
    where = each(Where.IMAGE, classes)
    return Field(name, kind, doc, where, image=lambda p, _, __: get(p), mutable=mutable, own=own)


def of_workload(name: str, kind: Type, get: Callable[[Any], Any], doc: str) -> Field:
    """A field of the container or pod; while it is pending, its value is unknown."""
    return Field(name, kind, doc, each(Where.WORKLOAD), workload=lambda w, _, __: get(w))


def of_row(name: str, kind: Type, get: Getter, doc: str, minimum: int | None = None) -> Field:
    """A field of one single event: never asked before the rest of a rule may match."""
    return Field(name, kind, doc, each(Where.ROW), row=get, minimum=minimum)
