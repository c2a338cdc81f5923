"""As much of protobuf's wire format as CRI and OTLP need: bounded, sans-io.

`decode` goes by a table: a message's shape is ``{field number: (name, kind)}``, and unknown fields
are skipped without being copied. `fields` is what it stands on, for whoever wants to look at a
message without unpacking it. Wire format: protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["BOOL", "INT", "STR", "STR_MAP", "STRS"]
__all__ += ["Encodable", "Fixed64", "Malformed", "Message", "decode", "encode", "fields"]


class Malformed(ValueError):
    """Bytes that are no such message."""


class Message(NamedTuple):
    """Kind of a field that is itself a message."""

    fields: Mapping[int, tuple[str, "str | Message"]]


INT, BOOL, STR, STRS, STR_MAP = "int", "bool", "str", "strs", "str_map"
_MAX_FIELDS = 100_000
_MAX_ENTRIES = 10_000
_FIXED = {1: 8, 5: 4}  # wire type: bytes


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("varint cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise Malformed("varint over 10 bytes")


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field in order: an int of a varint, else a view of the
    bytes (wire type 1: eight, 5: four, 2: any). Raises Malformed where it comes to a fault."""
    at, end = 0, len(data)
    for _ in range(_MAX_FIELDS):
        if at == end:
            return
        key = data[at]
        if key < 0x80:  # as nearly all are: a third of the time
            at += 1
        else:
            key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise Malformed("field number 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise Malformed(f"wire type {wire}")
        if size > end - at:
            raise Malformed("field cut short")
        yield number, wire, data[at : at + size]
        at += size
    raise Malformed("too many fields")


def _text(value: memoryview) -> str:
    return str(value, "utf-8", "replace")


_ENTRY = Message({1: ("key", STR), 2: ("value", STR)})


def decode(shape: Message, data: bytes | memoryview) -> dict[str, Any]:
    """The fields named in ``shape``; one that is absent gets protobuf's default.

    Raises Malformed. Depth is that of ``shape``, so hostile nesting costs nothing.
    """
    out: dict[str, Any] = {}
    for name, kind in shape.fields.values():
        empty: Any = {INT: 0, BOOL: False, STR: "", STRS: [], STR_MAP: {}}.get(str(kind))
        out[name] = empty if not isinstance(kind, Message) else None
    for number, wire, value in fields(memoryview(data)):
        if number not in shape.fields:
            continue
        name, kind = shape.fields[number]
        if wire != (0 if kind in (INT, BOOL) else 2):
            raise Malformed(f"{name}: wire type {wire}")
        if isinstance(value, int):
            signed = value - (1 << 64) if value >= 1 << 63 else value
            out[name] = bool(value) if kind == BOOL else signed
        elif isinstance(kind, Message):
            out[name] = decode(kind, value)
        elif kind == STR:
            out[name] = _text(value)
        elif len(out[name]) >= _MAX_ENTRIES:
            raise Malformed(f"{name}: too many entries")
        elif kind == STRS:
            out[name].append(_text(value))
        else:
            entry = decode(_ENTRY, value)
            out[name][entry["key"]] = entry["value"]
    return out


class Fixed64(int):
    """An unsigned number that `encode` writes in eight bytes (fixed64), not as a varint."""


Encodable = str | bytes | int | float | Mapping[int, "Encodable"] | Sequence["Encodable"]


def _encode_varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # a negative one is its two's complement, ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(fields: Mapping[int, Encodable]) -> bytes:
    """A message: strings and bytes, int and bool (varint), Fixed64, float (double), a mapping (a
    message in it), a list (a repeated field). What is given is written, defaults too."""
    out = bytearray()
    for number, value in fields.items():
        for one in value if isinstance(value, list | tuple) else (value,):
            out += _encode_field(number, one)
    return bytes(out)


def _encode_field(number: int, value: Encodable) -> bytes:
    if isinstance(value, Fixed64):
        return _encode_varint(number << 3 | 1) + value.to_bytes(8, "little")
    if isinstance(value, int):
        return _encode_varint(number << 3) + _encode_varint(value)
    if isinstance(value, float):
        return _encode_varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")  # a lone surrogate is no UTF-8
    elif isinstance(value, Mapping):
        value = encode(value)
    assert isinstance(value, bytes)
    return _encode_varint(number << 3 | 2) + _encode_varint(len(value)) + value
