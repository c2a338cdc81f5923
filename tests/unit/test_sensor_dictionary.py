"""The dictionary: ids to text, bounded, and no byte of a workload's harms it."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.sensor.batch import String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.wire import StrKind

V6 = ipaddress.ip_address("2001:db8::1").packed


def entry(ident: int, data: bytes, kind: int = StrKind.PATH) -> String:
    return String(ident, int(kind), 0, len(data), data)


def address(family: int, port: int, rest: bytes) -> bytes:
    return struct.pack("<HH", family, port) + rest


def held(*entries: String) -> Dictionary:
    made = Dictionary()
    made.add(entries)
    return made


def test_texts_of_each_kind():
    strings = held(
        entry(2, b"/bin/sh"),
        entry(4, b"sh\0-c\0a b\0", StrKind.ARGV),
        entry(6, b"PATH\0TOKEN\0", StrKind.ENV),
        entry(8, address(socket.AF_INET, 443, bytes([203, 0, 113, 7])), StrKind.ADDR),
    )
    assert [strings.text(i) for i in (2, 4, 6, 8)] == [
        "/bin/sh",
        "sh -c a b",
        "PATH TOKEN",
        "203.0.113.7:443",
    ]


def test_hostile_bytes_stay_visible():
    strings = held(entry(2, b"/tmp/\xff\xfe\x1b[31m\n"), entry(4, b"\0\0\0", StrKind.ARGV))
    assert strings.text(2) == "/tmp/\\xff\\xfe\x1b[31m\n"
    assert strings.text(4) == ""


def test_unknown_and_forgotten_ids_are_empty():
    strings = held(entry(2, b"a"), entry(101, b"b"))
    assert strings.text(0) == strings.text(77) == ""
    assert strings.entry(77).kind == 0
    assert strings.address(77).ip is None


def test_forgetting_what_is_below():
    strings = held(*(entry(i, str(i).encode()) for i in range(2, 202)))
    for i in range(2, 202):
        assert strings.text(i) == str(i)
    strings.forget_below(102)
    assert len(strings) == 100
    assert strings.text(101) == "" and strings.text(102) == "102"
    strings.forget_below(50)
    assert len(strings) == 100 and strings.base == 102, "the base never goes back"


def test_a_forgotten_text_is_not_remembered_from_before():
    strings = held(entry(2, b"old"))
    assert strings.text(2) == "old"
    strings.forget_below(10)
    assert strings.text(2) == ""


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (address(socket.AF_INET, 53, bytes([127, 0, 0, 1])), "127.0.0.1:53"),
        (address(socket.AF_INET, 0, bytes([127, 0, 0, 1])), "127.0.0.1"),
        (
            address(socket.AF_INET6, 443, ipaddress.ip_address("2001:db8::1").packed),
            "[2001:db8::1]:443",
        ),
        (address(socket.AF_INET6, 0, ipaddress.ip_address("::1").packed), "::1"),
        (address(socket.AF_UNIX, 0, b"/run/x.sock"), "/run/x.sock"),
        (address(socket.AF_UNIX, 0, b"/run/x.sock\0junk"), "/run/x.sock"),
        (address(socket.AF_UNIX, 0, b"\0abstract"), "@abstract"),
        (address(socket.AF_UNIX, 0, b""), "unix"),
        (address(socket.AF_PACKET, 0, b""), "af17"),
        (address(socket.AF_INET, 53, b"\x7f"), "af2"),
        (address(socket.AF_INET6, 53, b"\0" * 4), "af10"),
        (b"", "af0"),
        (b"\x02", "af0"),
    ],
)
def test_addresses(data: bytes, shown: str):
    assert held(entry(2, data, StrKind.ADDR)).text(2) == shown
    assert str(held(entry(2, data, StrKind.ADDR)).address(2)) == shown


@given(st.integers(0, 30), st.binary(max_size=300))
def test_any_bytes_of_any_kind_have_a_text(kind: int, data: bytes):
    strings = held(entry(2, data, kind))
    text = strings.text(2)
    text.encode()  # no lone surrogates: it can be stored and shown
    assert len(text) <= 4 * len(data) + 60
    strings.address(2)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 500)), max_size=100))
def test_what_is_held_is_exactly_what_was_added_and_not_forgotten(steps: list[tuple[bool, int]]):
    strings, base = Dictionary(), 1
    model: dict[int, str] = {}
    for add, ident in steps:
        if add:
            ident = max(ident, base)  # ids only grow
            strings.add((entry(ident, b"%d" % ident),))
            model[ident] = str(ident)
        else:
            base = max(base, ident)
            strings.forget_below(ident)
            model = {i: t for i, t in model.items() if i >= base}
        if not add:
            assert {i for i in range(501) if strings.text(i)} == set(model)
