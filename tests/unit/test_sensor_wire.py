"""The dtypes that Python reads with are the structs that the compiler laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hullwatch.kernel.build import TARGETS, object_path
from hullwatch.sensor import events, wire
from support.btf import Types

STRUCTS = {
    "hw_event": wire.EVENT,
    "hw_proc": wire.PROC,
    "hw_string": wire.DICT_HEADER,
    "hw_packet": wire.PACKET_HEADER,
    "hw_verdict_key": wire.VERDICT_KEY,
    "hw_verdict_value": wire.VERDICT_VALUE,
    "hw_loss_key": wire.LOSS_KEY,
    "hw_fixed": wire.FIXED,
    "hw_settings": wire.SETTINGS,
}


@pytest.fixture(params=sorted(TARGETS))
def types(request: pytest.FixtureRequest) -> Types:
    path = Path(object_path(request.param))
    if not path.exists():
        pytest.skip(f"{path.name} is not built: make bpf")
    return Types(path)


@pytest.mark.parametrize("name", STRUCTS)
def test_dtype_is_the_compiled_struct(types: Types, name: str):
    dtype: np.dtype[Any] = STRUCTS[name]
    size, fields = types.struct(name)
    assert dtype.itemsize == size
    assert list(dtype.names or ()) == [field.name for field in fields]
    assert dtype.fields is not None
    for field in fields:
        kind, offset = dtype.fields[field.name][:2]
        assert offset == field.offset, field
        assert kind.itemsize == field.size * field.count, field
        if kind.kind in "iu":
            assert (kind.kind == "i") == field.signed, field


@pytest.mark.parametrize("name", STRUCTS)
def test_there_is_no_hidden_padding(types: Types, name: str):
    size, fields = types.struct(name)
    at = 0
    for field in fields:
        assert field.offset == at, f"a hole before {name}.{field.name}"
        at += field.size * field.count
    assert at == size, f"padding at the end of {name}"


def test_ring_records_are_whole_words():
    """take_fixed reads records of one stride: a struct's length and eight bytes of header."""
    assert wire.EVENT.itemsize % 8 == wire.PROC.itemsize % 8 == 0


@pytest.mark.parametrize("name", ["hw_event", "hw_proc"])
def test_documented_size_is_the_size(name: str):
    text = (Path(object_path("x86_64")).parent / "wire.h").read_text()
    said = text[: text.index(f"struct {name} {{")].rpartition("/* ")[2].split()[0]
    assert int(said) == STRUCTS[name].itemsize


def test_every_class_has_its_row_and_no_other():
    classes = {int(c) for c in wire.Class} - {int(wire.Class.NONE), int(wire.Class.CLASS_MAX)}
    assert set(events.CLASSES) == classes
    assert all(row.cls == cls for cls, row in events.CLASSES.items())
    assert len(events.BY_NAME) == len(events.CLASSES)
    assert max(classes) < int(wire.Class.CLASS_MAX)


def test_marks_are_single_bits_that_fit_their_fields():
    for marks, bits in ((wire.Mark, 16), (wire.ProcMark, 32)):
        values = [int(mark) for mark in marks]
        assert all(value and value & (value - 1) == 0 and value < 1 << bits for value in values)
        assert len(set(values)) == len(values)


def test_names_of_structs_that_are_not_there():
    with pytest.raises(KeyError, match="wire.h: no struct nothing"):
        wire.struct_dtype("nothing")
