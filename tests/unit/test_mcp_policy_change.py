"""The gateway follows the set in force: who decides a call that is under way, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from hullwatch.decide import deciding
from hullwatch.decide import ruling as module
from hullwatch.decide.applied import Applied, Set
from hullwatch.decide.following import Following
from support.gatekeeping import POLICIES, Scene, raw_call

FORBIDDEN = 'forbid (principal, action == Action::"tool-call", resource == Tool::"srv/{}");'
NO_READ = '@id("no-read") ' + FORBIDDEN.format("read_file")
NO_WRITE = '@id("no-write") ' + FORBIDDEN.format("write_file")
OTHERS = POLICIES.replace('@deadline("60s")', '@deadline("60s") @approvers("uid:77")')


def texts(*said: str) -> Set:
    return Set(((("\n".join(said)), "p.cedar"),))


class Followed(Scene):
    """With the set in force, as `hullwatch policy apply` changes it. said: to a person here."""

    def __init__(self, folder: Path) -> None:
        self.applied = Applied(folder)
        if self.applied.current() is None:
            self.applied.apply(texts(POLICIES), 1, "me")
        following = Following(self.applied)
        self.said: list[str] = []
        super().__init__(folder, following.follow(), following=following, tell=self.said.append)

    async def apply(self, *said: str, note: str = "") -> str:
        version = self.applied.apply(texts(*said), time.time_ns(), "you", note).version
        await self.until(lambda: self.keeper._rulings.decider.version == version)
        return version

    async def back(self) -> None:
        version = self.applied.rollback("", time.time_ns(), "me").version
        await self.until(lambda: self.keeper._rulings.decider.version == version)

    async def until(self, done: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.01)

    def blocked_by(self, answers: Any) -> list[str]:
        (answer,) = answers
        return list(answer["error"]["data"]["policies"])


@contextlib.asynccontextmanager
async def scene_in(folder: Path) -> AsyncIterator[Followed]:
    scene = Followed(folder)
    await scene.keeper.start()
    try:
        yield scene
    finally:
        scene.keeper.close()
        assert scene.log.verify().ok


def following(test: Callable[..., Any]) -> Callable[..., None]:
    def run(tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr(module, "FOLLOW", 0.01)

        async def play() -> None:
            async with scene_in(tmp_path) as scene:
                await test(scene)

        asyncio.run(asyncio.wait_for(play(), 60))

    run.__name__ = test.__name__
    return run


@following
async def test_a_change_and_back(scene):
    assert await scene.sent(raw_call(1, "read_file")) is None
    version = await scene.apply(POLICIES, NO_READ, note="ticket 1")
    assert scene.blocked_by(await scene.sent(raw_call(2, "read_file"))) == ["no-read"]
    await scene.back()
    assert await scene.sent(raw_call(3, "read_file")) is None
    changes = [one for one in scene.log.entries() if one.kind == "policies"]
    assert [(one.action, one.by, one.why) for one in changes] == [
        ("apply", "you", "ticket 1"),
        ("rollback", "me", ""),
    ]
    assert changes[0].version == version and changes[0].resource == f"Set:{version}"
    assert [version[:12] in said for said in scene.said] == [True, False]


@following
async def test_a_set_that_cannot_be_used_changes_nothing_and_is_said_once(scene):
    before = scene.keeper._rulings.decider.version
    whole = scene.applied.path.read_bytes()
    scene.applied.path.write_bytes(whole.replace(b'"me"', b'"he"'))
    await scene.until(lambda: scene.said)
    await asyncio.sleep(0.1)
    (kept,) = [one for one in scene.log.entries() if one.kind == "policies"]
    assert (kept.action, kept.version) == ("keep", before)
    assert "stays in force" in kept.reason and scene.said == [f"policies: {kept.reason}"]
    assert scene.blocked_by(await scene.sent(raw_call(1, "delete_file"))) == ["no-delete"]
    scene.applied.path.write_bytes(whole)
    await scene.apply(POLICIES, NO_READ)
    assert scene.blocked_by(await scene.sent(raw_call(2, "read_file"))) == ["no-read"]


@following
async def test_a_change_that_cannot_be_logged_waits_until_it_can(scene):
    class Full:
        def execute(self, *_: Any) -> Any:
            raise OSError("full")

        def close(self) -> None:
            pass

    before = scene.keeper._rulings.decider.version
    link, scene.log._link = scene.log._link, Full()
    version = scene.applied.apply(texts(POLICIES, NO_READ), 2, "you").version
    await scene.until(lambda: scene.keeper.problem)
    assert scene.keeper._rulings.decider.version == before
    scene.log._link = link
    await scene.until(lambda: scene.keeper._rulings.decider.version == version)
    assert scene.log.entries()[-1].version == version


@following
async def test_a_call_that_waits_is_blocked_where_the_new_set_blocks(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await scene.apply(POLICIES, NO_WRITE)
    scene.answer(True)
    assert scene.blocked_by(await settled) == ["no-write"]


@following
async def test_a_call_that_waits_goes_on_where_the_new_set_asks_for_the_same(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await scene.apply(POLICIES, NO_READ)
    scene.answer(True)
    assert await settled is None


@following
async def test_an_approval_is_not_one_for_what_the_new_set_asks_for(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await scene.apply(OTHERS)
    scene.answer(True)
    (answer,) = await settled
    assert "ask again" in answer["error"]["message"] and not scene.reporter.of("begin")
    assert scene.log.entries()[-1].effect == "block"


@following
async def test_what_was_widened_ends_and_does_not_come_back(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await asyncio.sleep(0)
    scene.answer(True, scope="tool", seconds=60)
    assert await settled is None
    assert await scene.sent(raw_call(2, "write_file")) is None
    await scene.apply(POLICIES, NO_READ)
    assert scene.keeper.approvals._changed
    for number in (3, 4):
        held = await scene.sent(raw_call(number, "write_file"))
        held.cancel()
        assert await scene.settle(held) == []
        if number == 3:
            await scene.back()


@following
async def test_a_call_is_decided_by_the_old_set_or_the_new_one(scene):
    """Calls go on all the while: each is of one version, and none finds nobody to ask."""
    stop = False
    versions = [scene.keeper._rulings.decider.version]

    async def calls() -> int:
        number = 0
        while not stop:
            number += 1
            assert await scene.sent(raw_call(number, "watched")) is None
            await asyncio.sleep(0)
        return number

    running = asyncio.create_task(calls())
    for number in range(4):
        versions.append(await scene.apply(POLICIES, NO_READ if number % 2 else NO_WRITE))
    stop = True
    done = await running
    scene.log.flush()
    asked = [one for one in scene.log.entries() if one.kind == "verdict"]
    assert len(asked) == done
    assert all((one.effect, one.wanted) == ("allow", "block") for one in asked)
    # One after the other, and never an older one again; there may be one that nobody asked.
    order = iter(versions)
    assert all(one in order for one, _ in groupby(asked, lambda entry: entry.version))


@following
async def test_a_set_that_hangs_is_replaced(scene):
    go = threading.Event()

    class Hangs:
        version, policies = "0", {}

        def reads(self, action: str) -> frozenset[str]:
            return frozenset()

        def decide_any(self, questions: Any, *, listed: bool = True, approved: bool = False) -> Any:
            go.wait(20)
            raise RuntimeError

    kept, deciding.DECIDING = deciding.DECIDING, 0.1
    try:
        scene.keeper._rulings.decider = Hangs()
        await scene.sent(raw_call(1, "t"))
        assert scene.keeper._rulings._asking.stuck
        await scene.apply(POLICIES, NO_READ)
        assert scene.blocked_by(await scene.sent(raw_call(2, "read_file"))) == ["no-read"]
    finally:
        deciding.DECIDING = kept
        go.set()


def test_what_was_widened_before_a_change_and_back_stays_ended_in_another_gateway(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "FOLLOW", 0.01)

    async def play() -> None:
        async with scene_in(tmp_path) as scene:
            settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
            await asyncio.sleep(0)
            scene.answer(True, scope="tool", seconds=60)
            assert await settled is None
        applied = scene.applied
        async with scene_in(tmp_path) as scene:
            assert await scene.sent(raw_call(2, "write_file")) is None, "it outlives its gateway"
        applied.apply(texts(POLICIES, NO_READ), time.time_ns(), "you")
        applied.rollback("", time.time_ns(), "me")
        async with scene_in(tmp_path) as scene:
            held = await scene.sent(raw_call(3, "write_file"))
            held.cancel()
            assert await scene.settle(held) == []

    asyncio.run(asyncio.wait_for(play(), 60))
