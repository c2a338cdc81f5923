"""Sockets connected, bound and listening: with a copied address, on the caller's own socket."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import socket
import struct
from typing import NamedTuple

from hullwatch.sensor.seccomp.abi import syscall
from hullwatch.sensor.seccomp.caller import Caller, acting
from hullwatch.sensor.seccomp.walk import in_our_root, name_of, spot
from hullwatch.sensor.seccomp.wish import (
    HERE,
    Arguments,
    Asked,
    Result,
    Wish,
    by_fd,
    error,
    signed,
    start_of,
)

__all__ = [
    "Address",
    "address_of",
    "asked_of",
    "bind",
    "connect",
    "listen",
    "option",
    "raw_address",
]


_MAX_ADDRESS = 128


class Address(NamedTuple):
    """names: nothing where it leads nowhere outside. raw: as it is used here."""

    names: tuple[tuple[str, str], ...]
    raw: bytes
    port: int = 0


def address_of(caller: Caller, raw: bytes, *, sends: bool = False) -> Address:
    """sockaddr as it was read, of any family. sends: to send to no family is to send by IPv4
    (udp_sendmsg)."""
    if len(raw) < 2:
        return Address((), raw)
    family = int.from_bytes(raw[:2], "little")
    if sends and family == socket.AF_UNSPEC:
        family = socket.AF_INET
    if family == socket.AF_INET and len(raw) >= 8:
        port = int.from_bytes(raw[2:4], "big")
        return Address(_ip(ipaddress.ip_address(raw[4:8]), port), raw, port)
    if family == socket.AF_INET6 and len(raw) >= 24:
        port = int.from_bytes(raw[2:4], "big")
        return Address(_ip(ipaddress.ip_address(raw[8:24]), port), raw, port)
    if family == socket.AF_UNIX:
        return _unix(caller, raw)
    if family in (socket.AF_UNSPEC, socket.AF_NETLINK):
        return Address((), raw)
    return Address((("Address", f"family-{family}:{raw[2:].hex()}"),), raw)


def _ip(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> tuple[tuple[str, str], ...]:
    """The host by its number, too: policies may know it so. Nowhere in particular is here."""
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped.is_unspecified:
        mapped = ipaddress.ip_address("127.0.0.1" if mapped.version == 4 else "::1")
    said = f"[{mapped}]:{port}" if mapped.version == 6 else f"{mapped}:{port}"
    return ("Address", said), ("Host", said)


def _unix(caller: Caller, raw: bytes) -> Address:
    path = raw[2:]
    if not path:
        return Address((), raw)
    if path[:1] == b"\0":
        return Address((("Address", "@" + os.fsdecode(path[1:])),), raw)
    path = path.partition(b"\0")[0]
    start = start_of(caller, HERE, path)
    caller.open_root()
    with acting(caller.rights()):
        found = spot(caller, start, path, follow=True)
    return Address((("Address", name_of(found.fd, caller)),), raw[:2] + by_fd(found.fd) + b"\0")


def raw_address(caller: Caller, address: int, length: int) -> bytes:
    length = signed(length)
    if not 0 <= length <= _MAX_ADDRESS:
        raise error(errno.EINVAL)
    return caller.read(address, length)


def connect(caller: Caller, given: Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    to = address_of(caller, raw_address(caller, given[1], given[2]))
    rights = caller.rights()

    def do() -> Result:
        with acting(rights):
            return syscall("connect", sock, to.raw, len(to.raw))

    quick = not os.get_blocking(sock) or option(sock, socket.SO_TYPE) == socket.SOCK_DGRAM
    return Wish(asked_of("connect", to), do, quick)


def asked_of(action: str, address: Address) -> tuple[Asked, ...]:
    return (Asked(action, address.names),) if address.names else ()


def option(sock: int, name: int) -> int:
    with socket.socket(fileno=os.dup(sock)) as held:
        return held.getsockopt(socket.SOL_SOCKET, name)


def bind(caller: Caller, given: Arguments) -> Wish:
    """Of a datagram socket with a port it is what listen(2) is of others."""
    sock = caller.descriptor(given[0])
    raw = raw_address(caller, given[1], given[2])
    if raw[:2] == struct.pack("=H", socket.AF_UNIX):
        return _binding(caller, sock, _bound(caller, raw), ())
    at = _local(raw)
    open_ = at.port and option(sock, socket.SO_TYPE) == socket.SOCK_DGRAM
    return _binding(caller, sock, raw, asked_of("listen", at) if open_ else ())


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
    start = start_of(caller, HERE, path)
    caller.open_root()
    with acting(caller.rights()):
        made = spot(caller, start, path, follow=False, entry=True)
    if made.fd >= 0:
        raise error(errno.EADDRINUSE)
    ours = by_fd(made.folder) + b"/" + made.name + b"\0"
    if len(ours) > 108:
        raise error(errno.ENAMETOOLONG)
    return raw[:2] + ours


def _local(raw: bytes) -> Address:
    """Of our own side: nowhere in particular is everywhere."""
    family = int.from_bytes(raw[:2], "little")
    # No family is IPv4 (__inet_bind).
    at = {0: slice(4, 8), 2: slice(4, 8), 10: slice(8, 24)}.get(family)
    if at is None or len(raw) < at.stop:
        return Address((), raw)
    ip = ipaddress.ip_address(raw[at])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    port = int.from_bytes(raw[2:4], "big")
    said = f"[{mapped}]:{port}" if mapped.version == 6 else f"{mapped}:{port}"
    return Address((("Address", said),), raw, port)


def listen(caller: Caller, given: Arguments) -> Wish:
    sock = caller.descriptor(given[0])
    into = ctypes.create_string_buffer(_MAX_ADDRESS)
    length = ctypes.c_uint32(_MAX_ADDRESS)
    syscall("getsockname", sock, into, ctypes.byref(length))
    raw = into.raw[: length.value]
    at = _local(raw)
    if raw[:2] == struct.pack("=H", socket.AF_UNIX) and len(raw) > 2:
        path = raw[2:].partition(b"\0")[0] if raw[2] else b"@" + raw[3:]
        at = Address((("Address", os.fsdecode(path)),), raw)
    return Wish(asked_of("listen", at), lambda: syscall("listen", sock, signed(given[1])))
