"""Messages sent: with their addresses, data and descriptors copied."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import NamedTuple

from hullwatch.sensor.seccomp.abi import syscall
from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.sockets import Address, address_of, asked_of, option, raw_address
from hullwatch.sensor.seccomp.wish import (
    Arguments,
    Result,
    Wish,
    error,
    signed,
)

__all__ = ["sendto", "sendmsg", "sendmmsg"]

MAX_SENT = 1 << 20  # bytes of one message that are copied; of a stream, more is the next call
MAX_CONTROL = 1 << 16
MAX_PIECES = 1024  # UIO_MAXIOV
_MSG_NOSIGNAL = 0x4000
_MESSAGE = struct.Struct("=QI4xQQQQi4x")  # struct msghdr
_MESSAGES = _MESSAGE.size + 8  # struct mmsghdr
_CONTROL = struct.Struct("=Qii")  # struct cmsghdr
_SOL_SOCKET, _SCM_RIGHTS, _SCM_CREDENTIALS = 1, 1, 2


class _Sending(NamedTuple):
    """One message, copied. control: with descriptors of ours for the caller's."""

    to: Address
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
    if length > MAX_SENT and option(sock, socket.SO_TYPE) != socket.SOCK_STREAM:
        raise error(errno.EMSGSIZE)
    return min(length, MAX_SENT)


def sendto(caller: Caller, given: Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    data = caller.read(given[1], _bounded(sock, given[2]))
    raw = raw_address(caller, given[4], given[5])
    sending = _Sending(address_of(caller, raw, sends=True), data, b"")
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return sending.send(sock, signed(given[3]))

    return Wish(asked_of("connect", sending.to), do)


def sendmsg(caller: Caller, given: Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    sending = _message(caller, sock, caller.read(given[1], _MESSAGE.size))
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return sending.send(sock, signed(given[2]))

    return Wish(asked_of("connect", sending.to), do)


def sendmmsg(caller: Caller, given: Arguments) -> Wish:
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
                    sent = one.send(sock, signed(given[3]))
                except OSError:
                    if not done:
                        raise
                    break
                at = given[1] + done * _MESSAGES + _MESSAGE.size
                caller.write(at, struct.pack("=I", sent))
                done += 1
        return done

    asked = dict.fromkeys(asked for one in messages for asked in asked_of("connect", one.to))
    return Wish(tuple(asked), do)


def _message(caller: Caller, sock: int, head: bytes) -> _Sending:
    name, name_length, pieces, count, control, control_length, _ = _MESSAGE.unpack(head)
    if count > MAX_PIECES:
        raise error(errno.EMSGSIZE)
    if control_length > MAX_CONTROL:
        raise error(errno.ENOBUFS)
    vector = struct.iter_unpack("=QQ", caller.read(pieces, 16 * count))
    parts = [(base, length) for base, length in vector if length]
    room = _bounded(sock, sum(length for _, length in parts))
    data = b""
    for base, length in parts:
        data += caller.read(base, min(length, room - len(data)))
    raw = raw_address(caller, name, name_length) if name and name_length else b""
    ours = _control(caller, caller.read(control, control_length) if control else b"")
    return _Sending(address_of(caller, raw, sends=True), data, ours)


def _control(caller: Caller, data: bytes) -> bytes:
    """Descriptors that are passed on become ours; credentials too, as the kernel lets nobody say
    another's."""
    ours = bytearray(data)
    at = 0
    while at + _CONTROL.size <= len(data):
        length, level, kind = _CONTROL.unpack_from(data, at)
        if not _CONTROL.size <= length <= len(data) - at:
            raise error(errno.EINVAL)
        body = slice(at + _CONTROL.size, at + length)
        if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
            fds = [fd for (fd,) in struct.iter_unpack("=i", data[body][: (length - 16) // 4 * 4])]
            held = [caller.descriptor(fd) for fd in fds]
            ours[body] = struct.pack(f"={len(held)}i", *held).ljust(length - _CONTROL.size, b"\0")
        elif (level, kind) == (_SOL_SOCKET, _SCM_CREDENTIALS) and length == _CONTROL.size + 12:
            ours[body.start : body.start + 4] = struct.pack("=i", os.getpid())
        at += (length + 7) & ~7
    return bytes(ours)
