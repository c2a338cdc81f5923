"""The event table: one row an event class.

A row says what the class is called in the store and in hunts, which grade it has, what its
numbers and objects mean, and to which OCSF class it maps (OCSF 1.9 class_uid).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.wire import Action, Class, Done

__all__ = ["BY_NAME", "CLASSES", "EventClass", "Grade", "class_names", "classes_mask"]
__all__ += ["POLICY_ACTIONS", "POLICY_DONE"]


class Grade(StrEnum):
    """Vital events have a ring of their own and are never governed; bulk may become counts."""

    VITAL = "vital"
    BULK = "bulk"


class EventClass(NamedTuple):
    """cls, name, grade, meaning of obj / obj2 / num / num2 / flags ('' = unused), OCSF class."""

    cls: int
    name: str
    grade: Grade
    obj: str
    obj2: str
    num: str
    num2: str
    flags: str
    ocsf: int


V, B = Grade.VITAL, Grade.BULK
_SOCK = "family << 16 | type << 8 | protocol"

CLASSES: dict[int, EventClass] = {
    row.cls: row
    for row in (
        EventClass(Class.EXEC, "exec", V, "exe path", "argv", "exe inode", "exec id", "", 1007),
        EventClass(Class.FORK, "fork", V, "", "", "child process key", "child tid", "", 1007),
        EventClass(Class.EXIT, "exit", V, "", "", "lifetime ns", "", "wait status", 1007),
        EventClass(Class.TASK, "task", V, "exe path", "argv", "exe inode", "exec id", "", 1007),
        EventClass(
            Class.EXEC_FAILED,
            "exec_failed",
            B,
            "path",
            "caller's text",
            "",
            "",
            "execveat flags",
            1007,
        ),
        EventClass(
            Class.OPEN, "open", B, "path", "caller's text", "inode", "dev", "open flags", 1001
        ),
        EventClass(Class.RENAME, "rename", B, "old path", "new path", "", "", "flags", 1001),
        EventClass(Class.UNLINK, "unlink", B, "path", "", "", "", "flags", 1001),
        EventClass(Class.LINK, "link", B, "old path", "new path", "", "", "flags", 1001),
        EventClass(Class.SYMLINK, "symlink", B, "target text", "link path", "", "", "", 1001),
        EventClass(Class.MKDIR, "mkdir", B, "path", "", "", "", "mode", 1001),
        EventClass(Class.RMDIR, "rmdir", B, "path", "", "", "", "", 1001),
        EventClass(Class.CHMOD, "chmod", B, "path", "", "", "", "mode", 1001),
        EventClass(Class.CHOWN, "chown", B, "path", "", "uid", "gid", "flags", 1001),
        EventClass(Class.MMAP, "mmap", B, "path", "", "length", "dev", "prot", 1001),
        EventClass(Class.SOCKET, "socket", B, "", "", "", "", _SOCK, 4001),
        EventClass(
            Class.CONNECT, "connect", B, "server end", "client address", "", "", _SOCK, 4001
        ),
        EventClass(Class.BIND, "bind", B, "local end", "", "", "", _SOCK, 4001),
        EventClass(Class.LISTEN, "listen", B, "local end", "", "backlog", "", _SOCK, 4001),
        EventClass(Class.ACCEPT, "accept", B, "server end", "client address", "", "", _SOCK, 4001),
        EventClass(Class.SEND, "send", B, "server end", "", "bytes", "", _SOCK, 4001),
        EventClass(
            Class.FLOW,
            "flow",
            B,
            "server end",
            "client address",
            "bytes out",
            "bytes in",
            _SOCK,
            4001,
        ),
        EventClass(
            Class.DNS,
            "dns",
            B,
            "name",
            "answers",
            "type",
            "shortest TTL s",
            "1 = answer; rcode << 8",
            4003,
        ),
        EventClass(Class.TLS, "tls", B, "server name", "server end", "", "", "", 4001),
        EventClass(Class.DUP, "dup", V, "server end", "client address", "old fd", "", _SOCK, 4001),
        EventClass(
            Class.PTRACE,
            "ptrace",
            V,
            "",
            "",
            "request",
            "target pid as the caller sees it",
            "",
            1007,
        ),
        EventClass(
            Class.VM_ACCESS,
            "vm_access",
            V,
            "",
            "",
            "",
            "target pid as the caller sees it",
            "",
            1007,
        ),
        EventClass(Class.MOUNT, "mount", V, "target", "source", "", "", "flags", 6003),
        EventClass(Class.UMOUNT, "umount", V, "target", "", "", "", "flags", 6003),
        EventClass(Class.PIVOT_ROOT, "pivot_root", V, "new root", "put old", "", "", "", 6003),
        EventClass(Class.UNSHARE, "unshare", V, "", "", "", "", "clone flags", 6003),
        EventClass(Class.SETNS, "setns", V, "", "", "fd", "", "ns type", 6003),
        EventClass(
            Class.SETID, "setid", V, "", "", "id asked for", "uid << 32 | gid now", "euid now", 1007
        ),
        EventClass(Class.CAPSET, "capset", V, "", "", "effective", "permitted", "", 1007),
        EventClass(Class.BPF, "bpf", V, "", "", "command", "", "", 6003),
        EventClass(Class.PERF, "perf_event_open", V, "", "", "", "pid", "flags", 6003),
        EventClass(Class.MODULE, "module", V, "name or path", "", "", "", "flags", 6003),
        EventClass(Class.MEMFD, "memfd", V, "name", "", "", "", "flags", 1001),
        EventClass(Class.MPROTECT, "mprotect", B, "path", "", "length", "dev", "prot", 1007),
        EventClass(Class.USERFAULTFD, "userfaultfd", V, "", "", "", "", "flags", 6003),
        EventClass(Class.KEYCTL, "keyctl", V, "", "", "command", "", "", 6003),
        EventClass(Class.KEXEC, "kexec", V, "", "", "", "", "flags", 6003),
        EventClass(Class.IO_URING, "io_uring", V, "", "", "entries", "", "flags", 6003),
        EventClass(
            Class.LABEL,
            "label",
            V,
            "path or socket end",
            "",
            "labels that are new",
            "inode",
            "family << 16 | 0: the process took them; 1: gave them",
            6003,
        ),
        EventClass(
            Class.POLICY,
            "policy",
            V,
            "path or server end",
            "server name that TLS asked for",
            "privilege, 1 = mapped or unread, 2 = doorkeeper, family << 16 | type << 8 | protocol",
            "generation; 0 of the doorkeeper",
            "action; what was done << 16",
            6003,
        ),
        EventClass(Class.CGROUP_MKDIR, "cgroup_mkdir", V, "path", "", "cgroup id", "", "", 6003),
        EventClass(Class.CGROUP_RMDIR, "cgroup_rmdir", V, "path", "", "cgroup id", "", "", 6003),
        EventClass(
            Class.CALL,
            "call",
            V,
            "tool, model or task",
            "server or provider",
            "bytes asked",
            "bytes answered",
            "1 = ended; kind << 8; status << 16",
            6003,
        ),
        EventClass(
            Class.SIGNAL, "signal", V, "what it is about", "what was seen", "", "", "", 6003
        ),
    )
}

BY_NAME: dict[str, EventClass] = {row.name: row for row in CLASSES.values()}

POLICY_ACTIONS: dict[int, str] = {
    int(one): one.name.replace("_", "-").lower() for one in Action.__members__.values()
}
"""Of a `policy` event: what was tried (flags & 0xffff), as policies name it."""
POLICY_DONE: dict[int, str] = {
    int(Done.TOLD): "observed",
    int(Done.DENIED): "denied",
    int(Done.KILLED): "killed",
    int(Done.DROPPED): "dropped",
}
"""And what was done (flags >> 16)."""


def classes_mask(classes: Iterable[int]) -> np.ndarray:
    """bool[65536]: mask[events["cls"]] tells the rows of these classes, much faster than isin."""
    mask = np.zeros(1 << 16, bool)
    mask[[int(cls) for cls in classes]] = True
    return mask


def class_names() -> np.ndarray:
    """Names by class number, '' where there is none: dtype object, shape (HW_CLASS_MAX,)."""
    names = np.full(int(Class.CLASS_MAX), "", dtype=object)
    for cls, row in CLASSES.items():
        names[cls] = row.name
    return names
