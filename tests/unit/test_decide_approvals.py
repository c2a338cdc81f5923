"""Actions that wait for a person: who may answer, once, until when, and what is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.decide import approvals as module
from hullwatch.decide.approvals import Approvals, Full, Person, Refused, Terms, terms_of
from hullwatch.decide.desk import Desk, DeskError, ask
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import ENDS, Entry, Log
from hullwatch.decide.question import Effect, Fail

ROOT, ALICE, BOB = Person(0, login=0), Person(1001, login=1001), Person(1002, login=1002)
ANYONE = Terms(approvers=(("uid:0", "uid:1001", "uid:1002"),))


def entry(tool: str = "t", server: str = "s", **more: Any) -> Entry:
    said: dict[str, Any] = {
        "principal": "Agent:a",
        "action": "tool-call",
        "resource": f"Tool:{server}/{tool}",
        "identity": "uid:1",
        "policies": ("ask",),
        "version": "1",
    }
    return Entry(effect=Effect.CHALLENGE, server=server, **said | more)


class Scene:
    def __init__(self, folder: Any) -> None:
        self.now = 10**18
        self.log = Log(folder)
        self.approvals = Approvals(self.log, clock=lambda: self.now)
        self.over: list[str] = []

    def hold(self, terms: Terms = ANYONE, tool: str = "t", principal: str = "Agent:a") -> Any:
        asked = entry(tool, principal=principal, time=self.now)
        made = self.approvals.hold(asked, terms, lambda: self.over.append(made.id))
        return made

    def kinds(self) -> list[str]:
        return [one.kind for one in self.log.entries()]

    def granted(self, tool: str = "t", server: str = "s", **more: Any) -> bool:
        asked = entry(tool, server=server, **more)
        return self.approvals.granted(asked) is not None


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_one_approval_for_one_action(scene):
    held = scene.hold()
    assert not scene.over and scene.kinds() == ["held"]
    assert scene.approvals.answer(held.id, ALICE, True, "I asked for it") == "approved"
    assert scene.over == [held.id] and held.effect is Effect.ALLOW
    (_, entry) = scene.log.entries()
    assert (entry.kind, entry.by, entry.why, entry.scope) == (
        "approved", ALICE.name, "I asked for it", "once",
    )  # fmt: skip
    with pytest.raises(Refused, match="nothing of this id"):
        scene.approvals.answer(held.id, BOB, True, "again")
    assert not scene.granted()


def test_a_denial(scene):
    held = scene.hold()
    assert scene.approvals.answer(held.id, ALICE, False, "no") == "denied"
    assert held.effect is Effect.BLOCK and scene.kinds() == ["held", "denied"]


@pytest.mark.parametrize("why", ["", "  ", "x" * 501])
def test_who_answers_says_why(scene, why):
    held = scene.hold()
    with pytest.raises(Refused, match="say why"):
        scene.approvals.answer(held.id, ALICE, True, why)
    assert not held.ended


def test_only_whom_the_policy_names(scene):
    held = scene.hold(Terms(approvers=(("uid:1001", "no-such-name"), ("uid:1001", "uid:1002"))))
    for person in (BOB, ROOT):
        with pytest.raises(Refused, match="may not answer"):
            scene.approvals.answer(held.id, person, True, "me")
    assert scene.approvals.answer(held.id, ALICE, True, "me") == "approved"


def test_names_of_users_and_groups():
    assert Terms(approvers=(("root",),)).may(Person(0)) and not Terms(approvers=(("root",),)).may(
        Person(1)
    )
    assert Terms(approvers=(("daemon",),)).may(Person(1))  # user, or a group of that name
    assert Terms().may(Person(0)) and not Terms().may(Person(54321))


def test_two_persons(scene):
    held = scene.hold(msgspec.structs.replace(ANYONE, people=2))
    assert scene.approvals.answer(held.id, ALICE, True, "one") == "agreed"
    for same in (ALICE, Person(0, login=1001)):  # by sudo, too
        with pytest.raises(Refused, match="another one has to"):
            scene.approvals.answer(held.id, same, True, "and again")
    assert not held.ended
    assert scene.approvals.answer(held.id, BOB, True, "two") == "approved"
    assert scene.kinds() == ["held", "agreed", "approved"]
    assert scene.log.entries()[-1].by == f"{ALICE.name}, {BOB.name}"


def test_one_denial_is_enough(scene):
    held = scene.hold(msgspec.structs.replace(ANYONE, people=2))
    scene.approvals.answer(held.id, ALICE, True, "one")
    assert scene.approvals.answer(held.id, BOB, False, "no") == "denied"
    assert held.effect is Effect.BLOCK


@pytest.mark.parametrize(("fail", "effect"), [(Fail.CLOSED, "block"), (Fail.OPEN, "allow")])
def test_a_deadline(scene, fail, effect):
    held = scene.hold(msgspec.structs.replace(ANYONE, fail=fail))
    scene.now += 900 * 10**9
    with pytest.raises(Refused, match="nothing of this id"):
        scene.approvals.answer(held.id, ALICE, True, "late")
    scene.approvals.expire(held)
    assert held.effect == effect and scene.kinds() == ["held", "expired"]
    scene.approvals.cancel(held, "late")
    assert scene.kinds() == ["held", "expired"]


def test_whoever_asks_does_not_approve(scene):
    scene.approvals._client = os.getpid()
    held = scene.hold()
    me = Person.of(0, os.getpid())
    with pytest.raises(Refused, match="whoever asks"):
        scene.approvals.answer(held.id, me, True, "me")
    child = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(Refused, match="whoever asks"):
            scene.approvals.answer(held.id, Person.of(0, child.pid), True, "my child")
    finally:
        child.kill()
        child.wait()
    with pytest.raises(Refused, match="whoever asks"):  # it has ended: whose it was is not known
        scene.approvals.answer(held.id, Person.of(0, child.pid), True, "nobody")
    assert scene.approvals.answer(held.id, Person(0, 1, 0), True, "init") == "approved"
    own = scene.hold(msgspec.structs.replace(ANYONE, requester=True))
    assert scene.approvals.answer(own.id, me, True, "it may") == "approved"


def test_a_widened_approval(scene):
    held = scene.hold()
    for scope, seconds in (("once", 60), ("tool", 0), ("tool", 31 * 86_400), ("all", 60)):
        with pytest.raises(Refused):
            scene.approvals.answer(held.id, ALICE, True, "w", scope, seconds)
    scene.approvals.answer(held.id, ALICE, True, "all day", "tool", 3600)
    assert scene.granted() and not scene.granted("u") and not scene.granted(server="z")
    made = scene.approvals.granted(entry("t", time=7))
    assert (made.time, made.kind, made.effect, made.scope) == (7, "verdict", "allow", "tool")
    assert made.by == ALICE.name and made.why.endswith(f"by {ALICE.name}: all day")
    assert not scene.granted(version="2"), "the policies have changed"
    assert not scene.granted(policies=("ask", "another"))
    assert not scene.granted(identity="uid:2"), "another one of the same name"
    scene.now += 3600 * 10**9
    assert not scene.granted()
    scene.approvals.answer(scene.hold().id, ALICE, True, "all", "server", 60)
    assert scene.granted("u") and not scene.granted("u", "z")


def test_it_is_as_wide_as_all_of_them_meant(scene):
    two = msgspec.structs.replace(ANYONE, people=2)
    for scopes, granted in ((("server", "tool"), True), (("tool", "once"), False)):
        held = scene.hold(two)
        for person, scope in zip((ALICE, BOB), scopes, strict=True):
            scene.approvals.answer(held.id, person, True, "w", scope, 60 * (scope != "once"))
        assert scene.granted() is granted and not scene.granted("u")
        scene.now += 61 * 10**9


def test_what_waits_is_bounded_and_a_flood_is_told_once_a_minute(scene):
    told = []
    scene.approvals.on_flood = told.append
    for number in range(module.MAX_HELD):
        assert len(told) == (number >= module.FLOOD)
        scene.hold()
    with pytest.raises(Full):
        scene.hold()
    scene.hold(principal="Agent:b")
    with pytest.raises(Full):  # a name a time
        for number in range(module.MANY * module.MAX_HELD):
            scene.hold(principal=f"Agent:{number}")
    assert [(one.kind, one.subject, one.server) for one in told] == [
        ("approval_flood", "Agent:a", "s")
    ]
    scene.now += 61 * 10**9
    with pytest.raises(Full):  # still as many wait, but nobody has been asked of late
        scene.hold()
    assert len(told) == 1


def test_a_flood_of_names_is_one(scene):
    told = []
    scene.approvals.on_flood = told.append
    for number in range(module.MANY * module.FLOOD):
        assert not told
        scene.hold(principal=f"Agent:{number}")
    assert len(told) == 1


def test_terms_are_the_strictest_of_all():
    engine = Engine.of([("""
        @id("a") @effect("challenge") @deadline("5m") @fail("open") @approvers("alice,bob")
        forbid (principal, action == Action::"tool-call", resource);
        @id("b") @effect("challenge") @deadline("90s") @people("2") @answer("requester")
        forbid (principal, action == Action::"tool-call", resource);
    """, "p.cedar")])  # fmt: skip
    both = terms_of(engine.policies.values())
    assert (both.deadline, both.people, both.fail, both.requester) == (90, 2, Fail.CLOSED, False)
    assert both.approvers == (("alice", "bob"),)
    one = terms_of([engine.policies["a"]])
    assert (one.deadline, one.people, one.fail) == (300, 1, Fail.OPEN)
    assert terms_of([engine.policies["b"]]).requester and not terms_of([]).requester


HOLDER = """
import sys, time
from pathlib import Path
from hullwatch.decide.approvals import Approvals, Person, Terms
from hullwatch.decide.log import ENDS, Entry, Log
approvals = Approvals(Log(Path(sys.argv[1])))
terms = Terms(people=int(sys.argv[2]))
held = approvals.hold(Entry(time=1, principal="Agent:a", policies=("p",)), terms, lambda: None)
if terms.people == 2:
    approvals.answer(held.id, Person(0, login=0), True, "one of two")
print(held.id, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("people", [1, 2])
def test_after_a_kill_nothing_is_approved(tmp_path, people):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), str(people)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert running.stdout
    ident = running.stdout.readline().strip()
    log = Log(tmp_path)
    approvals = Approvals(log)
    assert approvals.sweep() == 0, "it lives"
    running.send_signal(signal.SIGKILL)
    running.wait()
    with pytest.raises(Refused):
        approvals.answer(ident, ROOT, True, "late")
    assert approvals.sweep() == 1 and approvals.sweep() == 0
    last = log.about(ident)[-1]
    assert (last.kind, last.effect) == ("lost", Effect.BLOCK)
    assert not log.open() and not log.widened(1) and log.verify().ok


# --- the desk -----------------------------------------------------------------------------


def test_the_desk(scene, tmp_path):
    async def play() -> None:
        desk = Desk(scene.approvals, lambda principal: [], tmp_path / "desk")
        await desk.open()
        try:
            held = scene.hold()

            def asked(**question: Any) -> Any:
                return asyncio.to_thread(ask, desk.path, **question)

            (shown,) = (await asked(ask="list"))["held"]
            assert shown["held"] == held.id and shown["terms"]["people"] == 1
            with pytest.raises(DeskError, match="say why"):
                await asked(ask="answer", held=held.id, yes=True)
            for wrong in ({"ask": "all"}, {"ask": 5}, {"held": "x"}):
                with pytest.raises(DeskError, match="ask is list"):
                    await asked(**wrong)
            with pytest.raises((DeskError, OSError)):
                await asked(ask="answer", held="x" * 10_000)
            done = await asked(ask="answer", held=held.id, yes=True, why="by hand")
            assert done == {"done": "approved"}
            assert (await asked(ask="list"))["held"] == []
        finally:
            desk.close()
        assert not desk.path.exists()

    asyncio.run(asyncio.wait_for(play(), 30))
    assert scene.log.entries()[-1].by == "root" if os.geteuid() == 0 else True


def test_nobody_answers_out_of_a_container(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("hullwatch.decide.desk.is_foreign", lambda pid: pid == os.getpid())

    async def play() -> None:
        desk = Desk(scene.approvals, lambda principal: [], tmp_path / "desk")
        await desk.open()
        try:
            held = scene.hold()
            for question in (
                {"ask": "list"},
                {"ask": "answer", "held": held.id, "yes": True, "why": "x"},
            ):
                with pytest.raises(DeskError, match="not in a container"):
                    await asyncio.to_thread(ask, desk.path, **question)
            assert held.id in scene.approvals.waiting
        finally:
            desk.close()

    asyncio.run(asyncio.wait_for(play(), 30))


@pytest.mark.skipif(os.geteuid() != 0, reason="speaks as another user")
def test_another_user_at_the_desk(scene, tmp_path):
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from hullwatch.decide.desk import ask, DeskError\n"
        "os.setgid(1002); os.setuid(1002)\n"
        "path = Path(sys.argv[1]); held = ask(path, ask='list')['held']\n"
        "print(len(held))\n"
        "for ident in sys.argv[2:]:\n"
        "    try: print(ask(path, ask='answer', held=ident, yes=True, why='b')['done'])\n"
        "    except DeskError as error: print(error)\n"
    )

    async def play() -> list[str]:
        # Pytest's folders are root's only.
        where = tmp_path.parents[-2] / f"hullwatch-desk-{os.getpid()}"
        desk = Desk(scene.approvals, lambda principal: [], where)
        await desk.open()
        try:
            theirs, ours = scene.hold(), scene.hold(Terms(approvers=(("uid:1001",),)))
            env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-c", code, str(desk.path), theirs.id, ours.id]
            done = await asyncio.to_thread(
                subprocess.run, command, env=env, capture_output=True, text=True, timeout=30
            )
            return done.stdout.splitlines()
        finally:
            desk.close()
            where.rmdir()

    said = asyncio.run(play())
    assert said[:2] == ["1", "approved"] and "may not answer" in said[2]


# --- any order of things ------------------------------------------------------------------

PEOPLE = [Person(uid, login=login) for uid in (0, 1001, 1002) for login in (uid, 1001)]
STEPS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from(PEOPLE), st.booleans()),
    st.tuples(st.sampled_from(["cancel", "expire", "later"]), st.none(), st.none()),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(STEPS, max_size=8),
    st.integers(1, 3),
    st.sampled_from([("uid:1001", "uid:1002"), ("uid:0", "uid:1001", "uid:1002")]),
    st.sampled_from(Fail),
)
def test_whatever_happens_nothing_goes_on_but_what_enough_people_approved(
    steps, people, names, fail
):
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        held = scene.hold(Terms(approvers=(names,), people=people, fail=fail, deadline=60))
        yes: list[Person] = []
        for what, person, agrees in steps:
            if what == "later":
                scene.now += 40 * 10**9
            elif what == "cancel":
                scene.approvals.cancel(held, "x")
            elif what == "expire" and scene.now >= held.entry.deadline:
                scene.approvals.expire(held)
            elif what == "answer":
                with contextlib.suppress(Refused):
                    scene.approvals.answer(held.id, person, agrees, "w")
                    yes += [person] if agrees else []
        kinds = scene.kinds()
        ends = [kind for kind in kinds if kind in ENDS]
        assert len(ends) <= 1 and kinds[0] == "held" and ends == kinds[len(kinds) - len(ends) :]
        assert held.ended == (ends[0] if ends else "") and len(scene.over) == len(ends)
        if held.effect is Effect.ALLOW:
            approved = len(yes) == people and all(f"uid:{one.uid}" in names for one in yes)
            assert approved or (ends == ["expired"] and fail is Fail.OPEN)
        for at, one in enumerate(yes):
            assert not any({one.uid, one.login} & {two.uid, two.login} for two in yes[:at])
        assert (held.ended == "") == bool(scene.log.open()) and scene.log.verify().ok
        scene.log.close()
