"""Strings that the kernel interned: dense ids to text, bounded.

Ids grow by one for each distinct string. When more than `limit` are held, the sensor starts a new
epoch in the kernel (strings are sent again under new ids on their next use) and the ids before it
are dropped one batch later, so memory stays below two epochs.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any, NamedTuple

from hullwatch.sensor.batch import String
from hullwatch.sensor.wire import StrKind

__all__ = ["Address", "Dictionary"]

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


def decode_text(entry: String) -> str:
    """A dictionary record as text. Invalid UTF-8 is kept visible as \\xNN."""
    if entry.kind == StrKind.ADDR:
        return str(decode_address(entry.data))
    data = entry.data
    if entry.kind in (StrKind.ARGV, StrKind.ENV):
        data = data.rstrip(b"\0").replace(b"\0", b" ")
    return data.decode("utf-8", "backslashreplace")


class Dictionary:
    """Dense id -> String. `text` and `address` are decoded once and kept."""

    def __init__(self) -> None:
        self._entries: dict[int, String] = {}
        self._texts: dict[int, str] = {}
        self._addresses: dict[int, Address] = {}
        self.base = 1

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, strings: tuple[String, ...]) -> None:
        for entry in strings:
            self._entries[entry.id] = entry

    def forget_below(self, base: int) -> None:
        """Drop ids below base; a no-op when base has not moved."""
        if base <= self.base:
            return
        self.base = base
        tables: tuple[dict[int, Any], ...] = (self._entries, self._texts, self._addresses)
        for held in tables:
            for key in [key for key in held if key < base]:
                del held[key]

    def entry(self, ident: int) -> String:
        """The record, or an empty one (kind 0) for id 0 or an id that is gone."""
        return self._entries.get(ident, _NONE)

    def text(self, ident: int) -> str:
        found = self._texts.get(ident)
        if found is None:
            entry = self.entry(ident)
            if entry is _NONE:
                return ""
            found = self._texts[ident] = decode_text(entry)
        return found

    def address(self, ident: int) -> Address:
        found = self._addresses.get(ident)
        if found is None:
            entry = self.entry(ident)
            found = decode_address(entry.data)
            if entry is not _NONE:
                self._addresses[ident] = found
        return found
