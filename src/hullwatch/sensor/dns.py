"""DNS messages (RFC 1035): bytes in, a value out; no sockets, bounded work, never raises."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

__all__ = ["ADDRESSES", "Answer", "Message", "parse"]

_MAX_ANSWERS = 64
_MAX_LABELS = 128
_A, _CNAME, _AAAA = 1, 5, 28
ADDRESSES = (_A, _AAAA)


class Answer(NamedTuple):
    """An address or alias in an answer. ttl in seconds."""

    name: str
    kind: int
    ttl: int
    value: str


class Message(NamedTuple):
    """id, is it a response, rcode, the (first) question, and what of the answers was readable."""

    ident: int
    response: bool
    rcode: int
    name: str
    qtype: int
    answers: tuple[Answer, ...]


def _label(raw: bytes) -> str:
    """A label as text; bytes that are not plain are shown as \\DDD (RFC 1035, 5.1)."""
    return "".join(
        chr(b) if 0x21 <= b < 0x7F and b not in b".\\" else f"\\{b:03d}" for b in raw
    ).lower()


def _name(data: bytes, at: int) -> tuple[str, int] | None:
    """A name at `at`, compression followed: (text, position after it), or None if it is broken."""
    labels: list[str] = []
    after = -1
    for _ in range(_MAX_LABELS):
        if at >= len(data):
            return None
        length = data[at]
        if length == 0:
            return ".".join(labels), (at + 1 if after < 0 else after)
        if length & 0xC0 == 0xC0:
            if at + 1 >= len(data):
                return None
            if after < 0:
                after = at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            continue
        if length & 0xC0 or at + 1 + length > len(data):
            return None
        labels.append(_label(data[at + 1 : at + 1 + length]))
        at += 1 + length
    return None


def parse(data: bytes) -> Message | None:
    """A message, or None where not even the question can be read."""
    if len(data) < 12:
        return None
    ident, flags, questions, answers = struct.unpack_from(">HHHH", data)
    if questions < 1:
        return None
    question = _name(data, 12)
    if question is None or question[1] + 4 > len(data):
        return None
    name, at = question
    (qtype,) = struct.unpack_from(">H", data, at)
    at += 4
    for _ in range(min(questions - 1, 8)):
        more = _name(data, at)
        if more is None:
            break
        at = more[1] + 4
    found: list[Answer] = []
    for _ in range(min(answers, _MAX_ANSWERS)):
        owner = _name(data, at)
        if owner is None or owner[1] + 10 > len(data):
            break
        kind, _klass, ttl, size = struct.unpack_from(">HHIH", data, owner[1])
        at = owner[1] + 10
        body = data[at : at + size]
        if len(body) < size:
            break
        if kind == _A and size == 4:
            found.append(Answer(owner[0], kind, ttl, str(ipaddress.IPv4Address(body))))
        elif kind == _AAAA and size == 16:
            found.append(Answer(owner[0], kind, ttl, str(ipaddress.IPv6Address(body))))
        elif kind == _CNAME:
            alias = _name(data, at)
            if alias is not None:
                found.append(Answer(owner[0], kind, ttl, alias[0]))
        at += size
    return Message(ident, bool(flags & 0x8000), flags & 15, name, qtype, tuple(found))
