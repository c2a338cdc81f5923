"""What a pattern cannot say of a secret: checksums, structures, and what is a placeholder."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable
from itertools import pairwise
from math import log2

import msgspec

__all__ = [
    "basic_auth",
    "crc32_suffix",
    "entropy",
    "jwt",
    "jwt_with",
    "key_in_base64",
    "mixed",
    "password",
    "placeholder",
]

_BASE62 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RUN = 8  # characters that follow each other as in the alphabet: typed, not drawn
_RANDOM = 0.38  # of neighbours that are of different kinds; of names in CamelCase, a third
_STAND_IN = re.compile(
    rb"(?i)example|placeholder|change_?-?me|redacted|your[_-]|xxxxxx|\*\*\*|\.\.\.|dummy"
    rb"|replace|sample|<[a-z]|\$\{|\{\{|%\(|%[sd](?:[^a-z0-9]|$)|\(\?|\[0-9"
    rb"|environ|getenv|process\.env|self\."  # code that fetches one
    rb"|\[[a-z0-9_]+:[0-9a-f]{8}\]"  # what redaction leaves
)
_WEAK = frozenset(
    b"admin changeit default guest hunter2 letmein passwd password password1 password123 postgres"
    b" pass123 qwerty root secret secret123 test test123 testing user username".split()
)
# What names something, in code or in any language: words, maybe joined, with numbers at their ends.
_NAME = re.compile(rb"[-_]*[A-Za-z\x80-\xff]+[0-9]{0,3}(?:[._/:-]+[A-Za-z\x80-\xff]*[0-9]{0,3})*")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TYPE = re.compile(rb"(?:Private|Public|Secret)Key")  # X25519PrivateKey
_LOWER, _UPPER, _DIGIT, _OTHER = range(4)
_KIND_OF = bytes(
    _LOWER if 97 <= b <= 122 else _UPPER if 65 <= b <= 90 else _DIGIT if 48 <= b <= 57 else _OTHER
    for b in range(256)
)
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_MAX_CLAIMS = 4096


def entropy(value: bytes) -> float:
    """Shannon's, of the bytes' frequencies, in bits a byte; 0 for nothing."""
    size = len(value)
    counts = (value.count(byte) for byte in set(value))
    return -sum(count / size * log2(count / size) for count in counts)


def placeholder(value: bytes) -> bool:
    """Is it something that documents and tests put where a secret would be?"""
    if _STAND_IN.search(value):
        return True
    run = 1
    for before, after in pairwise(value):
        run = run + 1 if after - before == 1 else 1
        if run >= _RUN:
            return True
    return False


def crc32_suffix(value: bytes) -> bool:
    """The last six characters are the CRC32 of the 30 before them, in base 62: tokens of GitHub
    and npm (github.blog, 2021-04-05 and 2021-09-23)."""
    body, suffix = value[-36:-6], value[-6:]
    number = 0
    for byte in suffix:
        number = number * 62 + _BASE62.find(byte)
    return number == zlib.crc32(body)


def jwt(value: bytes) -> bool:
    """A JSON Web Token (RFC 7519): the header is an object with an algorithm."""
    header = _object(value.partition(b".")[0])
    return header is not None and isinstance(header.get("alg"), str)


def jwt_with(text: bytes) -> Callable[[bytes], bool]:
    """A JSON Web Token that has `text` in its claims."""

    def check(value: bytes) -> bool:
        claims = _decoded(value.split(b".")[1][:_MAX_CLAIMS])
        return text in claims and jwt(value)

    return check


def basic_auth(value: bytes) -> bool:
    """Base64 of `user:password` in printable characters (RFC 7617)."""
    user, colon, secret = _decoded(value).partition(b":")
    return bool(colon and user and len(secret) >= 4) and (user + secret).isascii()


def key_in_base64(value: bytes) -> bool:
    """Base64 of an armoured private key."""
    return b"PRIVATE KEY" in _decoded(value[:80])


def mixed(value: bytes) -> bool:
    """Drawn at random rather than a name, a path or a word: its letters of either case and its
    digits change with each other too often for one. A UUID names a thing, so that it is none."""
    kinds = value.translate(_KIND_OF)
    changes = digits = 0
    for before, after in pairwise(kinds):
        if before != after:
            changes += 1
            digits += _DIGIT in (before, after)
    if _DIGIT not in kinds or _UUID.fullmatch(value) or _TYPE.search(value):
        return False
    return changes >= _RANDOM * (len(value) - 1) or (digits >= 4 and kinds.count(_DIGIT) >= 3)


def password(value: bytes) -> bool:
    """Somebody's password rather than a word that stands for one, or a piece of code."""
    if value.strip(b"[](){}*").lower() in _WEAK or len(set(value)) < 5:
        return False
    if _NAME.fullmatch(value) and not mixed(value):
        return False
    code = value[0] in b")]},;." and b"(" in value  # what stands after a quoted word in a script
    return not code and len(set(value.translate(_KIND_OF))) >= 2


def _decoded(part: bytes) -> bytes:
    try:
        return base64.b64decode(part.translate(_URLSAFE) + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        return b""


def _object(part: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(_decoded(part), type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return None
