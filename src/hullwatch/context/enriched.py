"""What context hands on: a batch whose every row knows its process image and its workload.

Slots are small integers, so that a later stage keeps its own facts about a process or a workload
in arrays. A slot is reused only after a batch that names it in `released_*`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Protocol

import numpy as np

from hullwatch.context.calls import Calls
from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary

__all__ = ["Enriched", "ProcessImage", "Program", "Tables"]


@dataclass(slots=True, eq=False)
class Program:
    """What runs of one program in the same surroundings share: thousands of images, one of these.

    Two images with the same program differ in their own numbers (pid, times ...) and in ids that
    changed since; their ancestors, too, are the same but for that. Never changed once handed on.

    above: the parent's program. name: comm (15 bytes, as Falco's proc.name). exepath: the kernel's
    path. tty: dev_t, 0 = none. exe_ctime, exe_mtime: unix ns. uid ... egid, caps: at exec.
    """

    above: Program | None
    exec_id: int
    cgroup: int
    name: str
    exepath: str
    argv: tuple[str, ...]
    cwd: str
    env_names: tuple[str, ...]
    script: str
    uid: int
    gid: int
    euid: int
    egid: int
    loginuid: int
    tty: int
    cap_effective: int
    cap_permitted: int
    cap_inheritable: int
    namespaces: tuple[int, ...]  # pid, mnt, net, user, uts, ipc, cgroup inode numbers
    marks: int  # enum hw_proc_mark
    exe_ino: int
    exe_ctime: int
    exe_mtime: int
    known: bool  # False: made up because its exec and snapshot were never seen


def _shared(name: str) -> Any:
    return property(attrgetter("program." + name))


@dataclass(slots=True, eq=False)
class ProcessImage:
    """One program run by one process: made at exec (or fork, as a copy), never changed except
    for ids (uid ... egid, caps) which follow setid and capset events.

    parent: the parent's image when this process was made; None at the top.
    Times: started/exec_ts CLOCK_BOOTTIME ns.
    """

    slot: int
    key: int
    program: Program
    parent: ProcessImage | None
    workload: int
    pid: int
    vpid: int
    pgid: int
    vpgid: int
    sid: int
    started: int
    exec_ts: int
    uid: int
    gid: int
    euid: int
    egid: int
    cap_effective: int
    cap_permitted: int
    ended: int = 0  # CLOCK_BOOTTIME ns: exited, or ran another program; 0 = runs
    children: int = 0

    exec_id: ClassVar[int] = _shared("exec_id")
    cgroup: ClassVar[int] = _shared("cgroup")
    name: ClassVar[str] = _shared("name")
    exepath: ClassVar[str] = _shared("exepath")
    argv: ClassVar[tuple[str, ...]] = _shared("argv")
    cwd: ClassVar[str] = _shared("cwd")
    env_names: ClassVar[tuple[str, ...]] = _shared("env_names")
    script: ClassVar[str] = _shared("script")
    loginuid: ClassVar[int] = _shared("loginuid")
    tty: ClassVar[int] = _shared("tty")
    cap_inheritable: ClassVar[int] = _shared("cap_inheritable")
    namespaces: ClassVar[tuple[int, ...]] = _shared("namespaces")
    marks: ClassVar[int] = _shared("marks")
    exe_ino: ClassVar[int] = _shared("exe_ino")
    exe_ctime: ClassVar[int] = _shared("exe_ctime")
    exe_mtime: ClassVar[int] = _shared("exe_mtime")
    known: ClassVar[bool] = _shared("known")

    @property
    def exe(self) -> str:
        """argv[0]."""
        return self.argv[0] if self.argv else self.exepath

    @property
    def args(self) -> str:
        return " ".join(self.argv[1:])

    @property
    def cmdline(self) -> str:
        """As Falco: comm and the arguments."""
        return " ".join((self.name, *self.argv[1:])) if len(self.argv) > 1 else self.name

    @property
    def ppid(self) -> int:
        return self.parent.pid if self.parent else 0


class Processes(Protocol):
    def image(self, slot: int) -> ProcessImage: ...


class Workloads(Protocol):
    def workload(self, slot: int) -> Workload: ...


@dataclass(frozen=True, slots=True)
class Tables:
    """The look-ups that slots and dictionary ids refer to. Live: valid while a batch is handled."""

    dictionary: Dictionary
    processes: Processes
    workloads: Workloads
    calls: Calls = field(default_factory=Calls)


def _slots() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Enriched:
    """image, workload: int32[n] slots, one a row of batch.events. Slot 0 = unknown / the host.

    names: for rows with a destination, the domain name that the container resolved to it,
    {row: name}, only where known.
    released_*: slots whose content is no longer what it was; forget what you kept about them
    before you read this batch.
    """

    batch: Batch
    image: np.ndarray = field(default_factory=_slots)
    workload: np.ndarray = field(default_factory=_slots)
    names: dict[int, str] = field(default_factory=dict)
    released_images: tuple[int, ...] = ()
    released_workloads: tuple[int, ...] = ()
    tables: Tables | None = None
