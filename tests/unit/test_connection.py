"""A connection's bytes become calls: every sample, in any pieces, with holes, joined anywhere."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import deque
from typing import Any

import hpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.connection import MAX_LINE, Carried, Connection, Opaque
from hullwatch.agent.models.apis import Api
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.wire.http2 import PREFACE
from hullwatch.agent.wire.jsonscan import Paths
from hullwatch.agent.wire.mcp import ToolCallBegan, ToolCallEnded
from support.canaries import CANARIES, ONE, VALUE
from support.wire_samples import (
    KEY,
    MODELS,
    PROMPT,
    REPLY,
    TOOLS,
    Sample,
    frames,
    request,
    response,
)

SAMPLES = MODELS + TOOLS
BY_NAME = {sample.name: sample for sample in SAMPLES}
few = settings(deadline=None, max_examples=30)
by_name = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def _connection() -> Connection:
    return Connection(lambda text: text)  # a hash that tells what was hashed


def _run(pieces, close=True, sent_by_client=True, connection=None):
    connection = connection or _connection()
    events = []
    for client, data in pieces:
        direction = "sent" if client == sent_by_client else "received"
        events += connection.feed(direction, data, 5)
    return events + (connection.close(6) if close else [])


def _cut(pieces, sizes):
    """The same bytes in pieces of other sizes, in the same order."""
    size = itertools.cycle(sizes)
    for client, data in pieces:
        at = 0
        while at < len(data):
            step = next(size)
            yield client, data[at : at + step]
            at += step


def _check(sample: Sample, events):
    ended = [each for each in events if isinstance(each, ModelCall | ToolCallEnded)]
    assert len(ended) == 1, events
    value = ended[0].call if isinstance(ended[0], ToolCallEnded) else ended[0]
    got = {name: getattr(value, name) for name in sample.expected}
    assert got == sample.expected
    assert not [each for each in events if isinstance(each, Opaque)]


@by_name
def test_what_is_said_is_read(sample):
    _check(sample, _run(sample.pieces))


@by_name
def test_byte_by_byte(sample):
    whole = _run(sample.pieces)
    single = _run(_cut(sample.pieces, [1]))
    assert single == whole


@by_name
@few
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_pieces_do_not_matter(sample, sizes):
    assert _run(_cut(sample.pieces, sizes)) == _run(sample.pieces)


@by_name
def test_the_watched_process_may_be_the_server(sample):
    events = _run(sample.pieces, sent_by_client=False)
    _check(sample, events)
    assert all(
        each.call.role == "server"
        for each in events
        if isinstance(each, ToolCallBegan | ToolCallEnded)
    )


@by_name
def test_one_after_the_other(sample):
    """Connections are kept alive; some replies end with theirs, and one protocol stays."""
    if b"\r\n\r\n" not in sample.pieces[0][1] or "http/2" in sample.name:
        pytest.skip("not HTTP/1.1")
    if sample.name == "openai responses streamed":
        pytest.skip("ends with its connection")
    twice = _run(sample.pieces * 2)
    ended = [each for each in twice if isinstance(each, ModelCall | ToolCallEnded)]
    assert len(ended) == 2


@by_name
def test_content_is_kept_nowhere(sample):
    connection = Connection(lambda text: "hashed")
    events = _run(sample.pieces, connection=connection)
    said = [repr(events), *(repr(text) for text in _texts([events, connection]))]
    for planted in ("planted", PROMPT, REPLY, KEY):
        assert not [text for text in said if planted in text]


@by_name
@few
@given(
    garbage=st.binary(max_size=300).filter(lambda raw: b"HTTP/" not in raw),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=10),
)
def test_the_next_message_is_found_after_garbage(sample, garbage, sizes):
    """Joined in the middle of something: HTTP's next message is read all the same."""
    if b" HTTP/1.1\r\n" not in sample.pieces[0][1]:
        pytest.skip("only HTTP/1.1 is looked for")
    # What looks like the beginning of another protocol is taken for it.
    pieces = [(True, b"rest of a body" + garbage), *sample.pieces]
    events = _run(_cut(pieces, sizes))
    _check(sample, [each for each in events if not isinstance(each, Opaque)])


@by_name
@few
@given(st.data())
def test_a_hole_never_raises_and_the_next_call_is_read(sample, data):
    """Bytes go missing somewhere, with their number known; then the same is said once more."""
    if b" HTTP/1.1\r\n" not in sample.pieces[0][1]:
        pytest.skip("HTTP/2 is blind after a hole, and lines are tried below")
    if sample.name == "openai responses streamed":
        pytest.skip("ends with its connection")
    which = data.draw(st.integers(0, len(sample.pieces) - 1))
    client, raw = sample.pieces[which]
    at = data.draw(st.integers(0, len(raw) - 1))
    missing = data.draw(st.integers(1, len(raw) - at))
    connection = _connection()
    events = _run(sample.pieces[:which], close=False, connection=connection)
    direction = "sent" if client else "received"
    events += connection.feed(direction, raw[:at], 5, gap=missing)
    events += _run([(client, raw[at + missing :])], close=False, connection=connection)
    events += _run(sample.pieces[which + 1 :], close=False, connection=connection)
    after = _run(sample.pieces, connection=connection)
    assert "planted" not in repr(events).replace(KEY, "").replace("planted-session", "")
    calls = [each for each in after if isinstance(each, ModelCall | ToolCallEnded)]
    last = calls[-1].call if isinstance(calls[-1], ToolCallEnded) else calls[-1]
    told = {name: getattr(last, name) for name in sample.expected}
    if "id reused" in told.get("problems", ()):  # as it is, where the first call was left open
        told["problems"] = tuple(each for each in told["problems"] if each != "id reused")
    assert told == sample.expected


def test_a_request_cut_short_still_names_what_it_can():
    """As a probe sees it that takes the first bytes of each write."""
    (_, asked), (_, answered) = BY_NAME["openai"].pieces
    head = asked.index(b"\r\n\r\n") + 4
    connection = _connection()
    connection.feed("sent", asked[:head], 1)
    connection.feed("sent", asked[head : head + 40], 1, gap=len(asked) - head - 40)
    (call,) = connection.feed("received", answered, 2)
    assert (call.answered, call.chosen, call.input_tokens) == (
        "gpt-4o-2024-08-06",
        ("weather",),
        120,
    )
    assert call.partial and call.asked == "" and call.offered == ()
    assert call.request_bytes == len(asked) - head


def test_a_tool_call_cut_short_is_ended_by_the_only_reply():
    (_, asked), (_, answered) = BY_NAME["lines, the tool fails"].pieces
    connection = _connection()
    (began,) = connection.feed("sent", asked[:60], 1, gap=len(asked) - 60)
    assert isinstance(began, ToolCallBegan)
    assert (began.call.name, began.call.id, began.call.problems) == ("read_file", None, ("cut",))
    (ended,) = connection.feed("received", answered, 2)
    assert ended.call.status == "error" and ended.call.key == began.call.key


def test_what_nobody_saw_the_end_of_is_lost():
    for name in ("openai", "lines", "http, json"):
        sample = BY_NAME[name]
        *begun, (client, last) = sample.pieces
        events = _run([*begun, (client, last[: len(last) // 2])])
        ended = [each for each in events if isinstance(each, ModelCall | ToolCallEnded)]
        value = ended[-1].call if isinstance(ended[-1], ToolCallEnded) else ended[-1]
        assert value.status == "lost", name


def test_times_are_those_of_the_pieces():
    (_, asked), _, (_, answered) = BY_NAME["openai streamed"].pieces
    connection = _connection()
    connection.feed("sent", asked, 1000)
    head = answered.index(b"\r\n\r\n") + 4
    connection.feed("received", answered[:head], 1500)
    content = answered.index(b"planted")
    connection.feed("received", answered[head : content - 100], 1700)
    connection.feed("received", answered[content - 100 : -10], 2000)
    (call,) = connection.feed("received", answered[-10:], 3000)
    assert (call.begin, call.first, call.end) == (1000, 1000, 3000)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(30), "tls"),
        (b"\x17\x03\x03\x00\x40" + bytes(64), "tls"),
        (b"\x00\x01\x02 nothing that is known" * 4000, "unknown protocol"),
    ],
)
def test_what_cannot_be_read_is_said_once(first, reason):
    connection = _connection()
    events = connection.feed("sent", first, 1) + connection.feed("sent", first, 2)
    assert [each.reason.startswith(reason) for each in events] == [True]


def test_a_websocket_is_said():
    asked = request("/v1/realtime", "api.openai.com", b"", {"Upgrade": "websocket"}, method="GET")
    answered = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello"
    events = _run([(True, asked), (False, answered), (True, b"\x81\x85garbage")])
    assert [each.reason for each in events] == ["upgraded to websocket"]


def test_grpc_is_said():
    kind = {"Content-Type": "application/grpc+proto"}
    asked = request("/google.cloud.aiplatform.v1.PredictionService/Predict", "x", b"\0", kind)
    assert [each.reason for each in _run([(True, asked)])] == ["grpc: protobuf is not read"]


def test_other_traffic_is_no_call():
    asked = request("/index.html", "example.com", b"", method="GET")
    form = request("/api/chat", "shop.example", {"model": "x", "messages": []})
    assert _run([(True, asked), (False, response(b"<html>", "text/html"))]) == []
    assert _run([(True, form), (False, response({"answer": 1}))]) == []
    assert _run([(True, form), (False, response({"id": 1, "method": "x"}))]) == []


def test_the_model_may_be_known_by_where_the_connection_goes():
    asked = request("/v1/messages", "proxy", {"model": "claude-x"}, {"x-api-key": KEY})
    connection = Connection(str, server="api.anthropic.com", port=443)
    (call,) = _run([(True, asked), (False, response({"model": "c"}))], connection=connection)
    assert (call.provider, call.server, call.port) == ("anthropic", "api.anthropic.com", 443)


@few
@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=400), st.integers(0, 50)), max_size=30),
    st.booleans(),
)
def test_any_bytes(pieces, pipe):
    connection = Connection(lambda text: "h", pipe=pipe)
    for sent, data, gap in pieces:
        connection.feed("sent" if sent else "received", data, 1, gap)
    connection.close(2)


@by_name
@few
@given(st.data())
def test_any_damage(sample, data):
    """Bytes of a good connection changed at random: nothing raises, and nothing grows."""
    seed = data.draw(st.integers(0, 2**32))
    pick = random.Random(seed)
    connection = Connection(lambda text: "h")
    for client, raw in sample.pieces:
        damaged = bytearray(raw)
        for _ in range(pick.randrange(8)):
            damaged[pick.randrange(len(raw))] = pick.randrange(256)
        at = 0
        while at < len(damaged):
            step = pick.randrange(1, 200)
            connection.feed("sent" if client else "received", bytes(damaged[at : at + step]), 1)
            at += step
    connection.close(2)
    assert _weight(connection) < 1 << 20


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HTTP/1.1\r\nx: ",
        b"GET /",
        b"POST /v1/messages HTTP/1.1\r\nHost: api.anthropic.com\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b'{"jsonrpc":"2.0","id":"',
        b'{"jsonrpc":"2.0","method":[',
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"',
        PREFACE + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    ],
)
@pytest.mark.parametrize("fill", [b"a", b"[", b'{"x":', b"\n", b"GET / HTTP/1.1\r\n", b"\x00"])
def test_memory_is_bounded(start, fill):
    connection = Connection(lambda text: "h")
    connection.feed("sent", start, 1)
    for _ in range(20):
        connection.feed("sent", fill * (65536 // len(fill)), 1)
        connection.feed("received", fill * (65536 // len(fill)), 1)
    assert _weight(connection) < (1 << 20) + 4 * MAX_LINE


def _all(value, seen):
    """Everything that hangs on a value, but functions and the tables that all share."""
    if id(value) in seen or callable(value) or isinstance(value, Api | Paths):
        return
    seen[id(value)] = value  # kept, so that no id is used twice
    yield value
    parts = [getattr(value, "__dict__", None)]
    if isinstance(value, dict):
        parts += [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts += value
    elif isinstance(value, msgspec.Struct):
        parts += [getattr(value, name) for name in value.__struct_fields__]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    parts += [getattr(value, name, None) for name in names]
    for part in parts:
        yield from _all(part, seen)


def _weight(value) -> int:
    """Bytes that hang on a value."""
    return sum(map(sys.getsizeof, _all(value, {})))


def _texts(value):
    return [each for each in _all(value, {}) if isinstance(each, str | bytes | bytearray)]


# --- canaries -------------------------------------------------------------------------------


def _carried(connection: Connection, *pieces: tuple[str, bytes]) -> list[tuple[str, bool, str]]:
    return [
        (event.canary.id, event.sent, event.host)
        for direction, data in pieces
        for event in connection.feed(direction, data, 5)  # type: ignore[arg-type]
        if isinstance(event, Carried)
    ]


def _looking(**more: Any) -> Connection:
    return Connection(lambda text: "#", canaries=CANARIES, **more)


def _post(headers: dict[str, str], body: bytes, path: str = "/x") -> bytes:
    said = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: evil.test\r\n{said}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_a_canary_in_any_header_address_or_body_of_a_request():
    for whole in (
        _post({"X-Any": VALUE}, b""),
        _post({}, b"", f"/{VALUE}"),
        _post({}, json.dumps({"x": VALUE}).encode(), "/v1/chat/completions"),
    ):
        assert _carried(_looking(), ("sent", whole)) == [(ONE.id, True, "evil.test")]


@pytest.mark.parametrize("in_head", [True, False])
def test_a_canary_in_http2(in_head):
    head = {":method": "POST", ":scheme": "https", ":authority": "evil.test", ":path": "/x"}
    head |= {"authorization": f"Bearer {VALUE}"} if in_head else {}
    body = b"{}" if in_head else json.dumps({"x": VALUE}).encode()
    block = hpack.Encoder().encode(list(head.items()))
    asks = frames((4, 0, 0, b""), (1, 4, 1, block), (0, 1, 1, body))
    pieces = ("sent", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + asks)
    assert _carried(_looking(), pieces) == [(ONE.id, True, "evil.test")]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 400), max_size=8))
def test_a_canary_in_pieces(sizes):
    whole = _post({}, json.dumps({"x": VALUE}).encode())
    pieces, at = [], 0
    for size in [*sizes, len(whole)]:
        pieces.append(("sent", whole[at : at + size]))
        at += size
    assert ONE.id in {ident for ident, _, _ in _carried(_looking(), *pieces)}


def test_a_canary_that_went_by_before_is_not_seen_again():
    made = _looking(pipe=True)
    line = json.dumps({"x": VALUE}).encode() + b"\n"
    assert len(_carried(made, ("received", line))) == 1
    assert _carried(made, ("received", b'{"x": 1}\n' * 3)) == []
    assert len(_carried(made, ("received", line))) == 1
