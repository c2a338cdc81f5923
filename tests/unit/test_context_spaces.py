"""Namespaces by pid: as the kernel told, and only of who still runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from hullwatch.context import spaces as module
from hullwatch.context.enrich import Context
from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.spaces import NAMESPACES, Spaces
from hullwatch.context.workload import Creator
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.wire import EVENT, PROC, Class, StrKind


def rows(*processes: tuple[int, int, int]) -> np.ndarray:
    """(pid, start, first inode; the others follow) each."""
    made = np.zeros(len(processes), PROC)
    for row, (pid, start, inode) in zip(made, processes, strict=True):
        row["pid"], row["proc"] = pid, start << 22 | pid
        for i, name in enumerate(NAMESPACES):
            row[name] = inode + i
    return made


def test_told_by_the_kernel() -> None:
    spaces = Spaces()
    spaces.began(rows((1, 1, 100), (7, 2, 200)))
    assert [spaces.of(7, name) for name in ("pid", "mnt", "net", "cgroup")] == [200, 201, 202, 206]
    assert spaces.host("net") == 102
    spaces.ended([2 << 22 | 7])
    assert len(spaces) == 1


def test_a_pid_that_is_another_process_by_now_stays() -> None:
    spaces = Spaces()
    spaces.began(rows((7, 2, 200)))
    spaces.began(rows((7, 3, 300)))
    spaces.ended([2 << 22 | 7])
    assert spaces.of(7, "pid") == 300


def test_bounded(monkeypatch) -> None:
    monkeypatch.setattr(module, "_MAX_PROCESSES", 3)
    spaces = Spaces()
    for pid in range(10, 20):
        spaces.began(rows((pid, 1, pid)))
    assert len(spaces) == 3 and spaces.of(19, "pid") == 19


def test_else_proc_tells(tmp_path: Path) -> None:
    ours = Path("/proc/self/ns/net").stat().st_ino
    assert Spaces().of(os.getpid(), "net") == ours
    assert Spaces().of(os.getpid(), "net", str(tmp_path)) is None
    # Process 1 may not be seen: ours, then.
    assert Spaces().host("net", str(tmp_path)) == ours


class Resolver(RecordedResolver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.spaces = Spaces()
        self.creators: list[Creator | None] = []

    def began(self, procs: np.ndarray) -> None:
        self.spaces.began(procs)

    def ended(self, keys: list[int]) -> None:
        self.spaces.ended(keys)

    def submit(self, cgroup: int, path: str, creator: Creator | None) -> None:
        self.creators.append(creator)


def test_batches_tell_of_starts_ends_and_the_creators_mount_namespace() -> None:
    source = Resolver()
    procs = rows((7, 2, 200), (8, 2, 300))
    procs["cls"] = int(Class.EXEC)
    procs["ts"] = 5
    events = np.zeros(4, EVENT)
    events["proc"][:] = [2 << 22 | 7, 2 << 22 | 8, 2 << 22 | 7, 2 << 22 | 8]
    kinds = (Class.EXEC, Class.EXEC, Class.CGROUP_MKDIR, Class.EXIT)
    events["cls"][:] = [int(kind) for kind in kinds]
    events["ts"][:] = [5, 5, 6, 7]
    events["obj"][2], events["num"][2] = 2, 99
    text = String(2, int(StrKind.PATH), 0, 2, b"/c")
    Context(source).enrich(Batch(events=events, procs=procs, strings=(text,), drained=8))
    (creator,) = source.creators
    assert creator is not None and (creator.pid, creator.mnt_ns) == (7, 201)
    assert source.spaces.of(7, "mnt") == 201 and len(source.spaces) == 1
