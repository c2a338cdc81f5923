"""fd.* of sockets. Server and client are roles; local and remote depend on the event.

connect, send, flow, dup: the server is the remote end; accept: it is the local end; bind and
listen: it is the local end and there is no other. The client's port is in the event, all else
in the two address objects.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from hullwatch.detect.fields.field import Field, Type, Where, each, of_event
from hullwatch.detect.fields.file import FILE_CLASSES, is_directory
from hullwatch.detect.row import DEPENDS, Env, Event, Object, Row
from hullwatch.sensor.wire import Class

__all__ = ["FIELDS", "NET_CLASSES", "endpoint", "ip_of", "socket_name"]

S, N, B, IP, NET = Type.STRING, Type.INT, Type.BOOL, Type.IP, Type.NET
E, O1, O2, R = Where.EVENT, Where.OBJ, Where.OBJ2, Where.ROW
_SOCKET, _CONNECT, _BIND, _LISTEN, _ACCEPT, _SEND, _FLOW, _DUP, _LABEL = (
    int(c)
    for c in (
        *(Class.SOCKET, Class.CONNECT, Class.BIND, Class.LISTEN),
        *(Class.ACCEPT, Class.SEND, Class.FLOW, Class.DUP, Class.LABEL),
    )
)
_OUT = (_CONNECT, _SEND, _FLOW, _DUP)
_OWN = (_BIND, _LISTEN)
_PAIRS = (_CONNECT, _FLOW, _DUP, _ACCEPT, _SEND)
NET_CLASSES = (*_OUT, _ACCEPT, *_OWN)
_ANY_SOCKET = (_SOCKET, *NET_CLASSES)

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_of(obj: Object) -> Ip | None:
    """The address; an IPv4 address mapped into IPv6 is IPv4."""
    found = obj.address.ip if obj.address else None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _ip(obj: Object, env: Env, arg: Any) -> Ip | None:
    return ip_of(obj)


def _obj_port(obj: Object, env: Env, arg: Any) -> int | None:
    return obj.address.port if obj.address and obj.address.ip is not None else None


def _client_port(event: Event, env: Env, arg: Any) -> int | None:
    return event.port if event.flags >> 16 in (socket.AF_INET, socket.AF_INET6) else None


def _addresses(prefix: str, doc: str, where: dict[int, Where]) -> tuple[Field, ...]:
    return (
        Field(f"fd.{prefix}ip", IP, f"{doc} address", where, object=_ip, addresses=True),
        Field(
            f"fd.{prefix}net",
            NET,
            f"{doc} address, to compare with networks",
            where,
            object=_ip,
            addresses=True,
        ),
    )


def _port(prefix: str, doc: str, where: dict[int, Where]) -> Field:
    return Field(
        f"fd.{prefix}port",
        N,
        f"{doc} port",
        where,
        event=_client_port,
        object=_obj_port,
        reads=frozenset(("port", "flags")),
        addresses=True,
    )


_SERVER = each(O1, (*NET_CLASSES, _LABEL))
_CLIENT = each(O2, _PAIRS)
_LOCAL = {**each(O2, _OUT), **each(O1, (_ACCEPT, *_OWN))}
_REMOTE = {**each(O1, (*_OUT, _LABEL)), _ACCEPT: O2}
_CLIENT_PORT = each(E, _PAIRS)
_LOCAL_PORT = {**each(E, _OUT), **each(O1, (_ACCEPT, *_OWN))}
_REMOTE_PORT = {**each(O1, _OUT), _ACCEPT: E}


def _family(event: Event) -> int:
    return event.flags >> 16


def _kind(event: Event) -> int:
    return event.flags >> 8 & 0xF


_TYPES = {
    socket.AF_UNIX: ("unix", "u"),
    socket.AF_INET: ("ipv4", "4"),
    socket.AF_INET6: ("ipv6", "6"),
    16: ("netlink", "o"),
}


def _is_file(event: Event) -> bool:
    return event.cls in FILE_CLASSES or (event.cls == _LABEL and not _family(event))


def _type(event: Event) -> str:
    if _is_file(event):
        return "directory" if is_directory(event) else "file"
    return _TYPES.get(_family(event), ("other", "o"))[0]


def _type_char(event: Event) -> str:
    if _is_file(event):
        return "d" if is_directory(event) else "f"
    return _TYPES.get(_family(event), ("other", "o"))[1]


def _l4(event: Event) -> str | None:
    if _family(event) not in (socket.AF_INET, socket.AF_INET6):
        return None
    if event.flags & 0xFF in (socket.IPPROTO_ICMP, 58):
        return "icmp"
    return {1: "tcp", 2: "udp", 3: "raw"}.get(_kind(event), "<NA>")


def _sock_family(event: Event) -> str | None:
    family = _family(event)
    if family in (socket.AF_INET, socket.AF_INET6):
        return "ip"
    return "unix" if family == socket.AF_UNIX else None


def endpoint(obj: Object | None, port: int | None) -> str:
    ip = ip_of(obj) if obj else None
    return f"{ip if ip is not None else '0.0.0.0'}:{port or 0}"


def socket_name(event: Event, obj: Object | None, obj2: Object | None) -> str | None:
    """1.2.3.4:40000->5.6.7.8:443, client first; :port for a bound socket; a Unix path."""
    if obj is None or obj.address is None:
        return None
    if obj.address.ip is None:
        return obj.address.path or None
    server = endpoint(obj, obj.address.port)
    if event.cls in _OWN:
        return server
    return f"{endpoint(obj2, event.port)}->{server}"


def _name(obj: Object, env: Env, arg: Any) -> Any:
    if obj.address is None:
        return obj.text or None
    if obj.address.ip is not None:
        return DEPENDS  # the connection has two ends
    return obj.address.path or None


def _row_name(row: Row, env: Env, arg: Any) -> str | None:
    if row.event.cls in FILE_CLASSES:
        return row.obj.text or None if row.obj else None
    if row.event.cls == _LABEL and row.obj is not None and ip_of(row.obj) is not None:
        return endpoint(row.obj, row.obj.address.port if row.obj.address else None)
    return socket_name(row.event, row.obj, row.obj2)


def _domain(name: str, doc: str, *classes: int) -> Field:
    # Names are known for destinations only: those a container resolved itself.
    return Field(name, S, doc, each(Where.NAME, classes), domain=lambda text, _, __: text or None)


FIELDS: tuple[Field, ...] = (
    Field(
        "fd.name",
        S,
        "path of the file; client->server of a connection; path of a Unix socket",
        each(O1, (*FILE_CLASSES, *NET_CLASSES, _LABEL)),
        object=_name,
        row=_row_name,
        text=True,
    ),
    *_addresses("s", "server's", _SERVER),
    *_addresses("c", "client's", _CLIENT),
    *_addresses("l", "local", _LOCAL),
    *_addresses("r", "remote", _REMOTE),
    Field("fd.ip", IP, "either end's address", {}, parts=("fd.sip", "fd.cip")),
    Field("fd.net", NET, "either end's address", {}, parts=("fd.snet", "fd.cnet")),
    _port("s", "server's", _SERVER),
    _port("c", "client's", _CLIENT_PORT),
    _port("l", "local", _LOCAL_PORT),
    _port("r", "remote", _REMOTE_PORT),
    Field("fd.port", N, "either end's port", {}, parts=("fd.sport", "fd.cport")),
    _domain("fd.sip.name", "domain name of the server, as resolved here", *_OUT, _LABEL),
    _domain("fd.rip.name", "domain name of the remote end, as resolved here", *_OUT, _LABEL),
    _domain("fd.cip.name", "domain name of the client: never known"),
    _domain("fd.lip.name", "domain name of the local end: never known"),
    of_event(
        "fd.type",
        S,
        _type,
        "flags marks",
        "file, directory, ipv4, ipv6, unix, netlink, other",
        (*FILE_CLASSES, *_ANY_SOCKET, _LABEL),
    ),
    of_event(
        "fd.typechar",
        S,
        _type_char,
        "flags marks",
        "f file, d directory, 4 IPv4, 6 IPv6, u Unix, o other",
        (*FILE_CLASSES, *_ANY_SOCKET, _LABEL),
    ),
    of_event("fd.l4proto", S, _l4, "flags", "tcp, udp, icmp or raw", _ANY_SOCKET),
    of_event("fd.sockfamily", S, _sock_family, "flags", "ip or unix", _ANY_SOCKET),
    of_event(
        "fd.is_server", B, lambda e: e.cls in (_ACCEPT, *_OWN), "", "this end serves", NET_CLASSES
    ),
    of_event(
        "fd.connected",
        B,
        lambda e: e.cls != _SEND and e.ret >= 0,
        "ret",
        "the socket is connected; never so for a send with an address",
        NET_CLASSES,
    ),
    of_event(
        "fd.name_changed",
        B,
        lambda e: e.cls in (_CONNECT, _SEND, _BIND),
        "",
        "the call gave the socket a new end",
        NET_CLASSES,
    ),
)
