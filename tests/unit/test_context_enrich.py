"""Context joins slots to rows, waits for metadata within bounds, and learns names."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from hullwatch.context.enrich import Context
from hullwatch.context.enriched import Enriched
from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.wire import EVENT, PROC, Class, StrKind

SECOND = 1_000_000_000


def value(cgroup: int, state: Literal["host", "pending", "resolved"]) -> Workload:
    return Workload(cgroup=cgroup, cgroup_path=f"/c{cgroup}", state=state, container_id="c" * 64)


def batch(*rows: dict[str, int], at: int, strings: tuple[String, ...] = ()) -> Batch:
    events = np.zeros(len(rows), EVENT)
    for event, fields in zip(events, rows, strict=True):
        event["ts"] = at
        for name, field in fields.items():
            event[name] = field
    return Batch(events=events, strings=strings, drained=at)


def rows_of(parts: list[Enriched]) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for part in parts:
        assert part.tables is not None
        for event, slot in zip(part.batch.events, part.workload, strict=True):
            found.append((int(event["num"]), part.tables.workloads.workload(int(slot)).state))
    return found


def test_events_wait_for_their_container_and_not_for_ever() -> None:
    source = RecordedResolver([value(5, "host"), value(9, "pending")])
    context = Context(source)
    opened = {"cls": int(Class.OPEN), "proc": 1 << 22}
    first = context.enrich(
        batch({**opened, "cgroup": 9, "num": 1}, {**opened, "cgroup": 5, "num": 2}, at=SECOND)
    )
    assert rows_of(first) == [(2, "host")] and context.holding() == 1
    source.add([value(9, "resolved")])
    second = context.enrich(batch({**opened, "cgroup": 5, "num": 3}, at=SECOND + 1000))
    assert rows_of(second) == [(1, "resolved"), (3, "host")] and context.holding() == 0

    source.add([value(11, "pending")])
    context.enrich(batch({**opened, "cgroup": 11, "num": 4}, at=2 * SECOND))
    # The resolver has said "unknown" long before; should it hang, nothing waits for it.
    assert rows_of(context.enrich(batch(at=8 * SECOND))) == []
    late = context.enrich(batch(at=18 * SECOND))
    assert rows_of(late) == [(4, "pending")], "it goes on, and says that it is pending"
    assert context.gave_up_waiting == 1


def test_a_resolver_that_is_behind_is_waited_for_but_not_for_ever() -> None:
    source = RecordedResolver([value(11, "pending")])
    context = Context(source)
    context.enrich(batch({"cls": int(Class.OPEN), "proc": 1 << 22, "cgroup": 11, "num": 4}, at=0))
    for second in (10, 20, 30, 40, 50):  # it answers, of others
        source.add([value(20 + second, "resolved")])
        assert rows_of(context.enrich(batch(at=second * SECOND))) == []
    assert context.gave_up_waiting == 0
    source.add([value(99, "resolved")])
    assert rows_of(context.enrich(batch(at=60 * SECOND))) == [(4, "pending")]
    assert context.gave_up_waiting == 1


def test_what_waits_at_the_end_is_given_as_it_is() -> None:
    source = RecordedResolver([value(9, "pending"), value(11, "pending")])
    context = Context(source)
    opened = {"cls": int(Class.OPEN), "proc": 1 << 22}
    context.enrich(
        batch({**opened, "cgroup": 9, "num": 1}, {**opened, "cgroup": 11, "num": 2}, at=SECOND)
    )
    assert context.holding() == 2
    assert rows_of(context.let_go()) == [(1, "pending"), (2, "pending")]
    assert (context.holding(), context.gave_up_waiting) == (0, 2)
    assert context.let_go() == []


def test_each_row_of_a_batch_comes_out_once_whatever_resolves_when() -> None:
    source = RecordedResolver([value(n, "pending") for n in range(8)])
    context = Context(source)
    seen: list[int] = []
    rng = np.random.default_rng(1)
    for step in range(60):
        rows = [
            {
                "cls": int(Class.OPEN),
                "proc": 1 << 22,
                "cgroup": int(rng.integers(8)),
                "num": step * 5 + i,
            }
            for i in range(5)
        ]
        seen += [
            num for num, _ in rows_of(context.enrich(batch(*rows, at=(step + 1) * SECOND // 20)))
        ]
        if step % 10 == 9:
            source.add([value(int(rng.integers(8)), "resolved")])
    seen += [num for num, _ in rows_of(context.enrich(batch(at=100 * SECOND)))]
    assert sorted(seen) == list(range(300))


def test_a_name_asked_for_is_joined_to_the_address_in_the_same_container_only() -> None:
    context = Context(RecordedResolver([value(5, "host"), value(6, "host")]))
    address = b"\x02\x00\xbb\x01" + bytes([192, 0, 2, 7])
    strings = (
        String(1, StrKind.DNS, 0, 11, b"api.example"),
        String(3, StrKind.TEXT, 0, 9, b"192.0.2.7"),
        String(4, StrKind.ADDR, 0, 8, address),
    )
    answer = {"cls": int(Class.DNS), "proc": 1 << 22, "cgroup": 5, "obj": 1, "obj2": 3, "flags": 1}
    connect = {"cls": int(Class.CONNECT), "proc": 1 << 22, "obj": 4}
    (made,) = context.enrich(
        batch(
            answer, {**connect, "cgroup": 5}, {**connect, "cgroup": 6}, at=SECOND, strings=strings
        )
    )
    assert made.names == {1: "api.example"}


def test_a_connection_has_the_name_of_its_own_time() -> None:
    """Two answers for one address, a connection between, the container's end: one batch."""
    context = Context(RecordedResolver([value(5, "host")]))
    address = b"\x02\x00\xbb\x01" + bytes([192, 0, 2, 7])
    strings = (
        String(1, StrKind.DNS, 0, 9, b"early.com"),
        String(2, StrKind.DNS, 0, 8, b"late.com"),
        String(3, StrKind.TEXT, 0, 9, b"192.0.2.7"),
        String(4, StrKind.ADDR, 0, 8, address),
    )
    at = {"proc": 1 << 22, "cgroup": 5}
    early = {**at, "cls": int(Class.DNS), "obj": 1, "obj2": 3, "flags": 1}
    connect = {**at, "cls": int(Class.CONNECT), "obj": 4}
    removed = {"cls": int(Class.CGROUP_RMDIR), "proc": 1 << 22, "cgroup": 1, "num": 5}
    (made,) = context.enrich(
        batch(
            connect,
            early,
            connect,
            {**early, "obj": 2},
            connect,
            removed,
            at=SECOND,
            strings=strings,
        )
    )
    assert made.names == {2: "early.com", 4: "late.com"}
    assert not context.names


def test_a_copy_of_a_process_has_its_container_in_the_batch_that_made_both() -> None:
    """A child that does not exec, of a parent whose exec came a moment before."""
    parent, child = 1 << 22 | 7, 2 << 22 | 8
    events = np.zeros(3, EVENT)
    events["ts"], events["cgroup"] = [SECOND, SECOND + 1, SECOND + 2], 9
    events["cls"] = [int(Class.EXEC), int(Class.FORK), int(Class.OPEN)]
    events["proc"], events["num"] = [parent, parent, child], [0, child, 0]
    procs = np.zeros(1, PROC)
    procs["ts"], procs["cls"], procs["proc"], procs["pid"] = SECOND, int(Class.EXEC), parent, 7
    procs["cgroup"] = 9
    context = Context(RecordedResolver([value(9, "resolved")]))
    (made,) = context.enrich(Batch(events=events, procs=procs, drained=2 * SECOND))
    images = [context.processes.image(int(slot)) for slot in made.image]
    assert [image.pid for image in images] == [7, 7, 8]
    assert {image.workload for image in images} == {int(made.workload[0])} != {0}


def test_released_slots_come_before_what_may_reuse_them() -> None:
    source = RecordedResolver([value(9, "pending")])
    context = Context(source)
    opened = {"cls": int(Class.OPEN), "proc": 1 << 22, "cgroup": 9}
    context.enrich(batch(opened, at=SECOND))
    source.add([value(9, "resolved")])
    parts = context.enrich(replace(batch(opened, at=SECOND + 1), drained=SECOND + 1))
    assert len(parts) == 2
    assert parts[0].released_workloads and not parts[1].released_workloads


def test_what_waits_keeps_its_process() -> None:
    source = RecordedResolver([value(9, "pending"), value(5, "host")])
    context = Context(source)
    actor = {"proc": 1 << 22 | 77, "cgroup": 9}
    context.enrich(
        batch({"cls": int(Class.OPEN), **actor}, {"cls": int(Class.EXIT), **actor}, at=1)
    )
    for second in range(1, 14):  # past the grace that a process has after its end
        others = [{"cls": int(Class.OPEN), "proc": n << 22 | 9, "cgroup": 5} for n in range(2, 9)]
        context.enrich(batch(*others, at=second * SECOND))
    source.add([value(9, "resolved")])
    ready, *_ = context.enrich(batch(at=14 * SECOND))
    pids = [context.processes.image(int(slot)).pid for slot in ready.image]
    assert pids == [77, 77] and context.holding() == 0
    context.enrich(batch(at=40 * SECOND))
    later = context.enrich(batch(at=60 * SECOND))
    assert context.processes.image(int(ready.image[0])).pid != 77, later
