"""What is fuzzed: parsers of bytes that a workload or a network peer chooses.

Each target takes any bytes, must not raise, and holds what it returns to a bound.
"""

from __future__ import annotations

from collections.abc import Callable

from hullwatch.sensor import dns, tls
from hullwatch.sensor.batch import String
from hullwatch.sensor.dictionary import Dictionary

__all__ = ["TARGETS"]


def dns_message(data: bytes) -> None:
    got = dns.parse(data)
    if got is not None:
        assert got.name.isascii() and got.name.isprintable()
        assert len(got.name) <= 128 * 4 * 64 and len(got.answers) <= 64


def tls_hello(data: bytes) -> None:
    name = tls.server_name(data)
    assert name is None or (name.isascii() and len(name) <= 4 * len(data))


def dictionary_record(data: bytes) -> None:
    """The first byte is the kind of the string."""
    strings = Dictionary()
    strings.add((String(2, data[0] if data else 0, 0, len(data), data[1:]),))
    strings.text(2).encode()
    str(strings.address(2)).encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dns": dns_message,
    "tls": tls_hello,
    "dictionary": dictionary_record,
}
