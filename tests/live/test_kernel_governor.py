"""The governor in the kernel: repeats and new strings become counts, and nothing else changes."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hullwatch.sensor.wire import Class
from support.scratch import poll
from support.watch import Child, Watch, call, missing_bpf, own_cgroup

pytestmark = pytest.mark.scenario

CLONE_NEWUTS = 0x4000000


@pytest.fixture(params=[True, False], ids=["record", "detect"])
def governed(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """A sensor of its own, at level 0."""
    if reason := missing_bpf():
        pytest.skip(reason)
    watch = Watch(record=request.param)
    try:
        yield watch
    finally:
        watch.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup(f"hwtest-governor-{os.getpid()}") as folder:
        yield folder


def act_in(watch: Watch, cgroup: Path, function: Callable[[], object]) -> Child:
    def inside() -> object:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        return function()

    return watch.act(inside)


def counted(watch: Watch, cgroup: Path) -> Counter[int]:
    """Class -> events that were counted in this cgroup since the last call."""
    scope, total = cgroup.stat().st_ino, Counter[int]()
    time.sleep(1.0)  # counts cross once a second
    watch.pump()
    for found in watch.sensor.verdicts.counted():
        if found.scope == scope:
            total[found.action & 0xFF] += found.count
    return total


def open_often(path: Path, times: int) -> None:
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY))


def test_level_1_turns_repeats_into_counts(governed: Watch, cgroup: Path, tmp_path: Path):
    files = [tmp_path.resolve() / f"file-{i}" for i in range(20)]
    for file in files:
        file.write_text("x")
    sent = {file: 2000 if i == 0 else 30 for i, file in enumerate(files)}

    def flood() -> None:
        for file, times in sent.items():
            open_often(file, times)
            call("unshare", CLONE_NEWUTS)
            if os.fork() == 0:
                os._exit(3)
            os.wait()

    governed.sensor.set_governed(1)
    assert governed.sensor.governed == 1
    counted(governed, cgroup)
    child = act_in(governed, cgroup, flood)
    counts = counted(governed, cgroup)
    told = 0
    for file, times in sent.items():
        seen = child.events("open", obj=str(file))
        assert 1 <= len(seen) < times, "the first one is always sent"
        told += len(seen)
    others = [e for e in child.events("open") if e.obj not in map(str, files)]
    assert told + counts[Class.OPEN] == sum(sent.values()), others
    # Vital events are untouched.
    assert len(child.events("unshare")) == len(child.events("fork")) == len(files)
    exits = [e for e in governed.find("exit", cgroup=cgroup.stat().st_ino) if e.ret == 3]
    assert len(exits) == len(files)

    governed.sensor.set_governed(0)
    child = act_in(governed, cgroup, lambda: open_often(files[0], 50))
    assert len(child.events("open", obj=str(files[0]))) == 50


def test_level_1_tells_each_program_and_each_action(governed: Watch, cgroup: Path, tmp_path: Path):
    """A rule may ask who did it: a repeat by another process is none."""
    file = tmp_path.resolve() / "file"
    file.write_text("x")
    governed.sensor.set_governed(1)
    for _ in range(5):
        child = act_in(
            governed, cgroup, lambda: [os.open(file, f) for f in (0, 0, os.O_RDWR, os.O_RDWR)]
        )
        assert len(child.events("open", obj=str(file))) == 2
    counts = counted(governed, cgroup)
    assert counts[Class.OPEN] == 10


def test_level_1_takes_pairs_of_names_as_one(governed: Watch, cgroup: Path, tmp_path: Path):
    a, b = tmp_path.resolve() / "a", tmp_path.resolve() / "b"
    a.write_text("x")

    def flood() -> None:
        for _ in range(100):
            a.rename(b)
            b.rename(a)

    governed.sensor.set_governed(1)
    child = act_in(governed, cgroup, flood)
    seen = child.events("rename")
    assert {(e.obj, e.obj2) for e in seen} == {(str(a), str(b)), (str(b), str(a))}
    counts = counted(governed, cgroup)
    assert len(seen) + counts[Class.RENAME] == 200


def test_level_2_counts_events_with_new_strings(governed: Watch, cgroup: Path, tmp_path: Path):
    folder = tmp_path.resolve()
    names = [f"new-{i:04}" for i in range(500)]
    known = folder / "known"
    known.write_text("x")

    def flood() -> None:
        for name in names:
            os.close(os.open(folder / name, os.O_WRONLY | os.O_CREAT))
            with contextlib.suppress(OSError):
                os.open(folder / name / "below", os.O_RDONLY)
        open_often(known, 3)
        for _ in range(10):
            call("unshare", CLONE_NEWUTS)
        os.memfd_create("a name never seen before")

    act_in(governed, cgroup, lambda: open_often(known, 1))
    governed.sensor.set_governed(2)
    child = act_in(governed, cgroup, flood)
    ident = cgroup.stat().st_ino

    def told() -> int:
        governed.pump()
        return sum(
            loss.count
            for loss in governed.losses
            if (loss.stage, loss.cls, loss.cgroup) == ("governed", int(Class.OPEN), ident)
        )

    poll(lambda: told() or None, seconds=30, waiting_for="the count of what was not sent")
    seen = [e for e in child.events("open") if "/new-" in e.obj]
    assert not seen
    assert told() >= 2 * len(names)
    assert child.events("open", obj=str(known)), "what is known is still sent"
    assert len(child.events("unshare")) == 10
    assert child.event("memfd").obj == "a name never seen before", "strings of vital events are"

    governed.sensor.set_governed(0)
    child = act_in(governed, cgroup, lambda: [os.open(folder / n, os.O_RDONLY) for n in names])
    assert [e.obj for e in child.events("open")][-len(names) :] == [str(folder / n) for n in names]
