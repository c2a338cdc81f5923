"""Strings that the kernel interned: dense ids to text, bounded.

Ids grow by one for each distinct string. When more than `limit` are held, the sensor starts a new
epoch in the kernel (strings are sent again under new ids on their next use) and the ids before it
are dropped one batch later, so memory stays below two epochs.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from array import array
from typing import NamedTuple

from hullwatch.sensor.batch import String
from hullwatch.sensor.wire import StrKind

__all__ = ["Address", "Dictionary", "address_of"]

_FAMILY = struct.Struct("<HH")
_NONE = String(0, 0, 0, 0, b"")


class Address(NamedTuple):
    """A socket address. ip is None for Unix sockets, path '' for IP; port 0 = address only."""

    family: int
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    port: int
    path: str

    def __str__(self) -> str:
        if self.ip is None:
            return self.path or ("unix" if self.family == socket.AF_UNIX else f"af{self.family}")
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{host}:{self.port}" if self.port else str(self.ip)


def decode_address(data: bytes) -> Address:
    """struct hw_addr, cut after the bytes in use, to an Address; never raises."""
    if len(data) < 4:
        return Address(0, None, 0, "")
    family, port = _FAMILY.unpack_from(data)
    rest = data[4:]
    if family == socket.AF_INET and len(rest) >= 4:
        return Address(family, ipaddress.IPv4Address(rest[:4]), port, "")
    if family == socket.AF_INET6 and len(rest) >= 16:
        return Address(family, ipaddress.IPv6Address(rest[:16]), port, "")
    if family == socket.AF_UNIX:
        # An abstract name starts with NUL and is shown with '@', as ss(8) does.
        text = rest.split(b"\0")[0] if rest[:1] != b"\0" else b"@" + rest[1:].rstrip(b"\0")
        return Address(family, None, 0, text.decode("utf-8", "backslashreplace"))
    return Address(family, None, 0, "")


def address_of(text: str) -> Address | None:
    """What `str(Address)` made, as an address again; None for a family without one."""
    if text[:1] in ("/", "@"):
        return Address(socket.AF_UNIX, None, 0, text)
    host, port = text, "0"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":") or "0"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ip = ipaddress.ip_address(host)
        return Address(socket.AF_INET if ip.version == 4 else socket.AF_INET6, ip, int(port), "")
    except ValueError:
        return None


def decode_text(entry: String) -> str:
    """A dictionary record as text. Invalid UTF-8 is kept visible as \\xNN."""
    if entry.kind == StrKind.ADDR:
        return str(decode_address(entry.data))
    data = entry.data
    if entry.kind in (StrKind.ARGV, StrKind.ENV):
        data = data.rstrip(b"\0").replace(b"\0", b" ")
    return data.decode("utf-8", "backslashreplace")


# Kinds whose text is their data.
_PLAIN = frozenset(StrKind) - {StrKind.ADDR, StrKind.ARGV, StrKind.ENV}
_CHUNK_BITS = 14
_CHUNK = 1 << _CHUNK_BITS  # ids
_KEPT = 8192  # decoded values remembered, so that each stage need not decode anew


class _Chunk:
    """The records of 16384 ids, at about their data's size: an object each would be 5 times that.

    where: for each id kind (6 bits), marks (10), length (20) and offset (28) of its data; 0: none.
    odd: records that do not fit this, or that were cut (orig_len).
    """

    __slots__ = ("data", "odd", "where")

    def __init__(self) -> None:
        self.where = array("Q", bytes(8 * _CHUNK))
        self.data = bytearray()
        self.odd: dict[int, String] = {}


class Dictionary:
    """Dense id -> String. `text` and `address` are decoded when asked for."""

    def __init__(self) -> None:
        self._chunks: dict[int, _Chunk] = {}
        self._count = 0
        self._texts: dict[int, str] = {}
        self._addresses: dict[int, Address] = {}
        self.base = 1

    def __len__(self) -> int:
        return self._count

    def add(self, strings: tuple[String, ...]) -> None:
        for entry in strings:
            ident, kind, marks, orig_len, data = entry
            chunk = self._chunks.get(ident >> _CHUNK_BITS)
            if chunk is None:
                chunk = self._chunks[ident >> _CHUNK_BITS] = _Chunk()
            at, start, size = ident & (_CHUNK - 1), len(chunk.data), len(data)
            self._count += not chunk.where[at]
            if size == orig_len and size < 1 << 20 and start < 1 << 28 and 0 < kind < 64:
                chunk.where[at] = kind << 58 | (marks & 0x3FF) << 48 | size << 28 | start
                chunk.data += data
            else:
                chunk.where[at] = 1 << 58
                chunk.odd[at] = entry

    def forget_below(self, base: int) -> None:
        """Drop ids below base; a no-op when base has not moved."""
        if base <= self.base:
            return
        self.base = base
        self._texts.clear()
        self._addresses.clear()
        for number in [n for n in self._chunks if n <= base >> _CHUNK_BITS]:
            chunk = self._chunks[number]
            end = min(max(base - (number << _CHUNK_BITS), 0), _CHUNK)
            self._count -= end - chunk.where[:end].count(0)
            if end == _CHUNK:
                del self._chunks[number]
                continue
            chunk.where[:end] = array("Q", bytes(8 * end))
            for at in [at for at in chunk.odd if at < end]:
                del chunk.odd[at]

    def entry(self, ident: int) -> String:
        """The record, or an empty one (kind 0) for id 0 or an id that is gone."""
        chunk = self._chunks.get(ident >> _CHUNK_BITS)
        if chunk is None:
            return _NONE
        at = ident & (_CHUNK - 1)
        where = chunk.where[at]
        if not where:
            return _NONE
        if chunk.odd and (odd := chunk.odd.get(at)) is not None:
            return odd
        start, size = where & 0xFFFFFFF, where >> 28 & 0xFFFFF
        data = bytes(chunk.data[start : start + size])
        return String(ident, where >> 58, where >> 48 & 0x3FF, size, data)

    def told(self, ident: int) -> tuple[int, str]:
        """(kind, text) of a record, not remembered; kind 0 for an id that is gone."""
        chunk = self._chunks.get(ident >> _CHUNK_BITS)
        where = chunk.where[ident & (_CHUNK - 1)] if chunk is not None else 0
        if chunk is None or not where:
            return 0, ""
        kind = where >> 58
        if kind not in _PLAIN or (chunk.odd and ident & (_CHUNK - 1) in chunk.odd):
            entry = self.entry(ident)
            return entry.kind, decode_text(entry)
        start, size = where & 0xFFFFFFF, where >> 28 & 0xFFFFF
        return kind, chunk.data[start : start + size].decode("utf-8", "backslashreplace")

    def text(self, ident: int) -> str:
        found = self._texts.get(ident)
        if found is None:
            entry = self.entry(ident)
            if entry is _NONE:
                return ""
            if len(self._texts) >= _KEPT:
                self._texts.clear()
            found = self._texts[ident] = decode_text(entry)
        return found

    def address(self, ident: int) -> Address:
        found = self._addresses.get(ident)
        if found is None:
            entry = self.entry(ident)
            found = decode_address(entry.data)
            if entry is not _NONE:
                if len(self._addresses) >= _KEPT:
                    self._addresses.clear()
                self._addresses[ident] = found
        return found
