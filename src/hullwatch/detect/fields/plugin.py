"""hw.plugin.*: what code a file that is opened or mapped holds, by its path."""

from __future__ import annotations

from hullwatch.agent.plugins import kind_of, package_of
from hullwatch.detect.fields.field import Field, Type, Where, each
from hullwatch.sensor.wire import Class

__all__ = ["FIELDS"]

_WHERE = each(Where.OBJ, (Class.OPEN, Class.MMAP))

FIELDS: tuple[Field, ...] = (
    Field(
        "hw.plugin.kind",
        Type.STRING,
        "of code: python_module, python_startup, entry_points, shared_object, pickle, wasm, ...",
        _WHERE,
        object=lambda obj, _, __: kind_of(obj.text),
    ),
    Field(
        "hw.plugin.package",
        Type.STRING,
        "the package that such a file is of, where its path tells",
        _WHERE,
        object=lambda obj, _, __: (kind_of(obj.text) and package_of(obj.text).name) or None,
    ),
)
