"""Room for findings that is there before it is needed.

A file of fixed size, its blocks written at start. When SQLite can take no finding (disk full),
findings are written into these blocks in place, and moved to SQLite when it works again.
Layout: magic, generation; then records of (length, crc32 over generation and data), data.
Emptying it raises the generation, which no older record's checksum fits.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

__all__ = ["Reserve", "read_reserve"]

_MAGIC = b"HWRSV1\0\0"
_HEADER = struct.Struct("<8sQ")
_RECORD = struct.Struct("<II")


def _records(data: bytes) -> tuple[int, int, list[bytes]]:
    """(generation, end of the last good record, records)."""
    if len(data) < _HEADER.size:
        return 0, _HEADER.size, []
    magic, generation = _HEADER.unpack_from(data)
    at = _HEADER.size
    found: list[bytes] = []
    if magic != _MAGIC:
        return 0, at, found
    while at + _RECORD.size <= len(data):
        length, crc = _RECORD.unpack_from(data, at)
        body = data[at + _RECORD.size : at + _RECORD.size + length]
        if not length or len(body) < length or _crc(generation, body) != crc:
            break
        found.append(body)
        at += _RECORD.size + length
    return generation, at, found


def _crc(generation: int, body: bytes) -> int:
    return zlib.crc32(body, generation & 0xFFFFFFFF)


def read_reserve(path: Path) -> list[bytes]:
    """What waits there; also for readers in other processes."""
    try:
        return _records(path.read_bytes())[2]
    except OSError:
        return []


class Reserve:
    """The writing end. Made of `size` bytes unless it exists; OSError if that fails."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            have = os.fstat(self.fd).st_size
            if have < size:
                # Real zeros: blocks that are only allocated may still need room when first written.
                os.lseek(self.fd, have, os.SEEK_SET)
                left = size - have
                while left > 0:
                    left -= os.write(self.fd, bytes(min(left, 1 << 20)))
                os.fsync(self.fd)
        except OSError:
            os.close(self.fd)
            raise
        self.size = os.fstat(self.fd).st_size
        self._generation, self._end, self._held = _records(self._read())
        if not self._generation:
            self._begin(1)

    def _read(self) -> bytes:
        return os.pread(self.fd, self.size, 0)

    def _begin(self, generation: int) -> None:
        os.pwrite(self.fd, _HEADER.pack(_MAGIC, generation), 0)
        os.fdatasync(self.fd)
        self._generation, self._end, self._held = generation, _HEADER.size, []

    def __len__(self) -> int:
        return len(self._held)

    def add(self, body: bytes) -> bool:
        """Durable when it returns True; False: full."""
        record = _RECORD.pack(len(body), _crc(self._generation, body)) + body
        if self._end + len(record) > self.size:
            return False
        os.pwrite(self.fd, record, self._end)
        os.fdatasync(self.fd)
        self._end += len(record)
        self._held.append(body)
        return True

    def held(self) -> list[bytes]:
        return list(self._held)

    def empty(self) -> None:
        self._begin(self._generation + 1)

    def close(self) -> None:
        os.close(self.fd)
