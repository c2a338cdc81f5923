"""What is fuzzed: parsers of bytes that a workload, a network peer or a rule's author chooses.

Each target takes any bytes, must not raise, and holds what it returns to a bound.
"""

from __future__ import annotations

from collections.abc import Callable

from hullwatch.detect.language.grammar import parse
from hullwatch.detect.sigma.convert import convert
from hullwatch.detect.sigma.messages import SigmaText
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


def sigma_file(data: bytes) -> None:
    """Every refusal has a place, and what is converted reads back as our language."""
    text = _SIGMA_HEAD * (data[:1] < b"\x80") + data[1:].decode("utf-8", "replace")
    reply = convert([SigmaText("fuzz.yml", text)])
    assert all(problem.place.path == "fuzz.yml" for problem in reply.problems)
    for item in reply.items:
        for part in (item.body, *item.body.get("steps", ())):
            if "condition" in part:
                parse(part["condition"])


# So that most inputs get as far as the detection.
_SIGMA_HEAD = """title: t
logsource: {product: linux, category: process_creation}
detection:
  condition: s
  s:
    """


TARGETS: dict[str, Callable[[bytes], None]] = {
    "dns": dns_message,
    "tls": tls_hello,
    "dictionary": dictionary_record,
    "sigma": sigma_file,
}
