"""Rings far too small, and nobody reading: what does not fit is counted, to the last event."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hullwatch.sensor.programs import RingSizes
from hullwatch.sensor.wire import Class, Mark, ProcMark, Stage, Verdict
from support.scratch import poll
from support.watch import Watch, missing_bpf, own_cgroup

# Each loads programs of its own, which takes seconds where it is emulated: there, one of each ring.
PAGE = 4096
BUSYBOX = shutil.which("busybox") or "busybox"


@contextmanager
def small(record: bool = True, **sizes: int) -> Iterator[Watch]:
    """A sensor with rings of these sizes."""
    if reason := missing_bpf():
        pytest.skip(reason)
    watch = Watch(record=record, rings=RingSizes(**sizes), keep_batches=True)
    try:
        yield watch
    finally:
        watch.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup(f"hwtest-overflow-{os.getpid()}") as folder:
        yield folder


@pytest.fixture
def other() -> Iterator[Path]:
    with own_cgroup(f"hwtest-overflow-other-{os.getpid()}") as folder:
        yield folder


def act_unread(
    watch: Watch, cgroup: Path, function: Callable[[], object], *, keep: bool = False
) -> None:
    """Run the function in a child in the cgroup; nothing is read until it has ended."""
    if not keep:
        watch.clear()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            function()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0


def all_told(watch: Watch, cgroup: Path, cls: int, stage: str, sent: int) -> tuple[int, int]:
    """Wait until events read and losses told are as many as were sent: (read, lost)."""
    ident = cgroup.stat().st_ino

    def told() -> tuple[int, int] | None:
        watch.pump()
        rows = watch.rows()
        read = int(((rows["cls"] == cls) & (rows["cgroup"] == ident)).sum())
        lost = sum(
            loss.count
            for loss in watch.losses
            if (loss.stage, loss.cls, loss.cgroup) == (stage, cls, ident)
        )
        assert read + lost <= sent, f"{read} read + {lost} lost of {sent}"
        return (read, lost) if read + lost == sent else None

    return poll(told, seconds=30, waiting_for=f"{sent} {Class(cls).name} events, read or lost")


@pytest.mark.scenario
def test_bulk_events(cgroup: Path):
    def flood() -> None:
        for _ in range(5000):
            os.close(os.open("/etc/passwd", os.O_RDONLY))

    with small(bulk=4 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        _, lost = all_told(watch, cgroup, Class.OPEN, "bulk", 5000)
        assert lost > 4000
        # The vital ring is another one: the story of the process is whole.
        assert watch.find("exit", cgroup=cgroup.stat().st_ino)
        # Once it is read again, nothing more is lost.
        watch.clear()
        act_unread(watch, cgroup, lambda: [os.open("/etc/passwd", os.O_RDONLY) for _ in range(20)])
        all_told(watch, cgroup, Class.OPEN, "bulk", 20)


@pytest.mark.scenario
def test_a_storm_hides_nobody_else(cgroup: Path, other: Path, tmp_path: Path):
    """What one cgroup floods the rings with, another one does not pay for: names and all."""
    folder = tmp_path.resolve()
    new = os.O_WRONLY | os.O_CREAT

    def flood() -> None:
        for i in range(2000):
            os.close(os.open(folder / f"{'n' * 180}-{i}", new))

    with small(bulk=32 * PAGE, strings=64 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        act_unread(
            watch,
            other,
            lambda: [os.open(folder / f"quiet-{i}", new) for i in range(20)],
            keep=True,
        )
        _, lost = all_told(watch, cgroup, Class.OPEN, "bulk", 2000)
        assert lost > 100
        all_told(watch, other, Class.OPEN, "bulk", 20)
        seen = watch.find("open", cgroup=other.stat().st_ino)
        assert [e.obj for e in seen] == [str(folder / f"quiet-{i}") for i in range(20)]


def test_repeats_are_counted_before_they_are_lost(cgroup: Path):
    """Detect mode, and nobody has answered yet: of what is the same, one event and a count."""

    def flood() -> None:
        for i in range(5000):
            os.close(os.open("/etc/passwd", os.O_RDONLY | (os.O_NOCTTY if i % 2 else 0)))

    with small(record=False, bulk=4 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        ident, counted = cgroup.stat().st_ino, 0

        def told() -> bool:
            nonlocal counted
            watch.pump()
            counted += sum(c.count for c in watch.sensor.verdicts.counted() if c.scope == ident)
            return len(watch.find("open", cgroup=ident)) + counted == 5000

        poll(told, seconds=30, waiting_for="5000 opens, read or counted")
        assert counted > 4000
        assert not [x for x in watch.losses if x.cgroup == ident]
        # Another way of opening it is another event.
        assert {e.flags & os.O_NOCTTY for e in watch.find("open", cgroup=ident)} == {0, os.O_NOCTTY}


def test_what_a_rule_is_about_is_not_crowded_out(cgroup: Path, tmp_path: Path):
    token = tmp_path.resolve() / "token"
    token.write_text("x")
    names = [tmp_path / f"{'n' * 180}-{i}" for i in range(3000)]

    def flood() -> None:
        for name in names:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
        os.open(token, os.O_RDONLY)

    with small(record=False, bulk=16 * PAGE) as watch:
        act_unread(watch, cgroup, lambda: os.open(token, os.O_RDONLY))
        all_told(watch, cgroup, Class.OPEN, "bulk", 1)
        ident, obj = cgroup.stat().st_ino, watch.find("open", obj=str(token))[0].string.id
        watch.sensor.verdicts.put(ident, obj, int(Class.OPEN), Verdict.REPORT)
        act_unread(watch, cgroup, flood)
        all_told(watch, cgroup, Class.OPEN, "bulk", len(names) + 1)
        assert watch.find("open", cgroup=ident, obj=str(token)), "by the ring of vital events"


@pytest.mark.scenario
def test_vital_events(cgroup: Path):
    def flood() -> None:
        for _ in range(500):
            if os.fork() == 0:
                os._exit(0)
            os.wait()

    with small(vital=PAGE) as watch:
        act_unread(watch, cgroup, flood)
        _, lost = all_told(watch, cgroup, Class.FORK, "vital", 500)
        assert lost > 400
        all_told(watch, cgroup, Class.EXIT, "vital", 501)


def test_process_images(cgroup: Path):
    def flood() -> None:
        for _ in range(100):
            os.spawnv(os.P_WAIT, BUSYBOX, ["busybox", "true"])

    with small(procs=4 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        _, lost = all_told(watch, cgroup, Class.EXEC, "proc", 100)
        assert lost > 20


def test_strings(cgroup: Path, tmp_path: Path):
    names = [f"{'n' * 200}-{i}" for i in range(1000)]

    def flood() -> None:
        for name in names:
            os.close(os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT))

    with small(strings=8 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        read, lost = all_told(watch, cgroup, Class.OPEN, "bulk", len(names))
        assert (read, lost) == (len(names), 0), "the events themselves had room"
        events = watch.find("open", cgroup=cgroup.stat().st_ino)
        without = [e for e in events if e.marks & Mark.STR_LOST]
        assert len(without) >= len(names) - 8 * PAGE // 224, "no more than the ring holds"
        assert all(e.obj == "" and e.string.id == 0 for e in without)
        told = [e for e in events if not e.marks & Mark.STR_LOST]
        paths = {e.obj for e in told}
        assert [e.obj for e in told] == [
            p for n in names if (p := f"{tmp_path.resolve()}/{n}") in paths
        ]

        def strings_lost() -> bool:
            watch.pump()
            return sum(x.count for x in watch.losses if x.stage == "string") >= len(without)

        poll(strings_lost, seconds=30, waiting_for="the count of lost strings")
        # A string that was lost is sent again on its next use.
        watch.clear()
        last = tmp_path.resolve() / names[-1]
        act_unread(watch, cgroup, lambda: os.open(last, os.O_RDONLY))
        all_told(watch, cgroup, Class.OPEN, "bulk", 1)
        assert watch.find("open", cgroup=cgroup.stat().st_ino)[0].obj == str(last)


@pytest.mark.scenario
def test_no_id_is_without_its_string(cgroup: Path, tmp_path: Path):
    def flood() -> None:
        for i in range(300):
            os.close(os.open(tmp_path / f"{'n' * 180}-{i}", os.O_WRONLY | os.O_CREAT))
            os.spawnv(os.P_WAIT, BUSYBOX, ["busybox", "true", f"argument {i}"])

    with small(strings=2 * PAGE, bulk=8 * PAGE, procs=64 * PAGE) as watch:
        act_unread(watch, cgroup, flood)
        all_told(watch, cgroup, Class.EXEC, "proc", 300)
        sent = {0}
        images = []
        for batch in watch.batches:
            sent |= {string.id for string in batch.strings}
            assert set(batch.events["obj"].tolist()) | set(batch.events["obj2"].tolist()) <= sent
            for column in ("exe", "argv", "cwd", "env", "script"):
                assert set(batch.procs[column].tolist()) <= sent
            images += [p for p in batch.procs if p["cgroup"] == cgroup.stat().st_ino]
        without = [p for p in images if p["argv"] == 0]
        assert without
        assert all(ProcMark(int(p["marks"])) & ProcMark.STR_LOST for p in without)


@pytest.mark.scenario
def test_packets(cgroup: Path):
    count = 300

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            for i in range(count):
                name = f"name{i:04}".encode()
                head = struct.pack(">6H", i, 0x0100, 1, 0, 0, 0)
                query = head + bytes([len(name)]) + name + b"\x00" + struct.pack(">HH", 1, 1)
                asking.sendto(query, ("127.0.0.53", 53))

    with small(packets=PAGE) as watch:
        act_unread(watch, cgroup, flood)
        _, lost = all_told(watch, cgroup, Class.DNS, "packet", count)
        assert lost > 100


def test_counts_of_containers_that_are_gone_make_room():
    """The kernel's table of losses is bounded; many cgroups must not make it nameless for ever."""
    key = struct.Struct("<QII")
    with small() as watch:
        table = watch.sensor._programs.object.map("losses")
        cgroups = range(1 << 50, (1 << 50) + 5000)

        def lose(cgroup: int, count: int) -> None:
            table.update(key.pack(cgroup, Class.OPEN, Stage.BULK), count.to_bytes(8, "little"))

        def mine(entry: bytes) -> bool:
            return key.unpack(entry)[0] in cgroups

        def told() -> Counter[int]:
            watch.pump()
            total = Counter[int]()
            for loss in watch.losses:
                total[loss.cgroup] += loss.count
            return Counter({cgroup: total[cgroup] for cgroup in cgroups if total[cgroup]})

        for cgroup in cgroups:
            lose(cgroup, 3)
        everyone = Counter(dict.fromkeys(cgroups, 3))
        poll(lambda: told() == everyone, seconds=30, waiting_for="5000 losses")
        poll(
            lambda: told() == everyone and not [k for k, _ in table.items() if mine(k)],
            seconds=30,
            waiting_for="room in the kernel's table",
        )
        lose(cgroups[7], 2)  # it loses again, in an entry made anew
        everyone[cgroups[7]] += 2
        poll(lambda: told() == everyone, seconds=30, waiting_for="one more loss")
