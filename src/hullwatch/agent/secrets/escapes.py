"""Text without the escapes of JSON (RFC 8259, 7), of any depth, and the way back to its places.

A tool's result is often JSON in JSON in a log line: a newline is then `\\\\\\\\n`. Bytes that are
not JSON lose nothing that matters here: a path such as `C:\\new` gets a line break.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

__all__ = ["Plain", "unescape"]

# The runs are bounded, so that a text of backslashes costs no more than another.
_ESCAPE = re.compile(rb"\\{1,8}(?:u00([0-9a-fA-F]{2})|([\"'/bfnrt]))")
_NAMED = dict(zip(b"\"'/bfnrt", b"\"'/\b\f\n\r\t", strict=True))


class Plain(NamedTuple):
    """text, and where it was cut: from `at[i]` in it, a place is `shift[i]` further on in the
    original."""

    text: bytes
    at: tuple[int, ...]
    shift: tuple[int, ...]

    def origin(self, place: int) -> int:
        """A place in `text` as one in the original: of what came of an escape, its begin."""
        found = bisect_right(self.at, place) - 1
        return place + self.shift[found] if found >= 0 else place


def unescape(data: bytes) -> Plain:
    """Never raises; gives as many bytes at most."""
    if b"\\" not in data:
        return Plain(data, (), ())
    at: list[int] = []
    shift: list[int] = []
    removed = 0

    def plain(found: re.Match[bytes]) -> bytes:
        nonlocal removed
        code, named = found.groups()
        removed += found.end() - found.start() - 1
        at.append(found.end() - removed)
        shift.append(removed)
        return bytes([int(code, 16) if code else _NAMED[named[0]]])

    return Plain(_ESCAPE.sub(plain, data), tuple(at), tuple(shift))
