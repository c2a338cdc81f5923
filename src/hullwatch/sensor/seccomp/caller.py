"""The thread that waits: its memory, folders, descriptors and rights.

All of it may change while it is looked at, by other threads or because the thread has ended and its
number is another's. So it is opened or copied once, then `Listener.valid` is asked, and what was
opened or copied is what is decided on and used.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from hullwatch.sensor.seccomp.abi import pidfd_getfd, read_memory, syscall, write_memory

__all__ = ["Caller", "Rights", "acting", "apart", "status"]

MAX_ARGUMENTS = 1 << 21  # bytes of an argv, as Linux has it by default
_PAGE = 4096
_AT_FDCWD = -100
_CLONE_FS = 0x200
_CAP_VERSION_3 = 0x20080522
_POINTER = struct.Struct("=Q")


class Rights(NamedTuple):
    """What the kernel asks for when a file is opened. capabilities: bits, in our user namespace."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int
    umask: int


class Caller:
    """thread: as we see its id. ProcessLookupError where it is gone; other OSErrors where we may
    not look. Closes what it opened."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._kept = ExitStack()
        self.status = status(thread)
        self.process = int(self.status["Tgid"])
        self.root = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._kept.close()

    def keep(self, fd: int) -> int:
        self._kept.callback(os.close, fd)
        return fd

    def rights(self) -> Rights:
        said = self.status
        # What it may do in a user namespace of its own counts for nothing here.
        inside = os.stat(f"/proc/{self.thread}/ns/user").st_ino == _user_namespace()
        return Rights(
            int(said["Uid"].split()[1]),
            int(said["Gid"].split()[1]),
            tuple(sorted(map(int, said["Groups"].split()))),
            int(said["CapEff"], 16) if inside else 0,
            int(said["Umask"], 8),
        )

    @property
    def program(self) -> str:
        return _link(f"/proc/{self.process}/exe")

    @property
    def parent(self) -> str:
        return _link(f"/proc/{self.status['PPid'].strip()}/exe")

    def numbers(self, process: bool) -> list[int]:
        """Its id (the process's, or the thread's) in each pid namespace from ours inwards."""
        return list(map(int, self.status["NStgid" if process else "NSpid"].split()))

    # --- memory ---------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """All of it; EFAULT."""
        data = read_memory(self.thread, address, length) if length else b""
        if len(data) != length:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def write(self, address: int, data: bytes) -> None:
        write_memory(self.thread, address, data)

    def text(self, address: int, most: int = _PAGE, long: int = errno.ENAMETOOLONG) -> bytes:
        """Up to its NUL; `long` where that is not within `most` bytes."""
        found = b""
        while len(found) < most:
            # Up to a page's end: what follows may not be there.
            piece = min(_PAGE - (address + len(found)) % _PAGE, most - len(found))
            data = read_memory(self.thread, address + len(found), piece)
            text, end, _ = data.partition(b"\0")
            found += text
            if end:
                return found
            if len(data) < piece:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        raise OSError(long, os.strerror(long))

    def texts(self, address: int) -> tuple[bytes, ...]:
        """An array of strings that ends with NULL, as argv; E2BIG."""
        found: list[bytes] = []
        room = MAX_ARGUMENTS
        while address:
            pointer = _POINTER.unpack(self.read(address, 8))[0]
            if not pointer:
                break
            found.append(self.text(pointer, max(room, 1), errno.E2BIG))
            room -= len(found[-1]) + 9
            if room <= 0:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            address += 8
        return tuple(found)

    # --- folders and descriptors ----------------------------------------------------------

    def folder(self, fd: int) -> int:
        """What a path that is given with this descriptor begins at; AT_FDCWD: where it is."""
        fd = ctypes.c_int(fd & 0xFFFFFFFF).value
        name = "cwd" if fd == _AT_FDCWD else f"fd/{fd}"
        try:
            return self.keep(os.open(f"/proc/{self.thread}/{name}", os.O_PATH | os.O_CLOEXEC))
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def open_root(self) -> int:
        if self.root < 0:
            path = f"/proc/{self.thread}/root"
            self.root = self.keep(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return self.root

    def descriptor(self, fd: int) -> int:
        """The same open file or socket, here. The process's: a thread with descriptors of its own
        is not told apart."""
        held = os.pidfd_open(self.process)
        try:
            return self.keep(pidfd_getfd(held, ctypes.c_int(fd & 0xFFFFFFFF).value))
        finally:
            os.close(held)


def status(thread: int) -> dict[str, str]:
    """/proc/PID/status (proc(5)), name to text. ProcessLookupError."""
    try:
        text = Path(f"/proc/{thread}/status").read_text("ascii", "replace")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _link(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path).removesuffix(" (deleted)")
    return ""


# --- acting for it --------------------------------------------------------------------------

_of_thread = threading.local()
_namespace: list[int] = []


def _user_namespace() -> int:
    if not _namespace:
        _namespace.append(os.stat("/proc/self/ns/user").st_ino)
    return _namespace[0]


def apart() -> None:
    """Once in each thread that acts: its umask and rights are then its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_FS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    with Caller(threading.get_native_id()) as own:
        _of_thread.rights = own.rights()


@contextmanager
def acting(rights: Rights) -> Iterator[None]:
    """This thread with the rights of another; EPERM where ours do not suffice for that. Only system
    calls of this thread, nothing that Python would do in another."""
    own: Rights = _of_thread.rights
    os.umask(rights.umask)
    if rights[:4] == own[:4]:
        yield
        return
    try:
        _become(rights)
        yield
    finally:
        try:
            syscall("setresuid", -1, own.uid, -1)
            _become(own)
        except OSError:
            os.abort()  # it would go on with rights that are not its own


def _become(rights: Rights) -> None:
    packed = struct.pack(f"={len(rights.groups)}I", *rights.groups)
    syscall("setgroups", len(rights.groups), packed)
    syscall("setresgid", -1, rights.gid, -1)
    syscall("setresuid", -1, rights.uid, -1)
    header = struct.pack("=Ii", _CAP_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    syscall("capget", header, sets)
    words = list(struct.unpack("=6I", sets.raw))
    permitted = words[1] | words[4] << 32
    effective = rights.capabilities & permitted
    words[0], words[3] = effective & 0xFFFFFFFF, effective >> 32
    syscall("capset", header, struct.pack("=6I", *words))
