"""proc.*, thread.*, user.*, group.*: what the process image says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hullwatch.context.enriched import ProcessImage
from hullwatch.detect.fields.field import Field, Type, Where, each, of_image, of_row
from hullwatch.detect.names import capabilities
from hullwatch.detect.row import Env, Row
from hullwatch.sensor.wire import ProcMark

__all__ = ["FIELDS", "exe_flags"]

S, N, B = Type.STRING, Type.INT, Type.BOOL
_MAX_ANCESTORS = 128
_SHELLS = frozenset(("ash", "bash", "csh", "ksh", "sh", "tcsh", "zsh", "dash"))
_NO_ID = 0xFFFFFFFF
_HOST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_MEMFD, _UPPER, _WRITABLE = int(ProcMark.MEMFD), int(ProcMark.UPPER), int(ProcMark.WRITABLE)


def ancestors(image: ProcessImage) -> Iterator[ProcessImage]:
    """The parents, nearest first; bounded."""
    count = 0
    at = image.parent
    while at is not None and count < _MAX_ANCESTORS:
        yield at
        at = at.parent
        count += 1


def ancestors_within(image: ProcessImage) -> Iterator[ProcessImage]:
    """Those in the same container: for a process in a pid namespace of its own, up to where the
    host's begins. A further namespace that the container makes ends nothing."""
    inside = image.namespaces[:1] != (_HOST_PID_NAMESPACE,)
    for one in ancestors(image):
        if inside and one.namespaces[:1] == (_HOST_PID_NAMESPACE,):
            return
        yield one


def ancestor(image: ProcessImage, level: int) -> ProcessImage | None:
    """Level 0 is the process itself, 1 its parent."""
    at: ProcessImage | None = image
    for _ in range(min(level, _MAX_ANCESTORS)):
        if at is None:
            return None
        at = at.parent
    return at


def _leader(
    image: ProcessImage, get: Callable[[ProcessImage], int], want: int
) -> ProcessImage | None:
    if get(image) == want:
        return image
    return next((one for one in ancestors(image) if get(one) == want), None)


def _session(image: ProcessImage) -> ProcessImage | None:
    return _leader(image, lambda p: p.pid, image.sid)


def _group(image: ProcessImage) -> ProcessImage | None:
    return _leader(image, lambda p: p.vpid, image.vpgid)


def _host_group(image: ProcessImage) -> ProcessImage | None:
    return _leader(image, lambda p: p.pid, image.pgid)


def _shell(image: ProcessImage) -> int | None:
    found = None
    for one in (image, *ancestors(image)):
        if one.name in _SHELLS:
            found = one.pid
    return found


def exe_flags(image: ProcessImage) -> str:
    """Falco's flags of an execve event."""
    names = (
        (_WRITABLE, "EXE_WRITABLE"),
        (_UPPER, "EXE_UPPER_LAYER"),
        (_MEMFD, "EXE_FROM_MEMFD"),
    )
    return "|".join(name for bit, name in names if image.marks & bit) or "0"


def _known(get: Callable[[ProcessImage], Any]) -> Callable[[ProcessImage], Any]:
    """No value for a process whose exec and snapshot were never seen."""
    return lambda p: get(p) if p.known else None


def _name(image: ProcessImage) -> str | None:
    return image.name or None


def _exe(image: ProcessImage) -> str | None:
    return image.exe or None


def _exepath(image: ProcessImage) -> str | None:
    return image.exepath or None


def _args(image: ProcessImage) -> str | None:
    return image.args if image.known else None


def _cmdline(image: ProcessImage) -> str | None:
    return image.cmdline or None


def _exeline(image: ProcessImage) -> str | None:
    return " ".join(image.argv) if image.argv else None


def _cwd(image: ProcessImage) -> str | None:
    # Falco's cwd ends in a slash.
    return (image.cwd if image.cwd.endswith("/") else image.cwd + "/") if image.cwd else None


def _plain_cwd(image: ProcessImage) -> str | None:
    return image.cwd.rstrip("/") or "/" if image.cwd else None


def _env(image: ProcessImage) -> str | None:
    return " ".join(image.env_names) if image.known else None


_TEXTS: tuple[tuple[str, Callable[[ProcessImage], Any], str], ...] = (
    ("name", _name, "name (comm, at most 15 bytes)"),
    ("exe", _exe, "first argument as given"),
    ("exepath", _exepath, "path of the executable as the kernel resolved it"),
    ("args", _args, "arguments without the first, joined by blanks"),
    ("cmdline", _cmdline, "name and arguments"),
    ("exeline", _exeline, "arguments with the first"),
    ("cwd", _cwd, "working directory"),
    ("env", _env, "names of environment variables; values are never recorded"),
)


def _of(
    who: Callable[[ProcessImage], ProcessImage | None], get: Callable[[ProcessImage], Any]
) -> Callable[[ProcessImage], Any]:
    def read(image: ProcessImage) -> Any:
        found = who(image)
        return None if found is None else get(found)

    return read


def _level(
    name: str, kind: Type, get: Callable[[ProcessImage], Any], doc: str, own: bool = False
) -> Field:
    """proc.aname[2] is the grandparent's; proc.aname that of any ancestor."""

    def read(image: ProcessImage, env: Env, arg: int | None) -> Any:
        if arg is None:
            return tuple(value for one in ancestors(image) if (value := get(one)) is not None)
        found = ancestor(image, arg)
        return None if found is None else get(found)

    doc = f"{doc} of an ancestor"
    return Field(name, kind, doc, each(Where.IMAGE), image=read, arg="index?", own=own)


def _within(name: str, get: Callable[[ProcessImage], Any], doc: str) -> Field:
    """As proc.aname, and blind to who started the container: runc may well run below Python."""

    def read(image: ProcessImage, env: Env, arg: Any) -> Any:
        within = [get(one) for one in ancestors_within(image)]
        if arg is None:
            return tuple(value for value in within if value is not None)
        return within[arg - 1] if 0 < arg <= len(within) else None

    doc = f"{doc} of an ancestor in the same container"
    return Field(name, Type.STRING, doc, each(Where.IMAGE), image=read, arg="index?")


def _related(
    prefix: str, who: Callable[[ProcessImage], ProcessImage | None], whose: str, *names: str
) -> Iterator[Field]:
    own = who is not _parent  # leaders are found by their numbers
    for name, get, doc in _TEXTS:
        if name in names:
            yield of_image(f"{prefix}{name}", S, _of(who, get), f"{doc}, of {whose}", own=own)


def _user(name: str, kind: Type, ident: str, index: int, doc: str) -> Field:
    def read(image: ProcessImage, env: Env, arg: Any) -> Any:
        if not image.known:
            return None
        found = env.accounts.user(getattr(image, ident), image.workload)
        return found[index] if found else None

    return Field(name, kind, doc, each(Where.IMAGE), image=read, mutable=True)


def _group_name(image: ProcessImage, env: Env, arg: Any) -> str | None:
    return env.accounts.group(image.egid, image.workload) if image.known else None


def _signed(value: int) -> int:
    return -1 if value == _NO_ID else value


def _since(get: Callable[[ProcessImage], int | None]) -> Callable[[Row, Env, Any], int | None]:
    def read(row: Row, env: Env, arg: Any) -> int | None:
        begun = get(row.image) if row.image is not None else None
        return None if not begun else max(row.ts - begun, 0)

    return read


def _at(get: Callable[[ProcessImage], int | None]) -> Callable[[Row, Env, Any], int | None]:
    def read(row: Row, env: Env, arg: Any) -> int | None:
        begun = get(row.image) if row.image is not None else None
        return begun + env.wall_offset if begun else None

    return read


def _inode_age(name: str, end: str) -> Callable[[Row, Env, Any], int | None]:
    def read(row: Row, env: Env, arg: Any) -> int | None:
        image = row.image
        if image is None or not image.known:
            return None
        return int(getattr(image, end)) + env.wall_offset - int(getattr(image, name))

    return read


def _started(image: ProcessImage) -> int | None:
    return image.started or None


def _parent_started(image: ProcessImage) -> int | None:
    return image.parent.started or None if image.parent else None


def _parent(image: ProcessImage) -> ProcessImage | None:
    return image.parent


FIELDS: tuple[Field, ...] = (
    *(of_image(f"proc.{name}", S, get, doc) for name, get, doc in _TEXTS),
    *_related("proc.p", _parent, "the parent", "name", "exe", "exepath", "cmdline", "args"),
    *_related("proc.sid.", _session, "the session's leader", "exe", "exepath", "name"),
    *_related("proc.pgid.", _host_group, "the process group's leader", "name", "exe", "exepath"),
    *_related("proc.vpgid.", _group, "the process group's leader", "name", "exe", "exepath"),
    of_image("proc.sname", S, _of(_session, _name), "name of the session's leader", own=True),
    _level("proc.aname", S, _name, "name"),
    _level("proc.aexe", S, _exe, "first argument"),
    _level("proc.aexepath", S, _exepath, "path of the executable"),
    _level("proc.acmdline", S, _cmdline, "name and arguments"),
    _level("proc.aargs", S, _args, "arguments"),
    _level("proc.apid", N, lambda p: p.pid, "process id", own=True),
    of_image("proc.pid", N, lambda p: p.pid, "process id, on the host", own=True),
    of_image(
        "proc.ppid",
        N,
        lambda p: p.parent.pid if p.parent else None,
        "parent's process id",
        own=True,
    ),
    of_image("proc.vpid", N, lambda p: p.vpid, "process id in its pid namespace", own=True),
    of_image(
        "proc.pvpid", N, lambda p: p.parent.vpid if p.parent else None, "parent's vpid", own=True
    ),
    of_image("proc.sid", N, lambda p: p.sid, "session id", own=True),
    of_image("proc.pgid", N, lambda p: p.pgid, "process group id, on the host", own=True),
    of_image("proc.vpgid", N, lambda p: p.vpgid, "process group id in its pid namespace", own=True),
    of_image(
        "proc.is_vpgid_leader", B, lambda p: p.vpid == p.vpgid, "leads its process group", own=True
    ),
    of_image("proc.is_pgid_leader", B, lambda p: p.pid == p.pgid, "leads its group", own=True),
    of_image("proc.is_sid_leader", B, lambda p: p.pid == p.sid, "leads its session", own=True),
    of_image("proc.tty", N, _known(lambda p: p.tty), "terminal (device number), 0 for none"),
    of_image("proc.loginshellid", N, _shell, "process id of the oldest shell above", own=True),
    of_image("proc.cmdnargs", N, _known(lambda p: max(len(p.argv) - 1, 0)), "count of arguments"),
    of_image(
        "proc.cmdlenargs", N, _known(lambda p: sum(map(len, p.argv[1:]))), "length of arguments"
    ),
    of_image(
        "proc.is_exe_upper_layer",
        B,
        _known(lambda p: bool(p.marks & _UPPER)),
        "the executable lies in the overlay's writable layer",
    ),
    of_image(
        "proc.is_exe_from_memfd", B, _known(lambda p: bool(p.marks & _MEMFD)), "runs from a memfd"
    ),
    of_image(
        "proc.is_exe_writable",
        B,
        _known(lambda p: bool(p.marks & _WRITABLE)),
        "its user may write the executable",
    ),
    of_image("proc.exe_ino", N, lambda p: p.exe_ino or None, "inode of the executable"),
    of_image("proc.exe_ino.ctime", N, lambda p: p.exe_ctime or None, "its change time, unix ns"),
    of_image("proc.exe_ino.mtime", N, lambda p: p.exe_mtime or None, "its write time, unix ns"),
    of_row(
        "proc.exe_ino.ctime_duration_proc_start",
        N,
        _inode_age("exe_ctime", "exec_ts"),
        "from the executable's change to the process's start, ns",
    ),
    of_row("proc.duration", N, _since(_started), "age of the process, ns"),
    of_row("proc.ppid.duration", N, _since(_parent_started), "age of the parent, ns"),
    of_row("proc.pid.ts", N, _at(_started), "start of the process, unix ns"),
    of_row("proc.ppid.ts", N, _at(_parent_started), "start of the parent, unix ns"),
    of_image("hw.proc.cwd", S, _plain_cwd, "working directory without a slash at its end"),
    of_image(
        "hw.proc.pexeline", S, _of(_parent, _exeline), "arguments with the first, of the parent"
    ),
    _within("hw.proc.aname", _name, "name"),
    _within("hw.proc.acmdline", _cmdline, "name and arguments"),
    _within("hw.proc.aexepath", _exepath, "path of the executable"),
    of_image(
        "hw.proc.in_host_pid_ns",
        B,
        lambda p: p.namespaces[0] == _HOST_PID_NAMESPACE if any(p.namespaces) else None,
        "its program was started in the host's pid namespace, as a container runtime's is",
    ),
    of_image("hw.proc.script", S, lambda p: p.script or None, "script that the interpreter runs"),
    of_image(
        "thread.cap_effective",
        S,
        _known(lambda p: capabilities(p.cap_effective)),
        "effective capabilities",
        mutable=True,
    ),
    of_image(
        "thread.cap_permitted",
        S,
        _known(lambda p: capabilities(p.cap_permitted)),
        "permitted capabilities",
        mutable=True,
    ),
    of_image(
        "thread.cap_inheritable",
        S,
        _known(lambda p: capabilities(p.cap_inheritable)),
        "inheritable capabilities",
        mutable=True,
    ),
    of_row("thread.tid", N, lambda row, _, __: row.tid, "thread id, on the host"),
    of_row(
        "thread.ismain",
        B,
        lambda row, _, __: row.image is not None and row.image.pid == row.tid,
        "the thread is the process's first",
    ),
    of_image("user.uid", N, _known(lambda p: p.euid), "effective user id", mutable=True),
    _user("user.name", S, "euid", 0, "effective user's name, from the host's passwd"),
    _user("user.homedir", S, "euid", 1, "effective user's home, from the host's passwd"),
    _user("user.shell", S, "euid", 2, "effective user's shell, from the host's passwd"),
    of_image("user.loginuid", N, _known(lambda p: _signed(p.loginuid)), "login uid, -1 for none"),
    _user("user.loginname", S, "loginuid", 0, "login user's name, from the host's passwd"),
    of_image("group.gid", N, _known(lambda p: p.egid), "effective group id", mutable=True),
    Field(
        "group.name",
        S,
        "effective group's name, from the host's group file",
        each(Where.IMAGE),
        image=_group_name,
        mutable=True,
    ),
)
