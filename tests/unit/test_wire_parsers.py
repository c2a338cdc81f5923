"""Each parser by itself: what it reads, what it refuses, and how it finds its way back."""

from __future__ import annotations

import gzip
import json
import zlib

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.wire.body import MAX_OUT, PIECE, Decoder
from hullwatch.agent.wire.eventstream import Frames
from hullwatch.agent.wire.http import Data, End, Head, Lost, Upgraded, split_target
from hullwatch.agent.wire.http1 import MAX_HEAD, Reader
from hullwatch.agent.wire.jsonrpc import Lines, read
from hullwatch.agent.wire.jsonscan import MAX_TEXT, Container, Paths, Picked, Scanner, pick
from hullwatch.agent.wire.sse import MAX_EVENT, ServerEvent, ServerEvents
from support.wire_samples import chunked, event_frame, request, response

few = settings(deadline=None, max_examples=100)


def _pieces(data: bytes, sizes: list[int]):
    at = 0
    for size in [*sizes, len(data)]:
        yield data[at : at + size]
        at += size


sizes = st.lists(st.integers(0, 40), max_size=12)

# --- JSON ---------------------------------------------------------------------------------------

PATHS = Paths(
    {"a": "a", "b.c": "c", "b.*.d": "d", "*.e": "e", "b": "?b", "s": "?s"}, ends={"": "end"}
)
_KEYS = st.sampled_from(["a", "b", "c", "d", "e", "s", "x"])
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


def _scan(data: bytes, sizes: list[int]) -> list[Picked]:
    scanner = Scanner(PATHS)
    found = [each for piece in _pieces(data, sizes) for each in scanner.feed(piece)]
    return found + scanner.finish()


@few
@given(documents, sizes, st.booleans(), st.sampled_from([None, 1]))
def test_the_scanner_and_a_real_parser_agree(document, sizes, ascii_only, indent):
    raw = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    order = repr
    assert sorted(_scan(raw, sizes), key=order) == sorted(pick(raw, PATHS), key=order)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (rb'{"a":"x\u00e9\n\"y\\"}', [("a", 'xé\n"y\\')]),
        (rb'{"\u0061":1}', [("a", 1)]),
        (b'{"a":{"a":2},"b":{"c":3}}', [("a", Container.OBJECT), ("b", True), ("c", 3)]),
        (b'{"a":"\\ud800"}', [("a", "\ufffd")]),
        (b'{"a":"\xff"}', [("a", "\ufffd")]),
        (b'{"a":NaN}', [("a", "NaN")]),
        (b'{"a":1e999}', [("a", "1e999")]),
        (b'{"a":' + b"9" * 5000 + b"}", [("a", "9" * 64)]),
        (b'{"a":"' + b"\\u0041" * 5000 + b'"}', [("a", "A" * MAX_TEXT)]),
        (b'{"s":"","b":[]}', [("b", True)]),
        (b'[{"e":1},{"e":"2"}]', [("e", 1), ("e", "2")]),
        (b'{"x":"\\"a\\":1 {[","a":true}', [("a", True)]),
    ],
)
def test_values_are_picked(raw, found):
    for sizes in ([], [1] * len(raw)):
        got = [each for each in _scan(raw, sizes) if each.field != "end"]
        assert got == [Picked(*each) for each in found]


def test_what_parsers_differ_about_is_told():
    scanner = Scanner(PATHS)
    assert [each.value for each in scanner.feed(b'{"a":1,"a":2,"A":3}')][:2] == [1, 2]
    assert scanner.problems == {"duplicate a", "case a"}
    scanner.reset()
    scanner.feed(b'{"x":' + b"[" * 600)
    assert scanner.problems == {"depth"} and scanner.open


# --- HTTP/1.1 -----------------------------------------------------------------------------------


def _read(raw: bytes, requests: bool = False, method: str = "GET", sizes=(), close: bool = False):
    """Events, pieces of one body joined."""
    reader = Reader(requests, lambda: method)
    events = [each for piece in _pieces(raw, list(sizes)) for each in reader.feed(piece)]
    return _joined(events + (reader.close() if close else []))


def _joined(events):
    out: list[object] = []
    for each in events:
        if isinstance(each, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(out[-1].data + each.data, out[-1].missing + each.missing)
        else:
            out.append(each)
    return out


_HEAD = Head(status=200, headers={"content-length": "5"})


@pytest.mark.parametrize(
    ("raw", "method", "events"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "GET",
         [_HEAD, Data(b"hello"), End(True)]),
        (b"HTTP/1.1 200\nContent-Length: 5\n\nhello", "GET", [_HEAD, Data(b"hello"), End(True)]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", [_HEAD, End(True)]),
        (b"HTTP/1.1 204 No\r\n\r\n", "GET", [Head(status=204), End(True)]),
        (b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", "GET",
         [Head(status=304, headers={"content-length": "5"}), End(True)]),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n", "GET",
         [Head(status=204), End(True)]),
        (b"HTTP/1.0 200 OK\r\n\r\nall of it", "GET",
         [Head(status=200), Data(b"all of it"), End(True)]),
        (b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03", "CONNECT",
         [Head(status=200), End(True), Upgraded("connect")]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "GET",
         [Head(status=200, headers={"content-length": "5, 5"}), Data(b"hello"), End(True)]),
    ],
)  # fmt: skip
def test_how_long_a_response_is(raw, method, events):
    for sizes in ([], [1] * len(raw)):
        assert _read(raw, method=method, sizes=sizes, close=True) == events


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 40000,
    ],
)
def test_after_nonsense_the_next_response_is_read(head):
    good = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    events = _read(head + good)
    assert [each for each in events if isinstance(each, Lost)]
    assert events[-2:] == [Head(status=404, headers={"content-length": "0"}), End(True)]


def test_chunks_have_extensions_and_trailers():
    raw = request("/x", "h", b"0123456789" * 10, chunks=7)
    events = _read(raw, requests=True)
    assert events[1:] == [Data(b"0123456789" * 10), End(True)]


@few
@given(st.lists(st.binary(max_size=50), max_size=5), sizes)
def test_requests_one_behind_the_other(bodies, sizes):
    raw = b"".join(request("/x", "h", body, chunks=len(body) % 5) for body in bodies)
    events = _read(raw, requests=True, sizes=sizes)
    assert [each.data for each in events if isinstance(each, Data)] == [b for b in bodies if b]
    assert sum(isinstance(each, End) and each.whole for each in events) == len(bodies)


def test_a_hole_within_a_body_is_bridged():
    reader = Reader(requests=True)
    reader.feed(b"POST /x HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + bytes(30))
    assert reader.gap(60) == [Data(b"", 60)]
    assert reader.feed(bytes(10) + b"GET /y HTTP/1.1\r\n\r\n") == [
        Data(bytes(10)), End(True), Head(method="GET", target="/y"), End(True)
    ]  # fmt: skip
    reader = Reader(requests=False)
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + bytes(90))
    assert reader.gap(12) == [Data(b"", 10)]  # the rest of the chunk, and its line end
    assert reader.feed(b"0\r\n\r\n") == [End(True)]
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + bytes(90))
    assert reader.gap(17) == [Data(b"", 10), End(True)]  # and the end of all


def test_heads_do_not_show_what_they_carry():
    raw = request("/v1?key=planted", "planted.host", b"", {"Authorization": "planted"})
    assert "planted" not in repr(_read(raw, requests=True))


def test_a_proxy_is_told_the_host_in_the_target():
    head = Head(method="POST", target="http://API.example:80/v1/x?y=1", headers={"host": "other"})
    assert split_target(head) == ("api.example:80", "/v1/x", "y=1")


# --- server-sent events -------------------------------------------------------------------------


def _events(raw: bytes, sizes=()):
    parser = ServerEvents()
    return [each for piece in _pieces(raw, list(sizes)) for each in parser.feed(piece)]


@few
@given(sizes)
def test_the_standards_own_examples(sizes):
    """HTML, 9.2.6, 'The following stream ...'."""
    raw = b"data: YHOO\ndata: +2\ndata: 10\n\n"
    assert [each.data for each in _events(raw, sizes)] == [b"YHOO\n+2\n10"]
    raw = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
    raw += b"data:  third event\n\n"
    got = [(each.data, each.id) for each in _events(raw, sizes)]
    assert got == [(b"first event", "1"), (b"second event", ""), (b" third event", "")]
    raw = b"data\n\ndata\ndata\n\ndata:"
    assert [each.data for each in _events(raw, sizes)] == [b"", b"\n"]
    assert [each.data for each in _events(b"data:test\n\ndata: test\n\n", sizes)] == [b"test"] * 2


@few
@given(sizes, st.sampled_from([b"\n", b"\r", b"\r\n"]))
def test_any_line_end_in_any_pieces(sizes, end):
    raw = b"\xef\xbb\xbf" + end.join(
        [b"event: a", b"data: 1", b"", b"data: 2", b"data: 3", b"", b""]
    )
    assert _events(raw, sizes) == [
        ServerEvent("a", b"1", "", 1), ServerEvent("message", b"2\n3", "", 2)
    ]  # fmt: skip


def test_a_long_event_is_cut_and_the_next_is_whole():
    parser = ServerEvents()
    (long,) = parser.feed(b"data: " + b"x" * (3 * MAX_EVENT) + b"\n\n")
    assert long.cut and len(long.data) <= MAX_EVENT and long.size >= 3 * MAX_EVENT - 6
    assert parser.feed(b"data: y\n\n") == [ServerEvent("message", b"y", "", 1)]


def test_after_a_hole_events_are_read_from_the_next_beginning():
    parser = ServerEvents()
    parser.feed(b"data: lost")
    parser.gap()
    assert parser.feed(b"rest of it\ndata: half\n\ndata: x\n\n")[0].data == b"x"
    parser.gap()
    assert parser.feed(b"da") == [] and parser.feed(b"ta: y\n\n")[0].data == b"y"


# --- JSON-RPC -----------------------------------------------------------------------------------


def test_kinds_of_messages():
    kinds = [
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}', "request", 1),
        (b'{"jsonrpc":"2.0","method":"notifications/progress"}', "notification", None),
        (b'{"jsonrpc":"2.0","id":"1","result":null}', "response", "1"),
        (b'{"jsonrpc":"2.0","id":1.5,"error":{"code":-1,"message":"m"}}', "error", 1.5),
        (b'{"jsonrpc":"2.0","id":1,"method":[1]}', "invalid", 1),
    ]
    for raw, kind, ident in kinds:
        (message,) = read(raw)
        assert (message.kind, message.id, message.size) == (kind, ident, len(raw))
    for raw in (b"[]", b"{}", b"1", b"", b'"x"', b'{"model":"x"}', b"Content-Length: 20\r\n"):
        assert read(raw) == []


@pytest.mark.parametrize(
    ("raw", "problems"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', ("duplicate method",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":1,"name":2}}',
         ("duplicate name",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"Name":"x"}}', ("case name",)),
        (b'{"jsonrpc":"2.0","id":null,"method":"a"}', ("id",)),
        (b'{"jsonrpc":"2.0","id":{},"method":"a"}', ("id",)),
        (b'{"jsonrpc":"1.0","id":1,"method":"a"}', ("version",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"\xff"}}', ("utf8",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":' + b"[" * 600 + b"]" * 600 + b"}",
         ("depth",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x"', ("cut",)),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":' + b"9" * 10000 + b"}}", ()),
    ],
)  # fmt: skip
def test_oddities_are_told_and_the_message_is_read(raw, problems):
    (message,) = read(raw)
    assert message.problems == problems and message.kind == "request"


def test_batches_and_messages_without_a_line_between():
    raw = b'[{"jsonrpc":"2.0","id":1,"method":"a"},7,{"jsonrpc":"2.0","id":2,"result":{}}]'
    assert [(each.id, each.part) for each in read(raw)] == [(1, 1), (2, 2)]
    raw = b'{"jsonrpc":"2.0","id":1,"method":"a"}{"jsonrpc":"2.0","id":2,"method":"b"}'
    assert [each.method for each in read(raw)] == ["a", "b"]
    many = b"[" + b",".join([b'{"jsonrpc":"2.0","method":"a"}'] * 1000) + b"]"
    assert len(read(many)) == 256 and "batch" in read(many)[0].problems


@few
@given(
    st.lists(
        st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b""))
        | st.just(b'{"jsonrpc":"2.0","id":3,"method":"ping"}'),
        max_size=8,
    ),
    sizes,
)
def test_lines_are_passed_on_as_they_came(lines, sizes):
    raw = b"".join(line + b"\n" for line in lines)
    parser = Lines(keep=1000)
    got = [each for piece in _pieces(raw, sizes) for each in parser.feed(piece)]
    assert b"".join(each.raw or b"" for each in got) == raw
    assert sum(each.id == 3 for line in got for each in line.messages) == sum(
        b'"ping"' in line for line in lines
    )


def test_a_line_that_is_too_long_to_keep_is_still_read():
    parser = Lines(keep=100)
    raw = b'{"jsonrpc":"2.0","method":"a","params":"' + b"x" * 1000 + b'","id":5}\n'
    (line,) = parser.feed(raw)
    assert line.raw is None and line.size == len(raw) and line.messages[0].id == 5


@pytest.mark.parametrize("rest", [b'tail of a line"}}\n', b"\n", b""])
def test_after_a_hole_the_next_line_is_read(rest):
    parser = Lines()
    assert parser.feed(b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"') == []
    (cut,) = parser.gap(50)
    assert cut.messages[0].problems == ("cut",) and cut.messages[0].id == 1
    good = b'{"method":"b","jsonrpc":"2.0","id":2}\n'
    got = [each for piece in _pieces(rest + good, [1] * 60) for each in parser.feed(piece)]
    assert [each.method for line in got for each in line.messages] == ["b"]


# --- content codings ----------------------------------------------------------------------------


def _packed(coding: str, raw: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(raw[: len(raw) // 2]) + gzip.compress(raw[len(raw) // 2 :])
    if coding == "deflate":
        return zlib.compress(raw)
    if coding == "bare":
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(raw) + packer.flush()
    return pa.compress(raw, {"br": "brotli"}.get(coding, coding), asbytes=True) if coding else raw


@pytest.mark.parametrize("coding", ["", "gzip", "deflate", "bare", "br", "zstd"])
@few
@given(st.binary(max_size=3000), sizes)
def test_codings_come_off(coding, raw, sizes):
    decoder = Decoder({"bare": "deflate"}.get(coding, coding))
    out = [each for piece in _pieces(_packed(coding, raw), sizes) for each in decoder.feed(piece)]
    assert b"".join([*out, *decoder.end()]) == raw and not decoder.opaque


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br"])
def test_a_bomb_is_not_unpacked(coding):
    packed = _packed(coding, bytes(3 * MAX_OUT))
    decoder = Decoder(coding)
    sizes = [len(each) for each in [*decoder.feed(packed), *decoder.end()]]
    assert "too much" in decoder.opaque
    assert sum(sizes) <= MAX_OUT and max(sizes, default=0) <= PIECE


@pytest.mark.parametrize(
    ("coding", "raw", "why"),
    [
        ("gzip", b"no gzip at all", "broken"),
        ("br", b"\xff" * 50, "broken"),
        ("lzma", b"x", "not read"),
        ("gzip, br", b"x", "not read"),
    ],
)
def test_what_cannot_be_unpacked_says_why(coding, raw, why):
    decoder = Decoder(coding)
    assert [*decoder.feed(raw), *decoder.end()] == [] and why in decoder.opaque


def test_a_hole_in_what_is_packed():
    decoder = Decoder("gzip")
    list(decoder.feed(gzip.compress(bytes(10000))[:20]))
    decoder.gap()
    assert "missing" in decoder.opaque and list(decoder.feed(b"x")) == []


# --- Amazon's event stream ----------------------------------------------------------------------


@few
@given(st.lists(st.binary(max_size=60), max_size=6), sizes)
def test_frames_in_any_pieces(payloads, sizes):
    raw = b"".join(event_frame(each, event_type="chunk") for each in payloads)
    parser = Frames()
    got = [each for piece in _pieces(raw, sizes) for each in parser.feed(piece)]
    assert [each.payload for each in got] == payloads and parser.lost == 0
    assert all(each.headers == {":event-type": "chunk"} for each in got)


def test_a_documented_frame():
    """The vector that AWS' SDKs share (event stream test suite, `payload_one_str_header`)."""
    raw = bytes.fromhex(
        "0000003d0000002007fd83960c636f6e74656e742d74797065070010617070"
        "6c69636174696f6e2f6a736f6e7b27666f6f273a27626172277d8d9c08b1"
    )
    (frame,) = Frames().feed(raw)
    assert frame.payload == b"{'foo':'bar'}"
    assert frame.headers == {"content-type": "application/json"}


@pytest.mark.parametrize("at", [0, 5, 9, 30, -1])
def test_a_broken_frame_is_passed_over(at):
    broken = bytearray(event_frame(b"x" * 40, event_type="chunk"))
    broken[at] ^= 0x55
    good = event_frame(b"good", event_type="chunk")
    parser = Frames()
    got = [each for byte in bytes(broken) + good for each in parser.feed(bytes([byte]))]
    assert [each.payload for each in got] == [b"good"] and parser.lost == len(broken)


def test_after_a_hole_the_next_frame_is_found():
    raw = event_frame(bytes(100), event_type="chunk") + event_frame(b"good", event_type="chunk")
    parser = Frames()
    parser.feed(raw[:40])
    parser.gap()
    assert [each.payload for each in parser.feed(raw[60:])] == [b"good"]


def test_values_do_not_show_their_content():
    (frame,) = Frames().feed(event_frame(b"planted", event_type="chunk"))
    (event,) = _events(b"data: planted\n\n")
    (line,) = Lines(keep=100).feed(b'{"jsonrpc":"2.0","id":1,"result":"planted"}\n')
    assert "planted" not in repr((frame, event, line, Data(b"planted")))
    assert line.raw is not None and msgspec.json.decode(line.raw)["result"] == "planted"


def test_a_response_over_a_reader_for_requests():
    """The two sides may be mixed up: nothing raises, nothing is found."""
    assert [type(each) for each in _read(response({"a": 1}), requests=True)] == [Lost]
    assert chunked(b"", 5)
