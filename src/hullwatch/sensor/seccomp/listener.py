"""The kernel's side: a filter is installed, and who waits is received and answered.

Sources: seccomp_unotify(2), include/uapi/linux/seccomp.h; Linux 5.14 for ADDFD_FLAG_SEND.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

from hullwatch.sensor.seccomp.abi import prctl, syscall

__all__ = ["Listener", "Notification", "confine", "install", "lock"]

_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _GET_NOTIF_SIZES = 1, 3
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_RECV, _SEND, _VALID, _ADDFD, _FLAGS = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103, 0x40082104
_CONTINUE = 1
_ADDFD_SEND = 2
_SYNC_WAKE_UP = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_FD = struct.Struct("=QIIII")
_PROGRAM = struct.Struct("@HP")


class Notification(NamedTuple):
    """A thread that waits. thread: its id, as we see it. number: of the call."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


def install(program: bytes) -> int:
    """For this thread and all that comes of it, for good; the listener's descriptor. OSError: EBUSY
    where a filter above has a listener already."""
    prctl(_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    head = _PROGRAM.pack(len(program) // 8, ctypes.addressof(code))
    try:
        # Signals do not take a call back that has been received (5.19): else it is done, and begun
        # again by the kernel.
        return syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE, head)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER, head)


class Listener:
    """Of one filter. Methods raise OSError: ENOENT where who waited has gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        sizes = bytearray(6)
        into = (ctypes.c_char * 6).from_buffer(sizes)
        syscall("seccomp", _GET_NOTIF_SIZES, 0, into)
        # A newer kernel's may be longer; what it adds is not read.
        self._room, self._answer_room, _ = struct.unpack("=HHH", sizes)
        with contextlib.suppress(OSError):  # 6.6: two that wait for each other share a processor
            fcntl.ioctl(fd, _FLAGS, _SYNC_WAKE_UP)

    def close(self) -> None:
        os.close(self.fd)

    def receive(self) -> Notification:
        """When the descriptor can be read; it does not wait then."""
        data = bytearray(max(self._room, _NOTIFICATION.size))
        fcntl.ioctl(self.fd, _RECV, data)
        ident, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack_from(data)
        return Notification(ident, thread, number, tuple(arguments))

    def valid(self, ident: int) -> bool:
        """Whether it waits still. Only then was what was read of its thread the thread's own."""
        try:
            fcntl.ioctl(self.fd, _VALID, struct.pack("=Q", ident))
        except OSError:
            return False
        return True

    def finish(self, ident: int, value: int) -> None:
        """It was done here."""
        self._send(ident, value, 0, 0)

    def fail(self, ident: int, code: int) -> None:
        self._send(ident, 0, -code, 0)

    def go_on(self, ident: int) -> None:
        """The kernel does it, with what the caller's memory says by then."""
        self._send(ident, 0, 0, _CONTINUE)

    def give(self, ident: int, fd: int, close_on_exec: bool) -> None:
        """The caller gets this descriptor as the call's result, in one step."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        fcntl.ioctl(self.fd, _ADDFD, _FD.pack(ident, _ADDFD_SEND, fd, 0, flags))

    def _send(self, ident: int, value: int, error: int, flags: int) -> None:
        answer = _RESPONSE.pack(ident, value, error, flags)
        data = bytearray(answer.ljust(max(self._answer_room, len(answer)), b"\0"))
        fcntl.ioctl(self.fd, _SEND, data)


# --- Landlock, for what a filter cannot see -------------------------------------------------

_VERSION = 1
_REFER = 1 << 13  # ABI 2, Linux 5.19
_SCOPE_SIGNAL = 1 << 1  # ABI 6, Linux 6.12
_BENEATH = 1
_RULESET, _RULE = struct.Struct("=QQQ"), struct.Struct("=Qi")


def confine() -> int:
    """This thread and what comes of it can neither trace processes outside, read or write their
    memory, nor (ABI 6) signal them, nor change mounts; no file is out of reach. The ABI; 0: this
    kernel has none that serves."""
    try:
        abi = syscall("landlock_create_ruleset", 0, 0, _VERSION)
    except OSError:
        return 0
    if abi < 2:  # would refuse to move files between folders
        return 0
    head = _RULESET.pack(_REFER, 0, _SCOPE_SIGNAL if abi >= 6 else 0)
    ruleset = syscall("landlock_create_ruleset", head, 24 if abi >= 6 else 8, 0)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscall("landlock_add_rule", ruleset, _BENEATH, _RULE.pack(_REFER, root), 0)
        prctl(_NO_NEW_PRIVS, 1)
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(root)
        os.close(ruleset)
    return abi


def lock(locked: bool = True) -> None:
    """This process's memory is nobody's of the same user: not traced, not read (prctl(2),
    PR_SET_DUMPABLE)."""
    prctl(4, not locked)
