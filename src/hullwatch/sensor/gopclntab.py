"""Go's table of functions, which a stripped program keeps as well: where one begins and returns.

Go has no return probes (its stacks move, and its runtime unwinds them), so each RET needs a probe.
They are found without a disassembler: the table says where the stack pointer stands at every
instruction, and where a frame has just been given up, the next instruction is the function's RET.
What is not that, byte for byte, is an ElfError: a probe within an instruction would change it.

Layout: src/runtime/symtab.go and src/internal/abi/symtab.go of Go 1.18 (magic ...f0) and 1.20
(...f1); the encoding of tables by address: "Go 1.2 Runtime Symbol Table Information".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.elf import Elf, ElfError, Section

__all__ = ["GoFunction", "functions", "table_of"]

MAX_FUNCTIONS = 1 << 21
MAX_TABLE = 128 << 20
MAX_CODE = 64 << 10  # of one function
_HEADER = struct.Struct("<IHBBQQQQQQQQ")
_MAGIC = (0xFFFFFFF0, 0xFFFFFFF1)
_OLD = (0xFFFFFFFA, 0xFFFFFFFB)
_SP_TABLE = 16  # of struct _func: entry, name, args, deferreturn, pcsp
_RET = {"x86_64": b"\xc3", "arm64": b"\xc0\x03\x5f\xd6"}


class GoFunction(NamedTuple):
    """Offsets into the file."""

    begin: int
    returns: tuple[int, ...]


def table_of(elf: Elf) -> Section | None:
    """None: not written in Go (or by a linker that is not Go's)."""
    return elf.section(".gopclntab", ".data.rel.ro.gopclntab")


def functions(elf: Elf, table: Section, names: tuple[str, ...]) -> dict[str, GoFunction]:
    """Those of these functions that the program has."""
    magic, _, quantum, pointer, count, _, text, *offsets = _HEADER.unpack(
        elf.read(table.offset, _HEADER.size)
    )
    names_at, _, _, values_at, functions_at = offsets
    if magic in _OLD:
        raise ElfError("made by Go before 1.18, which passes arguments in another way")
    if magic not in _MAGIC or pointer != 8 or quantum not in (1, 4):
        raise ElfError("a Go function table of an unknown form")
    if not 0 < count <= MAX_FUNCTIONS or table.size > MAX_TABLE:
        raise ElfError("a Go function table that is too large")
    if max(names_at, values_at, functions_at + count * 8 + 4) > table.size:
        raise ElfError("a Go function table that points out of itself")
    text = text or _text_begins(elf)
    texts = table._replace(offset=table.offset + names_at, size=table.size - names_at)
    named = elf.find(texts, *(b"\0" + name.encode() + b"\0" for name in names))
    wanted = {place + 1: text[1:-1].decode() for place, text in named.items()}
    if not wanted:
        return {}
    raw = elf.read(table.offset + functions_at, table.size - functions_at)
    words = np.frombuffer(raw, "<u4", len(raw) // 4)
    entries, places = words[: count * 2 : 2], words[1 : count * 2 : 2] // 4
    if int(places.max()) + 8 > len(words):
        raise ElfError("a Go function table that points out of itself")
    found = {}
    for at in np.flatnonzero(np.isin(words[places + 1], np.fromiter(wanted, np.uint32))).tolist():
        place = int(places[at])
        # The end: the next function's begin, or the word that stands after the last.
        size = int(words[at * 2 + 2]) - int(entries[at])
        values = values_at + int(words[place + _SP_TABLE // 4])
        found[wanted[int(words[place + 1])]] = _function(
            elf, table, text + int(entries[at]), size, values, quantum
        )
    return found


def _text_begins(elf: Elf) -> int:
    """Where Go's code begins, when the header leaves it open (position-independent programs)."""
    symbols = elf.functions(".symtab", ("runtime.text",)).get("runtime.text")
    section = elf.section(".text")
    if symbols:
        return min(symbols)
    if section is None:
        raise ElfError("a Go program without .text")
    return section.address


def _function(
    elf: Elf, table: Section, address: int, size: int, values: int, quantum: int
) -> GoFunction:
    begin = elf.code_offset(address, max(size, 1))
    if begin is None or not 0 < size <= MAX_CODE or values >= table.size:
        raise ElfError("a Go function that is not where the table says")
    code = elf.read(begin, size)
    raw = elf.read(table.offset + values, min(MAX_CODE, table.size - values))
    ret = _RET[elf.machine]
    returns = []
    ranges = _values(raw, size, quantum)
    for start, depth in ranges:
        if depth or start == 0:
            continue
        if code.startswith(ret, start):
            returns.append(begin + start)
        elif start != ranges[-1][0]:  # the last: where the stack is made larger, before a frame
            raise ElfError("a Go function whose returns are not where they should be")
    if not returns:
        raise ElfError("a Go function that never returns")
    return GoFunction(begin, tuple(returns))


def _values(raw: bytes, size: int, quantum: int) -> list[tuple[int, int]]:
    """(from, value) of a table by address, of a function of `size` bytes, padding included."""
    at = start = 0
    value = -1
    ranges: list[tuple[int, int]] = []
    while start < size:
        change, at = _varint(raw, at)
        if not change and ranges:
            break
        value += -(change >> 1) - 1 if change & 1 else change >> 1
        ranges.append((start, value))
        length, at = _varint(raw, at)
        if not length:
            raise ElfError("a Go table by address that does not go on")
        start += length * quantum
    return ranges


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ElfError("a Go table by address that is cut short")
