"""The server name of a ClientHello, as real libraries and hostile peers send it."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hullwatch.sensor.tls import server_name


def real(host: str | None, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = minimum
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def vector(body: bytes, width: int) -> bytes:
    return len(body).to_bytes(width, "big") + body


def hello(*extensions: tuple[int, bytes], sessions: bytes = b"") -> bytes:
    """A ClientHello made by hand."""
    packed = b"".join(struct.pack(">H", kind) + vector(body, 2) for kind, body in extensions)
    body = b"\x03\x03" + b"\xab" * 32 + vector(sessions, 1) + vector(b"\x13\x01", 2)
    body += vector(b"\0", 1) + vector(packed, 2)
    return b"\x16\x03\x01" + vector(b"\x01" + vector(body, 3), 2)


def sni(name: bytes, kind: int = 0) -> tuple[int, bytes]:
    return 0, vector(bytes([kind]) + vector(name, 2), 2)


@pytest.mark.parametrize("minimum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_openssl(minimum: ssl.TLSVersion):
    assert server_name(real("api.example.com", minimum)) == "api.example.com"
    assert server_name(real(None, minimum)) == ""


def test_names_are_lower_case_and_plain():
    assert server_name(hello(sni(b"API.Example.COM"))) == "api.example.com"
    assert server_name(hello(sni(b"x\xff\x00y"))) == "x\\xff\x00y"


def test_other_extensions_before_it():
    grease = (0x2A2A, b"")
    assert server_name(hello(grease, (16, b"\0\3\2h2"), sni(b"a.b"), sessions=b"s" * 32)) == "a.b"


def test_hello_without_a_name():
    assert server_name(hello()) == ""
    assert server_name(hello((16, b"\0\3\2h2"))) == ""
    assert server_name(hello((0, b""))) == ""
    assert server_name(hello(sni(b"a.b", kind=7))) == ""


def test_every_cut_gives_the_name_or_none():
    whole = hello((43, b"\2\3\4"), sni(b"api.example.com"), (16, b"\0\3\2h2"))
    found = [server_name(whole[:cut]) for cut in range(len(whole) + 1)]
    assert set(found) == {None, "", "api.example.com"}
    first = found.index("api.example.com")
    assert set(found[first:]) <= {None, "api.example.com"}, "once it is there it stays the name"


def test_what_is_no_hello():
    for data in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x02\0\0\0\0",
        b"\x17" * 100,
    ):
        assert server_name(data) is None


@given(st.binary(max_size=2000))
@example(b"\x16\x03\x01\xff\xff\x01" + b"\xff" * 2000)
def test_any_bytes(data: bytes):
    got = server_name(data)
    assert got is None or (got.isascii() and len(got) <= 4 * len(data))


@given(st.binary(max_size=300))
def test_any_bytes_as_extensions(data: bytes):
    body = b"\x03\x03" + b"\xab" * 32 + b"\0" + b"\0\2\x13\x01" + b"\1\0" + vector(data, 2)
    got = server_name(b"\x16\x03\x01" + vector(b"\x01" + vector(body, 3), 2))
    assert got is None or got.isascii()


@given(st.lists(st.tuples(st.integers(1, 0xFFFF), st.binary(max_size=40)), max_size=8))
def test_the_name_among_any_others(others: list[tuple[int, bytes]]):
    assert server_name(hello(*others, sni(b"model.example"))) == "model.example"
