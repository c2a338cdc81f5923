"""What a span means: the registry of calls, calls as events, and rules about them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.context.call import AMBIGUOUS, Call, Signal
from hullwatch.context.calls import Calls
from hullwatch.context.listeners import Listeners
from hullwatch.context.told import call_of, told_call, told_signal
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import Scene
from hullwatch.sensor.batch import String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.told import Told, ToldQueue
from hullwatch.sensor.wire import Class, StrKind


def call(ident: int = 1, **more: Any) -> Call:
    given: dict[str, Any] = {
        "kind": "tool",
        "source": "gateway",
        "name": "read",
        "begin": time.time_ns(),
    }
    return Call(id=ident, **(given | more))


def a_set(ident: int, *members: int, run: int = 5) -> String:
    data = np.array([AMBIGUOUS | run << 32, *members], np.uint64).tobytes()
    return String(ident, int(StrKind.CALLS), 0, len(data), data)


def test_a_span_is_one_call_or_a_set_of_them():
    calls = Calls()
    for ident in (1, 2, 3):
        calls.put(call(ident, name=f"tool{ident}"))
    calls.learn([a_set(8, 1, 3), String(9, int(StrKind.TEXT), 0, 1, b"x")])
    both = AMBIGUOUS | 5 << 32 | 8
    assert [one.name for one in calls.of(both)] == ["tool1", "tool3"]
    assert [one.name for one in calls.of(2)] == ["tool2"]
    assert calls.of(0) == calls.of(AMBIGUOUS | 77) == calls.of(99) == ()
    changed, sets = calls.changes()
    assert {one.id for one in changed} == {1, 2, 3} and sets == {both: (1, 3)}
    assert calls.changes() == ([], {})
    calls.unsaved(changed[:1], sets)
    assert calls.changes() == (changed[:1], sets)


def test_a_flood_of_short_calls_does_not_make_a_long_one_forgotten():
    calls = Calls(calls=10, sets=2)
    calls.put(call(1))
    for ident in range(2, 100):
        calls.put(call(ident))
        calls.put(call(ident, end=time.time_ns(), status="ok"))
    assert calls.get(1) is not None and calls.forgotten == 0
    assert len(calls) == 11 and len(calls.running()) == 1
    calls.close(1, time.time_ns())
    ended = calls.get(1)
    assert ended is not None and ended.status == "lost" and not calls.running()
    for ident in range(200, 220):
        calls.put(call(ident))
    assert calls.forgotten == 10
    calls.learn(a_set(ident, 1, 2) for ident in (2, 4, 6))
    assert calls.members(AMBIGUOUS | 5 << 32 | 2) == ()
    assert calls.members(AMBIGUOUS | 5 << 32 | 6) == (1, 2)


def _events(queue: ToldQueue) -> tuple[np.ndarray, Dictionary]:
    dictionary = Dictionary()

    def make(kind: int, data: bytes) -> int:
        ident = 2 * len(dictionary) + 1
        if data:
            dictionary.add((String(ident, kind, 0, len(data), data),))
        return ident if data else 0

    return queue.take(make), dictionary


@given(
    st.sampled_from(("tool", "model", "task")),
    st.sampled_from(("gateway", "tap", "otlp", "context")),
    st.sampled_from(("ok", "error", "cancelled", "lost")),
    st.text(min_size=1, max_size=40),
    st.text(max_size=40),
    st.integers(0, 1 << 40),
)
def test_a_call_told_as_events_is_the_same_call(kind, source, status, name, server, size):
    begun = call(7, kind=kind, source=source, name=name, server=server, pid=42, cgroup=9)
    ended = call(
        7, kind=kind, source=source, name=name, server=server, pid=42, cgroup=9, status=status,
        begin=begun.begin, end=begun.begin + 10**6, request_bytes=size, response_bytes=2,
    )  # fmt: skip
    queue = ToldQueue()
    queue.put(told_call(begun))
    queue.put(told_call(ended))
    rows, dictionary = _events(queue)
    offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    first = call_of(rows[0], dictionary, offset, None)
    last = call_of(rows[1], dictionary, offset, first)
    text = name.encode("utf-8", "replace").decode()
    assert (first.name, first.server, first.kind) == (
        text,
        server.encode("utf-8", "replace").decode(),
        kind,
    )
    assert (last.source, last.status, last.request_bytes, last.pid) == (source, status, size, 42)
    assert not first.end and abs(first.begin - begun.begin) < 10**9
    assert last.begin == first.begin and last.end


def test_what_no_event_can_hold_is_counted_and_the_others_go_on():
    queue = ToldQueue(limit=3)
    for number in (-1, 1 << 70, 5):
        assert queue.put(Told(1, int(Class.SIGNAL), 0, 0, 1, number, "a", "b"))
    assert not queue.put(Told(1, int(Class.SIGNAL), 0, 0, 1, 6, "a", "b"))
    rows, _ = _events(queue)
    assert rows["span"].tolist() == [5] and queue.refused == 3


def test_a_signal_is_its_subject_and_what_was_seen():
    queue = ToldQueue()
    queue.put(told_signal(Signal(kind="odd", subject="tool", detail="a: b", time=0), 7, 9))
    rows, dictionary = _events(queue)
    assert rows["ts"][0] == 0 and rows["cgroup"][0] == 9
    assert dictionary.text(int(rows["obj"][0])) == "tool"
    assert dictionary.text(int(rows["obj2"][0])) == "odd: a: b"


RULES = """
- rule: by tool
  desc: d
  condition: evt.type = openat and hw.call.name = read
  output: "%hw.call.server %hw.call.kind"
  priority: NOTICE
- rule: by server
  desc: d
  condition: evt.type = openat and hw.call.server = files and hw.call.ambiguous = true
  output: "%hw.call.name"
  priority: NOTICE
- rule: outside
  desc: d
  condition: evt.type = openat and not hw.span exists
  output: o
  priority: NOTICE
"""


def test_rules_ask_for_the_call_and_of_several_for_what_they_agree_in():
    scene = Scene()
    box = scene.process("python3", workload=scene.container(image="acme/agent:1"))
    one, two = scene.call(name="read", server="files"), scene.call(name="write", server="files")
    scene.calls.learn([a_set(8, one, two)])
    for span in (one, AMBIGUOUS | 5 << 32 | 8, 0):
        path = scene.string(f"/srv/{span:x}")
        scene.event(Class.OPEN, box, call="openat", obj=path, ret=3, span=span)
    engine = Engine(load_texts([(RULES, "rules.yaml")]))
    found = {(one.rule, one.output, one.call) for one in engine.process(scene.enriched())}
    assert found == {
        ("by tool", "files tool", "files: read"),
        ("by server", "<NA>", "files: read or files: write"),
        ("outside", "o", ""),
    }


def test_the_same_file_in_two_calls_is_two_matches_and_one_finding():
    scene = Scene()
    box = scene.process("python3", workload=scene.container(image="acme/agent:1"))
    spans = [scene.call(name="read", server="files") for _ in range(3)]
    path = scene.string("/srv/a")
    for span in spans:
        scene.event(Class.OPEN, box, call="openat", obj=path, ret=3, span=span)
    engine = Engine(load_texts([(RULES, "rules.yaml")]))
    (found,) = engine.process(scene.enriched())
    assert (found.count, found.span, found.spans) == (3, spans[0], tuple(spans))


def test_who_listens_is_found_with_what_it_started():
    class Table:
        def __init__(self, scene: Scene) -> None:
            self.living = lambda: scene.images[1:]

    scene = Scene()
    here, there = (1, 2, 30, 4, 5, 6, 7), (1, 2, 31, 4, 5, 6, 7)
    server = scene.process("uvicorn", namespaces=here)
    worker = scene.process("worker", parent=server, namespaces=here)
    scene.process("other", namespaces=here)
    client = scene.process("gateway", namespaces=here)
    stranger = scene.process("gateway", namespaces=there)
    listeners = Listeners(Table(scene))
    listeners.learn(scene.images[server], 8000)
    pids = {scene.images[server].pid, scene.images[worker].pid}
    assert set(listeners.behind(scene.images[client].pid, 8000)) == pids
    assert listeners.behind(scene.images[stranger].pid, 8000) == ()
    assert listeners.behind(scene.images[client].pid, 8001) == () == listeners.behind(1, 8000)
