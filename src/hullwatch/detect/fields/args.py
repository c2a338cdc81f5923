"""evt.arg.NAME and evt.rawarg.NAME: arguments by the names Falco gives them.

evt.arg is always text, with flags, modes and ids by name; evt.rawarg the number.
One row an argument and event classes; the same name may have several rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hullwatch.detect import names
from hullwatch.detect.fields.event import errno_name
from hullwatch.detect.fields.field import Field, Type, Where, of_row
from hullwatch.detect.fields.network import NET_CLASSES, socket_name
from hullwatch.detect.fields.process import exe_flags
from hullwatch.detect.row import Env, Event, Object, Row
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.syscalls import OPS
from hullwatch.sensor.wire import Class

__all__ = ["FIELDS", "argument", "argument_names"]

E, O1, O2, P, R = Where.EVENT, Where.OBJ, Where.OBJ2, Where.IMAGE, Where.ROW
C = Class
_PID_MASK = 0x3FFFFF  # a process key ends in the tgid, see kernel/wire.h


class _Arg(NamedTuple):
    """name, classes, part, text getter, columns read, raw getter (None: no number)."""

    name: str
    classes: tuple[int, ...]
    where: Where
    get: Callable[..., Any]
    reads: str = ""
    raw: Callable[[Event], int] | None = None
    own: bool = False  # see Field.own


def _flags(name: str, cls: int, table: names.Table) -> _Arg:
    return _Arg(
        name, (cls,), E, lambda e, _: names.joined(e.flags, table), "flags", lambda e: e.flags
    )


def _number(name: str, column: str, *classes: int) -> _Arg:
    return _Arg(
        name,
        classes,
        E,
        lambda e, _: str(getattr(e, column)),
        column,
        lambda e: int(getattr(e, column)),
    )


def _text(obj: Object, env: Env) -> str | None:
    return obj.text or None


def _path(name: str, where: Where, *classes: int) -> _Arg:
    return _Arg(name, classes, where, _text)


def _of_process(name: str, get: Callable[[Any], Any], own: bool = False) -> _Arg:
    return _Arg(name, (C.EXEC,), P, lambda p, _: get(p), own=own)


def _uid(event: Event, env: Env) -> str:
    found = env.accounts.user(event.num, 0)
    return found.name if found else str(event.num)


def _gid(event: Event, env: Env) -> str:
    return env.accounts.group(event.num, 0) or str(event.num)


def _setid(kind: str) -> Callable[[Event, Env], str | None]:
    """The id belongs to calls of one kind only: setuid has a uid, setgid a gid."""
    read = _uid if kind == "uid" else _gid

    def get(event: Event, env: Env) -> str | None:
        name = OPS[event.op] if event.op < len(OPS) else ""
        return read(event, env) if not name or name.endswith(kind) else None

    return get


def _res(event: Event, env: Env) -> str:
    return errno_name(-event.ret) if event.ret < 0 else str(event.ret)


def _tuple(row: Row, env: Env) -> str | None:
    return socket_name(row.event, row.obj, row.obj2)


def _open_fd(row: Row, env: Env) -> str:
    path = row.obj.text if row.obj else ""
    return f"{row.event.ret}(<f>{path})" if row.event.ret >= 0 else errno_name(-row.event.ret)


def _file_fd(row: Row, env: Env) -> str | None:
    name = OPS[row.event.op] if row.event.op < len(OPS) else ""
    return f"<f>{row.obj.text}" if name.startswith("f") and row.obj and "at" not in name else None


_ARGS: tuple[_Arg, ...] = (
    _Arg("res", tuple(CLASSES), E, _res, "ret", lambda e: e.ret),
    _Arg("flags", (C.OPEN,), E, lambda e, _: names.open_flags(e.flags), "flags", lambda e: e.flags),
    _Arg("flags", (C.EXEC,), P, lambda p, _: exe_flags(p)),
    _flags("flags", C.UNSHARE, names.CLONE_FLAGS),
    _flags("flags", C.MOUNT, names.MOUNT_FLAGS),
    _flags("flags", C.UMOUNT, names.UMOUNT_FLAGS),
    _flags("flags", C.UNLINK, names.UNLINK_FLAGS),
    _flags("flags", C.RENAME, names.RENAME_FLAGS),
    _flags("flags", C.MEMFD, names.MEMFD_FLAGS),
    _number(
        "flags", "flags", C.USERFAULTFD, C.PERF, C.MODULE, C.KEXEC, C.IO_URING, C.CHOWN, C.LINK
    ),
    _flags("prot", C.MMAP, names.MMAP_PROT),
    _flags("prot", C.MPROTECT, names.MMAP_PROT),
    _flags("mode", C.CHMOD, names.MODE_BITS),
    _flags("mode", C.MKDIR, names.MODE_BITS),
    _flags("nstype", C.SETNS, names.NAMESPACES),
    _path("name", O1, C.OPEN, C.UNLINK, C.RMDIR, C.MKDIR, C.MEMFD, C.MODULE, C.UMOUNT),
    _path("path", O1, C.UNLINK, C.RMDIR, C.MKDIR, C.CHOWN),
    _path("filename", O1, C.CHMOD, C.EXEC, C.EXEC_FAILED),
    _path("pathname", O1, C.CHOWN, C.EXEC, C.EXEC_FAILED),
    _path("oldpath", O1, C.RENAME, C.LINK),
    _path("newpath", O2, C.RENAME, C.LINK),
    _path("target", O1, C.SYMLINK),
    _path("linkpath", O2, C.SYMLINK),
    _path("dir", O1, C.MOUNT),
    _path("dev", O2, C.MOUNT),
    _path("new_root", O1, C.PIVOT_ROOT),
    _path("put_old", O2, C.PIVOT_ROOT),
    _Arg("fd", (C.OPEN,), R, _open_fd),
    _Arg("fd", (C.CHMOD, C.CHOWN), R, _file_fd),
    _Arg("tuple", NET_CLASSES, R, _tuple),
    _Arg("addr", NET_CLASSES, R, _tuple),
    _Arg("uid", (C.SETID,), E, _setid("uid"), "num", lambda e: e.num),
    _Arg("gid", (C.SETID,), E, _setid("gid"), "num", lambda e: e.num),
    _Arg("uid", (C.CHOWN,), E, _uid, "num", lambda e: e.num),
    _number("gid", "num2", C.CHOWN),
    _Arg(
        "request",
        (C.PTRACE,),
        E,
        lambda e, _: names.named(e.num, names.PTRACE),
        "num",
        lambda e: e.num,
    ),
    _Arg(
        "pid",
        (C.PTRACE, C.VM_ACCESS),
        E,
        lambda e, _: str(e.num2 & _PID_MASK),
        "num2",
        lambda e: e.num2 & _PID_MASK,
    ),
    _Arg(
        "domain",
        (C.SOCKET,),
        E,
        lambda e, _: names.named(e.flags >> 16, names.FAMILIES),
        "flags",
        lambda e: e.flags >> 16,
    ),
    _Arg(
        "type",
        (C.SOCKET,),
        E,
        lambda e, _: names.named(e.flags >> 8 & 0xF, names.SOCKET_TYPES),
        "flags",
        lambda e: e.flags >> 8 & 0xFF,
    ),
    _Arg(
        "proto", (C.SOCKET,), E, lambda e, _: str(e.flags & 0xFF), "flags", lambda e: e.flags & 0xFF
    ),
    _Arg(
        "cmd",
        (C.BPF,),
        E,
        lambda e, _: names.named(e.num, names.BPF_COMMANDS),
        "num",
        lambda e: e.num,
    ),
    _number("cmd", "num", C.KEYCTL),
    _number("size", "num", C.SEND),
    _number("backlog", "num", C.LISTEN),
    _number("length", "num", C.MMAP, C.MPROTECT),
    _number("fd", "num", C.SETNS),
    _number("oldfd", "num", C.DUP),
    _number("newfd", "ret", C.DUP),
    _of_process("exe", lambda p: p.exe or None),
    _of_process("args", lambda p: p.args if p.known else None),
    _of_process("comm", lambda p: p.name or None),
    _of_process("cwd", lambda p: p.cwd or None),
    _of_process("trusted_exepath", lambda p: p.exepath or None),
    _of_process("pid", lambda p: str(p.pid), own=True),
    _of_process("ptid", lambda p: str(p.ppid), own=True),
    _of_process("tty", lambda p: str(p.tty)),
)


def argument_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.name for row in _ARGS))


def argument(name: str, raw: bool) -> Field | None:
    """The field evt.arg.NAME or evt.rawarg.NAME; None if no event has it."""
    rows = [row for row in _ARGS if row.name == name and (row.raw is not None or not raw)]
    if not rows:
        return None
    by_class = {int(cls): row for row in rows for cls in row.classes}

    def event(part: Event, env: Env, arg: Any) -> Any:
        row = by_class[part.cls]
        if not raw:
            return row.get(part, env)
        assert row.raw is not None
        return row.raw(part)

    def row_value(part: Row, env: Env, arg: Any) -> Any:
        found = by_class.get(part.event.cls)
        return found.get(part, env) if found else None

    # All rows of one name that read objects, or images, read them in the same way.
    readers = {row.where: row.get for row in rows}
    obj = readers.get(O1) or readers.get(O2)
    image = readers.get(P)
    return Field(
        f"evt.{'rawarg' if raw else 'arg'}.{name}",
        Type.INT if raw else Type.STRING,
        f"argument '{name}' of " + ", ".join(dict.fromkeys(CLASSES[c].name for c in by_class)),
        {cls: row.where for cls, row in by_class.items()},
        event=event,
        object=(lambda part, env, _: obj(part, env)) if obj else None,
        image=(lambda part, env, _: image(part, env)) if image else None,
        row=row_value,
        reads=frozenset(column for row in rows for column in row.reads.split()),
        own=any(row.own for row in rows),
        text=obj is _text,
    )


def arguments(row: Row, env: Env) -> str:
    """evt.args: every argument of the event as name=value."""
    parts = []
    for one in _ARGS:
        if row.event.cls not in one.classes:
            continue
        value: Any = None
        if one.where is E:
            value = one.get(row.event, env)
        elif one.where is R:
            value = one.get(row, env)
        elif one.where is P:
            value = one.get(row.image, env) if row.image else None
        else:
            part: Object | None = row.obj if one.where is O1 else row.obj2
            value = one.get(part, env) if part else None
        if value is not None:
            parts.append(f"{one.name}={value}")
    return " ".join(parts)


FIELDS: tuple[Field, ...] = (
    of_row("evt.args", Type.STRING, lambda row, env, _: arguments(row, env), "all arguments"),
    of_row("evt.info", Type.STRING, lambda row, env, _: arguments(row, env), "same"),
)
