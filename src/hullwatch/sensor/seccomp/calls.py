"""The calls that are notified, by their number on this architecture."""

from __future__ import annotations

from collections.abc import Callable

from hullwatch.sensor.seccomp import files, messages, names, programs, sockets
from hullwatch.sensor.seccomp.abi import number
from hullwatch.sensor.seccomp.caller import Caller
from hullwatch.sensor.seccomp.wish import Arguments, Wish

__all__ = ["CALLS"]

_BY_NAME: dict[str, Callable[[Caller, Arguments], Wish]] = {
    "open": files.open_,
    "creat": files.creat,
    "openat": files.openat,
    "openat2": files.openat2_,
    "truncate": files.truncate,
    "link": names.link,
    "linkat": names.linkat,
    "rename": names.rename,
    "renameat": names.renameat,
    "renameat2": names.renameat2,
    "execve": programs.execve,
    "execveat": programs.execveat,
    "connect": sockets.connect,
    "bind": sockets.bind,
    "listen": sockets.listen,
    "sendto": messages.sendto,
    "sendmsg": messages.sendmsg,
    "sendmmsg": messages.sendmmsg,
}
CALLS = {made: call for name, call in _BY_NAME.items() if (made := number(name)) is not None}
