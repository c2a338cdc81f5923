"""fd.* of files, and fs.path.*: what the path of the object says.

fd.name, fd.directory and fd.filename are the kernel's own path; fd.nameraw is the caller's
text where the sensor has it.
"""

from __future__ import annotations

from typing import Any

from hullwatch.detect.fields.field import Field, Type, Where, each, of_event, of_row
from hullwatch.detect.names import O_DIRECTORY
from hullwatch.detect.row import Env, Event, Object, Row
from hullwatch.sensor.wire import Class, Mark

__all__ = ["FIELDS", "FILE_CLASSES", "directory", "filename"]

S, N, B = Type.STRING, Type.INT, Type.BOOL
_OPEN, _MMAP, _MPROTECT = int(Class.OPEN), int(Class.MMAP), int(Class.MPROTECT)
FILE_CLASSES = (_OPEN, _MMAP, _MPROTECT)
_DIR, _ATTEMPT = int(Mark.DIR), int(Mark.ATTEMPT)
_UPPER, _LOWER = int(Mark.UPPER), int(Mark.LOWER)
_OPENED = (_OPEN, _MMAP)
_FD_RESULT = tuple(int(c) for c in (Class.OPEN, Class.SOCKET, Class.ACCEPT, Class.DUP, Class.MEMFD))
O1, O2 = Where.OBJ, Where.OBJ2


def directory(path: str) -> str:
    """/etc for /etc/passwd, / for /etc, as fd.directory."""
    head, slash, _ = path.rpartition("/")
    return head or (slash and "/")


def filename(path: str) -> str:
    return path.rpartition("/")[2]


def is_directory(event: Event) -> bool:
    return bool(event.marks & _DIR or event.flags & O_DIRECTORY)


def _fd_num(event: Event) -> int:
    # Before the result (fanotify) the call is taken to succeed.
    if event.marks & _ATTEMPT:
        return 0
    return event.ret if event.ret >= 0 else -1


def _text(obj: Object, env: Env, arg: Any) -> str | None:
    return obj.text or None


def _directory(obj: Object, env: Env, arg: Any) -> str | None:
    return directory(obj.text) or None


def _filename(obj: Object, env: Env, arg: Any) -> str | None:
    return filename(obj.text) or None


def _path(name: str, doc: str, where: dict[int, Where]) -> Field:
    return Field(name, S, doc, where, object=_text, text=True)


# fs.path.* (libsinsp filter check "fspath"): the same for every call that takes paths.
_ONE_PATH = tuple(
    int(c)
    for c in (
        *(Class.OPEN, Class.UNLINK, Class.MKDIR, Class.RMDIR, Class.CHMOD, Class.CHOWN),
        *(Class.UMOUNT, Class.MOUNT),
    )
)
_TWO_PATHS = (int(Class.RENAME), int(Class.LINK))
_SYMLINK = (int(Class.SYMLINK),)
_FS_NAME = {**each(O1, _ONE_PATH), **each(O2, _TWO_PATHS), **each(O2, _SYMLINK)}
_FS_SOURCE = {**each(O1, _TWO_PATHS), **each(O1, _SYMLINK), **each(O2, (int(Class.MOUNT),))}
_FS_TARGET = {**each(O2, _TWO_PATHS), **each(O2, _SYMLINK), **each(O1, (int(Class.MOUNT),))}


def _device(row: Row, env: Env, arg: Any) -> int | None:
    return row.event.num2 if row.event.cls == _OPEN else None


def _joined(path: bool) -> Any:
    def read(row: Row, env: Env, arg: Any) -> str | None:
        from hullwatch.detect.fields.workload import container_id

        if row.event.cls not in FILE_CLASSES or row.obj is None:
            return None
        text = row.obj.text if path else directory(row.obj.text)
        return f"{container_id(row.workload)}:{text}"

    return read


FIELDS: tuple[Field, ...] = (
    of_event(
        "fd.num", N, _fd_num, "ret marks", "descriptor that the call returned, or -1", _FD_RESULT
    ),
    Field("fd.directory", S, "directory of the file", each(O1, FILE_CLASSES), object=_directory),
    Field(
        "fd.filename", S, "file name without directory", each(O1, FILE_CLASSES), object=_filename
    ),
    _path("fd.nameraw", "path as the caller gave it", {_OPEN: O2}),
    of_event("fd.ino", N, lambda e: e.num or None, "num", "inode", (_OPEN,)),
    of_event("fd.dev", N, lambda e: e.num2, "num2", "device number of the file system", (_OPEN,)),
    of_event("fd.dev.major", N, lambda e: e.num2 >> 20, "num2", "its major part", (_OPEN,)),
    of_event("fd.dev.minor", N, lambda e: e.num2 & 0xFFFFF, "num2", "its minor part", (_OPEN,)),
    of_event(
        "fd.is_upper_layer",
        B,
        lambda e: bool(e.marks & _UPPER),
        "marks",
        "the file came, or was changed, after the image: the overlay's writable layer has it",
        _OPENED,
    ),
    of_event(
        "fd.is_lower_layer",
        B,
        lambda e: bool(e.marks & _LOWER),
        "marks",
        "the file is as the image has it",
        _OPENED,
    ),
    of_row("fd.containername", S, _joined(True), "container id and path"),
    of_row("fd.containerdirectory", S, _joined(False), "container id and directory"),
    _path("evt.abspath", "same as fs.path.name", _FS_NAME),
    _path("evt.abspath.src", "same as fs.path.source", _FS_SOURCE),
    _path("evt.abspath.dst", "same as fs.path.target", _FS_TARGET),
    _path("fs.path.name", "path that the call acts on", _FS_NAME),
    _path("fs.path.nameraw", "same, as the caller gave it where known", {**_FS_NAME, _OPEN: O2}),
    _path("fs.path.source", "old path, or source of a link or mount", _FS_SOURCE),
    _path("fs.path.sourceraw", "same", _FS_SOURCE),
    _path("fs.path.target", "new path, or target of a link or mount", _FS_TARGET),
    _path("fs.path.targetraw", "same", _FS_TARGET),
)
