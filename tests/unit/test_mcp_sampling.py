"""What a server asks of the client's model: a policy is asked, and what tries to get around it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hullwatch.agent.mcp import sampling as sampling_module
from hullwatch.agent.mcp.message import read
from hullwatch.agent.mcp.observer import BLOCKED, Dialogue, Observer
from hullwatch.agent.mcp.sampling import METHOD, REJECTED, Refusal, Waits
from hullwatch.agent.mcp.sse import Blocks, odd_lines
from hullwatch.decide.engine import Engine
from support.gatekeeping import Scene, over, raw_call, request_of
from support.mcp_reporter import Recording

POLICIES = """
@id("no-big") @reason("too dear")
forbid (principal, action == Action::"model-call", resource == Model::"big");
@id("ask-model") @effect("challenge") @deadline("60s")
forbid (principal, action == Action::"model-call", resource == Model::"asked");
@id("ask-open") @effect("challenge") @deadline("1s") @fail("open")
forbid (principal, action == Action::"model-call", resource == Model::"open");
@id("no-secrets") forbid (principal, action == Action::"model-call", resource)
when { context has secret_kinds && context.secret_kinds.contains("test_key") };
@id("not-for-read") forbid (principal, action == Action::"model-call", resource == Model::"small")
when { context has tool_call && context.tool_call == "read_file" };
@id("watch") @mode("observe")
forbid (principal, action == Action::"model-call", resource == Model::"unknown");
"""


def params(model: str = "", said: str = "hello") -> dict[str, Any]:
    wishes = {"modelPreferences": {"hints": [{"name": model}, {"name": "fine"}]}} if model else {}
    message = {"role": "user", "content": {"type": "text", "text": said}}
    return {"messages": [message], "maxTokens": 9} | wishes


def sampling(ident: Any, model: str = "", said: str = "hello") -> bytes:
    return json.dumps(request_of(ident, METHOD, **params(model, said))).encode()


def required(ident: Any, *models: str) -> bytes:
    asked = {f"k{at}": {"method": METHOD, "params": params(one)} for at, one in enumerate(models)}
    result = {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}
    return json.dumps({"jsonrpc": "2.0", "id": ident, "result": result}).encode()


async def heard(scene: Scene, raw: bytes) -> Any:
    """As a transport does it."""
    reading = read(raw, sender="server")
    outcome = await scene.observer.sampling.asks(scene.dialogue, reading)
    if outcome is None:
        scene.observer.heard(scene.dialogue, reading, len(raw))
    return outcome


def errors(lines: tuple[bytes, ...]) -> list[Any]:
    return [(one["id"], one["error"]["code"]) for one in map(json.loads, lines)]


def with_policies(test: Any) -> Any:
    async def run(scene: Scene) -> None:
        scene.keeper._rulings.decider = Engine.of([(POLICIES, "p.cedar")])
        await test(scene)

    run.__name__ = test.__name__
    return over(run)


@over
async def test_where_no_policy_speaks_of_it_nothing_is_asked(scene):
    assert not scene.observer.sampling.guarded
    assert not Observer("srv", Recording()).sampling.guarded
    assert scene.kinds() == []


@with_policies
async def test_allowed_observed_and_blocked(scene):
    assert scene.observer.sampling.guarded
    assert await heard(scene, sampling(1, "small")) is None
    assert await heard(scene, sampling(2)) is None
    refusal = await heard(scene, sampling("x", "big"))
    (line,) = map(json.loads, refusal.to_server)
    assert (line["id"], line["error"]["code"]) == ("x", REJECTED) and not refusal.to_client
    assert "rejected" in line["error"]["message"] and "too dear" in line["error"]["message"]
    assert ("call_blocked", METHOD) in scene.reporter.signals
    scene.log.flush()
    told = [(one.action, one.resource, str(one.effect), one.wanted) for one in scene.log.entries()]
    assert told == [
        ("model-call", "Model:small", "allow", "allow"),
        ("model-call", "Model:unknown", "allow", "block"),
        ("model-call", "Model:big", "block", "block"),
    ]
    assert not scene.log.entries()[0].tool_call and scene.log.entries()[0].server == "srv"


@with_policies
async def test_secrets_in_its_messages(scene):
    refusal = await heard(scene, sampling(1, "small", "it is s3cr3t"))
    assert errors(refusal.to_server) == [(1, REJECTED)]
    assert "s3cr3t" not in str(scene.log.entries()) + str(scene.reporter.log)


@with_policies
async def test_the_call_that_it_came_within(scene):
    assert await scene.sent(raw_call(7, "read_file")) is None
    assert errors((await heard(scene, sampling(7, "small"))).to_server) == [(7, REJECTED)]
    assert list(scene.dialogue.open) == [7], "ids of the two directions are not the same"
    (call,) = scene.reporter.of("begin")
    scene.log.flush()
    assert scene.log.entries()[-1].tool_call == f"{call.id:016x}"
    assert await scene.sent(raw_call(8, "other")) is None
    assert await heard(scene, sampling(2, "small")) is None, "not certain any more"
    within = await scene.observer.sampling.asks(
        scene.dialogue, read(sampling(3, "small"), sender="server"), [7]
    )
    assert isinstance(within, Refusal), "the transport knows it"


@with_policies
async def test_a_challenge(scene):
    waits = await heard(scene, sampling(1, "asked", "how are you"))
    assert isinstance(waits, Waits) and list(scene.dialogue.asking) == [1]
    (waiting,) = scene.keeper.approvals.waiting.values()
    assert "how are you" in str(waiting.context["said"])
    settled = asyncio.create_task(waits.settle())
    await asyncio.sleep(0)
    again = await heard(scene, sampling(1, "small"))
    assert errors(again.to_server) == [(1, -32600)], "its id is in use"
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode()
    assert await scene.sent(answer) == [], "the client has not seen what it answers"
    scene.answer(True)
    assert await settled is None and not scene.dialogue.asking
    assert await scene.sent(answer) is None, "now it has"
    denied = asyncio.create_task((await heard(scene, sampling(2, "asked"))).settle())
    await asyncio.sleep(0)
    scene.answer(False)
    assert errors((await denied).to_server) == [(2, REJECTED)]
    assert await (await heard(scene, sampling(3, "open"))).settle() is None, "as its @fail says"


@with_policies
async def test_a_server_that_takes_it_back(scene):
    waits = await heard(scene, sampling(1, "asked"))
    settled = asyncio.create_task(waits.settle())
    await asyncio.sleep(0)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert await heard(scene, json.dumps(cancel).encode()) == Refusal()
    assert await settled == Refusal() and not scene.keeper.approvals.waiting
    assert await heard(scene, json.dumps(cancel).encode()) is None


@with_policies
async def test_an_answer_that_carries_it(scene):
    assert await scene.sent(raw_call(1, "t")) is None
    assert await heard(scene, required(1, "small")) is None
    assert await scene.sent(raw_call(2, "t")) is None
    refusal = await heard(scene, required(2, "small", "big"))
    assert errors(refusal.to_client) == [(2, BLOCKED)] and not refusal.to_server
    assert scene.reporter.ends == [("t", "error")] and not scene.dialogue.open
    assert await scene.sent(raw_call(3, "t")) is None
    settled = asyncio.create_task((await heard(scene, required(3, "asked"))).settle())
    await asyncio.sleep(0)
    scene.answer(False)
    assert errors((await settled).to_client) == [(3, BLOCKED)]


BIG = sampling(1, "big").decode()
INSIDE = f'{{"method":"{METHOD}","params":{json.dumps(params("big"))}}}'
HIDDEN = {
    "batch": f"[{BIG}]",
    "last of a batch": f"[{sampling(2).decode()},{BIG}]",
    "escaped method": BIG.replace(METHOD, "sampling\\u002fcreateMessage"),
    "method twice": BIG.replace('"method"', '"method":"ping","method"'),
    "method twice, the other first": BIG.replace('"params"', '"method":"ping","params"'),
    "escaped key": BIG.replace('"params"', '"\\u006dethod":"ping","params"'),
    "key in another case": BIG.replace('"method"', '"Method":"ping","method"'),
    "method in another case": BIG.replace("createMessage", "createmessage"),
    "look-alike": BIG.replace("createMessage", "cr\N{CYRILLIC SMALL LETTER IE}ateMessage"),
    "no id": BIG.replace('"id": 1, ', ""),
    "null id": BIG.replace('"id": 1', '"id": null'),
    "answer and request": BIG.replace('"id"', '"result":{},"id"'),
    "not JSON": BIG[:-1] + ",}",
    "two models": BIG.replace('"hints"', '"hints":[{"name":"small"}],"hints"'),
    "two names": BIG.replace('"name": "big"', '"Name":"big","name":"small"'),
    "byte order mark": "\ufeff" + BIG,
    "in an answer": f'{{"id":9,"result":{{"inputRequests":{{"a":{INSIDE}}}}}}}',
    "in an answer, twice": f'{{"id":9,"result":{{"inputRequests":{{"a":{INSIDE},"a":'
    f"{INSIDE.replace('big', 'small')}}}}}}}",
    "in a list": f'{{"id":9,"result":{{"inputRequests":[{INSIDE}]}}}}',
    "in one of two results": f'{{"id":9,"result":{{"inputRequests":{{"a":{INSIDE}}}}},"result":1}}',
    "beside an error": f'{{"id":9,"error":null,"result":{{"inputRequests":{{"a":{INSIDE}}}}}}}',
    "beside half a surrogate": f'{{"id":9,"result":{{"\\ud800":1,"inputRequests":'
    f'{{"a":{INSIDE}}}}}}}',
    "half a surrogate in its wishes": BIG.replace('"hints"', '"\\ud800":1,"hints"'),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_it_cannot_be_hidden(way, tmp_path):
    @with_policies
    async def play(scene: Scene) -> None:
        assert HIDDEN[way] != BIG
        refusal = await heard(scene, HIDDEN[way].encode())
        assert isinstance(refusal, Refusal) and not refusal.to_client

    play(tmp_path)


@with_policies
async def test_what_is_no_such_thing_goes_on(scene):
    assert await scene.sent(raw_call(1, "t")) is None
    table = [{"name": "a", "id": 1, "Name": "b"}, {"name": "c", "method": "ping"}]
    result = {"content": [], "structuredContent": {"rows": table, "method": 1, "result": 2}}
    for said in (
        {"id": 1, "result": result},
        {"id": 5, "method": "roots/list"},
        {"method": "notifications/message", "params": {"data": {"id": 1, "result": 2}}},
        {"id": 1, "result": {"inputRequests": {"a": {"method": "roots/list"}}}},
    ):
        assert await heard(scene, json.dumps({"jsonrpc": "2.0"} | said).encode()) is None
    assert scene.reporter.ends == [("t", "ok")]


def test_a_gate_that_hangs_or_breaks_refuses(monkeypatch):
    monkeypatch.setattr(sampling_module, "ASKING", 0.05)

    class Hangs:
        def speaks(self, action: str) -> bool:
            return True

        async def ask(self, asked: Any) -> Any:
            await asyncio.Event().wait()

    class Breaks(Hangs):
        async def ask(self, asked: Any) -> Any:
            raise RuntimeError

    async def play() -> None:
        for gate in (Hangs(), Breaks()):
            observer = Observer("srv", Recording(), gate=gate)
            reading = read(sampling(1), sender="server")
            refusal = await observer.sampling.asks(Dialogue(), reading)
            assert isinstance(refusal, Refusal) and len(refusal.to_server) == 1

    asyncio.run(asyncio.wait_for(play(), 10))


STREAM = (
    b': hello\r\n\r\nevent: message\ndata: {"a":1}\n\ndata: x\rdata: y\r\rid: 3\r\n\r\n\n'
    b"data: \xe2\x82\xac\n\nretry: 5\n\n"
)


def test_a_stream_in_blocks_loses_nothing_however_it_is_cut():
    whole = Blocks().feed(STREAM)
    assert b"".join(block.raw for block in whole) == STREAM
    told = [event.data for block in whole for event in block.events]
    assert told == [b'{"a":1}', b"x\ny", "€".encode()]
    assert max(len(block.events) for block in whole) == 1
    for size in range(1, 12):
        blocks = Blocks()
        found = [
            one for at in range(0, len(STREAM), size) for one in blocks.feed(STREAM[at : at + size])
        ]
        found += blocks.close()
        assert b"".join(block.raw for block in found) == STREAM, size
        assert [event.data for block in found for event in block.events] == told, size
        assert max(len(block.events) for block in found) == 1, size


def test_blocks_are_bounded_and_what_is_cut_off_is_told():
    blocks = Blocks(limit=100)
    (large,) = blocks.feed(b"data: " + b"x" * 200 + b"\n\n")
    assert not large.raw and large.events
    assert blocks.feed(b"data: end") == [] and not blocks.between
    (rest,) = blocks.close()
    assert rest.raw == b"data: end" and rest.events[0].data == b"end"


def test_line_ends_of_some_readers():
    for odd in ("\u2028", "\u2029", "\x85", "\x0b"):
        assert odd_lines(f": a{odd}data: x\n\n".encode())
        assert odd_lines(f"data: a{odd}{odd}\n\n".encode())
        assert odd_lines(f"data: a{odd}\n\n".encode())
    assert not odd_lines('data: {"text": "one\u2028two"}\n\n'.encode())
