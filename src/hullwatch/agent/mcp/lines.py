"""Newline-delimited messages (MCP over stdio): bytes in, pieces out that make up the same bytes."""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.agent.mcp.message import MAX_MESSAGE, PEEK

__all__ = ["Lines", "Piece"]


class Piece(NamedTuple):
    """data: to be passed on as it is. A line of ordinary size is one piece with first and last
    set. A larger one comes in several; then large is set, head holds its first bytes, and tail,
    with the last piece, its last ones."""

    data: bytes
    first: bool = True
    last: bool = True
    large: bool = False
    head: bytes = b""
    tail: bytes = b""


class Lines:
    """Holds at most `limit` bytes. feed() and close() lose nothing and add nothing."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._large = False
        self._head = b""
        self._tail = b""

    def feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            pieces += self._put(data[at : end + 1], True)
            at = end + 1
        if at < len(data):
            pieces += self._put(data[at:] if at else data, False)
        return pieces

    def close(self) -> list[Piece]:
        """What is left when the stream ends without a newline."""
        return self._put(b"", True) if self._held or self._large else []

    def _put(self, data: bytes, ends: bool) -> list[Piece]:
        if self._large:
            self._tail = (self._tail + data)[-PEEK:]
            if not ends:
                return [Piece(data, False, False, True, self._head)]
            piece = Piece(data, False, True, True, self._head, self._tail)
            self._large, self._head, self._tail = False, b"", b""
            return [piece]
        self._parts.append(data)
        self._held += len(data)
        if not ends and self._held <= self._limit:
            return []
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._held = [], 0
        if len(whole) <= self._limit:
            return [Piece(whole)]
        head, tail = whole[:PEEK], whole[-PEEK:]
        if ends:
            return [Piece(whole, True, True, True, head, tail)]
        self._large, self._head, self._tail = True, head, tail
        return [Piece(whole, True, False, True, head)]
