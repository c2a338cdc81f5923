"""A BPF ring buffer, read from its memory with numpy.

Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's, the
data. A record is an 8-byte header (length with two flag bits, page offset) and its data, padded to
8 bytes. Records of one fixed size are therefore an array, once copied out of the ring.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from hullwatch.sensor.libbpf import Map

__all__ = ["Ring"]

_BUSY, _DISCARD = 1 << 31, 1 << 30
_LENGTH = _DISCARD - 1


class Ring:
    """Single reader. `take` copies whole committed records out and frees their room."""

    def __init__(self, source: Map) -> None:
        page = mmap.PAGESIZE
        self.name, self.fd = source.name, source.fd
        self.size = source.max_entries
        self._consumer_memory = mmap.mmap(
            self.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        # The kernel offers the data twice in a row; mapping it once halves our resident memory.
        self._memory = mmap.mmap(
            self.fd, page + self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer = np.frombuffer(self._consumer_memory, np.uint64, 1)
        self._producer = np.frombuffer(self._memory, np.uint64, 1)
        self._data = np.frombuffer(self._memory, np.uint8, self.size, offset=page)

    def produced(self) -> int:
        """The producer's position: bytes ever written."""
        return int(self._producer[0])

    def waiting(self) -> int:
        """Bytes written and not yet read."""
        return int(self._producer[0]) - int(self._consumer[0])

    def _copy(self, start: int, length: int) -> np.ndarray:
        at = start % self.size
        first = min(length, self.size - at)
        if first == length:
            return self._data[at : at + length].copy()
        return np.concatenate((self._data[at:], self._data[: length - first]))

    def take_fixed(self, dtype: np.dtype[Any], upto: int, limit: int) -> np.ndarray:
        """Records of one dtype, at most `limit`, none from beyond position `upto`: dtype[n]."""
        stride = 8 + (dtype.itemsize + 7) // 8 * 8
        start = int(self._consumer[0])
        count = min((upto - start) // stride, limit)
        if count <= 0:
            return np.empty(0, dtype)
        row = np.dtype(
            {
                "names": ["length", "record"],
                "formats": ["<u4", dtype],
                "offsets": [0, 8],
                "itemsize": stride,
            }
        )
        rows = self._copy(start, count * stride).view(row)
        special = rows["length"] & np.uint32(_BUSY | _DISCARD)
        taken = len(rows)
        if special.any():
            busy = special & np.uint32(_BUSY)
            if busy.any():
                taken = int(np.argmax(busy != 0))
            rows = rows[:taken][special[:taken] == 0]
        records = np.ascontiguousarray(rows["record"])
        self._consumer[0] = start + taken * stride
        return records

    def take_variable(self, limit: int = 1 << 22) -> Iterator[memoryview]:
        """Records of any size, at most `limit` bytes of them; room is freed when exhausted."""
        start = int(self._consumer[0])
        length = min(self.produced() - start, limit)
        if length <= 0:
            return
        copy = self._copy(start, length).data
        at = 0
        while at + 8 <= length:
            header = int.from_bytes(copy[at : at + 4], "little")
            size = header & _LENGTH
            step = 8 + (size + 7) // 8 * 8
            if header & _BUSY or at + step > length:
                break
            if not header & _DISCARD:
                yield copy[at + 8 : at + 8 + size]
            at += step
        self._consumer[0] = start + at
