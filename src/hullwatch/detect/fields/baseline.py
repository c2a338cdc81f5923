"""hw.first_seen, hw.drift and what else an image's baseline says about an event.

The values change as images are learnt, so they belong to the single event (Where.ROW), but
`Baselines.quiet` tells for which objects they can no longer be true.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hullwatch.detect.baseline.baselines import object_name
from hullwatch.detect.baseline.explain import fleet_why, profile_why
from hullwatch.detect.baseline.kinds import BY_NAME, CLASSES, SECOND, kind_of
from hullwatch.detect.baseline.objects import dns_object, group_of, listen_object, path_object
from hullwatch.detect.fields.field import Field, Type, Where, each, of_event, of_row
from hullwatch.detect.row import Env, Event, Object, Row
from hullwatch.sensor.wire import StrKind

__all__ = ["FIELDS"]

S, N, B = Type.STRING, Type.INT, Type.BOOL
_DNS_KIND = int(StrKind.DNS)
_ENDS = tuple(int(cls) for cls in BY_NAME["connect"].classes)
# A destination's name is known of the single event only; other objects name themselves.
_OBJECT = {
    **each(Where.OBJ, (cls for cls in CLASSES if cls not in (*SECOND, *_ENDS))),
    **each(Where.OBJ2, SECOND),
    **each(Where.ROW, _ENDS),
}


def _wall(row: Row, env: Env) -> int:
    return row.ts + env.wall_offset


def _kind(event: Event) -> str | None:
    kind = kind_of(event)
    return kind.name if kind is not None else None


def _name(obj: Object) -> str | None:
    if obj.address is not None:
        return listen_object(obj.address) or None
    return (dns_object(obj.text) if obj.kind == _DNS_KIND else path_object(obj.text)) or None


def _row_name(row: Row) -> str | None:
    kind = kind_of(row.event)
    return (object_name(kind, row) or None) if kind is not None else None


def _group(obj: Object) -> str | None:
    name = _name(obj)
    if name is None:
        return None
    kind = "listen" if obj.address is not None else "dns" if obj.kind == _DNS_KIND else "read"
    return group_of(kind, name)


def _row_group(row: Row, env: Env, arg: Any) -> str | None:
    name = _row_name(row)
    return group_of("connect", name) if name is not None else None


def _first_seen(row: Row, env: Env, arg: Any) -> bool | None:
    return env.baselines.first_seen(row, _wall(row, env)) if env.baselines else None


def _drift(row: Row, env: Env, arg: Any) -> bool | None:
    return env.baselines.drift(row, _wall(row, env)) if env.baselines else None


def _fleet(row: Row, env: Env, arg: Any) -> int | None:
    return env.baselines.fleet(row, _wall(row, env)) if env.baselines else None


def _state(row: Row, env: Env, arg: Any) -> str:
    profile = env.baselines.of(row.workload) if env.baselines else None
    if profile is None:
        return "none"
    return "learning" if profile.locked is None else "locked"


def _of_kinds(name: str, kind: Type, get: Any, doc: str, **more: Any) -> Field:
    return replace(of_row(name, kind, get, doc), where=each(Where.ROW, CLASSES), **more)


FIELDS: tuple[Field, ...] = (
    of_event(
        "hw.kind",
        S,
        _kind,
        "ret marks flags",
        "what baselines call it: exec, read, write, connect, listen, dns; nothing if it failed",
        CLASSES,
    ),
    Field(
        "hw.object",
        S,
        "the object as baselines name it: numbers, hashes and temporary names as {n}, {hex}, {tmp}",
        _OBJECT,
        object=lambda obj, _, __: _name(obj),
        row=lambda row, _, __: _row_name(row),
    ),
    Field(
        "hw.object.group",
        S,
        "what the object is folded into where there are many: /usr/lib/*, *.example.com:443",
        _OBJECT,
        object=lambda obj, _, __: _group(obj),
        row=_row_group,
    ),
    _of_kinds(
        "hw.first_seen",
        B,
        _first_seen,
        "this image has not done this before (false while it is new)",
        quiet=False,
        why=profile_why,
    ),
    _of_kinds(
        "hw.drift",
        B,
        _drift,
        "this image's profile is locked, and this is not in it",
        quiet=False,
        why=profile_why,
    ),
    _of_kinds(
        "hw.fleet.images",
        N,
        _fleet,
        "how many images have ever done this, this one with it",
        why=fleet_why,
    ),
    of_row("hw.baseline", S, _state, "none, learning or locked: the profile of this image"),
)
