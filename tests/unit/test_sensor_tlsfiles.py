"""Which functions of which files are hooked: in real files, in made ones, in broken ones."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.sensor.elf import MAX_READ, Elf, ElfError
from hullwatch.sensor.gopclntab import functions, table_of
from hullwatch.sensor.tlsfiles import Found, Hook, TlsFiles, code_files, examine
from support.elf_files import (
    CODE,
    GO_CODE,
    GO_DEPTHS,
    SPEAKS,
    code_ranges,
    elf_file,
    go_table,
    opened,
    symbols,
    whole,
)
from support.peers import environments

CALLS = Path(__file__).parents[1] / "support" / "tls" / "calls.c"
NAMES = ("SSL_write", "SSL_write_ex", "SSL_read", "SSL_read_ex")
READ, WRITE = "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"
HERE = "arm64" if platform.machine() == "aarch64" else "x86_64"


def look(data: bytes) -> Found:
    with opened(data) as fd:
        return examine(fd)


def look_at(path: Path | str) -> Found:
    fd = os.open(path, os.O_RDONLY)
    try:
        return examine(fd)
    finally:
        os.close(fd)


def compiled(folder: Path, *words: str) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    subprocess.run(["cc", "-O1", *words, str(CALLS), "-o", folder / "calls"], check=True)
    return folder / "calls"


def nm(path: Path) -> dict[str, int]:
    lines = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


def test_functions_that_are_not_exported(tmp_path):
    """The offsets are of the very functions: the same bytes stand there."""
    path = compiled(tmp_path, "-no-pie")
    found = look_at(path)
    assert found.kinds == ("OpenSSL",) and not found.opaque
    hooks = {(hook.program, hook.offset) for hook in found.hooks}
    where, base = nm(path), 0x400000
    assert {(f"tls_{name[4:]}", where[name] - base) for name in NAMES} <= hooks
    assert {("tls_return", where[name] - base) for name in NAMES} <= hooks
    assert all(hook.at_return == (hook.program == "tls_return") for hook in found.hooks)


def test_exported_functions_of_a_stripped_library(tmp_path):
    path = compiled(tmp_path, "-shared", "-fPIC", "-s")
    assert len(look_at(path).hooks) == 8


def test_a_stripped_program_has_none(tmp_path):
    assert look_at(compiled(tmp_path, "-s")) == Found()


def test_libraries_of_this_machine():
    """Python's own libssl: that which this process has mapped."""
    assert ssl.OPENSSL_VERSION
    import _ssl

    found = {found.kinds for _, found, _ in TlsFiles().of(os.getpid())}
    if ("OpenSSL",) not in found:
        pytest.skip(f"Python's OpenSSL has no functions with names: {_ssl.__file__}")


def test_node():
    if not environments.NODE.exists():
        pytest.skip("needs node: make peers")
    found = look_at(environments.NODE)
    programs = [hook.program for hook in found.hooks]
    assert found.kinds == ("OpenSSL",) and programs.count("tls_return") == len(NAMES)
    assert len(programs) == 2 * len(NAMES) + programs.count("tls_free") == 9


def test_grpc_is_opaque_and_says_why():
    grpc = pytest.importorskip("grpc")
    library = next(Path(grpc.__file__).parent.glob("_cython/cygrpc*.so"))
    found = look_at(library)
    assert not found.hooks and found.opaque.startswith("BoringSSL: built in")


def test_a_real_go_program():
    """containerd is stripped. What was found there are returns: Go's code has one RET for each."""
    path = shutil.which("containerd")
    if path is None:
        pytest.skip("needs containerd: apt-get install containerd")
    found = look_at(path)
    assert found.kinds == ("Go",)
    programs = [hook.program for hook in found.hooks]
    assert programs.count("go_read") == programs.count("go_write") == 1
    assert programs.count("go_return") >= 4
    ret = b"\xc3" if HERE == "x86_64" else b"\xc0\x03\x5f\xd6"
    with open(path, "rb") as file:
        for hook in found.hooks:
            file.seek(hook.offset)
            assert hook.program != "go_return" or file.read(len(ret)) == ret


@pytest.mark.parametrize(
    ("texts", "whose"),
    [
        (SPEAKS + b"rustls-0.23.1/src/conn.rs\0", "rustls: "),
        (SPEAKS + b"third_party/boringssl/ssl\0", "BoringSSL: "),
        (SPEAKS + b"OpenSSL 3.0.1\0", "OpenSSL: "),
        (SPEAKS, "a TLS library that is not known here"),
        (b"rustls and OpenSSL, spoken of\0", ""),
    ],
)
def test_what_speaks_tls_without_names(texts, whose):
    found = look(elf_file(b"\xc3" * 16, {".rodata": texts}, HERE))
    assert found.opaque.startswith(whose) and bool(found.opaque) == bool(whose)


@pytest.mark.parametrize(
    ("name", "whose"), [("JNI_CreateJavaVM", "Java: "), ("SSL_ImportFD", "NSS: ")]
)
def test_what_is_told_by_a_function(name, whose):
    found = look(elf_file(b"\xc3" * 16, symbols({name: CODE}), HERE))
    assert found.opaque.startswith(whose) and not found.hooks


def test_a_file_may_be_hooked_and_opaque():
    sections = {".rodata": SPEAKS * 2 + b"rustls", **symbols({"SSL_read": CODE})}
    found = look(elf_file(b"\xc3" * 16, sections, HERE))
    assert found.kinds == ("OpenSSL",) and found.opaque.startswith("rustls: ")


def test_functions_outside_of_the_code_are_left_out():
    outside = {"SSL_read": CODE + 16, "SSL_write": CODE - 1, "SSL_read_ex": 0}
    assert look(elf_file(b"\xc3" * 16, symbols(outside), HERE)) == Found()


def go_elf(depths: list[tuple[int, int]], **table: int) -> bytes:
    made = go_table({"other": (0, [(1, 0)]), READ: (1, depths)}, 1 + len(GO_CODE), **table)
    return elf_file(b"\x90" + GO_CODE, made)


def go_functions(data: bytes):
    with opened(data) as fd:
        elf = Elf(fd)
        table = table_of(elf)
        assert table is not None
        return functions(elf, table, (READ, WRITE))


@pytest.mark.parametrize("magic", [0xFFFFFFF0, 0xFFFFFFF1])
@pytest.mark.parametrize("text", [CODE, 0])
def test_go_returns(magic, text):
    found = go_functions(go_elf(GO_DEPTHS, magic=magic, text=text))
    assert found == {READ: (0x1001, (0x1001 + 11, 0x1001 + 13))}


def test_go_returns_on_arm64():
    nop, ret = b"\x1f\x20\x03\xd5", b"\xc0\x03\x5f\xd6"
    code = nop + ret + ret + nop + ret  # the first within the frame: no return of this table's
    depths = [(4, 0), (4, 32), (4, 0), (4, 32), (4, 0)]
    table = go_table({READ: (0, depths)}, len(code), quantum=4)
    assert go_functions(elf_file(code, table, "arm64")) == {READ: (0x1000, (0x1008, 0x1010))}


@pytest.mark.parametrize(
    "data",
    [
        go_elf([(7, 0), (3, 8), (1, 0), (8, 8)]),  # between two instructions of the table
        go_elf([(7, 0), (12, 8)]),  # none
        go_elf(GO_DEPTHS, magic=0xFFFFFFFB),
        go_elf(GO_DEPTHS, text=CODE + 3),
        go_elf(GO_DEPTHS, text=CODE + 4096),
    ],
    ids=["misplaced", "none", "old", "shifted", "outside"],
)
def test_go_without_returns_that_are_sure(data):
    with pytest.raises(ElfError):
        go_functions(data)
    if HERE == "x86_64":
        found = look(data)
        assert not found.hooks and found.opaque.startswith("Go: ")


WHOLE = whole()
INTERESTING = [0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1]


def check(data: bytes) -> None:
    """It is refused, or what is hooked is code of the file."""
    try:
        found = look(data)
    except ElfError:
        return
    ranges = code_ranges(data) if found.hooks else []
    for hook in found.hooks:
        assert 0 <= hook.offset < len(data) and any(hook.offset in one for one in ranges)


def test_the_whole():
    if HERE == "x86_64":
        assert look(WHOLE).kinds == ("GnuTLS", "Go", "OpenSSL")
    check(WHOLE)


_PLACES = [place for place in range(len(WHOLE)) if place < 128 or place >= 0x1000]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(_PLACES),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from(INTERESTING) | st.integers(0, (1 << 64) - 1),
        ),
        max_size=6,
    ),
    st.integers(0, len(WHOLE)) | st.just(len(WHOLE)),
)
def test_changed_and_cut(changes, length):
    data = bytearray(WHOLE)
    for place, size, value in changes:
        data[place : place + size] = struct.pack("<Q", value)[:size]
    check(bytes(data[:length]))


@given(st.binary(max_size=400))
def test_any_bytes(data):
    check(data)
    check(WHOLE[:64] + data)


def test_a_large_file_is_not_read_for_ever(tmp_path, monkeypatch):
    """Sections of a terabyte, most of it a hole."""
    data = bytearray(WHOLE)
    rows = struct.unpack_from("<Q", data, 40)[0]
    for index in range(struct.unpack_from("<H", data, 60)[0]):
        struct.pack_into("<Q", data, rows + index * 64 + 32, 1 << 40)
    with open(tmp_path / "large", "wb") as file:
        file.write(data)
        file.truncate(1 << 42)
    pread, read = os.pread, []
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    assert look_at(tmp_path / "large").kinds >= ("GnuTLS",)
    assert sum(read) <= MAX_READ and max(read) < 4 << 20


def test_code_of_this_process():
    files = code_files(os.getpid())
    assert len({(one.device, one.inode) for one in files}) == len(files)
    assert os.path.realpath(sys.executable).encode() in {one.name for one in files} or files
    assert code_files(0) == []


def test_a_file_is_examined_once(tmp_path):
    tls = TlsFiles()
    assert list(tls.of(os.getpid())) == list(tls.of(os.getpid()))
    assert tls.examined <= len(code_files(os.getpid()))


def test_hooks_are_in_order():
    assert Hook("a", 1) < Hook("a", 2) < Hook("b", 0)
