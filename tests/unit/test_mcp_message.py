"""JSON-RPC as MCP sends it: what is read, what is not, and what two readers may see differently."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.agent.mcp.lines import Lines
from hullwatch.agent.mcp.message import error_response, field, peek, read, text
from hullwatch.agent.mcp.sse import Events

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}


def one(value: object):
    (message,) = read(json.dumps(value).encode()).messages
    return message


def test_a_call():
    message = one(CALL)
    assert (message.kind, message.key, message.method) == ("request", 1, "tools/call")
    assert (message.name, message.modern) == ("x", False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"method": "a"}, "notification"),
        ({"method": "a", "id": 0}, "request"),
        ({"method": "a", "id": ""}, "request"),
        ({"method": "a", "id": None}, "invalid"),
        ({"method": "a", "id": True}, "invalid"),
        ({"method": "a", "id": [1]}, "invalid"),
        ({"method": 1, "id": 1}, "invalid"),
        ({"id": 1, "result": None}, "result"),
        ({"id": 1, "error": {}}, "error"),
        ({"id": 1}, "invalid"),
        ({}, "invalid"),
    ],
)
def test_kinds(value, kind):
    assert one(value).kind == kind


def test_ids_as_they_were_written_and_as_keys():
    message = read(b'{"id": 1.0 ,"method":"a"}').messages[0]
    assert (message.id, message.key) == (b"1.0", 1)
    assert read(b'{"id":"1","method":"a"}').messages[0].key == "1"
    assert b'"id":1.0' in error_response(message.id, -1, "x")


def test_what_a_modern_request_says():
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    message = one({"id": 1, "method": "resources/read", "params": {"uri": "u:1", "_meta": meta}})
    assert (message.version, message.modern, message.name) == ("2026-07-28", True, "u:1")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} x", "not JSON"),
        (b"3", "not an object"),
        (b"[1]", "not an object"),
        (b'{"id":"\xff"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"params":' + b"[" * 99999 + b"]" * 99999 + b"}", "nested too deeply"),
        (b"[" + b"{}," * 300 + b"{}]", "batch of more than 256"),
    ],
)
def test_what_cannot_be_read(raw, problem):
    reading = read(raw)
    assert reading.problem == problem and not reading.messages


def test_a_batch():
    reading = read(json.dumps([CALL, {"method": "a"}]).encode())
    assert reading.batch and [m.kind for m in reading.messages] == ["request", "notification"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id":1,"method":"a","method":"tools/call"}',
        b'{"id":1,"method":"a","Method":"tools/call"}',
        b'{"id":1,"method":"tools/call","params":{"name":"x","NAME":"y"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"x"},"params":{"name":"y"}}',
        b'{"id":1,"method":"a","meth\\u006fd":"tools/call"}',
        '{"id":1,"method":"tools/call","params":{"name":"x"},"paramſ":{}}'.encode(),
        b'{"id":1,"METHOD":"tools/call"}',
        b'[{"id":1,"method":"a","method":"b"}]',
    ],
)
def test_keys_that_may_be_read_in_two_ways(raw):
    assert read(raw).doubled
    assert not read(raw, doubles=False).doubled


@pytest.mark.parametrize(
    "params",
    [
        {"name": "x", "arguments": {"name": "y", "Name": "z", "method": "m", "id": 3}},
        {"name": "x", "arguments": {"text": '{"method":"a","method":"b"}'}},
        {"name": "ſ\u212a\u00e9", "arguments": {"ſ": 1, "kéy": [{"id": 1}, {"id": 2}]}},
    ],
)
def test_keys_below_are_nobodys_business(params):
    for ascii_only in (True, False):
        raw = json.dumps(CALL | {"params": params}, ensure_ascii=ascii_only).encode()
        assert not read(raw).doubled


def test_fields_and_texts_of_anything():
    assert field(b'{"a":{"b":[1]}}', "a", "b") == b"[1]"
    assert field(b'{"a":1}', "a", "b") == field(b"[]", "a") == field(b"", "a") == b""
    assert text(b'"\\u00e9"') == "é" and text(b"1") == text(b"") == text(b'"') == ""


@given(st.binary(max_size=400))
def test_any_bytes(raw):
    reading = read(raw)
    assert reading.problem or reading.messages or reading.batch
    peek(raw[:40], raw[-40:])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@given(
    st.sampled_from(["request", "result", "error"]),
    st.integers(0, 10**9) | st.text(max_size=20),
    _JSON,
    st.permutations(["jsonrpc", "id", "body"]),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_peek_never_says_what_reading_does_not(kind, ident, inner, order, separators):
    body = {
        "request": {"method": "tools/call", "params": {"name": "t", "arguments": inner}},
        "result": {"result": inner},
        "error": {"error": inner},
    }[kind]
    value: dict[str, object] = {}
    for part in order:
        value |= body if part == "body" else {part: "2.0" if part == "jsonrpc" else ident}
    raw = json.dumps(value, separators=separators).encode()
    (whole,) = read(raw).messages
    peeked = peek(raw[:60], raw[-60:])
    if peeked.key is not None:
        assert peeked.key == whole.key
    if peeked.kind != "invalid":
        assert peeked.kind == whole.kind
    if peeked.name:
        assert peeked.name == whole.name


@pytest.mark.parametrize(
    ("head", "tail", "kind", "key"),
    [
        (b'{"jsonrpc":"2.0","id":5,"result":{"a":"', b'"}}\n', "result", 5),
        (b'{"result":{"a":"', b'"},"jsonrpc":"2.0","id":"q"}\n', "result", "q"),
        (b'{ "id" : "q" , "error" : {', b"}}", "error", "q"),
        (b'{"method":"tools/call","params":{"name":"x","a":"', b'"},"id":7}', "request", 7),
        (b'{"result":{"a":{"id":9,', b'"b":{"id":9}}}', "result", None),
        (b'{"result":{"a":"', b'\\"id\\":9}"}}', "result", None),
        (b"xx", b"", "invalid", None),
    ],
)
def test_peeking_at_large_messages(head, tail, kind, key):
    peeked = peek(head, tail)
    assert (peeked.kind, peeked.key) == (kind, key)


# --- lines --------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 20))
def test_lines_lose_nothing_and_add_nothing(parts, limit):
    lines = Lines(limit)
    pieces = [piece for part in parts for piece in lines.feed(part)] + lines.close()
    assert b"".join(piece.data for piece in pieces) == b"".join(parts)
    assert all(len(piece.data) <= limit for piece in pieces if not piece.large)
    whole = [piece.data for piece in pieces if not piece.large]
    assert all(b"\n" not in line[:-1] for line in whole)


@given(st.binary(max_size=60), st.integers(1, 7), st.integers(0, 20))
def test_lines_do_not_depend_on_how_they_come(data, cut, limit):
    def said(step: int) -> list[tuple[bytes, bool]]:
        lines, found, line = Lines(limit), [], b""
        chunks = [data[at : at + step] for at in range(0, len(data), step)]
        for piece in [p for one in chunks for p in lines.feed(one)] + lines.close():
            line += piece.data
            if piece.last:
                found.append((line, piece.large))
                line = b""
        return found

    assert said(cut) == said(len(data) or 1)


def test_the_ends_of_a_large_line():
    lines = Lines(10)
    pieces = lines.feed(b"a" * 11) + lines.feed(b"b" * 5) + lines.feed(b"c\nnext\n")
    assert [p.large for p in pieces] == [True, True, True, False]
    assert [p.first for p in pieces] == [True, False, False, True]
    assert pieces[2].last and pieces[2].head == b"a" * 11
    assert pieces[2].tail == b"a" * 11 + b"b" * 5 + b"c\n"


# --- events -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        (b"data: a\n\n", [("message", b"a")]),
        (b"data:a\r\rdata: b\r\n\r\n", [("message", b"a"), ("message", b"b")]),
        (b"event: endpoint\ndata: /x?s=1\n\n", [("endpoint", b"/x?s=1")]),
        (b"data: a\ndata\ndata:\ndata: b\n\n", [("message", b"a\n\n\nb")]),
        (b": comment\n\nid: 3\nretry: 5\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", b"a")]),
        (b"data: cut off", []),
        (b"data:  two\n\n", [("message", b" two")]),
        (b"dat: a\ndata : b\n\n", []),
        (b"event: x\n\ndata: a\n\n", [("message", b"a")]),
    ],
)
def test_events(raw, events):
    for step in (1, 2, 3, len(raw)):
        reader = Events()
        got = [
            event for at in range(0, len(raw), step) for event in reader.feed(raw[at : at + step])
        ]
        assert [(event.name, event.data) for event in got] == events


def test_an_event_that_is_too_large():
    reader = Events(8)
    raw = b"event: x\ndata: 0123456789\ndata: tail\n\ndata: ok\n\n"
    large, small = [event for at in range(len(raw)) for event in reader.feed(raw[at : at + 1])]
    assert (large.name, large.data, large.size) == ("x", b"", 15)
    assert (large.head, large.tail) == (b"0123456789\ntail", b"0123456789\ntail")
    assert small.data == b"ok"


@given(st.binary(max_size=80), st.integers(1, 9))
def test_events_do_not_depend_on_how_they_come(raw, step):
    def said(step: int) -> list[tuple[str, bytes, int]]:
        reader = Events(20)
        parts = [raw[at : at + step] for at in range(0, len(raw), step)]
        return [(e.name, e.data, e.size) for part in parts for e in reader.feed(part)]

    assert said(step) == said(len(raw) or 1)


@given(st.lists(st.text(alphabet="abc:\n é", max_size=12), max_size=4))
def test_events_that_were_made_are_found(texts):
    raw = b""
    for value in texts:
        raw += b"".join(b"data: " + line.encode() + b"\n" for line in value.split("\n")) + b"\n"
    assert [event.data.decode() for event in Events().feed(raw)] == texts
