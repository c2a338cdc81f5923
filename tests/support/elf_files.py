"""ELF files made by hand, for what reads them: small, and wrong where a test wants it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "CODE",
    "GO_CODE",
    "GO_DEPTHS",
    "SPEAKS",
    "code_ranges",
    "elf_file",
    "go_table",
    "opened",
    "symbols",
    "whole",
]

CODE = 0x401000
"""Where .text is in memory; in the file it is at 0x1000."""
_AT = 0x1000
_MACHINES = {"x86_64": 62, "arm64": 183}
_KINDS = {".symtab": 2, ".dynsym": 11}


def elf_file(text: bytes, sections: Mapping[str, bytes], machine: str = "x86_64") -> bytes:
    """One executable segment, which is .text, and these sections; .strtab is that of symbols."""
    names = ["", ".text", *sections, ".shstrtab"]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    contents = {".text": text, **sections, ".shstrtab": strings}
    link = names.index(".strtab") if ".strtab" in names else 0
    body, rows, name_at = b"", [bytes(64)], 1
    for name, content in contents.items():
        kind = _KINDS.get(name, 1)
        address = CODE if name == ".text" else 0
        row = (name_at, kind, 0, address, _AT + len(body), len(content), link, 0, 8, 0)
        rows.append(struct.pack("<IIQQQQIIQQ", *row))
        name_at += len(name) + 1
        body += content + bytes(-len(content) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, 2, _MACHINES[machine], 1, CODE, 64, _AT + len(body), 0, 64, 56, 1, 64),
        *(len(rows), len(rows) - 1),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, _AT, CODE, CODE, len(text), len(text), 4096)
    head = header + segment
    return head + bytes(_AT - len(head)) + body + b"".join(rows)


def symbols(functions: Mapping[str, int]) -> dict[str, bytes]:
    """.symtab and .strtab, in which each name is the end of a longer one."""
    strings, rows = b"\0", [bytes(24)]
    for name, address in functions.items():
        strings += b"my_"
        rows.append(struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, address, 1))
        strings += name.encode() + b"\0"
    return {".symtab": b"".join(rows), ".strtab": strings}


def go_table(
    functions: Mapping[str, tuple[int, list[tuple[int, int]]]],
    end: int,
    *,
    magic: int = 0xFFFFFFF1,
    quantum: int = 1,
    text: int = CODE,
) -> dict[str, bytes]:
    """.gopclntab: name -> (begin, [(bytes, depth of the stack) ...]); begins count from `text`."""
    names, values, places = b"\0", b"\0", []
    for name, (begin, depths) in functions.items():
        places.append((begin, len(names), len(values)))
        names += name.encode() + b"\0"
        before = -1
        for length, depth in depths:
            change = depth - before
            values += _varint(change << 1 if change >= 0 else -change * 2 - 1)
            values += _varint(length // quantum)
            before = depth
        values += b"\0"
    room = len(places) * 8 + 8
    table, records = b"", b""
    for begin, name_at, value_at in places:
        table += struct.pack("<II", begin, room + len(records))
        records += struct.pack("<IiiII", begin, name_at, 0, 0, value_at) + bytes(20)
    table += struct.pack("<II", end, 0)
    names += bytes(-len(names) % 8)
    values += bytes(-len(values) % 8)
    head = 72
    header = struct.pack(
        "<IHBBQQQQQQQQ",
        *(magic, 0, quantum, 8, len(places), 0, text),
        *(head, 0, 0, head + len(names), head + len(names) + len(values)),
    )
    return {".gopclntab": header + names + values + table + records}


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def code_ranges(data: bytes) -> list[range]:
    """Offsets of what the executable segments have in the file, as the kernel would map it."""
    at, size, count = (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
    rows = [struct.unpack_from("<IIQQQQQQ", data, at + size * index) for index in range(count)]
    return [range(row[2], row[2] + row[5]) for row in rows if row[0] == 1 and row[1] & 1]


SPEAKS = b"\0CLIENT_HANDSHAKE_TRAFFIC_SECRET\0"
# A function with a frame, two returns, and a call to make the stack larger behind them.
GO_CODE = b"\x49\x3b\x66\x10\x76\x08" + b"\x55" + b"\x90\xc3\x90\x5d\xc3\x5d\xc3" + b"\xe8\0\0\0\0"
GO_DEPTHS = [(7, 0), (4, 8), (1, 0), (1, 8), (6, 0)]


def whole() -> bytes:
    """A file for this machine with all in it that is looked for."""
    functions = {"SSL_read": CODE + 3, "SSL_write_ex": CODE + 9, "gnutls_record_send": CODE + 1}
    go = {"other": (0, [(1, 0)]), "crypto/tls.(*Conn).Read": (1, GO_DEPTHS)}
    sections = {
        **symbols(functions),
        **go_table(go, 1 + len(GO_CODE)),
        ".rodata": SPEAKS,
    }
    machine = "arm64" if os.uname().machine == "aarch64" else "x86_64"
    return elf_file(b"\x90" + GO_CODE + bytes(40), sections, machine)


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("elf")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)
