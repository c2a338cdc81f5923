"""DNS messages: real ones are read, all others are refused without harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hullwatch.sensor.dns import Answer, parse


def name(text: str) -> bytes:
    return b"".join(bytes([len(p)]) + p.encode("latin-1") for p in text.split(".") if p) + b"\0"


def message(
    *sections: bytes, flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0)
) -> bytes:
    return struct.pack(">6H", 0xBEEF, flags, *counts) + b"".join(sections)


def query(text: str, kind: int = 1) -> bytes:
    return name(text) + struct.pack(">HH", kind, 1)


def record(owner: bytes, kind: int, ttl: int, body: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(body)) + body


# As captured from a resolver: www.example.com is an alias, with two addresses behind it.
REAL = bytes.fromhex(
    "1a2b 8180 0001 0003 0000 0000"
    "03777777 076578616d706c65 03636f6d 00 0001 0001"
    "c00c 0005 0001 0000012c 0006 0363646e c010"
    "c02d 0001 0001 0000003c 0004 5db8d822"
    "c02d 0001 0001 0000003c 0004 5db8d823".replace(" ", "")
)


def test_an_answer_with_an_alias_and_compression():
    got = parse(REAL)
    assert got is not None
    assert (got.ident, got.response, got.rcode) == (0x1A2B, True, 0)
    assert (got.name, got.qtype) == ("www.example.com", 1)
    assert got.answers == (
        Answer("www.example.com", 5, 300, "cdn.example.com"),
        Answer("cdn.example.com", 1, 60, "93.184.216.34"),
        Answer("cdn.example.com", 1, 60, "93.184.216.35"),
    )


def test_a_question():
    got = parse(message(query("API.OpenAI.com", 28)))
    assert got is not None
    assert (got.name, got.qtype, got.response, got.answers) == ("api.openai.com", 28, False, ())


def test_ipv6_and_no_such_name():
    body = bytes.fromhex("20010db8000000000000000000000007")
    got = parse(
        message(
            query("a.b", 28), record(b"\xc0\x0c", 28, 5, body), flags=0x8180, counts=(1, 1, 0, 0)
        )
    )
    assert got is not None and got.answers == (Answer("a.b", 28, 5, "2001:db8::7"),)
    refused = parse(message(query("missing.example"), flags=0x8183))
    assert refused is not None and (refused.rcode, refused.answers) == (3, ())


def test_root_and_long_names():
    root = parse(message(query("")))
    assert root is not None and root.name == ""
    longest = ".".join(["x" * 63] * 3 + ["y" * 61])
    got = parse(message(query(longest)))
    assert got is not None and got.name == longest


def test_hostile_labels_are_escaped():
    got = parse(message(b"\x06a.b\\\x00\xff\x03\x1b[m\x00" + struct.pack(">HH", 1, 1)))
    assert got is not None
    assert got.name == "a\\046b\\092\\000\\255.\\027[m"


@pytest.mark.parametrize("cut", range(len(REAL)))
def test_every_cut_of_a_real_message(cut: int):
    got = parse(REAL[:cut])
    if cut < 33:
        assert got is None
    else:
        assert got is not None and got.name == "www.example.com"
        assert len(got.answers) <= 3


def test_pointers_that_go_round():
    for loop in (b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x0e\xc0\x0c"):
        assert parse(message(loop + struct.pack(">HH", 1, 1))) is None


def test_pointers_out_of_the_message():
    assert parse(message(b"\xff\xff" + struct.pack(">HH", 1, 1))) is None
    got = parse(
        message(
            query("a.b"), record(b"\xff\xff", 1, 5, b"\1\2\3\4"), flags=0x8180, counts=(1, 1, 0, 0)
        )
    )
    assert got is not None and got.answers == ()


def test_reserved_label_types():
    assert parse(message(b"\x41abc\0" + struct.pack(">HH", 1, 1))) is None


def test_records_of_other_kinds_and_wrong_sizes_are_passed_over():
    records = [
        record(b"\xc0\x0c", 16, 5, b"\x03txt"),
        record(b"\xc0\x0c", 1, 5, b"\1\2\3"),
        record(b"\xc0\x0c", 28, 5, b"\1\2\3\4"),
        record(b"\xc0\x0c", 1, 5, b"\1\2\3\4"),
    ]
    got = parse(message(query("a.b"), *records, flags=0x8180, counts=(1, 4, 0, 0)))
    assert got is not None and [a.value for a in got.answers] == ["1.2.3.4"]


def test_counts_that_lie_are_bounded():
    for counts in ((1, 65535, 65535, 65535), (65535, 65535, 0, 0)):
        got = parse(message(query("a.b"), flags=0x8180, counts=counts))
        assert got is not None and got.answers == ()
    many = message(
        query("a.b"), *[record(b"\xc0\x0c", 1, 5, b"\1\2\3\4")] * 1000, counts=(1, 1000, 0, 0)
    )
    got = parse(many)
    assert got is not None and len(got.answers) == 64


def test_no_question_is_no_message():
    assert parse(message(counts=(0, 1, 0, 0))) is None
    assert parse(b"") is None


@given(st.binary(max_size=4096))
@example(b"\xc0" * 4096)
@example(message(b"\xc0\x0c" * 2000, counts=(65535, 65535, 0, 0)))
def test_any_bytes(data: bytes):
    got = parse(data)
    if got is not None:
        assert got.name.isascii() and got.name.isprintable()
        assert len(got.name) <= 128 * 4 * 64
        assert len(got.answers) <= 64


@given(st.binary(max_size=400), st.integers(0, 3))
def test_any_answers_after_a_real_question(data: bytes, more: int):
    got = parse(message(query("a.example"), data, flags=0x8180, counts=(1, more, 0, 0)))
    assert got is not None and got.name == "a.example" and len(got.answers) <= more
