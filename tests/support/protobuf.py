"""Just enough of the protobuf wire format to talk to a CRI server: fields given by number.

A message is written as {number: value}: str and bytes are length-delimited, int and bool varints, a
dict is a message inside, a list repeats its field; `string_map` makes a map<string, string>.
Source: the protocol buffers encoding specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["decode", "encode", "string_map", "text", "texts"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(message: Mapping[int, Any]) -> bytes:
    """The bytes of a message. Default values are left out, as proto3 does."""
    out = bytearray()
    for number, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                if item or isinstance(value, list):
                    out += _varint(number << 3 | _VARINT) + _varint(int(item))
                continue
            if isinstance(item, str):
                data = item.encode()
            elif isinstance(item, Mapping):
                data = encode(item)
            else:
                data = bytes(item)
            if data or isinstance(item, Mapping) or isinstance(value, list):
                out += _varint(number << 3 | _BYTES) + _varint(len(data)) + data
    return bytes(out)


def string_map(values: Mapping[str, str]) -> list[dict[int, str]]:
    """A map<string, string> field."""
    return [{1: key, 2: value} for key, value in values.items()]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def decode(data: bytes) -> dict[int, list[Any]]:
    """Field number → values in order: int for varints, bytes for all that has a length.

    Raises IndexError on a message that is cut off, ValueError on a wire type that is no more.
    """
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        value: Any
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            if value >= 1 << 63:
                value -= 1 << 64
        elif kind == _BYTES:
            size, at = _read_varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def text(fields: Mapping[int, list[Any]], number: int) -> str:
    """A string field; empty if absent."""
    return fields[number][-1].decode() if number in fields else ""


def texts(fields: Mapping[int, list[Any]], number: int) -> list[str]:
    """A repeated string field."""
    return [value.decode() for value in fields.get(number, [])]
