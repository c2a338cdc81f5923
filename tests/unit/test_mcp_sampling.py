"""What a server asks of the client's model: a policy is asked, and what tries to get around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hullwatch.agent.mcp import gate as gate_module
from hullwatch.agent.mcp import sampling as sampling_module
from hullwatch.agent.mcp.message import read
from hullwatch.agent.mcp.observer import BLOCKED, Dialogue, Observer
from hullwatch.agent.mcp.proxy import Proxy
from hullwatch.agent.mcp.sampling import METHOD, REJECTED, Refusal, Waits
from hullwatch.agent.mcp.sse import Blocks, odd_lines
from hullwatch.agent.mcp.upstream import Upstream
from hullwatch.decide.approvals import Person
from hullwatch.decide.engine import Engine
from support.gatekeeping import (
    HIDDEN_SAMPLING,
    Scene,
    over,
    raw_call,
    reply,
    request_of,
    sampling,
    sampling_params,
)
from support.mcp_http_server import Asked as Got
from support.mcp_http_server import Peer, Raw, chunk, json_answer, request, sse
from support.mcp_reporter import Recording

POLICIES = """
@id("no-big") @reason("too dear")
forbid (principal, action == Action::"model-call", resource == Model::"big");
@id("ask-model") @effect("challenge") @deadline("60s")
forbid (principal, action == Action::"model-call", resource == Model::"asked");
@id("ask-open") @effect("challenge") @deadline("1s") @fail("open")
forbid (principal, action == Action::"model-call", resource == Model::"open");
@id("ask-self") @effect("challenge") @answer("requester") @approvers("uid:1000")
forbid (principal, action == Action::"model-call", resource == Model::"own");
@id("no-secrets") forbid (principal, action == Action::"model-call", resource)
when { context has secret_kinds && context.secret_kinds.contains("test_key") };
@id("not-for-read") forbid (principal, action == Action::"model-call", resource == Model::"small")
when { context has tool_call && context.tool_call == "read_file" };
@id("watch") @mode("observe")
forbid (principal, action == Action::"model-call", resource == Model::"unknown");
"""


def required(ident: Any, *models: str) -> bytes:
    asked = {
        f"k{at}": {"method": METHOD, "params": sampling_params(one)}
        for at, one in enumerate(models)
    }
    result = {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}
    return json.dumps({"jsonrpc": "2.0", "id": ident, "result": result}).encode()


async def heard(scene: Scene, raw: bytes) -> Any:
    """As a transport does it."""
    reading = read(raw, sender="server")
    outcome = await scene.observer.sampling.asks(scene.dialogue, reading)
    if outcome is None:
        scene.observer.heard(scene.dialogue, reading, len(raw))
    return outcome


def settle(scene: Scene, waits: Waits, server: list[Any] | None = None) -> Any:
    """The client's side is in scene.told."""

    async def tell(messages: Any) -> None:
        (server if server is not None else []).extend(map(json.loads, messages))

    return waits.settle(scene.tell, tell)


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
    assert ("model_call_blocked", METHOD) in scene.reporter.signals
    scene.log.flush()
    told = [(one.action, one.resource, str(one.effect), one.wanted) for one in scene.log.entries()]
    assert told == [
        ("model-call", "Model:small", "allow", "allow"),
        ("model-call", "Model:unknown", "allow", "block"),
        ("model-call", "Model:big", "block", "block"),
    ]
    assert not scene.log.entries()[0].tool_call and scene.log.entries()[0].server == "srv"


@over
async def test_what_is_only_observed_is_logged_and_changes_nothing(scene):
    observed = POLICIES.replace('@id("', '@mode("observe") @id("').replace('@mode("observe")\n', "")
    scene.keeper._rulings.decider = Engine.of([(observed, "p.cedar")])
    assert not scene.observer.sampling.guarded
    assert await scene.sent(raw_call(1, "t")) is None
    for raw in (sampling(1, "big"), required(1, "small", "big"), b"no JSON"):
        scene.observer.heard(scene.dialogue, read(raw, doubles=False), len(raw))
    while scene.observer.sampling._watching:
        await asyncio.sleep(0.01)
    scene.log.flush()
    told = [(one.resource, one.effect, one.wanted, one.tool_call) for one in scene.log.entries()]
    (call,) = scene.reporter.of("begin")
    assert told[1:] == [
        ("Model:big", "allow", "block", f"{call.id:016x}"),
        ("Model:small", "allow", "allow", f"{call.id:016x}"),
        ("Model:big", "allow", "block", f"{call.id:016x}"),
    ]


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
    settled = asyncio.create_task(settle(scene, waits))
    await asyncio.sleep(0)
    again = await heard(scene, sampling(1, "small"))
    assert errors(again.to_server) == [(1, -32600)], "its id is in use"
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode()
    assert await scene.sent(answer) == [], "the client has not seen what it answers"
    scene.answer(True)
    assert await settled is None and not scene.dialogue.asking
    assert await scene.sent(answer) is None, "now it has"
    denied = asyncio.create_task(settle(scene, await heard(scene, sampling(2, "asked"))))
    await asyncio.sleep(0)
    scene.answer(False)
    assert errors((await denied).to_server) == [(2, REJECTED)]
    assert await settle(scene, await heard(scene, sampling(3, "open"))) is None, "as its @fail says"


def noted(token: Any, progress: float) -> bytes:
    params = {"progressToken": token, "progress": progress}
    message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    return json.dumps(message).encode()


TOKEN: dict[str, Any] = {"_meta": {"progressToken": 5}}


def test_whoever_waits_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server that asked, and the client whose call is under way; each time more than before,
    also than what the server said of the call."""
    monkeypatch.setattr(gate_module, "PROGRESS", 0.01)

    @with_policies
    async def play(scene: Scene) -> None:
        server: list[Any] = []
        assert await scene.sent(raw_call(1, "t", _meta={"progressToken": "c"})) is None
        assert await heard(scene, noted("c", 50)) is None
        for odd in (
            noted("other", 99),
            noted("c", 7).replace(b"7", b"1e999"),
            noted("c", 1),
            noted([], 3),
        ):
            scene.observer.heard(scene.dialogue, read(odd), len(odd))
        for ident in "ab":
            waits = await heard(scene, sampling(ident, "asked", **TOKEN))
            held = scene.waits()
            settled = asyncio.create_task(settle(scene, waits, server))
            count = len(scene.told) + 2
            while len(scene.told) < count:
                await asyncio.sleep(0.01)
            scene.answer(True)
            assert await settled is None
        for told, token in ((scene.told, "c"), (server, 5)):
            assert {one["params"]["progressToken"] for one in told} == {token}
            assert held in told[-1]["params"]["message"]
        done = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode()
        waits = await heard(scene, sampling("c", "asked", **TOKEN))
        assert await heard(scene, done) is None
        count, before = len(server), len(scene.told)
        settled = asyncio.create_task(settle(scene, waits, server))
        while len(server) < count + 2:
            await asyncio.sleep(0.01)
        settled.cancel()
        assert len(scene.told) == before, "nobody waits for it any more"
        client = [one["params"]["progress"] for one in scene.told]
        assert client == sorted(set(client)) and 50 < client[0] < client[-1] < 50.1
        asked = [one["params"]["progress"] for one in server]
        again = asked.index(min(asked), 1)  # of another request
        assert asked[:again] == sorted(set(asked[:again])) and asked[0] > 0

    play(tmp_path)


@with_policies
async def test_whoever_asks_for_no_progress_is_told_nothing(scene):
    server: list[Any] = []
    for ident in (1, 2):
        assert await scene.sent(raw_call(ident, "t", **TOKEN)) is None
    settled = asyncio.create_task(settle(scene, await heard(scene, sampling(1, "asked")), server))
    await asyncio.sleep(0.05)
    scene.answer(True)
    assert await settled is None
    assert not server and not scene.told, "of which call it is is not certain"


@pytest.mark.parametrize("yes", [True, False])
def test_the_client_s_user_may_answer_where_the_policy_says_so(yes: bool, tmp_path: Path):
    @with_policies
    async def play(scene: Scene) -> None:
        hello = {"capabilities": {"elicitation": {}}, "protocolVersion": "2025-11-25"}
        assert await scene.sent(json.dumps(request_of(0, "initialize", **hello)).encode()) is None
        settled = asyncio.create_task(settle(scene, await heard(scene, sampling(1, "own"))))
        await asyncio.sleep(0)
        while not scene.told:
            await asyncio.sleep(0.01)
        (asked,) = scene.told
        said = asked["params"]["message"]
        assert asked["method"] == "elicitation/create" and "hello" in said
        assert said.startswith("Let srv use your model 'own'? ") and "ask-self" in said
        answer = reply(asked, action="accept", content={"approve": yes, "why": "mine"})
        assert await scene.sent(answer) == [], "the server has not asked"
        refusal = await settled
        assert refusal is None if yes else errors(refusal.to_server) == [(1, REJECTED)]
        entry = scene.log.entries()[-1]
        assert (entry.kind, entry.why) == ("approved" if yes else "denied", "mine")
        assert scene.told[-1]["params"]["requestId"] == asked["id"] and not scene.dialogue.elicited
        assert await scene.sent(answer) is None, "what is not ours passes"

    play(tmp_path)


@with_policies
async def test_the_client_s_user_is_not_asked_else(scene):
    for model, can, user in (("asked", {"elicitation": {}}, 0), ("own", {}, 1000)):
        hello = json.dumps(request_of(0, "initialize", capabilities=can)).encode()
        assert await scene.sent(hello) is None
        settled = asyncio.create_task(settle(scene, await heard(scene, sampling(1, model))))
        await asyncio.sleep(0.01)
        scene.keeper.approvals.answer(scene.waits(), Person(user, 1, user), True, "there")
        assert await settled is None and not scene.told


@with_policies
async def test_a_server_that_takes_it_back(scene):
    waits = await heard(scene, sampling(1, "asked"))
    settled = asyncio.create_task(settle(scene, waits))
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
    settled = asyncio.create_task(settle(scene, await heard(scene, required(3, "asked"))))
    await asyncio.sleep(0)
    scene.answer(False)
    assert errors((await settled).to_client) == [(3, BLOCKED)]


@pytest.mark.parametrize("way", HIDDEN_SAMPLING)
def test_it_cannot_be_hidden(way, tmp_path):
    @with_policies
    async def play(scene: Scene) -> None:
        refusal = await heard(scene, HIDDEN_SAMPLING[way])
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
        def speaks(self, action: str, enforced: bool = False) -> bool:
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


# --- over HTTP ----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def between(folder: Path, answering: Any) -> AsyncIterator[tuple[Scene, Peer, Raw]]:
    scene = Scene(folder, Engine.of([(POLICIES, "p.cedar")]))
    await scene.keeper.start()
    async with Peer(answering) as peer:
        proxy = Proxy(scene.observer, Upstream(f"http://127.0.0.1:{peer.port}/mcp"))
        server = await proxy.listen("127.0.0.1", 0)
        client = await Raw.connect(server.sockets[0].getsockname()[1])
        try:
            yield scene, peer, client
        finally:
            client.close()
            server.close()
            await proxy.close()
            scene.keeper.close()


def over_http(*parts: bytes, stream: bool = True, first: bytes = b"") -> Any:
    """parts: what the server says to a call, each in a write of its own. first: the call."""

    async def answering(asked: Got, writer: asyncio.StreamWriter) -> None:
        if b'"error"' in asked.body or b"notifications/progress" in asked.body:
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(sse() if stream else b"")
        for part in parts:
            writer.write(chunk(part) if stream else part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(chunk(b"") if stream else b"")
        await writer.drain()

    def made(test: Any) -> Any:
        def run(tmp_path: Path) -> None:
            async def play() -> None:
                async with between(tmp_path, answering) as (scene, peer, client):
                    await client.send(first or CALL)
                    await test(scene, peer, client)

            asyncio.run(asyncio.wait_for(play(), 30))

        run.__name__ = test.__name__
        return run

    return made


CALL = request("POST", "/mcp", raw_call(1, "t"), Mcp_Session_Id="s1", Authorization="Bearer b")
DONE = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}).encode()


def event(*messages: bytes) -> bytes:
    return b"".join(b"data: " + one + b"\n\n" for one in messages)


WAITED = request("POST", "/mcp", raw_call(1, "t", **TOKEN), Accept="text/event-stream")


def progress_in(raw: bytes) -> Any:
    return json.loads(raw.removeprefix(b"data: "))["params"]


@over_http(event(sampling("a", "asked", _meta={"progressToken": "s"})), first=WAITED)
async def test_http_both_ends_are_told_that_it_waits(scene, peer, client):
    assert (await client.head())[0] == 200
    assert progress_in(await client.chunk())["progressToken"] == 5
    (told,) = await refusals(peer)
    assert progress_in(told.body)["progressToken"] == "s" and told.method == "POST"
    scene.answer(True)
    assert b'"sampling/createMessage"' in await client.chunk()


@over_http(json_answer(required(1, "asked")), stream=False, first=WAITED)
async def test_http_a_body_that_waits_becomes_a_stream(scene, peer, client):
    assert (await client.head())[0] == 200
    assert progress_in(await client.chunk())["progressToken"] == 5
    scene.answer(True)
    assert await client.chunk() == event(required(1, "asked")) and len(peer.asked) == 1


async def refusals(peer: Peer) -> list[Got]:
    while len(peer.asked) < 2:
        await asyncio.sleep(0.01)
    return peer.asked[1:]


MIXED = event(sampling("a", "small"), sampling("b", "big"), DONE)


@over_http(*(MIXED[at : at + 7] for at in range(0, len(MIXED), 7)))
async def test_http_a_stream(scene, peer, client):
    status, _, body = await client.answer()
    assert status == 200 and body == event(sampling("a", "small"), DONE), "byte by byte"
    (told,) = await refusals(peer)
    assert (told.method, told.target) == ("POST", "/mcp")
    assert told.headers["mcp-session-id"] == "s1" and told.headers["authorization"] == "Bearer b"
    assert errors((told.body,)) == [("b", REJECTED)]
    assert scene.reporter.ends == [("t", "ok")]


@over_http(event(sampling("a", "asked"), sampling("b", "small")))
async def test_http_held_while_the_others_go_on(scene, peer, client):
    assert (await client.head())[0] == 200
    assert await client.chunk() == event(sampling("b", "small"))
    scene.answer(True)
    assert await client.chunk() == event(sampling("a", "asked")) and await client.chunk() == b""
    assert len(peer.asked) == 1


@over_http(event(sampling("a", "asked")))
async def test_http_held_and_denied(scene, peer, client):
    await client.head()
    while not scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)
    scene.answer(False)
    assert await client.chunk() == b""
    (told,) = await refusals(peer)
    assert errors((told.body,)) == [("a", REJECTED)]


@over_http(event(sampling("a", "asked")))
async def test_http_a_client_that_leaves(scene, peer, client):
    await client.head()
    while not scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)
    client.close()
    while scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)
    assert len(peer.asked) == 1 and scene.kinds()[-1] == ("cancelled", "block")


ODD = '{"jsonrpc":"2.0","method":"x","params":"\u2028data: {}\u2028\u2028"}'.encode()


@over_http(event(ODD, DONE))
async def test_http_events_that_some_readers_see(scene, peer, client):
    assert (await client.answer())[2] == event(DONE)


@over_http(b"event: endpoint\nevent:\n" + event(sampling("a", "big")), event(DONE)[:-1])
async def test_http_an_event_of_two_names_and_one_that_is_cut_off(scene, peer, client):
    assert (await client.answer())[2] == event(DONE)[:-1]
    assert len(await refusals(peer)) == 1


@over_http(event(b"x" * (9 << 20)), event(required(1, "big")))
async def test_http_a_stream_with_what_is_too_large_and_an_answer_that_asks(scene, peer, client):
    _, _, body = await client.answer()
    assert errors((body.removeprefix(b"data: "),)) == [(1, BLOCKED)]
    assert scene.reporter.ends == [("t", "error")]


@over_http(b"event: endpoint\ndata: /messages?s=1\n\n" + event(sampling("a", "big")))
async def test_http_of_the_first_transport(scene, peer, client):
    await client.answer()
    (told,) = await refusals(peer)
    assert told.target == "/messages?s=1" and errors((told.body,)) == [("a", REJECTED)]


def pieces(raw: bytes) -> list[bytes]:
    return [raw[at : at + 50] for at in range(0, len(raw), 50)]


@over_http(*pieces(json_answer(required(1, "big"))), stream=False)
async def test_http_body_that_asks(scene, peer, client):
    status, _, body = await client.answer()
    assert status == 200 and errors((body,)) == [(1, BLOCKED)] and len(peer.asked) == 1


@over_http(*pieces(json_answer(required(1, "small"))), stream=False)
async def test_http_body_that_may(scene, peer, client):
    assert (await client.answer())[2] == required(1, "small")


@over_http(json_answer(b"[" + DONE + b"," + sampling(4, "big") + b"]"), stream=False)
async def test_http_body_of_several(scene, peer, client):
    assert errors(((await client.answer())[2],)) == [(1, BLOCKED)]
    assert errors(tuple(one.body for one in await refusals(peer))) == [(4, REJECTED)]


@over_http(json_answer(required(1, "asked")), stream=False)
async def test_http_body_that_is_held(scene, peer, client):
    while not scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)
    scene.answer(True)
    assert (await client.answer())[2] == required(1, "asked")


@over_http(json_answer(b"no JSON"), stream=False)
async def test_http_body_that_is_none(scene, peer, client):
    assert errors(((await client.answer())[2],)) == [(1, -32600)]


@over_http(json_answer(DONE, "200 OK", "Content-Encoding: gzip"), stream=False)
async def test_http_body_that_is_compressed(scene, peer, client):
    status, _, body = await client.answer()
    assert status == 502 and b"compressed" in body


@over_http(json_answer(DONE, "200 OK", "Content-Type: text/event-stream"), stream=False)
async def test_http_body_of_two_kinds(scene, peer, client):
    assert (await client.answer())[0] == 502
