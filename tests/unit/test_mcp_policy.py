"""Policy at the gateway: what is blocked, what waits, and what tries to get around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from hullwatch.agent.mcp import gate as gate_module
from hullwatch.agent.mcp import observer as observer_module
from hullwatch.agent.mcp.gate import Asked, Held, Ruling
from hullwatch.agent.mcp.message import read
from hullwatch.agent.mcp.observer import BLOCKED, Dialogue, Observer
from hullwatch.agent.mcp.proxy import Proxy
from hullwatch.agent.mcp.upstream import Upstream
from hullwatch.agent.secrets.examples import fill
from hullwatch.decide import deciding
from hullwatch.decide.approvals import Person
from hullwatch.decide.question import Decision, Effect, Fail, Mode
from support.gatekeeping import BYPASSES, PERSON, Scene, over, raw_call, reply, request_of
from support.mcp_http_server import Asked as Got
from support.mcp_http_server import Peer, Raw, chunk, json_answer, request, sse
from support.mcp_reporter import Recording


@over
async def test_what_no_policy_speaks_of_goes_on_and_is_counted(scene):
    for number in range(5):
        assert await scene.sent(raw_call(number, "read_file", arguments={"n": number})) is None
    assert len(scene.reporter.of("begin")) == 5
    assert scene.kinds() == [("verdict", "allow")]
    scene.keeper._rulings._count()
    scene.log.flush()
    (first, counted) = scene.log.entries()
    assert (counted.kind, counted.count) == ("allows", 4)
    assert first.tool_call == f"{scene.reporter.of('begin')[0].id:016x}"
    assert first.principal == "Agent:unknown" and first.identity == "uid:1000"


@over
async def test_a_blocked_call(scene):
    (answer,) = await scene.sent(raw_call(7, "delete_file", arguments={"path": "/x"}))
    assert answer["id"] == 7 and answer["error"]["code"] == BLOCKED
    assert "no-delete" in answer["error"]["message"]
    assert "nothing is deleted here" in answer["error"]["message"]
    assert answer["error"]["data"]["policies"] == ["no-delete"]
    assert not scene.reporter.of("begin") and not scene.dialogue.open
    assert ("call_blocked", "delete_file") in scene.reporter.signals
    assert scene.kinds() == [("verdict", "block")]
    assert "/x" not in str(scene.log.entries())


@over
async def test_kinds_of_secrets_are_known_before_it_is_decided(scene):
    (answer,) = await scene.sent(raw_call(1, "read_file", arguments={"k": "s3cr3t"}))
    assert answer["error"]["data"]["policies"] == ["no-secrets"]
    assert "s3cr3t" not in str(scene.log.entries()) + str(scene.reporter.log)


@over
async def test_an_observed_policy_lets_it_go_on_and_each_is_logged(scene):
    for number in range(2):
        assert await scene.sent(raw_call(number, "watched")) is None
    scene.log.flush()
    assert [(one.effect, one.wanted, one.mode) for one in scene.log.entries()] == [
        ("allow", "block", "observe")
    ] * 2


@over
async def test_a_call_that_is_approved_goes_on_once(scene):
    held = await scene.sent(raw_call(1, "write_file", _meta={"progressToken": "p"}))
    assert isinstance(held, Held) and not scene.reporter.of("begin")
    settled = asyncio.create_task(scene.settle(held))
    while not scene.told:
        await asyncio.sleep(0.01)
    (progress,) = scene.told
    assert progress["params"]["progressToken"] == "p"
    assert scene.waits() in progress["params"]["message"]
    assert scene.answer(True) == "approved"
    assert await settled is None
    assert len(scene.reporter.of("begin")) == 1 and list(scene.dialogue.open) == [1]
    assert scene.kinds() == [("held", "challenge"), ("approved", "allow")]
    again = await scene.sent(raw_call(2, "write_file"))
    assert isinstance(again, Held), "an approval is for one call"
    again.cancel()
    assert await scene.settle(again) == []


@over
async def test_a_call_that_is_denied(scene):
    held = await scene.sent(raw_call(1, "write_file"))
    settled = asyncio.create_task(scene.settle(held))
    await asyncio.sleep(0)
    scene.answer(False)
    (answer,) = await settled
    assert answer["error"]["code"] == BLOCKED and answer["error"]["data"]["policies"] == [
        "ask-write"
    ]
    assert "because" in answer["error"]["message"] and not scene.told
    assert not scene.reporter.of("begin") and not scene.dialogue.held


@over
async def test_whoever_answers_sees_arguments_without_secrets_and_they_are_kept_nowhere(scene):
    token = fill("ghp_{crc}", Random(7))
    held = await scene.sent(raw_call(1, "write_file", arguments={"path": "/srv/x", "t": token}))
    (waiting,) = scene.keeper.approvals.waiting.values()
    said = str(waiting.context["said"])
    assert "/srv/x" in said and token not in said and "github" in said
    assert "/srv/x" not in str(scene.log.entries()) + str(scene.reporter.log)
    held.close()
    assert not scene.keeper.approvals.waiting and not scene.dialogue.held


@over
async def test_deadlines(scene):
    closed = await scene.settle(await scene.sent(raw_call(1, "soon")))
    assert "not approved in time" in closed[0]["error"]["message"]
    assert await scene.settle(await scene.sent(raw_call(2, "open"))) is None
    assert scene.kinds() == [
        ("held", "challenge"), ("expired", "block"), ("held", "challenge"), ("expired", "allow"),
    ]  # fmt: skip


@over
async def test_a_client_that_takes_it_back(scene):
    held = await scene.sent(raw_call(1, "write_file"))
    settled = asyncio.create_task(scene.settle(held))
    await asyncio.sleep(0)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert await scene.sent(json.dumps(cancel).encode()) == [], "the server knows of nothing"
    assert await settled == []
    assert scene.kinds() == [("held", "challenge"), ("cancelled", "block")]
    assert not scene.keeper.approvals.waiting and not scene.dialogue.held
    assert await scene.sent(json.dumps(cancel).encode()) is None


@over
async def test_what_is_broken_off_is_not_approved_later(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await asyncio.sleep(0)
    settled.cancel()
    await asyncio.gather(settled, return_exceptions=True)
    assert not scene.keeper.approvals.waiting and not scene.reporter.of("begin")


@over
async def test_a_widened_approval_serves_the_next_calls(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await asyncio.sleep(0)
    scene.answer(True, scope="tool", seconds=60)
    assert await settled is None
    assert await scene.sent(raw_call(2, "write_file", arguments={"other": 1})) is None
    assert scene.log.entries()[-1].scope == "tool"
    # It lifts a challenge, nothing else.
    (answer,) = await scene.sent(raw_call(3, "write_file", arguments={"k": "s3cr3t"}))
    assert answer["error"]["data"]["policies"] == ["no-secrets"]


@over
async def test_a_tool_that_changes_while_its_call_waits(scene):
    await scene.lists("write_file")
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await asyncio.sleep(0)
    await scene.lists("write_file", description="another")
    scene.answer(True)
    (answer,) = await settled
    assert "changed while the call waited" in answer["error"]["message"]
    (answer,) = await scene.sent(raw_call(2, "write_file"))
    assert answer["error"]["data"]["policies"] == ["changed"]


@over
async def test_round_trips_of_an_approved_call_are_not_asked_again_unless_they_differ(scene):
    async def again(ident: int, **params: Any) -> Any:
        return await scene.sent(raw_call(ident, "write_file", requestState="s", **params))

    def wants(ident: int) -> None:
        result = {"resultType": "input_required", "requestState": "s"}
        raw = json.dumps({"jsonrpc": "2.0", "id": ident, "result": result}).encode()
        scene.observer.heard(scene.dialogue, read(raw), len(raw))

    settled = asyncio.create_task(
        scene.settle(await scene.sent(raw_call(1, "write_file", arguments={"a": 1})))
    )
    await asyncio.sleep(0)
    scene.answer(True)
    assert await settled is None
    wants(1)
    assert await again(2, arguments={"a": 1}) is None
    wants(2)
    other = await again(3, arguments={"a": 2})
    assert isinstance(other, Held), "nobody has approved these arguments"
    other.cancel()
    await scene.settle(other)


# --- the client's own user ----------------------------------------------------------------


async def own_call(scene: Scene, tool: str = "own") -> tuple[Any, list[Any]]:
    """A call that is being asked about, and what the client was asked."""
    hello = {"capabilities": {"elicitation": {}}, "protocolVersion": "2025-06-18"}
    assert await scene.sent(json.dumps(request_of(0, "initialize", **hello)).encode()) is None
    held = await scene.sent(raw_call(1, tool, arguments={"path": "/srv"}))
    settled = asyncio.create_task(scene.settle(held))
    await asyncio.sleep(0.05)
    return settled, list(scene.told)


@over
async def test_a_client_s_user_may_approve_where_the_policy_says_so(scene):
    settled, (asked,) = await own_call(scene)
    assert asked["method"] == "elicitation/create" and "ask-self" in asked["params"]["message"]
    said = reply(asked, action="accept", content={"approve": True, "why": "mine"})
    assert await scene.sent(said) == [], "the server has not asked"
    assert await settled is None
    entry = scene.log.entries()[-1]
    assert (entry.kind, entry.why) == ("approved", "mine")
    assert entry.by == Person(1000, 0, 1000).name
    assert scene.told[-1]["params"]["requestId"] == asked["id"]
    assert await scene.sent(said) is None, "what is not ours passes"


@over
async def test_a_client_s_user_may_deny(scene):
    for number, result in enumerate(
        ({"action": "decline"}, {"action": "accept", "content": {"approve": False}})
    ):
        scene.told.clear()
        settled, (asked,) = await own_call(scene)
        assert await scene.sent(reply(asked, **result)) == []
        (answer,) = await settled
        assert "denied" in answer["error"]["message"], number


@over
async def test_a_client_s_user_who_does_not_answer_leaves_it_to_others(scene):
    for said in ({"action": "cancel"}, {"action": 5}, {"content": {"approve": True}}):
        scene.told.clear()
        settled, (asked,) = await own_call(scene)
        assert await scene.sent(reply(asked, **said)) == []
        await asyncio.sleep(0.01)
        assert not settled.done()
        owner = Person(1000, 1, 1000)
        scene.keeper.approvals.answer(scene.waits(), owner, True, "there")
        assert await settled is None


@over
async def test_a_client_s_user_is_not_asked_where_the_policy_does_not_say_so(scene):
    settled, asked = await own_call(scene, "write_file")
    assert asked == [] and not scene.dialogue.elicited
    forged = {"id": f"hullwatch-{scene.waits()}"}
    assert await scene.sent(reply(forged, action="accept", content={"approve": True})) is None
    assert not settled.done()
    scene.answer(False)
    await settled


# --- batches ------------------------------------------------------------------------------


@over
async def test_of_a_batch_all_or_none(scene):
    batch = [request_of(1, name="read_file"), request_of(2, name="delete_file")]
    answers = await scene.sent(json.dumps(batch).encode())
    assert [one["id"] for one in answers] == [1, 2] and not scene.reporter.of("begin")
    batch = [request_of(3, name="write_file"), request_of(4, name="delete_file")]
    answers = await scene.sent(json.dumps(batch).encode())
    assert len(answers) == 2 and not scene.keeper.approvals.waiting
    batch = [request_of(n, name="write_file", arguments={"n": n}) for n in (5, 6)]
    settled = asyncio.create_task(scene.settle(await scene.sent(json.dumps(batch).encode())))
    await asyncio.sleep(0)
    for ident in list(scene.keeper.approvals.waiting):
        assert not scene.reporter.of("begin")
        scene.keeper.approvals.answer(ident, PERSON, True, "yes")
    assert await settled is None and len(scene.reporter.of("begin")) == 2


# --- ways around it -----------------------------------------------------------------------


@pytest.mark.parametrize("raw", BYPASSES.values(), ids=BYPASSES)
def test_ways_around_it(tmp_path, raw):
    async def play(scene: Scene) -> None:
        answers = await scene.sent(raw)
        assert answers is not None and all("error" in one for one in answers)
        assert not scene.reporter.of("begin")
        assert any(signal.held for signal in scene.reporter.of("signal"))

    over(play)(tmp_path)


@over
async def test_a_name_that_looks_like_a_listed_one(scene):
    await scene.lists("delete_file", "read_file")
    for name in ("delete-file", "Delete_File", "deleteFile", "de1ete_file"):
        (answer,) = await scene.sent(raw_call(1, name))
        assert "not what it seems" in answer["error"]["message"], name
    assert await scene.sent(raw_call(1, "read_file")) is None


@over
async def test_the_id_of_a_call_that_waits_is_not_used_again(scene):
    held = await scene.sent(raw_call(1, "write_file"))
    (answer,) = await scene.sent(raw_call(1, "read_file"))
    assert "id of one that waits" in answer["error"]["message"]
    held.cancel()
    await scene.settle(held)


# --- who decides, when it does not --------------------------------------------------------


class Policy(NamedTuple):
    fail: Fail
    mode: Mode


class Broken:
    """A decider that hangs, or raises, when it is told to."""

    version = "0"
    policies: Mapping[str, Any] = {"p": Policy(fail=Fail.CLOSED, mode=Mode.ENFORCE)}

    def __init__(self) -> None:
        self.go = threading.Event()
        self.raises = False

    def reads(self, action: str) -> frozenset[str]:
        return frozenset()

    def decide_any(
        self, questions: Any, *, listed: bool = True, approved: bool = False
    ) -> Decision:
        if self.raises:
            raise RuntimeError
        self.go.wait(20)
        return Decision(effect=Effect.ALLOW, wanted=Effect.ALLOW)


def test_a_decider_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(deciding, "DECIDING", 0.2)

    decider = Broken()

    async def play() -> None:
        scene = Scene(tmp_path, decider)
        began = time.monotonic()
        for number in range(20):
            (answer,) = await scene.sent(raw_call(number, "t"))
            assert "no answer" in answer["error"]["message"]
        assert time.monotonic() - began < 2
        decider.go.set()
        for _ in range(200):
            if await scene.sent(raw_call(99, "t")) is None:
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it is back, and not asked")
        decider.raises = True
        (answer,) = await scene.sent(raw_call(100, "t"))
        assert "error" in answer
        scene.keeper.close()

    asyncio.run(asyncio.wait_for(play(), 30))


class Deaf:
    """A gate that never answers."""

    id, seconds, asks = "x", 0.1, ""

    async def ask(self, asked: Asked) -> Ruling:
        await asyncio.Event().wait()
        raise AssertionError

    async def over(self) -> None:
        await asyncio.Event().wait()

    def speaks(self, action: str, enforced: bool = False) -> bool:
        return True

    def resumes(self, asked: Asked) -> bool:
        return True

    async def outcome(self) -> Ruling:
        return await self.ask(None)  # type: ignore[arg-type]

    def answer(self, yes: bool, why: str) -> None:
        pass

    def cancel(self, why: str) -> None:
        pass


def test_a_gate_that_hangs_is_not_waited_for(monkeypatch):
    for module in (gate_module, observer_module):
        monkeypatch.setattr(module, "ASKING", 0.1)

    class Asks(Deaf):
        async def ask(self, asked: Asked) -> Ruling:
            return Ruling(False, pending=Deaf())

    async def play() -> None:
        for gate in (Deaf(), Asks()):
            observer = Observer("srv", Recording(), gate=gate)
            raw = raw_call(1, "t")
            outcome = await observer.sent(Dialogue(), read(raw), len(raw))
            if isinstance(outcome, Held):

                async def tell(messages: Any) -> None:
                    pass

                outcome = await outcome.settle(tell)
            assert outcome is not None and b"does not answer" in outcome[0]

    asyncio.run(asyncio.wait_for(play(), 10))


@over
async def test_what_cannot_be_logged_does_not_happen(scene):
    settled = asyncio.create_task(scene.settle(await scene.sent(raw_call(1, "write_file"))))
    await asyncio.sleep(0)
    ident = scene.waits()
    link, scene.log._link = scene.log._link, _Full()
    with pytest.raises(Exception, match="full"):
        scene.keeper.approvals.answer(ident, PERSON, True, "yes")
    (answer,) = await scene.sent(raw_call(2, "delete_file"))
    assert "cannot be logged" in answer["error"]["message"]
    assert await scene.sent(raw_call(3, "read_file")) is None, "noted, to be written in a second"
    await asyncio.sleep(1.2)
    (answer,) = await scene.sent(raw_call(4, "read_file"))
    assert "cannot be logged" in answer["error"]["message"]
    scene.log._link = link
    assert await scene.sent(raw_call(5, "read_file")) is None
    assert not settled.done()
    scene.answer(True)
    assert await settled is None


class _Full:
    def execute(self, *_: Any) -> Any:
        import sqlite3

        raise sqlite3.OperationalError("database or disk is full")

    def close(self) -> None:
        pass


@over
async def test_a_flood_is_bounded_and_told(scene):
    held = []
    for number in range(20):
        outcome = await scene.sent(raw_call(number, "write_file", arguments={"n": number}))
        held += [outcome] if isinstance(outcome, Held) else []
    assert len(held) == 16
    floods = [one for one in scene.reporter.of("signal") if one.kind == "approval_flood"]
    assert len(floods) == 1 and floods[0].held
    for one in held:
        one.cancel()
        await scene.settle(one)
    assert scene.kinds().count(("verdict", "block")) == 4


# --- over HTTP ----------------------------------------------------------------------------


class Between:
    def __init__(self, scene: Scene, peer: Peer, port: int) -> None:
        self.scene, self.peer, self.port = scene, peer, port


@contextlib.asynccontextmanager
async def between(folder: Path, answering: Any) -> AsyncIterator[Between]:
    scene = Scene(folder)
    await scene.keeper.start()
    async with Peer(answering) as peer:
        proxy = Proxy(scene.observer, Upstream(f"http://127.0.0.1:{peer.port}/mcp"))
        server = await proxy.listen("127.0.0.1", 0)
        try:
            yield Between(scene, peer, server.sockets[0].getsockname()[1])
        finally:
            server.close()
            await proxy.close()
            scene.keeper.close()


async def as_json(asked: Got, writer: asyncio.StreamWriter) -> None:
    ident = json.loads(asked.body)["id"] if asked.body else None
    result = json.dumps({"jsonrpc": "2.0", "id": ident, "result": {"content": []}}, indent=1)
    writer.write(json_answer(result.encode()))
    await writer.drain()


def over_http(answering: Any = as_json) -> Callable[..., Callable[..., None]]:
    def made(test: Callable[..., Any]) -> Callable[..., None]:
        def run(tmp_path: Path) -> None:
            async def play() -> None:
                async with between(tmp_path, answering) as at:
                    await test(at, await Raw.connect(at.port))

            asyncio.run(asyncio.wait_for(play(), 60))

        run.__name__ = test.__name__
        return run

    return made


async def waiting(at: Between) -> None:
    while not at.scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)


EVENTS = {"Accept": "application/json, text/event-stream"}
TOKEN = {"_meta": {"progressToken": 5}}


@over_http()
async def test_http_block(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "delete_file")))
    status, _, body = await client.answer()
    assert status == 200 and json.loads(body)["error"]["code"] == BLOCKED
    assert not at.peer.asked


@over_http()
async def test_http_approved(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file")))
    await waiting(at)
    assert not at.peer.asked
    at.scene.answer(True)
    status, _, body = await client.answer()
    assert status == 200 and json.loads(body)["result"] == {"content": []}
    assert [asked.body for asked in at.peer.asked] == [raw_call(1, "write_file")]
    (call,) = at.scene.reporter.of("begin")
    assert call.attributes["network.local.port"] > 0


def events_of(body: bytes) -> list[Any]:
    found = []
    for event in body.decode().split("\n\n"):
        lines = [line[6:] for line in event.splitlines() if line.startswith("data: ")]
        if lines:
            found.append(json.loads("\n".join(lines)))
    return found


@over_http()
async def test_http_approved_with_progress_and_json(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file", **TOKEN), **EVENTS))
    await waiting(at)
    at.scene.answer(True)
    status, headers, body = await client.answer()
    assert status == 200 and headers["content-type"] == "text/event-stream"
    progress, result = events_of(body)
    assert progress["params"]["progressToken"] == 5 and result["result"] == {"content": []}
    assert at.scene.reporter.ends == [("write_file", "ok")]


async def as_events(asked: Got, writer: asyncio.StreamWriter) -> None:
    ident = json.loads(asked.body)["id"]
    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
    result = {"jsonrpc": "2.0", "id": ident, "result": {"content": []}}
    data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (note, result))
    writer.write(sse() + chunk(data) + chunk(b""))
    await writer.drain()


@over_http(as_events)
async def test_http_approved_with_progress_and_a_stream(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file", **TOKEN), **EVENTS))
    await waiting(at)
    at.scene.answer(True)
    _, _, body = await client.answer()
    assert ["id" in one for one in events_of(body)] == [False, False, True]
    assert at.scene.reporter.ends == [("write_file", "ok")]


@over_http()
async def test_http_denied_with_progress(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file", **TOKEN), **EVENTS))
    await waiting(at)
    at.scene.answer(False)
    _, _, body = await client.answer()
    _, answer = events_of(body)
    assert answer["error"]["code"] == BLOCKED and not at.peer.asked


async def as_error(asked: Got, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 No\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno")
    await writer.drain()


@over_http(as_error)
async def test_http_approved_and_then_refused_by_the_server(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file", **TOKEN), **EVENTS))
    await waiting(at)
    at.scene.answer(True)
    _, _, body = await client.answer()
    assert "HTTP 500" in events_of(body)[1]["error"]["message"]
    assert at.scene.reporter.ends == [("write_file", "error")]


@over_http()
async def test_http_a_client_that_leaves(at, client):
    await client.send(request("POST", "/mcp", raw_call(1, "write_file")))
    await waiting(at)
    client.close()
    while at.scene.keeper.approvals.waiting:
        await asyncio.sleep(0.01)
    assert at.scene.kinds()[-1] == ("cancelled", "block") and not at.peer.asked


@over_http()
async def test_http_cancelled_by_another_request_of_the_session(at, client):
    session = {"Mcp_Session_Id": "s1"}
    await client.send(request("POST", "/mcp", raw_call(1, "write_file"), **session))
    await waiting(at)
    other = await Raw.connect(at.port)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    await other.send(request("POST", "/mcp", json.dumps(cancel).encode(), **session))
    assert (await other.answer())[0] == 202 and (await client.answer())[0] == 202
    assert not at.peer.asked


def typed(method: str, target: str, body: bytes, kind: str) -> bytes:
    """A request with another kind of content than JSON."""
    return request(method, target, body).replace(b"application/json", kind.encode(), 1)


@over_http()
async def test_http_ways_around_it(at, client):
    call = raw_call(1, "delete_file")
    plain, form = "text/plain", "application/x-www-form-urlencoded"
    tries: list[tuple[str, str, bytes, Any]] = [
        ("POST", "/mcp/", call, plain),
        ("POST", "//mcp", call, plain),
        ("POST", "/MCP", call, plain),
        ("PUT", "/mcp", call, {}),
        ("GET", "/mcp", call, {}),
        ("POST", "/mcp", call, form),
        ("POST", "/other", call, form),
        ("POST", "/other", call.decode().encode("utf-16"), form),
        ("POST", "/mcp", call, {"Mcp_Method": "tools/list"}),
        ("POST", "/mcp", call, {"Mcp_Name": "read_file"}),
        ("POST", "/mcp", raw_call(1, "delete_file", arguments={"x": "y" * (9 << 20)}), {}),
    ]
    for method, target, body, headers in tries:
        fresh = await Raw.connect(at.port)
        await fresh.send(
            request(method, target, body, **headers)
            if isinstance(headers, dict)
            else typed(method, target, body, headers)
        )
        _, _, answer = await fresh.answer()
        assert b"error" in answer, (method, target, headers)
    assert not at.peer.asked
    await client.send(typed("POST", "/token", b"grant_type=code", form))
    await asyncio.sleep(0.2)
    assert [asked.target for asked in at.peer.asked] == ["/token"], "a login goes on"
