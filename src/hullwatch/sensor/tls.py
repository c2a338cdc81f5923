"""The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3): bytes in, a value out."""

from __future__ import annotations

__all__ = ["server_name"]


def _take(data: bytes, at: int, width: int) -> tuple[bytes, int] | None:
    """A vector with a length of `width` bytes before it: (body, position after it)."""
    if at + width > len(data):
        return None
    size = int.from_bytes(data[at : at + width], "big")
    at += width
    if at + size > len(data):
        return None
    return data[at : at + size], at + size


def server_name(data: bytes) -> str | None:
    """The SNI host name; '' for a ClientHello without one; None if this is no readable hello.

    A hello that was cut off still gives its name when the extension lies before the cut.
    """
    if len(data) < 9 or data[0] != 22 or data[1] != 3 or data[5] != 1:
        return None
    at = 9 + 2 + 32  # record header, handshake header, version, random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        field = _take(data, at, width)
        if field is None:
            return None
        at = field[1]
    if at + 2 > len(data):
        return ""
    end = min(at + 2 + int.from_bytes(data[at : at + 2], "big"), len(data))
    at += 2
    while at + 4 <= end:
        kind = int.from_bytes(data[at : at + 2], "big")
        body = _take(data[:end], at + 2, 2)
        if body is None:
            return None
        if kind == 0:
            names = _take(body[0], 0, 2)
            if names is None or len(names[0]) < 3 or names[0][0] != 0:
                return ""
            host = _take(names[0], 1, 2)
            return host[0].decode("ascii", "backslashreplace").lower() if host else ""
        at = body[1]
    return ""
