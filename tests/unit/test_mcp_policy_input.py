"""`input_required` (2026-07-28): an answer asks the client's user, and the call comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hullwatch.agent.mcp.gate import INPUT, Held
from hullwatch.agent.mcp.observer import BLOCKED, Dialogue
from hullwatch.decide.approvals import Person
from support.gatekeeping import Scene, over, raw_call

VERSION = "io.modelcontextprotocol/protocolVersion"
CAN = "io.modelcontextprotocol/clientCapabilities"
YES = {"action": "accept", "content": {"approve": True, "why": "mine"}}
ARGUMENTS = {"path": "/srv"}


def modern(ident: Any, tool: str = "own", can: Any = None, **params: Any) -> bytes:
    meta = {VERSION: "2026-07-28", CAN: {"elicitation": {}} if can is None else can}
    return raw_call(ident, tool, **{"arguments": ARGUMENTS, "_meta": meta} | params)


async def asked(scene: Scene, tool: str = "own") -> dict[str, Any]:
    """The answer to a call that is asked about."""
    scene.dialogue = Dialogue(alone=True)
    (answer,) = await scene.sent(modern(1, tool))
    assert answer["id"] == 1
    result: dict[str, Any] = answer["result"]
    return result


async def back(scene: Scene, result: Any, said: Any = YES, ident: int = 2, **more: Any) -> Any:
    """The client comes back, on another connection."""
    scene.dialogue = Dialogue(alone=True)
    state = {"requestState": result["requestState"]}
    responses = {} if said is None else {"inputResponses": {INPUT: said}}
    return await scene.sent(modern(ident, **{**state, **responses, **more}))


@over
async def test_the_user_approves_and_the_server_gets_the_call_as_it_was(scene):
    result = await asked(scene)
    assert result["resultType"] == "input_required"
    request = result["inputRequests"][INPUT]
    assert request["method"] == "elicitation/create" and request["params"]["mode"] == "form"
    assert "ask-self" in request["params"]["message"] and not scene.reporter.of("begin")
    held = await back(scene, result)
    assert await scene.settle(held) is None
    assert json.loads(held.instead) == json.loads(modern(2)), "without what was ours"
    (begun,) = scene.reporter.of("begin")
    entries = scene.log.entries()
    assert [one.kind for one in entries] == ["held", "approved"]
    assert entries[1].why == "mine" and entries[0].tool_call == f"{begun.id:016x}"
    assert not scene.keeper.approvals.waiting and list(scene.dialogue.open) == [2]


@over
async def test_it_is_single_use(scene):
    result = await asked(scene)
    assert await scene.settle(await back(scene, result)) is None
    for ident in (3, 4):
        (answer,) = await back(scene, result, ident=ident)
        assert answer["error"]["code"] == BLOCKED and "call again" in answer["error"]["message"]
    guessed = scene.observer._returns.prefix + "guessed"
    (answer,) = await back(scene, {"requestState": guessed})
    assert answer["error"]["code"] == BLOCKED
    assert len(scene.reporter.of("begin")) == 1


@pytest.mark.parametrize(
    "said", [{"action": "decline"}, {"action": "accept", "content": {"approve": False}}]
)
def test_the_user_denies(tmp_path, said):
    async def play(scene: Scene) -> None:
        (answer,) = await scene.settle(await back(scene, await asked(scene), said))
        assert "denied" in answer["error"]["message"] and not scene.reporter.of("begin")

    over(play)(tmp_path)


@pytest.mark.parametrize(
    "said", [None, {}, 5, {"action": "cancel"}, {"action": "accept", "content": {"approve": 1}}]
)
def test_a_user_who_does_not_answer_leaves_it_to_others(tmp_path, said):
    async def play(scene: Scene) -> None:
        result = await asked(scene)
        settled = asyncio.create_task(scene.settle(await back(scene, result, said)))
        await asyncio.sleep(0.01)
        if said == {"action": "accept", "content": {"approve": 1}}:
            (answer,) = await settled
            assert "denied" in answer["error"]["message"], "only true is a yes"
            return
        assert not settled.done()
        scene.keeper.approvals.answer(scene.waits(), Person(1000, 1, 1000), True, "there")
        assert await settled is None

    over(play)(tmp_path)


@over
async def test_another_call_does_not_come_back_with_it(scene):
    for more in ({"arguments": {"path": "/etc"}}, {"tool": "write_file"}):
        result = await asked(scene)
        (answer,) = await back(scene, result, **more)
        assert "not the call" in answer["error"]["message"]
        assert not scene.keeper.approvals.waiting, "nor does it wait on"
        (answer,) = await back(scene, result)
        assert "call again" in answer["error"]["message"]
    assert not scene.reporter.of("begin")


@over
async def test_a_tool_that_changed_meanwhile(scene):
    await scene.lists("own", "own-soon")
    result = await asked(scene)
    await scene.lists("own", "own-soon", description="another")
    (answer,) = await scene.settle(await back(scene, result))
    assert "changed while the call waited" in answer["error"]["message"]


@over
async def test_the_state_of_another_gateway_passes(scene):
    """One between this one and the server, say."""
    scene.dialogue = Dialogue(alone=True)
    raw = modern(1, "read_file", requestState="hullwatch-0123456789ab-x")
    assert await scene.sent(raw) is None


@over
async def test_others_answer_before_it_comes_back(scene):
    result = await asked(scene)
    owner = Person(1000, 1, 1000)
    scene.keeper.approvals.answer(scene.waits(), owner, True, "there")
    assert await scene.settle(await back(scene, result)) is None
    result = await asked(scene)
    scene.keeper.approvals.answer(scene.waits(), owner, False, "not there")
    (answer,) = await scene.settle(await back(scene, result))
    assert "not there" in answer["error"]["message"]


@over
async def test_the_user_s_no_counts_after_others_have_approved(scene):
    result = await asked(scene)
    scene.keeper.approvals.answer(scene.waits(), Person(1000, 1, 1000), True, "there")
    (answer,) = await scene.settle(await back(scene, result, {"action": "decline"}))
    assert "denied" in answer["error"]["message"]
    assert [one.kind for one in scene.log.entries()] == ["held", "approved", "denied"]


@over
async def test_one_that_never_comes_back_ends_at_its_deadline(scene):

    result = await asked(scene, "own-soon")
    async with asyncio.timeout(20):
        while scene.keeper.approvals.waiting:
            await asyncio.sleep(0.01)
    assert scene.kinds()[-1] == ("expired", "block")
    scene.observer._returns._clock = lambda: 10**19
    (answer,) = await back(scene, result, tool="own-soon")
    assert "call again" in answer["error"]["message"]
    assert not len(scene.observer._returns)


@over
async def test_what_is_asked_about_is_bounded_and_ends_with_the_gateway(scene):
    from hullwatch.agent.mcp import returns

    kept, returns.MAX_ASKED = returns.MAX_ASKED, 2
    try:
        for _ in range(3):
            await asked(scene)
    finally:
        returns.MAX_ASKED = kept
    assert len(scene.observer._returns) == 2 == len(scene.keeper.approvals.waiting)
    scene.observer.close()
    assert not len(scene.observer._returns) and not scene.keeper.approvals.waiting


@pytest.mark.parametrize(
    "raw",
    [
        modern(1, can={}),
        modern(1, can={"elicitation": {"url": {}}}),
        modern(1, can={"elicitation": 1}),
        modern(1, "write_file"),
        modern(1, requestState="of the server"),
        modern(1, inputResponses={}),
        raw_call(1, "own", _meta={CAN: {"elicitation": {}}}),
    ],
    ids="cannot,url,odd,others,round,responses,old".split(","),
)
def test_who_is_not_asked_in_an_answer(tmp_path, raw):
    async def play(scene: Scene) -> None:
        held = await scene.sent(raw)
        assert isinstance(held, Held) and not held.instead
        held.cancel()
        assert await scene.settle(held) == []

    over(play)(tmp_path)
