"""The types in a BPF object's .BTF section, without a tool: just what the wire tests ask.

Layout: include/uapi/linux/btf.h. Offsets in the ELF header and section table: elf(5).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

__all__ = ["Field", "Types"]

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
_VAR, _DATASEC, _DECL_TAG, _ENUM64 = 14, 15, 17, 19
_PROTO = 13


class Field(NamedTuple):
    """offset and size in bytes; signed is about integers; count 1 for what is no array."""

    name: str
    offset: int
    size: int
    signed: bool
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants


class Types:
    """Structs and enums by name."""

    def __init__(self, path: Path) -> None:
        data = _section(path.read_bytes(), b".BTF")
        _, _, _, head, type_at, type_len, text_at, text_len = struct.unpack_from("<HBBIIIII", data)
        self._text = data[head + text_at : head + text_at + text_len]
        self._types: list[tuple[str, int, int, int, bytes]] = [("", 0, 0, 0, b"")]
        at, end = head + type_at, head + type_at + type_len
        while at < end:
            name, info, size = struct.unpack_from("<III", data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            extra = {
                _INT: 4, _ARRAY: 12, _STRUCT: 12 * count, _UNION: 12 * count, _ENUM: 8 * count,
                _PROTO: 8 * count, _VAR: 4, _DATASEC: 12 * count, _DECL_TAG: 4, _ENUM64: 12 * count,
            }.get(kind, 0)  # fmt: skip
            body = data[at + 12 : at + 12 + extra]
            self._types.append((self._name(name), kind, info >> 31, size, body))
            at += 12 + extra

    def _name(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode()

    def _size(self, ident: int) -> tuple[int, bool, int]:
        """(size of one, signed, count), typedefs and arrays followed."""
        _, kind, _, size, body = self._types[ident]
        if kind in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT):
            return self._size(size)
        if kind == _ARRAY:
            element, _, count = struct.unpack("<III", body)
            inner, signed, inner_count = self._size(element)
            return inner, signed, inner_count * count
        if kind == _INT:
            return size, bool(struct.unpack("<I", body)[0] >> 24 & 1), 1
        return (8 if kind == _PTR else size), False, 1

    def struct(self, name: str) -> tuple[int, list[Field]]:
        """(size, fields); KeyError if there is none of this name."""
        for found, kind, _, size, body in self._types:
            if kind == _STRUCT and found == name:
                fields = []
                for at in range(0, len(body), 12):
                    member, ident, bits = struct.unpack_from("<III", body, at)
                    fields.append(Field(self._name(member), bits // 8, *self._size(ident)))
                return size, fields
        raise KeyError(name)

    def enum(self, name: str) -> dict[str, int]:
        """Label -> value."""
        for found, kind, _, _, body in self._types:
            if kind == _ENUM and found == name:
                pairs = struct.iter_unpack("<Ii", body)
                return {self._name(label): value for label, value in pairs}
        raise KeyError(name)


def _section(elf: bytes, wanted: bytes) -> bytes:
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry, count, names = struct.unpack_from("<HHH", elf, 58)
    rows = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    texts = rows[names][4]
    for name, _, _, _, offset, size in rows:
        start = texts + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + size]
    raise KeyError(wanted.decode())
