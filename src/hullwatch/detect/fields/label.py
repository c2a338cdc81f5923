"""hw.labels: where the information of a process came from; hw.label.*: how a label came or went."""

from __future__ import annotations

from hullwatch.detect.fields.field import Field, Type, Where, each
from hullwatch.sensor.labels import names_of
from hullwatch.sensor.wire import Class, LabelWay

__all__ = ["FIELDS"]

_LABEL = (int(Class.LABEL),)
_WAYS = {int(way): way.name.lower() for way in LabelWay}

FIELDS: tuple[Field, ...] = (
    Field(
        "hw.labels",
        Type.STRING,
        "what the process carries: secret, private, untrusted, or label-N; one that matches is"
        " enough",
        each(Where.EVENT),
        event=lambda e, _, __: names_of(e.labels) or None,
        reads=frozenset(("labels",)),
        many=True,
    ),
    Field(
        "hw.label.new",
        Type.STRING,
        "the labels that came or went with this event and had not before",
        each(Where.EVENT, _LABEL),
        event=lambda e, _, __: names_of(e.num) or None,
        reads=frozenset(("num",)),
        many=True,
    ),
    Field(
        "hw.label.way",
        Type.STRING,
        "took: the process got them from the object; gave: the object got them from the process",
        each(Where.EVENT, _LABEL),
        event=lambda e, _, __: _WAYS.get(e.flags & 0xFFFF),
        reads=frozenset(("flags",)),
    ),
)
