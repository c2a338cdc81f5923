"""Amazon's event stream (`application/vnd.amazon.eventstream`), as Bedrock streams replies.

A frame: u32 length of all, u32 length of headers, u32 CRC of these two; headers (u8 length, name,
u8 type, value); payload; u32 CRC of everything before. Big-endian; the CRC is gzip's.
Source: AWS, "Event stream encoding" (Lex, Transcribe and Bedrock runtime guides).
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

__all__ = ["MAX_FRAME", "Frame", "Frames"]

MAX_FRAME = 1 << 20
MAX_HEADERS = 32
_PRELUDE = struct.Struct(">III")
_LEAST = _PRELUDE.size + 4
# Frames are shorter than 16 MiB and headers than 64 KiB: most other bytes are no beginning.
_BEGINNING = re.compile(rb"(?=\x00[\x00-\xff]{3}\x00\x00)")
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # type of a header: bytes of its value
_COUNTED = (6, 7)  # bytes, text: u16 length before them


class Frame(NamedTuple):
    """headers: those of text only, `:event-type`, `:message-type`, `:exception-type` ..."""

    headers: dict[str, str]
    payload: bytes

    def __repr__(self) -> str:
        return f"Frame({self.headers.get(':event-type')!r}, {len(self.payload)} bytes)"


class Frames:
    """feed(data) -> frames that are whole. A frame that is broken or too long is passed over and
    its bytes counted in `lost`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0  # bytes of a long frame to come
        self.lost = 0

    def feed(self, data: bytes) -> list[Frame]:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= _LEAST and self._step(frames):
            pass
        return frames

    def gap(self) -> None:
        """Bytes are missing: look for the next frame."""
        self.lost += len(self._buffer)
        self._buffer.clear()
        self._skip = 0

    def _step(self, frames: list[Frame]) -> bool:
        buffer = self._buffer
        if not _sound(bytes(buffer[: _PRELUDE.size])):
            return self._resync()
        size, headers, _ = _PRELUDE.unpack_from(buffer)
        if size > MAX_FRAME:
            self.lost += size
            self._skip = max(size - len(buffer), 0)
            del buffer[:size]
            return True
        if len(buffer) < size:
            return False
        frame = bytes(buffer[:size])
        if zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:], "big"):
            # The prelude held, so its length does. (Looking for frames inside of it would let
            # whoever nests preludes make each byte dear.)
            self.lost += size
            del buffer[:size]
            return True
        del buffer[:size]
        at = _PRELUDE.size + headers
        frames.append(Frame(_headers(frame[_PRELUDE.size : at]), frame[at:-4]))
        return True

    def _resync(self) -> bool:
        """Up to the next prelude whose checksum holds, or to where one may have begun."""
        data = bytes(self._buffer)
        to = len(data) - _PRELUDE.size + 1
        for match in _BEGINNING.finditer(data, 1):
            at = match.start()
            if at >= to:
                break
            if _sound(data[at : at + _PRELUDE.size]):
                to = at
                break
        self.lost += to
        del self._buffer[:to]
        return True


def _sound(prelude: bytes) -> bool:
    size, headers, crc = _PRELUDE.unpack(prelude)
    return _LEAST + headers <= size < 1 << 24 and zlib.crc32(prelude[:8]) == crc


def _headers(raw: bytes) -> dict[str, str]:
    table: dict[str, str] = {}
    at = 0
    while at < len(raw) and len(table) < MAX_HEADERS:
        name = raw[at + 1 : at + 1 + raw[at]]
        at += 1 + len(name)
        kind = raw[at] if at < len(raw) else -1
        at += 1
        if kind in _COUNTED:
            length = int.from_bytes(raw[at : at + 2], "big")
            at += 2
            if kind == 7:
                text = raw[at : at + length][:256].decode("utf-8", "replace")
                table[name.decode("utf-8", "replace")] = text
            at += length
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            break
    return table
