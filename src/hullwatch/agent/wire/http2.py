"""HTTP/2 (RFC 9113) as an onlooker reads it: both directions of a connection, from its beginning.

Frames are ours, header compression is hpack's (it comes with h2; h2 itself is an endpoint's half).
Compression has a memory: who joins in the middle, or misses a piece that is not a body's, cannot
read headers any more, and that is told as Lost('h2: ...'). No content of gRPC is read.
"""

from __future__ import annotations

import logging

import hpack

from hullwatch.agent.wire.exchange import Part
from hullwatch.agent.wire.http import Data, End, Event, Head, Lost, header_table

__all__ = ["PREFACE", "Exchanges2"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS = 64  # exchanges under way
MAX_BLOCK = 64 << 10  # bytes of compressed headers, and of them unpacked
MAX_TABLE = 64 << 10  # bytes of a compression table
MAX_CONTROL = 16 << 10  # bytes of any other frame that is read

_DATA, _HEADERS, _RESET, _SETTINGS, _PUSH, _CONTINUATION = 0, 1, 3, 4, 5, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
_ACK = 0x1
_TABLE_SIZE = 1  # SETTINGS_HEADER_TABLE_SIZE

# It writes headers into its debug log, and keys are among them.
logging.getLogger("hpack").setLevel(logging.INFO)


class _Side:
    """What one end says: bytes not yet read, the frame under way, its compression."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks
        self.buffer = bytearray()
        self.begun = False  # the preface, or the first SETTINGS, was seen
        self.stream = 0  # of the DATA under way
        self.last = False  # it ends the stream
        self.left = 0  # bytes of it to come
        self.padding = 0
        self.skip = 0  # bytes of a frame that nobody reads
        self.block = bytearray()  # compressed headers so far
        self.block_stream = 0
        self.block_last = False
        self.decoder = hpack.Decoder(max_header_list_size=MAX_BLOCK)


class Exchanges2:
    """The like of Exchanges1; numbers are those of HTTP/2's streams."""

    def __init__(self) -> None:
        self._sides = {True: _Side(True), False: _Side(False)}
        self._open: dict[int, bool] = {}  # stream: its response's head was seen
        self._newest = 0
        self._blind = False
        self.lost = 0

    def feed(self, asked: bool, data: bytes) -> list[Part]:
        parts: list[Part] = []
        side = self._sides[asked]
        side.buffer += data
        while side.buffer and not self._blind and self._step(side, parts):
            pass
        if self._blind:
            self.lost += len(side.buffer)
            side.buffer.clear()
        return parts

    def gap(self, asked: bool, size: int) -> list[Part]:
        parts: list[Part] = []
        side = self._sides[asked]
        known = min(size, side.left)
        if known and not side.buffer:
            side.left -= known
            size -= known
            parts.append(Part(side.stream, asked, Data(b"", known)))
            if not side.left:
                self._data_end(side, parts)
        if size:
            self._lose("h2: a piece is missing", parts)
            self.lost += size
        return parts

    def close(self) -> list[Part]:
        parts = [Part(stream, False, End(False)) for stream in self._open]
        self._open.clear()
        return parts

    def _step(self, side: _Side, parts: list[Part]) -> bool:
        """Take something off the buffer; False: more is needed."""
        buffer = side.buffer
        if side.left:
            piece = bytes(buffer[: side.left])
            del buffer[: side.left]
            side.left -= len(piece)
            self._tell(side.stream, side.asks, Data(piece), parts)
            if not side.left:
                self._data_end(side, parts)
            return True
        if side.skip:
            skipped = min(side.skip, len(buffer))
            del buffer[:skipped]
            side.skip -= skipped
            return True
        if side.asks and not side.begun:
            return self._preface(side, parts)
        if len(buffer) < 9:
            return False
        size, kind, flags = int.from_bytes(buffer[:3], "big"), buffer[3], buffer[4]
        stream = int.from_bytes(buffer[5:9], "big") & 0x7FFFFFFF
        if not side.begun:
            side.begun = True
            if kind != _SETTINGS:
                return self._lose("h2: joined in the middle", parts)
        if bool(side.block_stream) != (kind == _CONTINUATION):
            return self._lose("h2: frames out of order", parts)
        if kind == _DATA:
            return self._data(side, size, flags, stream, parts)
        if kind not in _READ:
            del buffer[:9]
            side.skip = size
            return True
        if size > (MAX_BLOCK if kind in _BLOCKS else MAX_CONTROL):
            return self._lose("h2: frame too long", parts)
        if len(buffer) < 9 + size:
            return False
        payload = bytes(buffer[9 : 9 + size])
        del buffer[: 9 + size]
        if kind in _BLOCKS:
            return self._headers(side, kind, flags, stream, payload, parts)
        if kind == _SETTINGS and not flags & _ACK:
            self._settings(side, payload)
        elif kind == _RESET and stream in self._open:
            self._tell(stream, False, End(False), parts)
        return True

    def _preface(self, side: _Side, parts: list[Part]) -> bool:
        have = bytes(side.buffer[: len(PREFACE)])
        if not PREFACE.startswith(have):
            return self._lose("h2: joined in the middle", parts)
        if have != PREFACE:
            return False
        del side.buffer[: len(PREFACE)]
        side.begun = True
        return True

    def _data(self, side: _Side, size: int, flags: int, stream: int, parts: list[Part]) -> bool:
        padding = 0
        padded = bool(flags & _PADDED and size)
        if padded:
            if len(side.buffer) < 10:
                return False
            padding = min(side.buffer[9], size - 1)
            size -= padding + 1
        del side.buffer[: 10 if padded else 9]
        side.stream, side.last = stream, bool(flags & _END_STREAM)
        side.left, side.padding = size, padding
        if not size:
            self._data_end(side, parts)
        return True

    def _data_end(self, side: _Side, parts: list[Part]) -> None:
        side.skip, side.padding = side.padding, 0
        if side.last:
            self._tell(side.stream, side.asks, End(True), parts)

    def _headers(
        self, side: _Side, kind: int, flags: int, stream: int, payload: bytes, parts: list[Part]
    ) -> bool:
        if kind != _CONTINUATION:
            at = 1 if flags & _PADDED else 0
            end = len(payload) - (payload[0] if at and payload else 0)
            at += 5 if kind == _HEADERS and flags & _PRIORITY else 0
            at += 4 if kind == _PUSH else 0
            payload = payload[at : max(at, end)]
            side.block_stream = stream
            side.block_last = bool(flags & _END_STREAM) and kind == _HEADERS
        elif stream != side.block_stream:
            return self._lose("h2: frames out of order", parts)
        side.block += payload
        if len(side.block) > MAX_BLOCK:
            return self._lose("h2: headers too long", parts)
        if not flags & _END_HEADERS:
            return True
        block, side.block_stream = bytes(side.block), 0
        side.block.clear()
        try:
            pairs = [
                (_text(each[0]), _text(each[1])) for each in side.decoder.decode(block, raw=True)
            ]
        except (hpack.HPACKError, ValueError, IndexError):
            return self._lose("h2: headers cannot be read", parts)
        if kind != _PUSH:
            self._head(side, stream, pairs, parts)
        return True

    def _head(
        self, side: _Side, stream: int, pairs: list[tuple[str, str]], parts: list[Part]
    ) -> None:
        pseudo = {name: value for name, value in pairs if name.startswith(":")}
        headers = header_table(pairs)
        if side.asks and stream > self._newest and ":method" in pseudo:
            self._newest = stream
            if len(self._open) >= MAX_STREAMS:
                self._tell(next(iter(self._open)), False, End(False), parts)
            self._open[stream] = False
            headers["host"] = pseudo.get(":authority", headers.get("host", ""))
            head = Head(method=pseudo[":method"], target=pseudo.get(":path", ""), headers=headers)
            self._tell(stream, True, head, parts)
        elif not side.asks and self._open.get(stream) is False:
            status = pseudo.get(":status", "")
            if not status.isascii() or not status.isdigit() or int(status[:3]) < 200:
                return  # an interim response: the real one follows
            self._open[stream] = True
            self._tell(stream, False, Head(status=int(status[:3]), headers=headers), parts)
        if side.block_last:
            self._tell(stream, side.asks, End(True), parts)

    def _settings(self, side: _Side, payload: bytes) -> None:
        """One end says how large a table the other may use."""
        for at in range(0, len(payload) - 5, 6):
            if int.from_bytes(payload[at : at + 2], "big") == _TABLE_SIZE:
                size = min(int.from_bytes(payload[at + 2 : at + 6], "big"), MAX_TABLE)
                decoder = self._sides[not side.asks].decoder
                decoder.max_allowed_table_size = max(decoder.max_allowed_table_size, size)

    def _tell(self, stream: int, asked: bool, event: Event, parts: list[Part]) -> None:
        if stream in self._open:
            parts.append(Part(stream, asked, event))
            if isinstance(event, End) and not asked:
                del self._open[stream]

    def _lose(self, reason: str, parts: list[Part]) -> bool:
        self._blind = True
        parts.append(Part(0, False, Lost(reason)))
        return False


_BLOCKS = frozenset((_HEADERS, _PUSH, _CONTINUATION))
_READ = _BLOCKS | {_RESET, _SETTINGS}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
