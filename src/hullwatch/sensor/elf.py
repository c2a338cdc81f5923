"""ELF files of 64 bits, little-endian: sections, code segments, symbols by name.

The files are anybody's. Nothing is mapped into memory (a file that shrinks under a mapping kills
its reader) or read whole; every size is bounded; all that is wrong with a file is an ElfError.
Layouts: elf(5).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Elf", "ElfError", "Section"]

PIECE = 1 << 20  # read at a time
MAX_SECTIONS, MAX_SEGMENTS = 8192, 256
MAX_SCANNED = 128 << 20  # of one section
MAX_READ = 512 << 20  # of one file, in all
MAX_FOUND = 64  # places of one text

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = np.dtype("<u4, u1, u1, <u2, <u8, <u8")
_SYMBOL.names = ("name", "info", "other", "section", "value", "size")
_PT_LOAD, _PF_X = 1, 1
_SHT_NOBITS = 8
_STT_FUNC = 2
_MACHINES = {62: "x86_64", 183: "arm64"}


class ElfError(ValueError):
    """Not a file that can be read here. The message says why."""


class Section(NamedTuple):
    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int


class _Segment(NamedTuple):
    offset: int
    address: int
    size: int


class Elf:
    """Reads of an open file, which stays the caller's. Raises ElfError, as do all methods."""

    def __init__(self, fd: int) -> None:
        self._fd, self._left = fd, MAX_READ
        try:
            self.length = os.fstat(fd).st_size
        except OSError as error:
            raise ElfError(f"cannot be read: {error.strerror}") from error
        header = _HEADER.unpack(self.read(0, _HEADER.size))
        ident, _, machine, _, _, segments_at, sections_at = header[:7]
        segment_size, segments, section_size, sections, names = header[9:14]
        if ident[:4] != b"\x7fELF":
            raise ElfError("no ELF file")
        if ident[4:6] != b"\x02\x01" or machine not in _MACHINES:
            raise ElfError("an ELF file of another kind of machine")
        if segments > MAX_SEGMENTS or sections > MAX_SECTIONS:
            raise ElfError("more segments or sections than any linker makes")
        self.machine = _MACHINES[machine]
        self._code = [
            _Segment(offset, address, size)
            for kind, flags, offset, address, _, size, _, _ in self._table(
                _SEGMENT, segments_at, segment_size, segments
            )
            if kind == _PT_LOAD and flags & _PF_X
        ]
        rows = list(self._table(_SECTION, sections_at, section_size, sections))
        texts = b""
        if names < len(rows):
            texts = self.read(rows[names][4], min(rows[names][5], PIECE))
        self.sections = [
            Section(_text(texts, name), kind, address, offset, size, link)
            for name, kind, _, address, offset, size, link, *_ in rows
        ]

    def _table(
        self, row: struct.Struct, at: int, size: int, count: int
    ) -> Iterator[tuple[int, ...]]:
        if count and size != row.size:
            raise ElfError("a table with rows of an odd size")
        return row.iter_unpack(self.read(at, size * count))

    def read(self, at: int, size: int) -> bytes:
        """These bytes of the file, all of them."""
        if at + size > self.length:
            raise ElfError("cut short")
        self._left -= size
        if self._left < 0:
            raise ElfError("too large to look through")
        try:
            data = os.pread(self._fd, size, at)
        except OSError as error:
            raise ElfError(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise ElfError("cut short")
        return data

    def section(self, *names: str) -> Section | None:
        """The first section of one of these names, with something in it."""
        for section in self.sections:
            if section.name in names and section.kind != _SHT_NOBITS and section.size:
                return section
        return None

    def code_offset(self, address: int, size: int = 1) -> int | None:
        """Where in the file this code is; None if it is not in an executable segment."""
        for segment in self._code:
            inside = address - segment.address
            if inside >= 0 and inside + size <= segment.size:
                offset = segment.offset + inside
                return offset if offset + size <= self.length else None
        return None

    def find(self, section: Section, *texts: bytes) -> dict[int, bytes]:
        """Where in the section each of these is, the first MAX_FOUND places: place -> text."""
        found: dict[int, bytes] = {}
        left = dict.fromkeys(texts, MAX_FOUND)
        overlap = max(map(len, texts)) - 1
        for at in range(0, min(section.size, MAX_SCANNED), PIECE):
            data = self.read(section.offset + at, min(PIECE + overlap, section.size - at))
            for text in texts:
                place = data.find(text)
                while 0 <= place < PIECE and left[text]:
                    found[at + place] = text
                    left[text] -= 1
                    place = data.find(text, place + 1)
        return found

    def functions(self, table: str, names: Sequence[str]) -> dict[str, set[int]]:
        """Addresses of the functions of these names that the symbol table `table` defines."""
        symbols = self.section(table)
        if symbols is None or symbols.link >= len(self.sections):
            return {}
        strings = self.sections[symbols.link]
        if strings.kind == _SHT_NOBITS:
            raise ElfError("a symbol table without names")
        # Linkers let a name be the end of a longer one, so what stands before it says nothing.
        places = self.find(strings, *(name.encode() + b"\0" for name in names))
        found: dict[str, set[int]] = {}
        if not places:
            return found
        wanted = np.fromiter(places, np.uint32)
        step = PIECE // _SYMBOL.itemsize * _SYMBOL.itemsize
        whole = min(symbols.size, MAX_SCANNED) // _SYMBOL.itemsize * _SYMBOL.itemsize
        for at in range(0, whole, step):
            rows = np.frombuffer(
                self.read(symbols.offset + at, min(step, whole - at)), dtype=_SYMBOL
            )
            rows = rows[np.isin(rows["name"], wanted)]
            rows = rows[(rows["info"] & 15 == _STT_FUNC) & (rows["section"] != 0)]
            for place, address in zip(rows["name"].tolist(), rows["value"].tolist(), strict=True):
                name = places[place][:-1].decode()
                addresses = found.setdefault(name, set())
                if len(addresses) < MAX_FOUND:
                    addresses.add(address)
        return found


def _text(texts: bytes, at: int) -> str:
    end = texts.find(b"\0", at, at + 256)
    return texts[at:end].decode("ascii", "replace") if end > at else ""
