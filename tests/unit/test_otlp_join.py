"""Which calls were running in a process or container at a time."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullwatch.agent.otlp.join import Subject, Timeline
from hullwatch.agent.otlp.received import Peer, Received, Where
from hullwatch.context.call import Call

POD = "0b6b2a5e-0000-0000-0000-000000000001"


def call(ident, begin, end, parent=0, **where):
    pid = where.pop("host_pid", 0)
    peer = Peer(pid=pid, inner_pid=pid) if pid else Peer(address="10.0.0.2", port=1)
    one = Call(id=ident, kind="tool", source="otlp", name="t", begin=begin, end=end, parent=parent)
    return Received(one, Where(peer=peer, **where))


def timeline(*calls, **more):
    made = Timeline(**more)
    for one in calls:
        made.add(one)
    return made


def ids(answer):
    return [one.id for one in answer.calls]


def test_a_call_runs_from_its_begin_to_its_end():
    made = timeline(call(1, 100, 200, host_pid=7))
    for time, found in ((99, []), (100, [1]), (150, [1]), (200, [1]), (201, [])):
        answer = made.running(time, Subject(pids=(7,)))
        assert ids(answer) == found
        assert answer.by == ("process" if found else "")
    assert not ids(made.running(150, Subject(pids=(8,))))


def test_what_a_child_process_does_is_its_parents_call():
    made = timeline(call(1, 100, 200, host_pid=7), call(2, 100, 200, host_pid=5))
    assert ids(made.running(150, Subject(pids=(9, 7, 5, 1)))) == [1]
    assert ids(made.running(150, Subject(pids=(9, 5, 1)))) == [2]


def test_calls_at_the_same_time_are_all_named():
    made = timeline(
        call(1, 100, 200, host_pid=7), call(2, 150, 300, host_pid=7), call(3, 301, 400, host_pid=7)
    )
    both = made.running(160, Subject(pids=(7,)))
    assert ids(both) == [2, 1] and both.ambiguous
    assert not made.running(250, Subject(pids=(7,))).ambiguous


def test_a_call_within_a_call_is_the_one():
    made = timeline(
        call(1, 100, 900, host_pid=7),
        call(2, 110, 800, parent=1, host_pid=7),
        call(3, 120, 200, parent=2, host_pid=7),
        call(4, 130, 200, parent=2, host_pid=7),
    )
    assert ids(made.running(105, Subject(pids=(7,)))) == [1]
    assert ids(made.running(115, Subject(pids=(7,)))) == [2]
    assert ids(made.running(125, Subject(pids=(7,)))) == [3]
    assert ids(made.running(150, Subject(pids=(7,)))) == [4, 3]


def test_parents_in_a_circle_are_all_named():
    made = timeline(call(1, 1, 9, parent=2, host_pid=7), call(2, 1, 9, parent=1, host_pid=7))
    assert ids(made.running(5, Subject(pids=(7,)))) == [2, 1]


def test_a_pid_counts_in_its_own_container_only():
    made = timeline(call(1, 100, 200, pid=7, container_id="a"))
    mine = Subject(pids=(400,), inner=(7,), container_id="a")
    assert made.running(150, mine).by == "claim"
    assert not made.running(150, mine._replace(container_id="b")).calls
    assert not made.running(150, Subject(pids=(7,))).calls
    assert not made.running(150, mine._replace(inner=(8,))).calls


def test_what_the_kernel_says_comes_before_what_the_sender_says():
    made = timeline(
        call(1, 100, 200, host_pid=400),
        call(2, 100, 200, pid=7, container_id="a"),
        call(3, 100, 200, container_id="a"),
        call(4, 100, 200, pod_uid=POD),
    )
    whole = Subject(pids=(400,), inner=(7,), container_id="a", pod_uid=POD)
    for subject, found, by in (
        (whole, [1], "process"),
        (whole._replace(pids=()), [2], "claim"),
        (whole._replace(pids=(), inner=()), [3], "container"),
        (Subject(container_id="b", pod_uid=POD), [4], "pod"),
    ):
        answer = made.running(150, subject)
        assert (ids(answer), answer.by) == (found, by)


def test_a_pid_on_the_host_is_believed_only_with_the_hosts_name():
    here = call(1, 100, 200, pid=7, host="node-1")
    there = call(2, 100, 200, pid=7, host="agent-pod-x")
    nameless = call(3, 100, 200, pid=7)
    made = timeline(here, there, nameless, host="node-1")
    assert ids(made.running(150, Subject(pids=(7,)))) == [1]
    assert made.unplaced == 2
    assert timeline(here).unplaced == 1


def test_attributes_are_not_kept():
    told = call(1, 100, 200, host_pid=7)
    full = msgspec.structs.replace(told.call, attributes={"gen_ai.tool.name": "t"})
    made = timeline(Received(full, told.where))
    assert made.running(150, Subject(pids=(7,))).calls == (told.call,)


def test_a_call_told_twice_is_one():
    made = timeline(call(1, 100, 200, host_pid=7), call(1, 100, 300, host_pid=7))
    assert len(made) == 1
    assert ids(made.running(250, Subject(pids=(7,)))) == [1]


def test_old_calls_are_forgotten():
    made = timeline(call(1, 100, 200, host_pid=7), call(2, 100, 900, host_pid=7), keep=100)
    made.expire(301)
    assert ids(made.running(150, Subject(pids=(7,)))) == [2]
    made.expire(10_000)
    assert len(made) == 0 and not made._lanes


def test_too_many_calls_and_the_oldest_goes():
    made = timeline(*(call(one, 100, 200, host_pid=7) for one in range(1, 6)), most=3)
    assert ids(made.running(150, Subject(pids=(7,)))) == [5, 4, 3]
    assert made.evicted == 2


def test_candidates_that_are_too_many_are_counted():
    made = timeline(*(call(one, 100, 200, host_pid=7) for one in range(1, 71)))
    answer = made.running(150, Subject(pids=(7,)))
    assert len(answer.calls) == 64 and answer.more == 6 and answer.ambiguous


_CALLS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 50), st.integers(0, 30), st.integers(1, 2)),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_CALLS, st.integers(0, 90), st.integers(1, 12))
def test_it_finds_what_a_plain_search_finds(calls, time, most):
    made = Timeline(most=most)
    plain = {}
    for ident, begin, length, pid in calls:
        made.add(call(ident, begin, begin + length, host_pid=pid))
        plain.pop(ident, None)
        plain[ident] = (begin, begin + length, pid)
        if len(plain) > most:
            del plain[next(iter(plain))]
    for pid in (1, 2):
        found = {one for one, (b, e, p) in plain.items() if p == pid and b <= time <= e}
        assert set(ids(made.running(time, Subject(pids=(pid,))))) == found
