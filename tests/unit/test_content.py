"""Content of chosen workloads: what is taken from what is said, and that no secret stays in it."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent import semconv
from hullwatch.agent.connection import Connection
from hullwatch.agent.content import Content, chosen, clean, pattern_problem
from hullwatch.agent.mcp.message import read
from hullwatch.agent.mcp.observer import Dialogue, Observer
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.models.exchange import Spoken
from hullwatch.agent.models.texts import TEXTS
from hullwatch.agent.secrets import KINDS, Key, detect
from hullwatch.agent.secrets.detection import MAX_SECRET
from hullwatch.agent.secrets.examples import fill
from hullwatch.agent.wire.mcp import ToolCallBegan, ToolCallEnded
from hullwatch.agent.wire.said import MOST, Room, Said
from hullwatch.context.workload import Workload
from support.mcp_reporter import Recording
from support.wire_samples import MODELS, PROMPT, REPLY, TOOLS, Sample

KEY = Key(bytes(range(32)))
TOKEN = fill("glpat-{s20}", Random(1))
MARK = f"[gitlab_token:{KEY.hash(TOKEN)[:8]}]"
KIND_NAMES = " ".join(kind.name for kind in KINDS)
PIECE = 8  # characters of a secret that nobody may see
few = settings(deadline=None, max_examples=40)
many = settings(deadline=None, max_examples=250)


def left_of(secret: str, text: str) -> list[str]:
    """Pieces of a secret that are in a text, but for those that the name of a kind has as well."""
    pieces = {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}
    return [piece for piece in pieces if piece in text and piece not in KIND_NAMES]


def workload(cgroup: int = 7, **more: Any) -> Workload:
    made: dict[str, Any] = {"cgroup_path": "/x", "state": "resolved", "container_id": "c" * 64}
    return Workload(cgroup=cgroup, **(made | {"name": "agent"} | more))


class Scene:
    def __init__(self, *patterns: str, known: dict[str, str] | None = None, limit: int = 8192):
        self.now = 0.0
        self.workloads = {7: workload()}
        self.content = Content(
            patterns, limit, KEY, lambda cgroup: self.workloads[cgroup], known, lambda: self.now
        )

    def put(self, text: str, cgroup: int = 7, **more: Any) -> None:
        self.content.put(cgroup, 1, "x", text.encode(), 5, **more)

    def texts(self) -> list[str]:
        return [item.text for item in self.content.take()]


# --- who is chosen ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("agent", True),
        ("ag*", True),
        ("AGENT", False),
        ("age", False),
        ("acme/agent:3", True),
        ("acme/agent", True),
        ("acme/*", True),
        ("pod-1", True),
        ("prod/pod-?", True),
        ("test/pod-1", False),
        ("host", False),
    ],
)
def test_a_workload_is_chosen_by_its_names(pattern, expected):
    one = workload(
        image="acme/agent:3", image_repository="acme/agent", pod="pod-1", namespace="prod"
    )
    assert chosen([pattern], one) is expected


def test_what_is_not_known_is_not_chosen():
    assert chosen(["agent", "*t"], workload(state="pending")) is None
    assert chosen(["agent", "*t"], workload(state="unknown")) is False
    host = workload(state="host", container_id="", name=None)
    assert chosen(["host"], host) is True and chosen(["h*"], host) is False


@pytest.mark.parametrize("pattern", ["", "*", "**?", "a b", "a\n", "x" * 257])
def test_patterns_that_choose_nobody_or_everybody_are_refused(pattern):
    assert pattern_problem(pattern)
    assert not pattern_problem("agent*")


# --- redaction before anything else -------------------------------------------------------


def test_an_item_is_redacted_and_says_whose_it_is():
    scene = Scene("agent")
    scene.put(f'{{"token": "{TOKEN}"}}')
    (item,) = scene.content.take()
    assert json.loads(item.text) == {"token": MARK}
    assert (item.container, item.workload, item.cut, item.call) == ("c" * 64, "agent", False, 1)
    assert scene.content.kept == 1 and not scene.content.dropped


def test_nothing_is_kept_of_others():
    scene = Scene("other")
    scene.put("text")
    assert scene.texts() == [] and scene.content.room(7) is None and not scene.content.dropped


def test_what_is_long_keeps_both_ends_within_the_limit():
    text, cut = clean(b"a" * 500 + b"m" * 9000 + b"z" * 500, KEY, 1000)
    assert cut and len(text.encode()) <= 1000
    assert text.startswith("a" * 400) and text.endswith("z" * 400) and "bytes and more" in text
    assert clean("é".encode() * 4000, KEY, 1001)[0].count("é") > 400


def test_of_what_is_incomplete_the_end_is_left_away():
    data = b"begin " + b"x " * MAX_SECRET
    text, cut = clean(data, KEY, 1 << 20, whole=False)
    assert cut and len(text) == len(data) - MAX_SECRET
    scene = Scene("agent")
    scene.put("short and incomplete", whole=False)
    assert scene.texts() == [] and scene.content.dropped == {"incomplete": 1}


def test_canaries_are_taken_out_wherever_they_are():
    scene = Scene("agent", known={'ca"nary-value-1': "canary"})
    scene.put('x ca"nary-value-1 y')
    scene.put(json.dumps({"text": 'ca"nary-value-1'}))
    for text in scene.texts():
        assert "nary-value" not in text and "[canary:" in text


def test_a_container_that_is_not_known_yet_is_waited_for():
    scene = Scene("agent")
    scene.workloads = {7: workload(state="pending"), 8: workload(8, state="pending")}
    scene.put("one")
    scene.put("two", cgroup=8)
    assert scene.texts() == []
    scene.workloads = {7: workload(), 8: workload(8, name="other")}
    assert scene.texts() == ["one"] and not scene.content.dropped
    scene.workloads = {7: workload(state="pending")}
    scene.put("late")
    scene.now += 60
    assert scene.texts() == [] and scene.content.dropped == {"container not known": 1}


def test_everything_is_bounded_and_what_is_left_out_is_counted(monkeypatch):
    monkeypatch.setattr("hullwatch.agent.content._BURST", 1000.0)
    scene = Scene("agent", limit=64 << 10)
    for _ in range(250):
        scene.put("word " * 13_000)
    kept = len(scene.texts())
    assert scene.content.dropped == {"not written in time": 250 - kept}
    assert 0 < kept * 65_000 <= 8 << 20


def test_what_is_hard_to_look_through_does_not_hold_up_the_agent():
    scene = Scene("agent")
    hard = f"{TOKEN} " * 4000
    for _ in range(200):
        scene.put(hard)
    assert scene.content.dropped["too much at once"] > 0
    assert (kept := len(scene.texts())) > 0
    scene.now += 60
    scene.put("text")
    assert scene.texts() == ["text"] and kept < 200


# --- what is taken ------------------------------------------------------------------------


def events_of(pieces: Any, room: Room | None = None) -> list[Any]:
    connection = Connection(lambda text: "h", room=room or Room())
    events: list[Any] = []
    for client, data in pieces:
        events += connection.feed("sent" if client else "received", data, 5)
    return events + connection.close(6)


def said_in(pieces: Any, room: Room | None = None) -> list[tuple[str, Said]]:
    found: list[tuple[str, Said]] = []
    for event in events_of(pieces, room):
        if isinstance(event, Spoken):
            found += event.said
        elif isinstance(event, ToolCallBegan) and event.said is not None:
            found.append((semconv.TOOL_ARGUMENTS, event.said))
        elif isinstance(event, ToolCallEnded) and event.said is not None:
            found.append((semconv.TOOL_RESULT, event.said))
    return found


@pytest.mark.parametrize("sample", MODELS, ids=lambda sample: sample.name)
def test_prompts_and_answers_are_taken(sample: Sample):
    (one,) = (event for event in events_of(sample.pieces) if isinstance(event, ModelCall))
    found = said_in(sample.pieces)
    if one.api not in TEXTS:
        assert "embed" in one.api and not found
        return
    asked = b"".join(said.data for name, said in found if name != semconv.OUTPUT_MESSAGES)
    answered = b"".join(said.data for name, said in found if name == semconv.OUTPUT_MESSAGES)
    assert any(form in asked for form in written(PROMPT))
    if one.status == "ok":
        assert any(form in answered for form in written(REPLY)), answered


def written(text: str) -> list[bytes]:
    """As it is, and as JSON has it."""
    return [
        text.encode(),
        *(json.dumps(text, ensure_ascii=a)[1:-1].encode() for a in (False, True)),
    ]


@pytest.mark.parametrize("sample", TOOLS, ids=lambda sample: sample.name)
def test_arguments_and_results_are_taken(sample: Sample):
    found = said_in(sample.pieces)
    for name, said in found:
        assert name in (semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT)
        assert isinstance(json.loads(said.data), dict) or not said.whole


def test_what_is_held_is_given_back():
    room = Room()
    size = room.left
    for sample in (*MODELS, *TOOLS):
        found = said_in(sample.pieces, room)
        del found
    assert room.left == size
    full = Room(10)
    (said, *_) = (said for _, said in said_in([(True, call({"a": "x" * 100}))], full))
    assert len(said.data) == 10 and not said.whole


def call(arguments: Any, ident: int = 1) -> bytes:
    params = {"name": "t", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


# --- the property -------------------------------------------------------------------------

secrets = st.builds(
    lambda kind, seed: fill(kind.example, Random(seed)), st.sampled_from(KINDS), st.integers(0, 99)
)
# Words that say nothing about what stands beside them.
noise = st.integers(0, 400).map(lambda count: "lorem ipsum dolor " * count)
more_noise = st.sampled_from((0, 300, 1200, 1800, 2500)).map(lambda n: "lorem ipsum dolor " * n)
limits = st.sampled_from((256, 1000, 8 << 10, 64 << 10))
# Where it breaks off, from a secret's begin: in it, beside it, and about as far as is dropped.
breaks = st.one_of(st.integers(-100, 2000), st.integers(MAX_SECRET - 500, MAX_SECRET + 4000))
sizes = st.lists(st.integers(1, 4000), min_size=1, max_size=6)


def secret_of(value: str) -> list[str]:
    found = [value[one.start : one.end] for one in detect(value)]
    assert found, value
    return found


def pieces_of(data: bytes, sizes: list[int]) -> list[bytes]:
    cut, at, number = [], 0, 0
    while at < len(data):
        step = sizes[number % len(sizes)]
        cut.append(data[at : at + step])
        at, number = at + step, number + 1
    return cut


@many
@given(secrets, more_noise, more_noise, limits, sizes, st.none() | breaks)
def test_no_piece_of_a_secret_survives_any_cut(value, before, after, limit, cuts, broken):
    """In an argument, wherever it stands, however the message comes, and where it breaks off."""
    planted = secret_of(value)
    message = call({"text": f"{before}\n{value}\n{after}"})
    hole = len(message) if broken is None else max(0, len(before) + 100 + broken)
    connection = Connection(lambda text: "h", pipe=True, room=Room())
    at, said = 0, []
    for piece in pieces_of(message, cuts):
        keep = max(0, min(len(piece), hole - at)) if hole < len(message) else len(piece)
        said += connection.feed("received", piece[:keep], 5, len(piece) - keep)
        at += len(piece)
        if keep < len(piece):
            break
    said += connection.close(6)
    for event in said:
        if isinstance(event, ToolCallBegan) and event.said is not None:
            text, _ = clean(event.said.data, KEY, limit, whole=event.said.whole)
            assert len(text.encode()) <= limit
            for secret in planted:
                assert not left_of(secret, text)


@many
@given(secrets, noise, breaks.map(abs), limits)
def test_nor_where_more_was_said_than_is_held(value, after, from_the_end, limit):
    planted = secret_of(value)
    words = "lorem ipsum dolor " * (MOST // 18 + 1)
    before = words[: max(0, MOST - from_the_end)]
    said = Said(Room())
    for piece in pieces_of(f"{before}\n{value}\n{after}{words}".encode(), [7000]):
        said.add(piece)
    assert not said.whole and len(said.data) == MOST
    text, cut = clean(said.data, KEY, limit, whole=False)
    assert cut and text
    for secret in planted:
        assert not left_of(secret, text)


@few
@given(secrets, st.sampled_from(("", "lorem ipsum " * 60)), sizes, limits, sizes)
def test_nor_in_an_answer_that_streams_in_pieces(value, before, deltas, limit, cuts):
    """Two texts at once, each in pieces that cut the secret."""
    planted = secret_of(value)
    answer = f"{before}\n{value}\nso it is"
    events = []
    for piece in pieces_of(answer.encode(), [min(size, 9) for size in deltas]):
        for index in (0, 1):
            text = piece.decode("latin-1")
            events.append({"choices": [{"index": index, "delta": {"content": text}}]})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": value}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\n"
    request = f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked
    reply = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    reply += f"Content-Length: {len(body.encode())}\r\n\r\n{body}"
    found = said_in(
        [
            *((True, piece) for piece in pieces_of(request, cuts)),
            *((False, piece) for piece in pieces_of(reply.encode(), cuts)),
        ]
    )
    names = [name for name, _ in found]
    assert names == [semconv.INPUT_MESSAGES, *[semconv.OUTPUT_MESSAGES] * 2]
    for _, said in found:
        text, _ = clean(said.data, KEY, limit, whole=said.whole)
        for secret in planted:
            assert not left_of(secret, text)


@many
@given(secrets, more_noise, limits, breaks, st.integers(1, 3000), st.booleans())
def test_nor_in_an_answer_with_a_hole(value, before, limit, broken, missing, streams):
    """Whatever stands on either side of it."""
    planted = secret_of(value)
    answer = f"{before}\n{value}\n{before}"
    if streams:
        deltas = [answer[at : at + 50] for at in range(0, len(answer), 50)]
        events = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in deltas]
        kind, body = "text/event-stream", "".join(f"data: {json.dumps(e)}\n\n" for e in events)
    else:
        message = {"role": "assistant", "content": answer}
        kind = "application/json"
        body = json.dumps({"model": "m", "choices": [{"index": 0, "message": message}]})
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: 2\r\n\r\n{}"
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = body.encode()
    # A stream has more bytes than its text.
    at = reply.find(before[-9:].encode() + b"\\n") if before else 0
    hole = min(max(0, at + broken * (3 if streams else 1)), len(reply) - 1)
    missing = min(missing, len(reply) - hole)
    connection = Connection(lambda text: "h", room=Room())
    events = connection.feed("sent", request, 5)
    events += connection.feed("received", head.encode() + reply[:hole], 5, missing)
    events += connection.feed("received", reply[hole + missing :], 5)
    for event in [*events, *connection.close(6)]:
        for _, said in event.said if isinstance(event, Spoken) else ():
            text, _ = clean(said.data, KEY, limit, whole=said.whole)
            for secret in planted:
                assert not left_of(secret, text)


# --- the gateway --------------------------------------------------------------------------


def gateway(content: int) -> Recording:
    reporter = Recording(content)
    observer = Observer("srv", reporter, clean=lambda raw, limit: clean(raw, KEY, limit)[0])
    dialogue = Dialogue()
    raw = call({"token": TOKEN})
    asyncio.run(observer.sent(dialogue, read(raw), len(raw), 42))
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"text": TOKEN}}).encode()
    observer.heard(dialogue, read(answer, doubles=False), len(answer))
    return reporter


def test_a_gateway_tells_what_is_said_only_where_it_is_asked_to():
    assert gateway(0).of("said") == []
    reporter = gateway(4096)
    asked, answered = reporter.of("said")
    assert (asked.name, json.loads(asked.text)) == (semconv.TOOL_ARGUMENTS, {"token": MARK})
    assert (answered.name, json.loads(answered.text)) == (semconv.TOOL_RESULT, {"text": MARK})
    kinds = [kind for kind, _ in reporter.log]
    assert kinds.index("begin") < kinds.index("said") < kinds.index("end") and kinds[-1] == "end"
