"""hw.policy.*: what the kernel did because policies in force say so (docs/enforce.md)."""

from __future__ import annotations

from hullwatch.detect.fields.field import Field, Type, Where, each, of_event
from hullwatch.sensor.events import POLICY_ACTIONS, POLICY_DONE
from hullwatch.sensor.wire import Class

__all__ = ["FIELDS"]

_POLICY = (int(Class.POLICY),)

FIELDS: tuple[Field, ...] = (
    of_event(
        "hw.policy.action",
        Type.STRING,
        lambda e: POLICY_ACTIONS.get(e.flags & 0xFFFF),
        "flags",
        "what was tried: " + ", ".join(POLICY_ACTIONS.values()),
        _POLICY,
    ),
    of_event(
        "hw.policy.done",
        Type.STRING,
        lambda e: POLICY_DONE.get(e.flags >> 16),
        "flags",
        "observed: it went on; denied: it failed; killed: the program ended before its first"
        " instruction; dropped: packets of an open connection",
        _POLICY,
    ),
    Field(
        "hw.policy.object",
        Type.STRING,
        "the path, or the server's end, that it was about",
        each(Where.OBJ, _POLICY),
        object=lambda obj, _, __: obj.text or None,
    ),
    Field(
        "hw.policy.name",
        Type.STRING,
        "the server name that it asked for by TLS, where that was what it was about",
        each(Where.OBJ2, _POLICY),
        object=lambda obj, _, __: obj.text or None,
    ),
)
