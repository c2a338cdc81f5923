"""evt.* without arguments: type, result, time."""

from __future__ import annotations

import time

from hullwatch.detect.fields.field import Field, Type, Where, each, of_event, of_row
from hullwatch.detect.names import errno_name
from hullwatch.detect.row import Env, Event, Object, Row
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.syscalls import OPS
from hullwatch.sensor.wire import Class, Mark, StrKind

__all__ = ["FIELDS", "event_type", "is_open_read", "is_open_write", "types_of"]

S, N, B = Type.STRING, Type.INT, Type.BOOL
_ATTEMPT, _IO_URING = int(Mark.ATTEMPT), int(Mark.IO_URING)
_OPEN = (int(Class.OPEN),)
_O_CREAT, _O_TMPFILE = 0o100, 0o20000000

# What an event is called when no system call is named: LSM hook, io_uring, snapshot.
_DEFAULT: dict[int, str] = {
    int(cls): name
    for cls, name in (
        (Class.EXEC, "execve"),
        (Class.EXEC_FAILED, "execve"),
        (Class.FORK, "clone"),
        (Class.EXIT, "procexit"),
        (Class.OPEN, "openat"),
        (Class.RENAME, "renameat2"),
        (Class.UNLINK, "unlinkat"),
        (Class.LINK, "linkat"),
        (Class.SYMLINK, "symlinkat"),
        (Class.MKDIR, "mkdirat"),
        (Class.RMDIR, "rmdir"),
        (Class.CHMOD, "fchmodat"),
        (Class.CHOWN, "fchownat"),
        (Class.ACCEPT, "accept4"),
        (Class.SEND, "sendto"),
        (Class.DUP, "dup2"),
        (Class.VM_ACCESS, "process_vm_readv"),
        (Class.UMOUNT, "umount2"),
        (Class.SETID, "setresuid"),
        (Class.MODULE, "finit_module"),
        (Class.MEMFD, "memfd_create"),
        (Class.KEXEC, "kexec_load"),
        (Class.IO_URING, "io_uring_setup"),
    )
}
# Which system calls a class stands for: the handlers of sensor/syscalls.py by name.
_BY_CLASS: dict[int, tuple[str, ...]] = {
    int(cls): tuple(names.split())
    for cls, names in (
        (Class.EXEC, "execve execveat"),
        (Class.EXEC_FAILED, "execve execveat"),
        (Class.FORK, "clone"),
        (Class.OPEN, "open openat openat2 creat open_by_handle_at truncate"),
        (Class.RENAME, "rename renameat renameat2"),
        (Class.UNLINK, "unlink unlinkat"),
        (Class.LINK, "link linkat"),
        (Class.SYMLINK, "symlink symlinkat"),
        (Class.MKDIR, "mkdir mkdirat"),
        (Class.RMDIR, "rmdir unlinkat"),
        (Class.CHMOD, "chmod fchmod fchmodat fchmodat2"),
        (Class.CHOWN, "chown lchown fchown fchownat"),
        (Class.ACCEPT, "accept accept4"),
        (Class.SEND, "sendto sendmsg sendmmsg"),
        (Class.DUP, "dup dup2 dup3"),
        (Class.VM_ACCESS, "process_vm_readv process_vm_writev"),
        (Class.MOUNT, "mount move_mount fsopen open_tree mount_setattr"),
        (Class.PIVOT_ROOT, "pivot_root chroot"),
        (
            Class.SETID,
            "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups",
        ),
        (Class.MODULE, "init_module finit_module delete_module"),
        (Class.MEMFD, "memfd_create memfd_secret"),
        (Class.KEYCTL, "keyctl add_key request_key"),
        (Class.KEXEC, "kexec_load kexec_file_load"),
        (Class.IO_URING, "io_uring_setup"),
    )
}


def event_type(event: Event) -> str:
    """Falco's evt.type."""
    if 0 < event.op < len(OPS):
        return OPS[event.op]
    return _DEFAULT.get(event.cls) or CLASSES[event.cls].name


def types_of(cls: int) -> tuple[str, ...]:
    """Every evt.type that events of this class can have."""
    names = _BY_CLASS.get(cls, ())
    return tuple(dict.fromkeys((*names, event_type(Event(cls)))))


_CATEGORY = {1007: "process", 1001: "file", 4001: "net", 4003: "net", 6003: "system"}


def _res(event: Event) -> str:
    return errno_name(-event.ret) if event.ret < 0 and not event.marks & _ATTEMPT else "SUCCESS"


def _raw_res(event: Event) -> int:
    return 0 if event.marks & _ATTEMPT else event.ret


def is_open_read(event: Event) -> bool:
    return event.flags & 3 in (0, 2)


def is_open_write(event: Event) -> bool:
    return event.flags & 3 in (1, 2)


def _is_create(event: Event) -> bool:
    return bool(event.flags & _O_CREAT or event.flags & _O_TMPFILE == _O_TMPFILE)


def _wall(row: Row, env: Env) -> int:
    return row.ts + env.wall_offset


def clock(ns: int, form: str, fraction: bool = True) -> str:
    """Local time as Falco prints it, with the nanoseconds."""
    text = time.strftime(form, time.localtime(ns // 10**9))
    return f"{text}.{ns % 10**9:09d}" if fraction else text


def iso8601(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}+0000"


def _category(event: Event) -> str:
    if event.cls in (Class.MMAP, Class.MPROTECT):
        return "memory"
    return _CATEGORY.get(CLASSES[event.cls].ocsf, "other")


def _errors(name: str, which: str, *categories: str) -> Field:
    def count(event: Event) -> int:
        return int(_raw_res(event) < 0 and (not categories or _category(event) in categories))

    return of_event(name, N, count, "ret marks", f"1 for a call that failed, {which}, else 0")


def _name_of(obj: Object, kind: StrKind) -> str | None:
    """A domain name; a path is none (kind 0: not known what it is)."""
    return obj.text.lower().rstrip(".") or None if obj.kind in (0, kind) else None


FIELDS: tuple[Field, ...] = (
    of_row("evt.num", N, lambda row, _, __: row.number, "number of the event", minimum=1),
    of_event("evt.type", S, event_type, "", "name of the system call, or of the event"),
    Field(
        "evt.type.is",
        N,
        "1 for events of the type that is named, else 0",
        each(Where.EVENT),
        event=lambda e, _, name: int(event_type(e) == name),
        arg="key",
    ),
    of_event("syscall.type", S, lambda e: OPS[e.op] or None, "", "name of the system call"),
    of_event("evt.category", S, _category, "", "file, net, memory, process, system"),
    of_event(
        "evt.dir",
        S,
        lambda e: "<",
        "",
        "always '<': events are seen at the end of a call",
        deprecated="'evt.dir' is deprecated: events are always '<'",
    ),
    of_row("evt.hostname", S, lambda row, env, _: env.hostname, "the host on which rules run"),
    of_event("evt.source", S, lambda e: "syscall", "", "always syscall"),
    of_event("evt.is_syscall", B, lambda e: e.op > 0, "", "comes from a system call"),
    of_event("evt.res", S, _res, "ret marks", "SUCCESS, or the error's name"),
    of_event("evt.rawres", N, _raw_res, "ret marks", "the call's result, negative for errors"),
    of_event("evt.failed", B, lambda e: _raw_res(e) < 0, "ret marks", "the call failed"),
    of_event("evt.is_open_read", B, is_open_read, "flags", "opened for reading", _OPEN),
    of_event("evt.is_open_write", B, is_open_write, "flags", "opened for writing", _OPEN),
    of_event("evt.is_open_create", B, _is_create, "flags", "may make the file", _OPEN),
    of_event("evt.count", N, lambda e: 1, "", "always 1"),
    of_event("evt.count.exit", N, lambda e: 1, "", "always 1: all are ends of calls"),
    _errors("evt.count.error", "of any kind"),
    _errors("evt.count.error.file", "of files", "file"),
    _errors("evt.count.error.net", "of the network", "net"),
    _errors("evt.count.error.memory", "of memory", "memory"),
    _errors("evt.count.error.other", "of other kinds", "process", "system", "other"),
    of_event("evt.is_async", B, lambda e: False, "", "always false: there are no such events"),
    of_row("evt.rawtime", N, lambda row, env, _: _wall(row, env), "unix ns"),
    of_row("evt.rawtime.s", N, lambda row, env, _: _wall(row, env) // 10**9, "unix seconds"),
    of_row("evt.rawtime.ns", N, lambda row, env, _: _wall(row, env) % 10**9, "fraction, ns"),
    of_row("evt.time", S, lambda row, env, _: clock(_wall(row, env), "%H:%M:%S"), "local time"),
    of_row(
        "evt.time.s",
        S,
        lambda row, env, _: clock(_wall(row, env), "%H:%M:%S", False),
        "local time, no fraction",
    ),
    of_row("evt.time.iso8601", S, lambda row, env, _: iso8601(_wall(row, env)), "UTC, ISO 8601"),
    of_row(
        "evt.datetime",
        S,
        lambda row, env, _: clock(_wall(row, env), "%Y-%m-%d %H:%M:%S"),
        "local date and time",
    ),
    of_row(
        "evt.datetime.s",
        S,
        lambda row, env, _: clock(_wall(row, env), "%Y-%m-%d %H:%M:%S", False),
        "local date and time, no fraction",
    ),
    of_event("hw.class", S, lambda e: CLASSES[e.cls].name, "", "event class of the sensor"),
    of_event(
        "hw.io_uring", B, lambda e: bool(e.marks & _IO_URING), "marks", "done through io_uring"
    ),
    of_event(
        "hw.device",
        B,
        lambda e: bool(e.marks & int(Mark.DEVICE)),
        "marks",
        "a character or block device was opened",
        _OPEN,
    ),
    Field(
        "hw.dns.name",
        S,
        "domain name asked for or answered",
        each(Where.OBJ, (int(Class.DNS),)),
        object=lambda obj, _, __: _name_of(obj, StrKind.DNS),
    ),
    Field(
        "hw.tls.name",
        S,
        "server name of a TLS hello",
        each(Where.OBJ, (int(Class.TLS),)),
        object=lambda obj, _, __: _name_of(obj, StrKind.SNI),
    ),
)
