"""The process table: images follow exec and fork, lineage survives, slots come back when safe."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.enriched import ProcessImage
from hullwatch.context.processes import ProcessTable
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.wire import EVENT, PROC, Class, StrKind

SECOND = 1_000_000_000


def key(pid: int, start: int) -> int:
    return (start >> 16) << 22 | pid


class Nothing(dict[Any, Any]):
    """Remembers nothing."""

    def __setitem__(self, at: Any, value: Any) -> None:
        pass


class Stream:
    """Builds batches by hand: each call adds one event, `send` applies them."""

    def __init__(self, **limits: int) -> None:
        self.table = ProcessTable(**limits)
        self.words = Dictionary()
        self.now = SECOND
        self._ids: dict[tuple[int, bytes], int] = {}
        self._strings: list[String] = []
        self._events: list[np.ndarray] = []
        self._procs: list[np.ndarray] = []

    def word(self, kind: int, data: bytes) -> int:
        if (kind, data) not in self._ids:
            ident = self._ids[kind, data] = 2 * len(self._ids) + 2
            self._strings.append(String(ident, kind, 0, len(data), data))
        return self._ids[kind, data]

    def event(self, cls: int, proc: int, **fields: int) -> None:
        self.now += 1000
        row = np.zeros(1, EVENT)
        row["ts"], row["cls"], row["proc"], row["cgroup"] = self.now, cls, proc, 7
        for name, value in fields.items():
            row[name] = value
        self._events.append(row)

    def run(
        self, proc: int, argv: bytes, parent: int = 0, cls: int = Class.EXEC, **fields: int
    ) -> None:
        self.event(cls, proc)
        row = np.zeros(1, PROC)
        row["ts"], row["cls"], row["proc"], row["parent"] = self.now, cls, proc, parent
        row["pid"] = proc & 0x3FFFFF
        row["exe"] = self.word(StrKind.PATH, b"/bin/" + argv.split(b"\0")[0])
        row["argv"] = self.word(StrKind.ARGV, argv)
        row["comm"] = argv.split(b"\0")[0]
        row["start"] = (proc >> 22) << 16
        for name, value in fields.items():
            row[name] = value
        self._procs.append(row)

    def fork(self, parent: int, child: int) -> None:
        self.event(Class.FORK, parent, num=child)

    def exit(self, proc: int) -> None:
        self.event(Class.EXIT, proc)

    def send(self) -> np.ndarray:
        events = np.concatenate(self._events) if self._events else np.empty(0, EVENT)
        procs = np.concatenate(self._procs) if self._procs else np.empty(0, PROC)
        batch = Batch(events=events, procs=procs, strings=tuple(self._strings), drained=self.now)
        self._events, self._procs, self._strings = [], [], []
        self.words.add(batch.strings)
        self.released = self.table.release(self.now)
        return self.table.apply(batch, self.words)


def test_events_belong_to_the_program_that_ran_at_the_time() -> None:
    s = Stream()
    shell, child = key(10, SECOND), key(11, 2 * SECOND)
    s.run(shell, b"sh")
    s.fork(shell, child)
    s.event(Class.OPEN, child)  # still a copy of the shell
    s.run(child, b"cat\0/etc/passwd", parent=shell)
    s.event(Class.OPEN, child)
    s.event(Class.OPEN, shell)
    names = [s.table.image(int(slot)).cmdline for slot in s.send()]
    assert names == ["sh", "sh", "sh", "cat /etc/passwd", "cat /etc/passwd", "sh"]


def test_a_failed_exec_is_an_act_of_what_went_on_running() -> None:
    s = Stream()
    shell, child = key(10, SECOND), key(11, 2 * SECOND)
    s.run(shell, b"sh")
    s.event(Class.EXEC_FAILED, shell, ret=-2)
    s.event(Class.OPEN, shell)
    s.fork(shell, child)
    s.event(Class.EXEC_FAILED, child, ret=-2)  # along PATH
    s.event(Class.EXEC_FAILED, child, ret=-2)
    s.run(child, b"ls", parent=shell)
    slots = s.send().tolist()
    assert [s.table.image(slot).name for slot in slots] == ["sh"] * 6 + ["ls"]
    assert slots[0] == slots[1] == slots[2] and slots[4] == slots[5]
    parent = s.table.image(slots[6]).parent
    assert parent is not None and parent.name == "sh"


def test_a_child_that_forks_before_it_does_anything_else_is_known() -> None:
    s = Stream()
    runtime, stage, child = key(10, SECOND), key(11, 2 * SECOND), key(12, 3 * SECOND)
    s.run(runtime, b"runc")
    s.fork(runtime, stage)
    s.event(Class.SETNS, stage)
    s.fork(stage, child)
    s.run(child, b"app")
    names = [s.table.image(int(slot)).name for slot in s.send()]
    assert names == ["runc", "runc", "runc", "runc", "app"] and s.table.unknown_made == 0


def test_a_snapshot_finds_parents_in_any_order() -> None:
    s = Stream()
    child, parent = key(10, 9 * SECOND), key(900, SECOND)
    s.run(child, b"tool", parent=parent, cls=Class.TASK)
    s.run(parent, b"agent", parent=key(1, 0), cls=Class.TASK)
    tool = s.table.image(int(s.send()[0]))
    assert tool.parent is not None and tool.parent.name == "agent"


def test_a_fork_that_never_acts_makes_no_image_until_it_ends() -> None:
    s = Stream()
    s.run(key(10, SECOND), b"sh")
    for pid in range(100, 200):
        s.fork(key(10, SECOND), key(pid, 2 * SECOND))
    s.send()
    assert len(s.table) == 2 and s.table.stats()["forked"] == 100


def test_lineage_survives_the_parents_end_and_pid_reuse() -> None:
    s = Stream()
    first, again, child = key(10, SECOND), key(10, 900 * SECOND), key(11, 2 * SECOND)
    s.run(first, b"agent")
    s.fork(first, child)
    s.run(child, b"tool", parent=first)
    s.exit(first)
    s.send()
    s.now += 3600 * SECOND
    s.run(again, b"stranger")  # the same pid, another process
    s.event(Class.OPEN, child)
    slots = s.send()
    tool = s.table.image(int(slots[1]))
    assert tool.name == "tool" and tool.parent is not None and tool.parent.name == "agent"
    assert s.table.image(int(slots[0])).name == "stranger"
    assert tool.parent.slot not in s.released, "an ancestor of a living process keeps its slot"


def test_ended_processes_are_released_after_grace_and_descendants() -> None:
    s = Stream()
    parent, child = key(10, SECOND), key(11, 2 * SECOND)
    s.run(parent, b"sh")
    s.fork(parent, child)
    s.run(child, b"ls", parent=parent)
    s.exit(child)
    s.exit(parent)
    s.send()
    held = len(s.table)
    s.send()
    assert len(s.table) == held, "within the grace period late events still find them"
    for _ in range(3):
        s.now += 60 * SECOND
        s.send()
    assert len(s.table) == 1 and s.table.stats()["living"] == 0


def test_the_number_of_ended_images_is_bounded() -> None:
    s = Stream(max_ended=50)
    s.run(key(10, SECOND), b"sh")
    for pid in range(100, 1100):
        child = key(pid, 2 * SECOND + pid * 100_000)
        s.fork(key(10, SECOND), child)
        s.run(child, b"true", parent=key(10, SECOND))
        s.exit(child)
        s.send()
    assert len(s.table) < 60
    assert s.table.evicted_early > 900, "and that it happened early is counted"


def test_a_process_never_seen_before_is_made_up_and_counted() -> None:
    s = Stream()
    s.event(Class.OPEN, key(77, 5 * SECOND))
    image = s.table.image(int(s.send()[0]))
    assert (image.pid, image.known, s.table.unknown_made) == (77, False, 1)


def test_setid_and_capset_change_the_living_image() -> None:
    s = Stream()
    proc = key(10, SECOND)
    s.run(proc, b"su")
    s.event(Class.SETID, proc, num2=(1000 << 32) | 1001, flags=1000)
    s.event(Class.CAPSET, proc, num=5, num2=7)
    s.event(Class.SETID, proc, num2=0, ret=-1)  # failed: changes nothing
    image = s.table.image(int(s.send()[0]))
    assert (image.uid, image.gid, image.euid) == (1000, 1001, 1000)
    assert (image.cap_effective, image.cap_permitted) == (5, 7)


def test_a_child_whose_first_act_is_to_drop_its_rights_has_dropped_them() -> None:
    s = Stream()
    parent, child = key(10, SECOND), key(11, 2 * SECOND)
    s.run(parent, b"server")
    s.fork(parent, child)
    s.event(Class.SETID, child, num2=(33 << 32) | 33, flags=33)
    s.event(Class.OPEN, child)
    above, _, changed, image = (s.table.image(int(slot)) for slot in s.send())
    assert changed is image and image is not above
    assert (image.uid, image.euid, image.name, above.uid) == (33, 33, "server", 0)


def test_what_runs_the_same_shares_one_program() -> None:
    s = Stream()
    shell, other = key(10, SECOND), key(11, SECOND)
    s.run(shell, b"sh")
    s.run(other, b"bash")
    children = [key(pid, 2 * SECOND + pid * 100_000) for pid in range(100, 105)]
    for child in children[:4]:
        s.fork(shell, child)
        s.run(child, b"true", parent=shell)
    s.fork(other, children[4])
    s.run(children[4], b"true", parent=other)
    s.send()
    one, two, *_, elsewhere = (s.table.current(child) for child in children)
    assert one is not None and two is not None and elsewhere is not None
    assert one.program is two.program and (one.pid, two.pid) == (100, 101)
    assert one.program is not elsewhere.program, "another parent is another surrounding"
    assert (one.name, elsewhere.name) == ("true", "true")
    s.event(Class.SETID, children[0], num2=(5 << 32) | 5, flags=5)
    s.send()
    assert (one.euid, two.euid) == (5, 0)


def test_a_child_that_forks_and_then_runs_something_was_a_copy_before() -> None:
    s = Stream()
    shell, child, grandchild = (key(pid, SECOND * pid) for pid in (10, 11, 12))
    s.run(shell, b"sh")
    s.fork(shell, child)
    s.fork(child, grandchild)
    s.run(child, b"true", parent=shell)
    names = [s.table.image(int(slot)).name for slot in s.send()]
    assert names == ["sh", "sh", "sh", "true"]


def _facts(image: ProcessImage | None) -> list[tuple[object, ...]]:
    """All that is known of an image and its ancestors."""
    found: list[tuple[object, ...]] = []
    while image is not None and len(found) < 20:  # a snapshot may say anything, a circle too
        of = image.program
        found.append(
            tuple(getattr(image, name) for name in image.__slots__ if name not in _REFERENCES)
            + tuple(getattr(of, name) for name in of.__slots__ if name != "above")
        )
        assert of.above is (image.parent.program if image.parent else None)
        image = image.parent
    return found


_REFERENCES = ("program", "parent")
NUMBERS = ("uid", "tty", "tid", "ppid", "marks", "vpid", "sid", "vsid", "exe_ino", "ns_net")
STEPS = st.tuples(
    st.sampled_from(("run", "task", "fork", "exit", "setid", "open", "send")),
    st.integers(1, 6),
    st.integers(1, 6),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_shared_programs_say_the_same_as_single_ones(steps: list[tuple[str, int, int]]) -> None:
    shared, single = Stream(max_ended=4), Stream(max_ended=4)
    single.table._programs = Nothing()
    for what, a, b in [*steps, ("open", 1, 1), ("send", 0, 0)]:
        one, other = key(a, a * SECOND), key(b, b * SECOND)
        slots = []
        for s in (shared, single):
            if what in ("run", "task"):
                cls = Class.EXEC if what == "run" else Class.TASK
                s.run(one, b"p%d" % (a % 2), other, cls, **dict.fromkeys(NUMBERS, b % 3))
            elif what == "fork":
                s.fork(one, other)
            elif what == "exit":
                s.exit(one)
            elif what == "setid":
                s.event(Class.SETID, one, num2=b << 32, flags=b)
            elif what == "open":
                s.event(Class.OPEN, one)
            else:
                s.now += SECOND
                slots.append(s.send().tolist())
        if slots:
            assert slots[0] == slots[1]
            for slot in slots[0]:
                assert _facts(shared.table.image(slot)) == _facts(single.table.image(slot))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(1, 12)), max_size=80))
def test_any_order_of_events_keeps_the_table_whole(story: list[tuple[int, int, int]]) -> None:
    s = Stream(max_ended=4)
    for step, (what, a, b) in enumerate(story):
        one, other = key(a, a * SECOND), key(b, b * SECOND)
        if what == 0:
            s.run(one, b"p%d" % a, parent=other)
        elif what == 1:
            s.fork(one, other)
        elif what == 2:
            s.exit(one)
        else:
            s.event(Class.OPEN, one)
        if step % 5 == 0:
            s.now += 20 * SECOND
            slots = s.send()
            for slot in slots:
                assert s.table.image(int(slot)).children >= 0
    s.send()
    images = [image for image in s.table._images if image is not None]
    for image in images:
        assert s.table.image(image.slot) is image
        if image.parent is not None:
            assert image.parent in images, "a parent that is referred to is never dropped"
