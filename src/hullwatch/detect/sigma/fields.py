"""Sigma's log sources and field names, and what they are here. The one table of both.

Sigma's Linux rules are written for Sysmon for Linux, so its manual and source say what a field
holds (github.com/microsoft/SysmonForLinux). A rule may also use any field of our language by its
own name, as in `container.image.repository|contains`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CATEGORIES", "Category", "Mapped", "NOT_RECORDED"]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One Sigma field.

    ours: the operand in our language. network: the field to compare with networks (cidr).
    words: a field of few values: each value (lower case) and the condition that stands for it.
    """

    ours: str = ""
    network: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Category:
    """A log source. guard: the events that it logs. shows: what an output adds to the title."""

    guard: str
    fields: Mapping[str, Mapped]
    shows: str


def _ip(name: str) -> Mapped:
    return Mapped(name, network=name.removesuffix("ip") + "net")


# The process that acts; in every category.
_PROCESS = {
    "Image": Mapped("proc.exepath"),
    # The words as typed, the program's name included: proc.cmdline begins with comm instead.
    "CommandLine": Mapped("proc.exeline"),
    # Without a slash at its end, as Sysmon has it; proc.cwd has one.
    "CurrentDirectory": Mapped("hw.proc.cwd"),
    "User": Mapped("user.name"),
    # Sysmon for Linux fills it with the user's id, not with the login's (sysmonEBPFkern*.c).
    "LogonId": Mapped("user.uid"),
    "ProcessId": Mapped("proc.pid"),
    "ParentImage": Mapped("proc.pexepath"),
    "ParentCommandLine": Mapped("hw.proc.pexeline"),
    "ParentProcessId": Mapped("proc.ppid"),
}
_SHOWS_PROCESS = (
    "process=%proc.exepath command=%proc.exeline parent=%proc.pexepath user=%user.name"
    " container=%container.name image=%container.image.repository"
)

_IS_IPV6 = Mapped(words={"true": "fd.type = ipv6", "false": "fd.type = ipv4"})

CATEGORIES: dict[str, Category] = {
    "process_creation": Category("hw.class = exec", _PROCESS, _SHOWS_PROCESS),
    # Sysmon's event 11 is "created or overwritten". Rules mean any way by which a name comes to
    # have new content: opened for writing (also to append), and given by rename or link.
    "file_event": Category(
        "(hw.class = open and (evt.is_open_write = true or evt.is_open_create = true)"
        " or hw.class in (rename, link, symlink)) and evt.rawres >= 0",
        {**_PROCESS, "TargetFilename": Mapped("fs.path.name")},
        f"file=%fs.path.name {_SHOWS_PROCESS}",
    ),
    # Sysmon logs both ends' view of TCP, and UDP. A connection that was refused is none; one that
    # is still being made is. Source and destination are roles there too: client and server.
    "network_connection": Category(
        "hw.class in (connect, accept, send) and fd.sockfamily = ip"
        " and (evt.rawres >= 0 or evt.res = EINPROGRESS)",
        {
            **_PROCESS,
            "DestinationIp": _ip("fd.sip"),
            "DestinationPort": Mapped("fd.sport"),
            "DestinationHostname": Mapped("fd.sip.name"),
            "DestinationIsIpv6": _IS_IPV6,
            "SourceIp": _ip("fd.cip"),
            "SourcePort": Mapped("fd.cport"),
            "SourceIsIpv6": _IS_IPV6,
            "Protocol": Mapped("fd.l4proto"),
            "Initiated": Mapped(
                words={"true": "fd.is_server = false", "false": "fd.is_server = true"}
            ),
        },
        f"connection=%fd.name name=%fd.sip.name {_SHOWS_PROCESS}",
    ),
}

_WINDOWS = "it exists on Windows only"
NOT_RECORDED: dict[str, str] = {
    "Hashes": "programs are not hashed",
    "md5": "programs are not hashed",
    "sha1": "programs are not hashed",
    "sha256": "programs are not hashed",
    "Imphash": _WINDOWS,
    "IntegrityLevel": _WINDOWS,
    "OriginalFileName": _WINDOWS,
    "Description": _WINDOWS,
    "Product": _WINDOWS,
    "Company": _WINDOWS,
    "FileVersion": _WINDOWS,
    "LogonGuid": "logins have no such id here",
    "ProcessGuid": "processes have no such id here; use proc.pid",
    "ParentProcessGuid": "processes have no such id here; use proc.ppid",
    "TerminalSessionId": "use proc.sid, the session's leader",
    "ParentUser": "only the process's own user is known",
    "SourceHostname": "only the names that a container resolved itself are known: destinations",
    "DestinationPortName": "use DestinationPort",
    "SourcePortName": "use SourcePort",
    "CreationUtcTime": "times of files are not recorded",
    "UtcTime": "use evt.rawtime.s",
}
