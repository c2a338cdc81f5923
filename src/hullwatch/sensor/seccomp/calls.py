"""A notified call: what it wants, and how it is done on the caller's behalf.

A pointer's memory is read once. What was read is asked about, and is what the call is then done
with, here; the kernel never reads the caller's memory again for it. The one call that cannot be
done for another is exec: `Running` says what has to have come of it.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hullwatch.sensor.seccomp.abi import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    number,
    openat2,
    syscall,
)
from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.walk import Spot, in_our_root, name_of, spot

__all__ = ["CALLS", "Asked", "Changed", "Given", "Result", "Running", "Wish"]

MAX_SENT = 1 << 20  # bytes of one message that are copied; of a stream, more is the next call
MAX_CONTROL = 1 << 16
MAX_MOVED = 512  # files and folders in one that is renamed
MAX_PIECES = 1024  # UIO_MAXIOV
_PATH_MAX = 4096
_AT_FDCWD = -100
_HERE = _AT_FDCWD & 0xFFFFFFFF
_AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = 0x100, 0x400, 0x1000
_HELD = os.O_PATH | os.O_CLOEXEC
# Whatever a reopening through /proc cannot have, or what was done by then.
_ONCE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_TMPFILE = os.O_TMPFILE
_EXCHANGE = 2


class Changed(Exception):
    """What was decided on is not there any more: look and ask again."""


class Asked(NamedTuple):
    """names: (kind, id) of one object; several where it is known by several. argv: of an exec."""

    action: str
    names: tuple[tuple[str, str], ...]
    argv: tuple[bytes, ...] = ()


class Given(NamedTuple):
    """A descriptor as the result; who takes it closes it."""

    fd: int
    close_on_exec: bool


class Running(NamedTuple):
    """The kernel goes on with an exec. files: (device, inode) that the process may then run: of the
    program, and of what interprets it; before: of what it runs now."""

    process: int
    files: frozenset[tuple[int, int]]
    before: tuple[int, int]
    argv: tuple[bytes, ...]


Result = int | Given | Running


class Wish(NamedTuple):
    """asked: all of it has to be allowed; nothing: whatever it is, no policy is about it. do: in a
    thread of its own, may wait; OSError, Changed."""

    asked: tuple[Asked, ...]
    do: Callable[[], Result]


_Arguments = tuple[int, ...]


def _int(value: int) -> int:
    return ctypes.c_int(value & 0xFFFFFFFF).value


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _id(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _by_fd(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def _path(action: str, path: str) -> Asked:
    return Asked(action, (("Path", path),))


def _start(caller: Caller, fd: int, path: bytes) -> int:
    return caller.open_root() if path.startswith(b"/") else caller.folder(fd)


# --- open -----------------------------------------------------------------------------------


def _open(caller: Caller, given: _Arguments) -> Wish:
    return _opening(caller, _HERE, given[0], _int(given[1]), given[2])


def _creat(caller: Caller, given: _Arguments) -> Wish:
    return _opening(caller, _HERE, given[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, given[1])


def _openat(caller: Caller, given: _Arguments) -> Wish:
    return _opening(caller, given[0], given[1], _int(given[2]), given[3])


def _openat2(caller: Caller, given: _Arguments) -> Wish:
    size = given[3]
    if size < 24:
        raise _error(errno.EINVAL)
    if size > _PATH_MAX:
        raise _error(errno.E2BIG)
    how = caller.read(given[2], size)
    if any(how[24:]):
        raise _error(errno.E2BIG)
    flags, mode, resolve = struct.unpack_from("=QQQ", how)
    if flags >> 32:
        raise _error(errno.EINVAL)
    return _opening(caller, given[0], given[1], _int(flags), mode, resolve)


def _opening(
    caller: Caller, fd: int, address: int, flags: int, mode: int, resolve: int = 0
) -> Wish:
    path = caller.text(address)
    start = _start(caller, fd, path)
    caller.open_root()
    rights = caller.rights()
    creates = bool(flags & os.O_CREAT) and flags & _TMPFILE != _TMPFILE
    follow = not flags & os.O_NOFOLLOW and flags & _ONCE != os.O_CREAT | os.O_EXCL
    with acting(rights):
        if resolve:
            found = _resolved(caller, start, path, follow, creates, resolve)
        else:
            found = _found(caller, start, path, follow, creates)
    if found.fd < 0:
        folder = name_of(found.folder, caller)
        made = f"{folder.rstrip('/')}/{os.fsdecode(found.name)}"
        asked = [_path("open-write", made)]
    else:
        asked = _reading_or_writing(flags, name_of(found.fd, caller))

    def do() -> Result:
        with acting(rights):
            return Given(_opened(found, flags, mode & 0o7777, follow), bool(flags & os.O_CLOEXEC))

    return Wish(tuple(asked), do)


def _reading_or_writing(flags: int, path: str) -> list[Asked]:
    """A pipe or socket is no file: its name begins without a slash."""
    if flags & os.O_PATH or not path.startswith("/"):
        return []
    access = flags & os.O_ACCMODE
    asked = []
    if access != os.O_WRONLY:
        asked.append(_path("open-read", path))
    if access != os.O_RDONLY or flags & os.O_TRUNC or flags & _TMPFILE == _TMPFILE:
        asked.append(_path("open-write", path))
    return asked


def _found(caller: Caller, start: int, path: bytes, follow: bool, creates: bool) -> Spot:
    """What is there; where it would be made, if it is not."""
    try:
        return spot(caller, start, path, follow=follow)
    except FileNotFoundError:
        if not creates:
            raise
    return spot(caller, start, path, follow=follow, entry=True)


def _resolved(
    caller: Caller, start: int, path: bytes, follow: bool, creates: bool, resolve: int
) -> Spot:
    """With the bounds of openat2(2), which only the kernel can keep; no links of /proc."""
    bounded = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)
    if path.startswith(b"/") and not bounded:
        resolve |= RESOLVE_IN_ROOT
    elif path.startswith(b"/"):
        start = caller.folder(_HERE) if start == caller.root else start
    elif not bounded and not in_our_root(caller):
        resolve |= RESOLVE_NO_SYMLINKS
    resolve |= RESOLVE_NO_MAGICLINKS
    try:
        flags = _HELD | (0 if follow else os.O_NOFOLLOW)
        return Spot(caller.keep(openat2(start, path, flags, resolve=resolve)))
    except FileNotFoundError:
        folder, _, name = path.rstrip(b"/").rpartition(b"/")
        if not creates or name in (b"", b".", b".."):
            raise
    folder = folder or (b"/" if path.startswith(b"/") else b".")
    held = caller.keep(openat2(start, folder, _HELD | os.O_DIRECTORY, resolve=resolve))
    return Spot(-1, held, name)


def _opened(found: Spot, flags: int, mode: int, follow: bool) -> int:
    if found.fd < 0:
        try:
            how = flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return syscall("openat", found.folder, found.name, how, mode)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            raise Changed from None
    if flags & _ONCE & ~os.O_NOFOLLOW == os.O_CREAT | os.O_EXCL:
        raise _error(errno.EEXIST)
    kind = os.fstat(found.fd).st_mode
    if flags & os.O_PATH:
        if flags & os.O_DIRECTORY and not stat.S_ISDIR(kind):
            raise _error(errno.ENOTDIR)
        return os.dup(found.fd)
    if stat.S_ISLNK(kind):
        raise _error(errno.ELOOP)
    if stat.S_ISDIR(kind) and flags & os.O_CREAT and flags & _TMPFILE != _TMPFILE:
        raise _error(errno.EISDIR)
    if stat.S_ISSOCK(kind):
        raise _error(errno.ENXIO)
    how = flags & ~_ONCE | os.O_CLOEXEC
    return syscall("openat", _AT_FDCWD, _by_fd(found.fd), how, mode)


# --- names of files -------------------------------------------------------------------------


def _truncate(caller: Caller, given: _Arguments) -> Wish:
    path = caller.text(given[0])
    start = _start(caller, _HERE, path)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        found = spot(caller, start, path, follow=True)
    length = ctypes.c_long(given[1]).value

    def do() -> Result:
        with acting(rights):
            return syscall("truncate", _by_fd(found.fd), length)

    return Wish((_path("open-write", name_of(found.fd, caller)),), do)


def _link(caller: Caller, given: _Arguments) -> Wish:
    return _linking(caller, _HERE, given[0], _HERE, given[1], 0)


def _linkat(caller: Caller, given: _Arguments) -> Wish:
    return _linking(caller, given[0], given[1], given[2], given[3], _int(given[4]))


def _linking(
    caller: Caller, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int
) -> Wish:
    """Another name for a file: as opening it both ways."""
    old, new = caller.text(old_at), caller.text(new_at)
    start = _start(caller, old_fd, old)
    to = _start(caller, new_fd, new)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        if not old and flags & _AT_EMPTY_PATH:
            source = start
        else:
            source = spot(caller, start, old, follow=bool(flags & _AT_SYMLINK_FOLLOW)).fd
        made = spot(caller, to, new, follow=False, entry=True)
    if made.fd >= 0:
        raise _error(errno.EEXIST)
    path = name_of(source, caller)

    def do() -> Result:
        with acting(rights):
            follow = _AT_SYMLINK_FOLLOW
            return syscall("linkat", _AT_FDCWD, _by_fd(source), made.folder, made.name, follow)

    return Wish((*_both(path), _made(made, caller)), do)


def _rename(caller: Caller, given: _Arguments) -> Wish:
    return _renaming(caller, _HERE, given[0], _HERE, given[1], 0)


def _renameat(caller: Caller, given: _Arguments) -> Wish:
    return _renaming(caller, given[0], given[1], given[2], given[3], 0)


def _renameat2(caller: Caller, given: _Arguments) -> Wish:
    return _renaming(caller, given[0], given[1], given[2], given[3], _int(given[4]))


def _renaming(
    caller: Caller, old_fd: int, old_at: int, new_fd: int, new_at: int, flags: int
) -> Wish:
    """As opening what moves both ways, and writing what it replaces."""
    old, new = caller.text(old_at), caller.text(new_at)
    start = _start(caller, old_fd, old)
    to = _start(caller, new_fd, new)
    caller.open_root()
    rights = caller.rights()
    with acting(rights):
        source = spot(caller, start, old, follow=False, entry=True)
        target = spot(caller, to, new, follow=False, entry=True)
        if source.fd < 0:
            raise _error(errno.ENOENT)
        if source.folder < 0 or target.folder < 0:
            raise _error(errno.EBUSY)
        asked = [*_moved(source.fd, caller), _made(target, caller)]
        if flags & _EXCHANGE and target.fd >= 0:
            asked += _moved(target.fd, caller)

    def do() -> Result:
        with acting(rights):
            _is_still(source)
            if flags & _EXCHANGE:
                _is_still(target)
            ends = (source.folder, source.name, target.folder, target.name)
            return syscall("renameat2", *ends, flags)

    return Wish(tuple(asked), do)


def _is_still(found: Spot) -> None:
    try:
        there = os.stat(found.name, dir_fd=found.folder, follow_symlinks=False)
    except FileNotFoundError:
        raise Changed from None
    if found.fd < 0 or not os.path.samestat(there, os.fstat(found.fd)):
        raise Changed


def _both(path: str) -> tuple[Asked, Asked]:
    return _path("open-read", path), _path("open-write", path)


def _moved(fd: int, caller: Caller) -> list[Asked]:
    """Of a folder, all that lies in it too, as that gets other paths. EXDEV where it is too much:
    programs then copy, which is asked about file by file."""
    path = name_of(fd, caller)
    asked = [*_both(path)]
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        for count, below in enumerate(_below(fd, path)):
            if count >= MAX_MOVED:
                raise _error(errno.EXDEV)
            asked += _both(below)
    return asked


def _below(fd: int, path: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    top = os.fsdecode(_by_fd(fd))
    for folder, folders, files, _ in os.fwalk(f"{top}/.", onerror=fail):
        for name in (*folders, *files):
            yield f"{path}{folder.removeprefix(f'{top}/.')}/{name}"


def _made(found: Spot, caller: Caller) -> Asked:
    folder = name_of(found.folder, caller)
    return _path("open-write", f"{folder.rstrip('/')}/{os.fsdecode(found.name)}")


# --- exec -----------------------------------------------------------------------------------

_MAX_INTERPRETERS = 5  # fs/exec.c
_HEAD = 256  # BINPRM_BUF_SIZE


def _execve(caller: Caller, given: _Arguments) -> Wish:
    return _executing(caller, _HERE, given[0], given[1], 0)


def _execveat(caller: Caller, given: _Arguments) -> Wish:
    return _executing(caller, given[0], given[1], given[2], _int(given[4]))


def _executing(caller: Caller, fd: int, path_at: int, argv_at: int, flags: int) -> Wish:
    path, argv = caller.text(path_at), caller.texts(argv_at)
    start = _start(caller, fd, path)
    cwd = caller.folder(_HERE)
    caller.open_root()
    rights = caller.rights()
    before = os.stat(f"/proc/{caller.process}/exe")
    with acting(rights):
        if not path and flags & _AT_EMPTY_PATH:
            program = start
        else:
            program = spot(caller, start, path, follow=not flags & _AT_SYMLINK_NOFOLLOW).fd
        mode = os.fstat(program).st_mode
        if stat.S_ISLNK(mode):
            raise _error(errno.ELOOP)
        if not stat.S_ISREG(mode):
            raise _error(errno.EACCES)
        files = frozenset(_interpreted(caller, cwd, program))

    def do() -> Result:
        if (caller.text(path_at), caller.texts(argv_at)) != (path, argv):
            raise Changed
        return Running(caller.process, files, (before.st_dev, before.st_ino), argv)

    name = name_of(program, caller)
    return Wish((Asked("exec", (("Binary", name),), argv),), do)


def _interpreted(caller: Caller, cwd: int, program: int) -> Iterator[tuple[int, int]]:
    """The program, and where it is a script what runs it."""
    for _ in range(_MAX_INTERPRETERS):
        yield _id(program)
        try:
            fd = os.open(_by_fd(program), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # it may be run and not read: then it is no script
            return
        try:
            head = os.read(fd, _HEAD)
        finally:
            os.close(fd)
        words = head[2:].split(b"\n", 1)[0].replace(b"\0", b" ").split()
        if not head.startswith(b"#!") or not words:
            return
        start = caller.open_root() if words[0].startswith(b"/") else cwd
        program = spot(caller, start, words[0], follow=True).fd


# --- sockets --------------------------------------------------------------------------------

_MAX_ADDRESS = 128
_MSG_NOSIGNAL = 0x4000
_MESSAGE = struct.Struct("=QI4xQQQQi4x")  # struct msghdr
_MESSAGES = _MESSAGE.size + 8  # struct mmsghdr
_CONTROL = struct.Struct("=Qii")  # struct cmsghdr
_SOL_SOCKET, _SCM_RIGHTS, _SCM_CREDENTIALS = 1, 1, 2


class _Address(NamedTuple):
    """names: nothing where it leads nowhere outside. raw: as it is used here."""

    names: tuple[tuple[str, str], ...]
    raw: bytes
    port: int = 0


def _address(caller: Caller, raw: bytes) -> _Address:
    """sockaddr as it was read, of any family."""
    if len(raw) < 2:
        return _Address((), raw)
    family = int.from_bytes(raw[:2], "little")
    if family == socket.AF_INET and len(raw) >= 8:
        port = int.from_bytes(raw[2:4], "big")
        return _Address(_ip(ipaddress.ip_address(raw[4:8]), port), raw, port)
    if family == socket.AF_INET6 and len(raw) >= 24:
        port = int.from_bytes(raw[2:4], "big")
        return _Address(_ip(ipaddress.ip_address(raw[8:24]), port), raw, port)
    if family == socket.AF_UNIX:
        return _unix(caller, raw)
    if family in (socket.AF_UNSPEC, socket.AF_NETLINK):
        return _Address((), raw)
    return _Address((("Address", f"family-{family}:{raw[2:].hex()}"),), raw)


def _ip(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> tuple[tuple[str, str], ...]:
    """The host by its number, too: policies may know it so. Nowhere in particular is here."""
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped.is_unspecified:
        mapped = ipaddress.ip_address("127.0.0.1" if mapped.version == 4 else "::1")
    said = f"[{mapped}]:{port}" if mapped.version == 6 else f"{mapped}:{port}"
    return ("Address", said), ("Host", said)


def _unix(caller: Caller, raw: bytes) -> _Address:
    path = raw[2:]
    if not path:
        return _Address((), raw)
    if path[:1] == b"\0":
        return _Address((("Address", "@" + os.fsdecode(path[1:])),), raw)
    path = path.partition(b"\0")[0]
    start = _start(caller, _HERE, path)
    caller.open_root()
    with acting(caller.rights()):
        found = spot(caller, start, path, follow=True)
    return _Address((("Address", name_of(found.fd, caller)),), raw[:2] + _by_fd(found.fd) + b"\0")


def _raw(caller: Caller, address: int, length: int) -> bytes:
    length = _int(length)
    if not 0 <= length <= _MAX_ADDRESS:
        raise _error(errno.EINVAL)
    return caller.read(address, length)


def _connect(caller: Caller, given: _Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    to = _address(caller, _raw(caller, given[1], given[2]))
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return syscall("connect", sock, to.raw, len(to.raw))

    return Wish(_asked("connect", to), do)


def _asked(action: str, address: _Address) -> tuple[Asked, ...]:
    return (Asked(action, address.names),) if address.names else ()


class _Sending(NamedTuple):
    """One message, copied. control: with descriptors of ours for the caller's."""

    to: _Address
    data: bytes
    control: bytes

    def send(self, sock: int, flags: int) -> int:
        data = ctypes.create_string_buffer(self.data, len(self.data))
        name = ctypes.create_string_buffer(self.to.raw, len(self.to.raw))
        control = ctypes.create_string_buffer(self.control, len(self.control))
        piece = struct.pack("=QQ", ctypes.addressof(data), len(self.data))
        pieces = ctypes.create_string_buffer(piece, len(piece))
        head = _MESSAGE.pack(
            ctypes.addressof(name) if self.to.raw else 0,
            len(self.to.raw),
            ctypes.addressof(pieces),
            1,
            ctypes.addressof(control) if self.control else 0,
            len(self.control),
            0,
        )
        return syscall("sendmsg", sock, head, flags | _MSG_NOSIGNAL)


def _bounded(sock: int, length: int) -> int:
    """How much of a message is copied; a datagram is whole or not at all."""
    if length > MAX_SENT and _option(sock, socket.SO_TYPE) != socket.SOCK_STREAM:
        raise _error(errno.EMSGSIZE)
    return min(length, MAX_SENT)


def _option(sock: int, name: int) -> int:
    with socket.socket(fileno=os.dup(sock)) as held:
        return held.getsockopt(socket.SOL_SOCKET, name)


def _sendto(caller: Caller, given: _Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    data = caller.read(given[1], _bounded(sock, given[2]))
    raw = _raw(caller, given[4], given[5])
    sending = _Sending(_address(caller, raw), data, b"")
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return sending.send(sock, _int(given[3]))

    return Wish(_asked("connect", sending.to), do)


def _sendmsg(caller: Caller, given: _Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    sending = _message(caller, sock, caller.read(given[1], _MESSAGE.size))
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return sending.send(sock, _int(given[2]))

    return Wish(_asked("connect", sending.to), do)


def _sendmmsg(caller: Caller, given: _Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    count = min(given[2] & 0xFFFFFFFF, MAX_PIECES)
    heads = caller.read(given[1], count * _MESSAGES)
    messages = [
        _message(caller, sock, heads[at : at + _MESSAGE.size])
        for at in range(0, len(heads), _MESSAGES)
    ]
    rights = caller.rights()

    def do() -> Result:
        done = 0
        with acting(rights):
            for one in messages:
                try:
                    sent = one.send(sock, _int(given[3]))
                except OSError:
                    if not done:
                        raise
                    break
                at = given[1] + done * _MESSAGES + _MESSAGE.size
                caller.write(at, struct.pack("=I", sent))
                done += 1
        return done

    asked = dict.fromkeys(asked for one in messages for asked in _asked("connect", one.to))
    return Wish(tuple(asked), do)


def _message(caller: Caller, sock: int, head: bytes) -> _Sending:
    name, name_length, pieces, count, control, control_length, _ = _MESSAGE.unpack(head)
    if count > MAX_PIECES:
        raise _error(errno.EMSGSIZE)
    if control_length > MAX_CONTROL:
        raise _error(errno.ENOBUFS)
    vector = struct.iter_unpack("=QQ", caller.read(pieces, 16 * count))
    parts = [(base, length) for base, length in vector if length]
    room = _bounded(sock, sum(length for _, length in parts))
    data = b""
    for base, length in parts:
        data += caller.read(base, min(length, room - len(data)))
    raw = _raw(caller, name, name_length) if name and name_length else b""
    ours = _control(caller, caller.read(control, control_length) if control else b"")
    return _Sending(_address(caller, raw), data, ours)


def _control(caller: Caller, data: bytes) -> bytes:
    """Descriptors that are passed on become ours; credentials too, as the kernel lets nobody say
    another's."""
    ours = bytearray(data)
    at = 0
    while at + _CONTROL.size <= len(data):
        length, level, kind = _CONTROL.unpack_from(data, at)
        if not _CONTROL.size <= length <= len(data) - at:
            raise _error(errno.EINVAL)
        body = slice(at + _CONTROL.size, at + length)
        if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
            fds = [fd for (fd,) in struct.iter_unpack("=i", data[body][: (length - 16) // 4 * 4])]
            held = [caller.descriptor(fd) for fd in fds]
            ours[body] = struct.pack(f"={len(held)}i", *held).ljust(length - _CONTROL.size, b"\0")
        elif (level, kind) == (_SOL_SOCKET, _SCM_CREDENTIALS) and length == _CONTROL.size + 12:
            ours[body.start : body.start + 4] = struct.pack("=i", os.getpid())
        at += (length + 7) & ~7
    return bytes(ours)


def _bind(caller: Caller, given: _Arguments) -> Wish:
    """Of a datagram socket with a port it is what listen(2) is of others."""
    sock = caller.descriptor(given[0])
    raw = _raw(caller, given[1], given[2])
    if raw[:2] == struct.pack("=H", socket.AF_UNIX):
        return _binding(caller, sock, _bound(caller, raw), ())
    at = _local(raw)
    open_ = at.port and _option(sock, socket.SO_TYPE) == socket.SOCK_DGRAM
    return _binding(caller, sock, raw, _asked("listen", at) if open_ else ())


def _binding(caller: Caller, sock: int, raw: bytes, asked: tuple[Asked, ...]) -> Wish:
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return syscall("bind", sock, raw, len(raw))

    return Wish(asked, do)


def _bound(caller: Caller, raw: bytes) -> bytes:
    """A Unix socket's address for bind: no policy is about it, so it may stay as it is where it
    means the same here."""
    path = raw[2:].partition(b"\0")[0]
    if not path or (path.startswith(b"/") and in_our_root(caller)):
        return raw
    start = _start(caller, _HERE, path)
    caller.open_root()
    with acting(caller.rights()):
        made = spot(caller, start, path, follow=False, entry=True)
    if made.fd >= 0:
        raise _error(errno.EADDRINUSE)
    ours = _by_fd(made.folder) + b"/" + made.name + b"\0"
    if len(ours) > 108:
        raise _error(errno.ENAMETOOLONG)
    return raw[:2] + ours


def _local(raw: bytes) -> _Address:
    """Of our own side: nowhere in particular is everywhere."""
    family = int.from_bytes(raw[:2], "little")
    at = {int(socket.AF_INET): slice(4, 8), int(socket.AF_INET6): slice(8, 24)}.get(family)
    if at is None or len(raw) < at.stop:
        return _Address((), raw)
    ip = ipaddress.ip_address(raw[at])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    port = int.from_bytes(raw[2:4], "big")
    said = f"[{mapped}]:{port}" if mapped.version == 6 else f"{mapped}:{port}"
    return _Address((("Address", said),), raw, port)


def _listen(caller: Caller, given: _Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    into = ctypes.create_string_buffer(_MAX_ADDRESS)
    length = ctypes.c_uint32(_MAX_ADDRESS)
    syscall("getsockname", sock, into, ctypes.byref(length))
    raw = into.raw[: length.value]
    at = _local(raw)
    if raw[:2] == struct.pack("=H", socket.AF_UNIX) and len(raw) > 2:
        path = raw[2:].partition(b"\0")[0] if raw[2] else b"@" + raw[3:]
        at = _Address((("Address", os.fsdecode(path)),), raw)
    return Wish(_asked("listen", at), lambda: syscall("listen", sock, _int(given[1])))


_BY_NAME: dict[str, Callable[[Caller, _Arguments], Wish]] = {
    "open": _open,
    "creat": _creat,
    "openat": _openat,
    "openat2": _openat2,
    "truncate": _truncate,
    "link": _link,
    "linkat": _linkat,
    "rename": _rename,
    "renameat": _renameat,
    "renameat2": _renameat2,
    "execve": _execve,
    "execveat": _execveat,
    "connect": _connect,
    "sendto": _sendto,
    "sendmsg": _sendmsg,
    "sendmmsg": _sendmmsg,
    "bind": _bind,
    "listen": _listen,
}
CALLS = {made: call for name, call in _BY_NAME.items() if (made := number(name)) is not None}
"""By number, on this architecture."""
