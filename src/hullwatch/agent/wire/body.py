"""A body's content coding (RFC 9110, 8.4) taken off as it comes, bounded against bombs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

__all__ = ["MAX_OUT", "MAX_PACKED", "PIECE", "Decoder"]

PIECE = 64 << 10  # bytes that come out at once
MAX_OUT = 64 << 20  # bytes that come out of one body
MAX_RATIO = 256  # and more than so many times what went in, after the first MiB, is a bomb
MAX_PACKED = 1 << 20  # bytes of a body that can only be unpacked as a whole
_STREAMED = frozenset(("gzip", "x-gzip", "deflate"))
_WHOLE = {"br": "brotli", "zstd": "zstd"}  # Arrow unpacks them, but not piece by piece


class Decoder:
    """feed and end give plain pieces of at most PIECE bytes (of an uncoded body: as they came).

    opaque: why nothing more can be read, '' while all is well. Never raises.
    """

    def __init__(self, coding: str = "") -> None:
        self._coding = coding.strip().lower().removeprefix("identity")
        self._stream: Any = None
        self._packed = bytearray()
        self._in = self._out = 0
        self.opaque = ""
        if self._coding and self._coding not in _STREAMED and self._coding not in _WHOLE:
            self.opaque = f"content-encoding {self._coding[:40]!r}: not read"

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.opaque:
            return
        if not self._coding:
            yield data
        elif self._coding in _STREAMED:
            self._in += len(data)
            yield from self._inflate(data)
        elif len(self._packed) + len(data) > MAX_PACKED:
            self._packed.clear()
            self.opaque = f"content-encoding {self._coding}: too long to be read"
        else:
            self._packed += data

    def gap(self) -> None:
        """Bytes are missing: what is packed cannot be read on."""
        if self._coding and not self.opaque:
            self._packed.clear()
            self.opaque = f"content-encoding {self._coding}: a piece is missing"

    def end(self) -> Iterator[bytes]:
        """The body is over."""
        if not self.opaque and self._packed:
            if self._coding in _STREAMED:
                yield from self._inflate(b"", last=True)
            else:
                yield from self._unpack()

    def _inflate(self, data: bytes, last: bool = False) -> Iterator[bytes]:
        if self._stream is None:
            self._packed += data
            if len(self._packed) < 2 and not last:
                return
            data = bytes(self._packed)
            self._packed.clear()
            self._stream = self._open(data)
        while data and not self.opaque:
            try:
                piece = self._stream.decompress(data, PIECE)
            except zlib.error:
                self.opaque = f"content-encoding {self._coding}: broken"
                return
            data = self._stream.unconsumed_tail
            if self._stream.eof:  # gzip may have several members
                data = self._stream.unused_data
                self._stream = self._open(data) if data else self._stream
            if not self._counts(piece):
                return
            if piece:
                yield piece

    def _open(self, data: bytes) -> Any:
        """Servers mean either by 'deflate': zlib's format or bare data."""
        head = int.from_bytes(data[:2], "big")
        wrapped = self._coding != "deflate" or (head & 0x0F00 == 0x0800 and head % 31 == 0)
        return zlib.decompressobj(47 if wrapped else -15)

    def _counts(self, piece: bytes) -> bool:
        self._out += len(piece)
        if self._out > MAX_OUT or self._out > max(1 << 20, MAX_RATIO * self._in):
            self.opaque = f"content-encoding {self._coding}: unpacks to too much"
        return not self.opaque

    def _unpack(self) -> Iterator[bytes]:
        import pyarrow as pa

        self._in = len(self._packed)
        packed = pa.BufferReader(bytes(self._packed))
        self._packed.clear()
        try:
            with pa.CompressedInputStream(packed, _WHOLE[self._coding]) as stream:
                while piece := stream.read(PIECE):
                    if not self._counts(piece):
                        return
                    yield piece
        except (OSError, ValueError):
            self.opaque = f"content-encoding {self._coding}: broken"
