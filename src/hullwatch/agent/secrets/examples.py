"""Values that look like secrets and are none, for tests, benchmarks and canaries.

A shape is text with fields: `{w36}` is 36 characters of the class `w`. Nothing here is drawn from
a real account; where a format has a checksum, it is right.
"""

from __future__ import annotations

import base64
import json
import re
import string
import zlib
from collections.abc import Callable
from random import Random

__all__ = ["fill", "fixed"]

_FIELD = re.compile(r"\{([a-zA-Z]+?)(\d*)\}")
_CLASSES = {
    "w": string.ascii_letters + string.digits,
    "a": string.ascii_letters,
    "l": string.ascii_lowercase + string.digits,
    "u": string.ascii_uppercase + string.digits,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "d": string.digits,
    "t": string.ascii_uppercase + "234567",
    "b": string.ascii_letters + string.digits + "+/",
    "s": string.ascii_letters + string.digits + "-_",
    "c": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    "z": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
    "p": string.ascii_letters + string.digits + "!#%^*",
}
"""w word, a letters, l lower, u upper, h and H hex, d digits, t base32, b base64, s its URL-safe
form, c base58, z bech32, p password."""


def fill(shape: str, random: Random) -> str:
    """A value of a shape. KeyError: a field that there is not."""

    def field(found: re.Match[str]) -> str:
        name, count = found.groups()
        if count:
            return _drawn(name, int(count), random)
        return _MADE[name](random)

    return _FIELD.sub(field, shape)


def fixed(shape: str) -> str:
    """What all values of a shape have, apart by spaces."""
    return _FIELD.sub(" ", shape)


def _drawn(name: str, count: int, random: Random) -> str:
    """The last three are a digit and letters, so that a short password is none by chance."""
    drawn = "".join(random.choices(_CLASSES[name], k=count))
    return drawn[:-3] + "7" + drawn[-2:] if name in "pwl" and count > 8 else drawn


def _crc(random: Random) -> str:
    """36 characters, the last six their checksum (`checks.crc32_suffix`)."""
    body = _drawn("w", 30, random)
    number, suffix = zlib.crc32(body.encode()), ""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    for _ in range(6):
        number, rest = divmod(number, 62)
        suffix = digits[rest] + suffix
    return body + suffix


def _uuid(random: Random) -> str:
    return "-".join(_drawn("h", count, random) for count in (8, 4, 4, 4, 12))


def _token(claims: dict[str, str]) -> Callable[[Random], str]:
    def made(random: Random) -> str:
        header = {"alg": "RS256", "kid": _drawn("s", 20, random)}
        parts = [json.dumps(part).encode() for part in (header, claims)]
        encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, _drawn("s", 86, random)])

    return made


def _armoured(random: Random) -> str:
    lines = [_drawn("b", 64, random) for _ in range(12)]
    return "\n".join([*lines, _drawn("b", 30, random) + "=="])


def _basic(random: Random) -> str:
    return base64.b64encode(f"deploy:{_drawn('p', 16, random)}".encode()).decode()


def _key_in_base64(random: Random) -> str:
    text = f"-----BEGIN PRIVATE KEY-----\n{_armoured(random)}\n-----END PRIVATE KEY-----\n"
    return base64.b64encode(text.encode()).decode()


_MADE: dict[str, Callable[[Random], str]] = {
    "crc": _crc,
    "uuid": _uuid,
    "jwt": _token({"iss": "https://login.invalid/", "sub": "user-17"}),
    "podjwt": _token(
        {
            "iss": "https://kubernetes.default.svc",
            "sub": "system:serviceaccount:default:runner",
        }
    ),
    "svid": _token({"sub": "spiffe://cluster.invalid/ns/default/sa/runner"}),
    "pem": _armoured,
    "basic": _basic,
    "keybase": _key_in_base64,
}
