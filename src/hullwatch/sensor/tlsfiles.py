"""Which files of a process do TLS, and where in them its plain bytes pass.

The files are the workload's: see elf.py. None is opened by a name that the workload could have put
a link under, and what is not a regular file is not opened at all.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from hullwatch.sensor import gopclntab
from hullwatch.sensor.elf import Elf, ElfError

__all__ = ["FileKey", "Found", "Hook", "Mapped", "TlsFiles", "code_files", "examine"]

MAX_MAPS = 4 << 20  # of /proc/PID/maps
MAX_FILES = 1024  # of a process
MAX_HOOKS = 32  # of a file
KNOWN = 4096  # files remembered

# Function -> program of kernel/tls.bpf.c at its begin; at its return it is always tls_return.
# BoringSSL, LibreSSL and AWS-LC have OpenSSL's names. GnuTLS's older versions have no send2.
_CALLS = {
    "SSL_write": ("OpenSSL", "tls_write"),
    "SSL_write_ex": ("OpenSSL", "tls_write_ex"),
    "SSL_read": ("OpenSSL", "tls_read"),
    "SSL_read_ex": ("OpenSSL", "tls_read_ex"),
    "gnutls_record_send": ("GnuTLS", "tls_write"),
    "gnutls_record_send2": ("GnuTLS", "tls_write"),
    "gnutls_record_recv": ("GnuTLS", "tls_read"),
}
# ... and where a library lets go of a connection, whose address is soon another's.
_FREES = ("SSL_free", "gnutls_deinit")
_GO_CLOSE = "crypto/tls.(*Conn).Close"
_GO_CALLS = {"crypto/tls.(*Conn).Write": "go_write", "crypto/tls.(*Conn).Read": "go_read"}

# All that speak TLS 1.3 have this name, of NSS's key logs, whether they write such logs or not.
_SPEAKS_TLS = b"CLIENT_HANDSHAKE_TRAFFIC_SECRET"
_RUSTLS = b"rustls"
_ELSE = "; its calls are seen if they go through the gateway, or are told by OTLP"
_OPAQUE_CALLS = {
    "SSL_ImportFD": "NSS: its functions are not hooked",
    "JNI_CreateJavaVM": "Java: its TLS is compiled while it runs",
}
_OPAQUE_TEXTS = {
    _RUSTLS: "rustls: compiled into the program in pieces that have no names",
    b"boringssl": "BoringSSL: built in, without the names of its functions; "
    "a build that keeps its symbols can be read",
    b"OpenSSL": "OpenSSL: built in, without the names of its functions; "
    "a build that keeps its symbols, or uses the system's libssl, can be read",
    b"": "a TLS library that is not known here",
}


class FileKey(NamedTuple):
    """A file as it is now: written to, it is another."""

    device: int
    inode: int
    changed: int
    size: int


class Hook(NamedTuple):
    program: str
    offset: int  # into the file
    at_return: bool = False


class Found(NamedTuple):
    """What a file has of TLS. Some of it may be opaque: then why, in words for people."""

    kinds: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    opaque: str = ""


class Mapped(NamedTuple):
    """A file that a process has code of; device and inode as /proc/PID/maps has them."""

    begin: int
    end: int
    device: int
    inode: int
    name: bytes


def code_files(pid: int) -> list[Mapped]:
    """Each file once; empty for a process that has ended."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read(MAX_MAPS).splitlines()
    except OSError:
        return []
    found: dict[tuple[int, int], Mapped] = {}
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) < 6 or b"x" not in fields[1] or fields[4] == b"0":
            continue
        begin, _, end = fields[0].partition(b"-")
        major, _, minor = fields[3].partition(b":")
        device, inode = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        mapped = Mapped(int(begin, 16), int(end, 16), device, inode, fields[5])
        found.setdefault((device, inode), mapped)
        if len(found) == MAX_FILES:
            break
    return list(found.values())


@contextmanager
def handle_of(pid: int, mapped: Mapped) -> Iterator[int]:
    """A descriptor that names the file (O_PATH), whatever stands at its path by now.

    Without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE the path has to do, and what is found there has
    to be what is mapped; the kernel may give a file of an overlay two identities, and then it seems
    not to be.
    """
    place = f"/proc/{pid}/map_files/{mapped.begin:x}-{mapped.end:x}"
    expected = None
    try:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        path = b"/proc/%d/root%s" % (pid, mapped.name)
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        expected = mapped.device, mapped.inode
    try:
        facts = os.fstat(fd)
        if expected and expected != (facts.st_dev, facts.st_ino):
            raise PermissionError(1, "only root can open the file that is mapped")
        yield fd
    finally:
        os.close(fd)


def examine(fd: int) -> Found:
    """Raises ElfError."""
    elf = Elf(fd)
    if elf.machine != _machine():
        raise ElfError("for another kind of machine")
    names = (*_CALLS, *_FREES, *_OPAQUE_CALLS)
    kinds, hooks, opaque = set(), set(), []
    frees: set[int] = set()
    # A program may export some and keep others to itself.
    for table in (".dynsym", ".symtab"):
        for name, addresses in elf.functions(table, names).items():
            if name in _OPAQUE_CALLS:
                opaque.append(_OPAQUE_CALLS[name] + _ELSE)
                continue
            for address in addresses:
                offset = elf.code_offset(address)
                if offset is not None and name in _FREES:
                    frees.add(offset)
                elif offset is not None:
                    kind, program = _CALLS[name]
                    kinds.add(kind)
                    hooks |= {Hook(program, offset), Hook("tls_return", offset, True)}
    if hooks:
        hooks |= {Hook("tls_free", offset) for offset in frees}
    if table_of_go := gopclntab.table_of(elf):
        try:
            go = gopclntab.functions(elf, table_of_go, (*_GO_CALLS, _GO_CLOSE))
        except ElfError as error:
            opaque.append(f"Go: {error}{_ELSE}")
            go = {}
        close = go.pop(_GO_CLOSE, None)
        for name, function in go.items():
            kinds.add("Go")
            hooks.add(Hook(_GO_CALLS[name], function.begin))
            hooks |= {Hook("go_return", offset) for offset in function.returns}
        if close and go:
            hooks.add(Hook("go_close", close.begin))
    if len(hooks) > MAX_HOOKS:
        raise ElfError("more functions of TLS libraries than a program has")
    if not opaque:
        opaque = _opaque(elf, bool(hooks))
    return Found(tuple(sorted(kinds)), tuple(sorted(hooks)), "; ".join(dict.fromkeys(opaque)))


def _opaque(elf: Elf, hooked: bool) -> list[str]:
    """What speaks TLS here beside what is hooked, told by the texts in it."""
    texts = elf.section(".rodata")
    if texts is None:
        return []
    found = list(elf.find(texts, _SPEAKS_TLS, *filter(None, _OPAQUE_TEXTS)).values())
    if not found.count(_SPEAKS_TLS):
        return []
    if hooked:
        # One of those that speak is what is hooked.
        both = found.count(_SPEAKS_TLS) > 1 and _RUSTLS in found
        return [_OPAQUE_TEXTS[_RUSTLS] + _ELSE] if both else []
    why = next(why for text, why in _OPAQUE_TEXTS.items() if not text or text in found)
    return [why + _ELSE]


def _machine() -> str:
    machine = os.uname().machine
    return "arm64" if machine == "aarch64" else machine


class TlsFiles:
    """Files that were examined are remembered, the last KNOWN of them. For one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[FileKey, Found] = OrderedDict()
        self.examined = 0
        self.unreadable: dict[str, int] = {}

    def of(self, pid: int) -> Iterator[tuple[FileKey, Found, str]]:
        """The files with TLS in them, and a path to open each by until the next is asked for."""
        for mapped in code_files(pid):
            try:
                with handle_of(pid, mapped) as handle:
                    path = f"/proc/self/fd/{handle}"
                    facts = os.fstat(handle)
                    if not stat.S_ISREG(facts.st_mode):
                        continue
                    key = FileKey(facts.st_dev, facts.st_ino, facts.st_ctime_ns, facts.st_size)
                    found = self._found(key, path)
                    if found.hooks or found.opaque:
                        yield key, found, path
            except OSError as error:
                # A process that ends meanwhile is no failure.
                if not isinstance(error, FileNotFoundError | ProcessLookupError):
                    self._count(error.strerror or str(error))

    def _found(self, key: FileKey, path: str) -> Found:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = examine(fd)
        except ElfError as error:
            self._count(str(error))
            found = Found()
        finally:
            os.close(fd)
        self.examined += 1
        self._known[key] = found
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return found

    def _count(self, why: str) -> None:
        self.unreadable[why] = self.unreadable.get(why, 0) + 1
