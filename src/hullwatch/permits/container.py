"""A container whose opens and execs are asked about: where it is, which of its mounts are marked,
and what its files are called inside.

Everything is read of the kernel: the cgroup, the mount namespaces of its processes, the path of an
opened file. Nothing follows a symbolic link out of the container.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hullwatch.decide.question import Value
from hullwatch.decide.schema import clean
from hullwatch.sensor.fanotify import Group
from hullwatch.sensor.identities import Key
from hullwatch.sensor.mounts import MAX_MOUNTINFO, Mount, mount_id, plan, read_mounts, resolve

__all__ = [
    "Guard",
    "GuardError",
    "Opened",
    "cgroup_path",
    "cgroup_text",
    "files_named",
    "host_mounts",
]

MAX_SPACES = 64  # mount namespaces of one container
MAX_PIDS = 4096  # that are looked at for further mount namespaces
MAX_FOUND, MAX_WALKED, MAX_DEPTH = 512, 4096, 8  # files of one pattern
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NOT_WALKED = ("/proc/", "/sys/", "/dev/")
_LOADER = re.compile(r"(?:/usr)?/lib[0-9a-z]*/(?:[0-9a-z_-]+/)?ld[-.0-9a-z_]*\.so(?:\.[0-9]+)*")
_DELETED = " (deleted)"


class GuardError(Exception):
    """A container that cannot be guarded: why."""


class NotYet(GuardError):
    """Its runtime has not given it its root folder yet: try again."""


class Opened(NamedTuple):
    """What an event's descriptor is. path: as the container sees it."""

    path: str
    key: Key

    @classmethod
    def of(cls, fd: int) -> Opened:
        path = os.readlink(f"/proc/self/fd/{fd}")
        about = os.fstat(fd)
        if not about.st_nlink:
            path = path.removesuffix(_DELETED)
        return cls(path, (about.st_dev, about.st_ino))


class _Space:
    """A mount namespace, held by what the kernel says of it: later changes of a process's root do
    not narrow what is seen."""

    def __init__(self, pid: int) -> None:
        """OSError."""
        self.root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        try:
            self.fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self.root)
            raise

    def mounts(self) -> list[Mount]:
        os.lseek(self.fd, 0, os.SEEK_SET)
        data = b""
        while len(data) < MAX_MOUNTINFO and (piece := os.read(self.fd, 1 << 16)):
            data += piece
        return read_mounts(data.decode("utf-8", "surrogateescape"))

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.root)


class Guard:
    """cgroup: its path in cgroup v2, or one below it; all below it count. facts: of the context,
    the same for all of its questions. image: whose baseline counts. NotYet, GuardError. gaps: what
    of it cannot be watched."""

    def __init__(
        self,
        container: str,
        name: str,
        cgroup: str,
        facts: Mapping[str, Value],
        v2_root: str,
        host: Collection[Mount],
        image: str = "",
    ) -> None:
        self.container = container
        self.know(name, facts, image)
        self.base = _base(cgroup, container)
        self.gaps: tuple[str, ...] = ()
        self.mask = 0
        self._folder = Path(v2_root + self.base)
        self._upper = -1
        self._spaces: dict[int, _Space] = {}
        self._others: set[int] = set()  # devices that are not its root's
        self._roots: set[int] = set()  # mounts that are
        self._marked: dict[tuple[bool, int], int] = {}  # whole file system?, device or mount: mask
        self._hosts = {_space_of(own) for own in ("self", "1")}
        if not self.base.strip("/") or not self._folder.is_dir():
            raise GuardError(f"{name}: it has no cgroup of its own, or has ended: {self.base}")
        self._enter({(one.device, one.root) for one in host if _is_root(one)})
        self._upper = self._upper_folder()

    def _enter(self, host_roots: Collection[tuple[int, str]]) -> None:
        """The mount namespace of its first process that has a root folder of its own. What a
        runtime has there before is as it began: on the host, or with a copy of its mounts."""
        for pid in self.pids():
            space = _space_of(str(pid))
            if not space or space in self._hosts:
                continue
            with contextlib.suppress(OSError):
                found = _Space(pid)
                roots = {(one.device, one.root) for one in found.mounts() if _is_root(one)}
                if roots and roots.isdisjoint(host_roots):
                    self._spaces[space] = found
                    return
                found.close()
        raise NotYet(f"{self.name}: none of its processes has mounts and a root folder of its own")

    def know(self, name: str, facts: Mapping[str, Value], image: str) -> None:
        self.name, self.image = name, image
        self.facts: dict[str, Value] = {**facts, "container": name}

    @property
    def watched(self) -> list[int]:
        """Descriptors that become exceptional when something is mounted in it."""
        return [space.fd for space in self._spaces.values()]

    @property
    def root(self) -> int:
        """A descriptor of its root folder."""
        return next(iter(self._spaces.values())).root

    def devices(self) -> set[int]:
        """Of file systems that are marked as a whole."""
        return {number for whole, number in self._marked if whole}

    # --- its processes --------------------------------------------------------------------

    def pids(self) -> Iterator[int]:
        """At most 4,096."""
        left = MAX_PIDS
        for folder, _, _ in os.walk(self._folder):
            try:
                lines = Path(folder, "cgroup.procs").read_text().split()
            except OSError:
                continue
            for line in lines[:left]:
                yield int(line)
            left -= len(lines)
            if left <= 0:
                return

    def look_for_spaces(self) -> tuple[bool, bool]:
        """(whether a process lives, whether one has a mount namespace that was not known)."""
        alive = new = False
        for pid in self.pids():
            alive = True
            space = _space_of(str(pid))
            known = not space or space in self._spaces or space in self._hosts
            if not known and len(self._spaces) < MAX_SPACES:
                with contextlib.suppress(OSError):
                    self._spaces[space] = _Space(pid)
                    new = True
        return alive, new

    # --- its mounts -----------------------------------------------------------------------

    def follow(
        self,
        group: Group,
        mask: int,
        host: Collection[Mount],
        others: Callable[[int], int] = lambda device: 0,
    ) -> None:
        """Mark what is mounted now. others: what other guards want of a whole file system."""
        self.mask = mask
        gaps: dict[str, None] = {}
        marked: dict[tuple[bool, int], int] = {}
        for number, space in enumerate(self._spaces.values()):
            mounts = space.mounts()
            made = plan(mounts, host, late=number > 0)
            gaps |= dict.fromkeys(made.gaps)
            for whole, some in ((True, made.filesystems), (False, made.mounts)):
                for one in some:
                    key = (whole, one.device if whole else one.id)
                    before = self._marked.get(key, 0)
                    kept = others(one.device) if whole else 0
                    problem = _mark(group, space, one, mask, before & ~mask & ~kept, whole)
                    if problem:
                        gaps[f"{one.point} ({one.kind}: {problem})"] = None
                    else:
                        marked[key] = mask
            self._others |= {one.device for one in mounts if not _is_root(one)}
            self._roots |= {one.id for one in mounts if _is_root(one)}
        self._marked = marked
        self.gaps = tuple(map(clean, gaps))[:64] if mask else ()

    def release(self, group: Group, host: Collection[Mount], others: Callable[[int], int]) -> None:
        with contextlib.suppress(OSError):
            self.follow(group, 0, host, others)
        self.close()

    def close(self) -> None:
        for space in self._spaces.values():
            space.close()
        self._spaces.clear()
        if self._upper >= 0:
            os.close(self._upper)
            self._upper = -1

    # --- its files ------------------------------------------------------------------------

    def in_upper(self, opened: Opened, fd: int) -> bool | None:
        """Whether the container's writable layer has it; None: what it is in has no layers.

        Asked by name, as the kernel tells it no other way: if the name changed while it was looked
        up, it is taken to be there."""
        if self._upper < 0 or opened.key[0] in self._others:
            return None
        try:
            found = resolve(self._upper, opened.path, beneath=True)
        except OSError:
            return Opened.of(fd) != opened
        try:
            about = os.fstat(found)
        finally:
            os.close(found)
        return not (stat.S_ISCHR(about.st_mode) and about.st_rdev == 0)  # a whiteout

    def is_script(self, fd: int) -> bool:
        """Whether it begins as one. Only what is in its root file system is looked at: another may
        let whoever reads wait."""
        with contextlib.suppress(OSError):
            return mount_id(fd) in self._roots and os.pread(fd, 2, 0) == b"#!"
        return False

    def is_loader(self, opened: Opened, fd: int) -> bool:
        """Whether it is what the kernel opens with each program that is linked when it starts, as
        the image has it."""
        return _LOADER.fullmatch(opened.path) is not None and not self.in_upper(opened, fd)

    def _upper_folder(self) -> int:
        """-1: no overlay, or none that can be found from here."""
        for space in self._spaces.values():
            for one in space.mounts():
                if _is_root(one) and one.kind == "overlay" and one.upper.startswith("/"):
                    try:
                        return os.open(one.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    except OSError:
                        return -1
        return -1


def _mark(group: Group, space: _Space, one: Mount, mask: int, drop: int, whole: bool) -> str:
    """What did not work; ''. Nothing where it was unmounted, or mounted over, meanwhile."""
    try:
        fd = resolve(space.root, one.point)
    except OSError:
        return ""
    try:
        if mount_id(fd) != one.id:
            return ""
        if mask:
            group.mark(fd, mask, filesystem=whole)
        if drop:
            group.unmark(fd, drop, filesystem=whole)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)
    return ""


def _is_root(one: Mount) -> bool:
    return one.point == "/"


def _space_of(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def host_mounts() -> list[Mount]:
    """Of our own namespace and of process 1's, which is another where the agent is in a container:
    on a file system that is here, too, nobody may be made to wait."""
    found: list[Mount] = []
    for pid in ("self", "1"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
            found += read_mounts(text)
    return found


def cgroup_text(thread: int) -> bytes:
    """/proc/TID/cgroup; empty where it has ended."""
    try:
        fd = os.open(f"/proc/{thread}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 8192)
    except OSError:
        return b""
    finally:
        os.close(fd)


def cgroup_path(text: bytes) -> str:
    """The path in cgroup v2; '' where there is none."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::"):
            return line[3:].decode("utf-8", "surrogateescape")
    return ""


def _base(path: str, container: str) -> str:
    """The container's own cgroup, where the path is one below it."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if container and container in part:
            return "/".join(parts[: at + 1])
    return path


# --- files that policies name -------------------------------------------------------------


def files_named(root: int, texts: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(descriptor, name) of files there are now that a policy's text names by a path, or a pattern
    that begins with one. The name is the policy's. The receiver closes.

    May take as long as a file system takes to answer."""
    wanted = {found[1] for text in texts for found in _TEXT.finditer(text)}
    for pattern in sorted(wanted):
        if pattern[:1] != "/" or "\\" in pattern or pattern.startswith(_NOT_WALKED):
            continue
        for name in _expanded(root, pattern):
            try:
                fd = resolve(root, name, links=True)
            except OSError:
                continue
            if stat.S_ISREG(os.fstat(fd).st_mode):
                yield fd, name
            else:
                os.close(fd)


def _expanded(root: int, pattern: str) -> Iterator[str]:
    start, star, _ = pattern.partition("*")
    if not star:
        yield pattern
        return
    folder = start.rpartition("/")[0]
    if not folder:
        return  # all there is: learnt as it is opened
    fits = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch
    left = MAX_FOUND
    for name in _walk(root, folder):
        if fits(name):
            yield name
            left -= 1
            if not left:
                return


def _walk(root: int, folder: str) -> Iterator[str]:
    todo, walked = [(folder, 0)], 0
    while todo:
        here, depth = todo.pop()
        try:
            fd = resolve(root, here, links=True)
        except OSError:
            continue
        try:
            with os.scandir(f"/proc/self/fd/{fd}") as entries:
                for entry in entries:
                    walked += 1
                    if walked > MAX_WALKED:
                        return
                    name = f"{here}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                        todo.append((name, depth + 1))
                    else:
                        yield name
        except OSError:
            continue
        finally:
            os.close(fd)
