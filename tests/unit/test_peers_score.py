"""Scoring of attributions, on truths made by hand."""

import pytest

from support.peers.score import Attribution, Count, SeenCall, identify, score, table
from support.peers.truth import Destination, File, Process, Truth, token

A, B = token("00000000", 1), token("00000000", 2)
TRUTHS = [
    Truth(
        tool="chain",
        token=A,
        begin=100,
        end=200,
        rpc_id="1",
        pids=(70, 71),
        processes=(Process("sh"), Process("bash")),
        destinations=(Destination("127.0.0.1", 4001),),
    ),
    Truth(
        tool="read",
        token=B,
        begin=150,
        end=250,
        rpc_id="2",
        files=(File(f"/tmp/x/{B}.in", "read"),),
    ),
]
OF = {11: A, 12: B}


def judged(*events, of=OF):
    return score(TRUTHS, events, of)


def test_all_right():
    scores = judged(
        Attribution("process", f"/bin/sh -c echo {A}", 70, (11,)),
        Attribution("process", f"/bin/bash -c echo {A}", 71, (11,)),
        Attribution("destination", "127.0.0.1:4001", 71, (11,)),
        Attribution("file", f"/tmp/x/{B}.in", 60, (12,)),
    )
    for count in scores.values():
        assert (count.precision, count.recall, count.ambiguity, count.unseen) == (1, 1, 0, 0)
    assert scores["process"].expected == scores["process"].found == 2


def test_the_wrong_call_lowers_precision_and_recall():
    count = judged(Attribution("file", f"/tmp/x/{B}.in", 60, (11,)))["file"]
    assert (count.wrong, count.precision, count.recall, count.unseen) == (1, 0, 0, 0)


def test_ambiguous_with_the_right_call_is_neither_right_nor_wrong():
    count = judged(
        Attribution("file", f"/tmp/x/{B}.in", 60, (11, 12)),
        Attribution("file", f"/tmp/x/{B}.in", 60, (12,)),
    )["file"]
    assert (count.right, count.ambiguous, count.wrong) == (1, 1, 0)
    assert (count.precision, count.recall, count.ambiguity) == (1, 1, 0.5)


def test_ambiguous_without_the_right_call_is_wrong():
    count = judged(Attribution("file", f"/tmp/x/{B}.in", 60, (11, 13)))["file"]
    assert (count.wrong, count.ambiguous) == (1, 0)


def test_only_ambiguous_answers_do_not_find_an_object():
    count = judged(Attribution("file", f"/tmp/x/{B}.in", 60, (11, 12)))["file"]
    assert (count.recall, count.unseen) == (0, 0)


def test_no_answer_costs_recall_only():
    count = judged(Attribution("destination", "127.0.0.1:4001", 71, ()))["destination"]
    assert (count.none, count.precision, count.recall) == (1, 1, 0)


def test_what_was_never_seen_is_told():
    assert judged()["process"].unseen == 2


def test_a_process_that_a_call_started_is_judged_by_its_pid():
    count = judged(
        Attribution("file", "/etc/ld.so.cache", 71, (11,)),
        Attribution("file", "/etc/ld.so.cache", 71, (12,)),
        Attribution("file", "/etc/ld.so.cache", 99, (12,)),
    )["file"]
    assert (count.right, count.wrong, count.events) == (1, 1, 2)


def test_before_the_first_call_every_call_is_wrong():
    count = judged(
        Attribution("file", "/usr/lib/python3", 60, (11,), time=50),
        Attribution("file", "/usr/lib/python3", 60, (), time=50),
    )["file"]
    assert (count.wrong, count.events) == (1, 1)


def test_a_call_that_could_not_be_identified_is_wrong():
    assert judged(Attribution("file", f"/tmp/x/{B}.in", 60, (12,)), of={})["file"].wrong == 1


def test_another_run_s_token_is_nobody_s():
    other = token("ffffffff", 1)
    assert judged(Attribution("process", f"/bin/sh {other}", 5, (11,)))["process"].events == 0


@pytest.mark.parametrize(
    ("seen", "of", "extra"),
    [
        ([SeenCall(5, "chain", "1", 110, 190)], {5: A}, ()),
        ([SeenCall(5, "chain", "", 110, 190)], {5: A}, ()),
        ([SeenCall(5, "chain", "1")], {5: A}, ()),
        ([SeenCall(5, "chain", "9", 110, 190)], {}, (5,)),  # another id on the wire
        ([SeenCall(5, "chain", "1", 300, 400)], {}, (5,)),  # at another time
        ([SeenCall(5, "other", "1", 110, 190)], {}, (5,)),
        ([SeenCall(5, "chain", "", 110, 190), SeenCall(6, "chain", "1", 110, 190)], {6: A}, (5,)),
    ],
)
def test_calls_are_identified_by_tool_id_and_time(seen, of, extra):
    found = identify(TRUTHS, seen)
    assert (found.of, found.extra) == (of, extra)
    assert set(found.missed) == {A, B} - set(of.values())


def test_two_calls_alike_are_not_guessed_at():
    alike = [Truth(tool="run", token=one, begin=1, end=9) for one in (A, B)]
    assert identify(alike, [SeenCall(5, "run", "", 2, 3)]).of == {}


def test_counts_add_up_and_print():
    total = Count(right=1, expected=1, found=1) + Count(wrong=1, expected=1)
    assert (total.precision, total.recall) == (0.5, 0.5)
    assert "0.500" in table({"run": {"file": total}})
