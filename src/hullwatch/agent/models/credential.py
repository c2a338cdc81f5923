"""Which key a request was made with: its kind and a keyed hash, never the key."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl

from hullwatch.agent.wire.http import Head

__all__ = ["NONE", "Credential", "credential"]

_SIGV4 = re.compile(r"Credential=([A-Za-z0-9]{16,128})/")
_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")  # Anthropic, Azure, Google
_QUERY = ("key", "api-key", "api_key")


class Credential(NamedTuple):
    """kind: bearer, basic, sigv4 (of the access key's id), a header's name, or 'query NAME'."""

    kind: str
    hash: str


NONE = Credential("", "")


def credential(head: Head, query: str, hasher: Callable[[str], str]) -> Credential:
    """The first that is there. hasher: text -> keyed hash; it is given the key itself, without the
    words around it, so that one key has one hash however it is sent."""
    for name in _HEADERS:
        if value := head.headers.get(name, "").strip():
            return Credential(name, hasher(value))
    scheme, _, value = head.headers.get("authorization", "").strip().partition(" ")
    kind, value = scheme.lower(), value.strip()
    if kind == "bearer" and value:
        return Credential("bearer", hasher(value))
    if kind == "basic" and value:
        return Credential("basic", hasher(_password(value)))
    if kind.startswith("aws4-") and (match := _SIGV4.search(value)):
        return Credential("sigv4", hasher(match[1]))
    if scheme:  # some servers take the bare key
        return Credential("authorization", hasher(value or scheme))
    for name, value in parse_qsl(query[:16384], max_num_fields=None):
        if name in _QUERY and value:
            return Credential(f"query {name}", hasher(value))
    return NONE


def _password(value: str) -> str:
    """RFC 7617: user:password in base64; what is none is taken as it is."""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2] or value
    except (binascii.Error, ValueError):
        return value
