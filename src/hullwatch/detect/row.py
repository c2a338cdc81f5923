"""One event as rules see it, and the parts of it that are asked about separately."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from os import environ, uname
from typing import TYPE_CHECKING, NamedTuple

from hullwatch.context.call import Call
from hullwatch.context.enriched import Enriched, ProcessImage
from hullwatch.context.workload import Workload
from hullwatch.detect.accounts import Accounts
from hullwatch.sensor.dictionary import Address, Dictionary
from hullwatch.sensor.wire import EVENT, Class, StrKind

if TYPE_CHECKING:
    from hullwatch.detect.baseline.baselines import Baselines

__all__ = ["DEPENDS", "Depends", "Env", "Event", "Object", "Row", "object_of", "row_of"]


class Depends:
    """What an object's getter returns when the object alone does not decide the value."""


DEPENDS = Depends()


class Event(NamedTuple):
    """The numbers of an event that predicates read. A column that no rule reads is 0."""

    cls: int
    op: int = 0
    marks: int = 0
    flags: int = 0
    ret: int = 0
    port: int = 0
    num: int = 0
    num2: int = 0
    labels: int = 0


class Object(NamedTuple):
    """A dictionary entry: text, and the address if it is one (kind HW_S_ADDR)."""

    text: str
    address: Address | None = None
    kind: int = 0


_ADDR, _OPEN = int(StrKind.ADDR), int(Class.OPEN)
_NAMES = EVENT.names or ()
_COLUMNS = itemgetter(
    *(_NAMES.index(name) for name in (*Event._fields, "obj", "obj2", "ts", "tid", "span"))
)


def object_of(dictionary: Dictionary, ident: int) -> Object:
    """The entry of an id; an empty text for an id that is gone."""
    kind = dictionary.entry(ident).kind
    address = dictionary.address(ident) if kind == _ADDR else None
    return Object(dictionary.text(ident), address, kind)


@dataclass(slots=True)
class Env:
    """What getters need beside the value itself. wall_offset: of the batch in hand, ns.
    baselines: what each image normally does; None where there is no engine.
    hostname: FALCO_HOSTNAME stands for the kernel's, as in Falco (a node's name in Kubernetes).
    """

    accounts: Accounts
    wall_offset: int = 0
    hostname: str = field(default_factory=lambda: environ.get("FALCO_HOSTNAME") or uname().nodename)
    baselines: Baselines | None = None


@dataclass(slots=True)
class Row:
    """Everything about one event. obj and obj2 are None where the event has none.

    number: running number since start, from 1. name: the domain name of the destination.
    calls: those that this may be of: one, or several that ran at once.
    """

    event: Event
    obj: Object | None
    obj2: Object | None
    image: ProcessImage | None
    workload: Workload
    ts: int = 0
    number: int = 1
    tid: int = 0
    span: int = 0
    name: str | None = None
    calls: tuple[Call, ...] = ()


def row_of(enriched: Enriched, at: int, number: int) -> Row:
    """Row `at` of a batch. An open without a text of the caller's has the kernel's path twice."""
    tables = enriched.tables
    assert tables is not None
    # One call for all columns: an array gives single numbers slowly.
    event = enriched.batch.events[at].item()
    cls, *numbers, obj, obj2, ts, tid, span = _COLUMNS(event)
    if cls == _OPEN and not obj2:
        obj2 = obj
    return Row(
        Event(cls, *numbers),
        object_of(tables.dictionary, obj) if obj else None,
        object_of(tables.dictionary, obj2) if obj2 else None,
        tables.processes.image(int(enriched.image[at])),
        tables.workloads.workload(int(enriched.workload[at])),
        ts,
        number,
        tid,
        span,
        enriched.names.get(at),
        tables.calls.of(span) if span else (),
    )
