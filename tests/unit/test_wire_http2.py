"""HTTP/2 as an onlooker reads it: what goes on after a hole, and what ends it."""

from __future__ import annotations

import logging

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.wire.exchange import Part
from hullwatch.agent.wire.http import Data, End, Head, Lost
from hullwatch.agent.wire.http2 import MAX_BLOCK, MAX_STREAMS, PREFACE, Exchanges2
from support.wire_samples import frames

ASK = [(":method", "POST"), (":path", "/x"), (":authority", "h"), ("authorization", "planted")]
OK = [(":status", "200"), ("content-type", "text/plain")]


def _begun() -> tuple[Exchanges2, hpack.Encoder, hpack.Encoder]:
    both = Exchanges2()
    assert both.feed(True, PREFACE + frames((4, 0, 0, b""))) == []
    assert both.feed(False, frames((4, 0, 0, b""))) == []
    return both, hpack.Encoder(), hpack.Encoder()


def test_streams_are_told_apart():
    both, asks, answers = _begun()
    parts = both.feed(
        True, frames((1, 5, 1, asks.encode(ASK)), (1, 4, 3, asks.encode(ASK)), (0, 1, 3, b"body"))
    )
    parts += both.feed(
        False,
        frames(
            (1, 4, 3, answers.encode(OK)),
            (1, 4, 1, answers.encode(OK)),
            (0, 1, 3, b"three"),
            (0, 1, 1, b"one"),
        ),
    )
    told = [(part.number, part.asked, part.event) for part in parts]
    assert told[0][2].headers == {"authorization": "planted", "host": "h"}
    assert [each for each in told if not isinstance(each[2], Head)] == [
        (1, True, End(True)),
        (3, True, Data(b"body")),
        (3, True, End(True)),
        (3, False, Data(b"three")),
        (3, False, End(True)),
        (1, False, Data(b"one")),
        (1, False, End(True)),
    ]


def test_a_hole_within_a_body_is_bridged():
    both, asks, _ = _begun()
    raw = frames((1, 4, 1, asks.encode(ASK)), (0, 1, 1, bytes(100)))
    both.feed(True, raw[:-50])
    assert both.gap(True, 50) == [Part(1, True, Data(b"", 50)), Part(1, True, End(True))]
    (part,) = both.feed(True, frames((1, 4, 3, asks.encode(ASK))))
    assert part.event.method == "POST"


def _reason(parts: list[Part]) -> str:
    return next((part.event.reason for part in parts if isinstance(part.event, Lost)), "")


def test_what_cannot_go_on_is_said():
    both, asks, _ = _begun()
    both.feed(True, frames((1, 4, 1, asks.encode(ASK)))[:12])
    assert _reason(both.gap(True, 5)) == "h2: a piece is missing"
    assert both.feed(True, frames((1, 4, 3, asks.encode(ASK)))) == []
    cases = [
        (frames((0, 0, 1, b"x")), "h2: joined in the middle"),
        (frames((4, 0, 0, b""), (9, 4, 1, b"")), "h2: frames out of order"),
        (frames((4, 0, 0, b""), (1, 0, 1, b""), (0, 0, 1, b"")), "h2: frames out of order"),
        (frames((4, 0, 0, b""), (1, 4, 1, b"\xff\xff\xff")), "h2: headers cannot be read"),
        (frames((4, 0, 0, b""), (1, 0, 1, bytes(MAX_BLOCK + 1))), "h2: frame too long"),
    ]
    for raw, reason in cases:
        assert _reason(Exchanges2().feed(False, raw)) == reason
    assert _reason(Exchanges2().feed(True, b"GET / HTTP/1.1\r\n\r\n")) == "h2: joined in the middle"


def test_headers_that_unpack_to_too_much():
    """Each byte of the block stands for a header of four thousand (an entry of the table)."""
    both, asks, _ = _begun()
    block = asks.encode([*ASK, ("x", "y" * 4000)]) + b"\xbe" * 100
    assert _reason(both.feed(True, frames((1, 4, 1, block)))) == "h2: headers cannot be read"


def test_a_reset_ends_an_exchange():
    both, asks, _ = _begun()
    both.feed(True, frames((1, 4, 1, asks.encode(ASK))))
    assert both.feed(False, frames((3, 0, 1, bytes(4)))) == [Part(1, False, End(False))]
    assert both.close() == []


def test_exchanges_are_bounded():
    both, asks, _ = _begun()
    parts: list[Part] = []
    for stream in range(1, 1000, 2):
        parts += both.feed(True, frames((1, 4, stream, asks.encode(ASK))))
    lost = [part for part in parts if part.event == End(False)]
    assert len(lost) == 500 - MAX_STREAMS and len(both.close()) == MAX_STREAMS


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=200), st.lists(st.integers(1, 30), min_size=1, max_size=10), st.booleans()
)
def test_padding_and_pieces(body, sizes, trailers):
    both, asks, answers = _begun()
    both.feed(True, frames((1, 5, 1, asks.encode(ASK))))
    # Padding, priority, block.
    head = b"\x03" + b"\0\0\0\x01\x10" + answers.encode(OK) + bytes(3)
    end = (1, 5, 1, answers.encode([("grpc-status", "0")])) if trailers else (0, 1, 1, b"")
    raw = frames((1, 0x2C, 1, head), (0, 8, 1, b"\x04" + body + bytes(4)), end)
    events, at = [], 0
    while at < len(raw):
        size = sizes[at % len(sizes)]
        events += [part.event for part in both.feed(False, raw[at : at + size])]
        at += size
    assert events[0] == Head(status=200, headers={"content-type": "text/plain"})
    assert b"".join(each.data for each in events if isinstance(each, Data)) == body
    assert events[-1] == End(True)


def test_keys_are_in_no_log(caplog):
    """hpack tells each header to its debug log; whoever turns on all logs does not get these."""
    with caplog.at_level(logging.DEBUG):
        both, asks, _ = _begun()
        both.feed(True, frames((1, 5, 1, asks.encode(ASK))))
    assert "planted" not in caplog.text
