"""gzip, as far as a limit: a small message may not become a large one."""

from __future__ import annotations

import zlib

from hullwatch.agent.otlp.span import Unreadable

__all__ = ["Oversize", "inflate"]

_GZIP = 16 + zlib.MAX_WBITS


class Oversize(ValueError):
    """More than the limit."""


def inflate(data: bytes, limit: int) -> bytes:
    """Raises Unreadable for what is not one whole gzip member, Oversize for what is too much."""
    machine = zlib.decompressobj(_GZIP)
    try:
        out = machine.decompress(data, limit + 1)
    except zlib.error as error:
        raise Unreadable(f"gzip: {error}") from None
    if len(out) > limit:
        raise Oversize(f"more than {limit} bytes after gzip")
    if not machine.eof or machine.unused_data:
        raise Unreadable("gzip: cut short, or something follows it")
    return out
