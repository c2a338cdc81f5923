"""The HTTP headers of a client's POST against its body, and who may ask at all. Pure.

Source: MCP 2026-07-28, Streamable HTTP, "Request Metadata" and "Security & Endpoint".
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence

from hullwatch.agent.mcp.message import NAMED_BY, Reading, field, text

__all__ = ["MISMATCH", "Headers", "first", "host_of", "may_ask", "mismatch"]

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""
MISMATCH = -32020  # HeaderMismatch
_MODERN = b"2026-07-28"
_DATE = re.compile(rb"\d{4}-\d\d-\d\d")
_BASE64 = re.compile(rb"=\?base64\?(.*)\?=", re.S)
_MIRRORED = (b"mcp-protocol-version", b"mcp-method", b"mcp-name")


def first(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def mismatch(headers: Headers, reading: Reading) -> str:
    """What in the headers does not agree with the body, or ''. For a body that was read.

    From 2026-07-28 on the headers have to be there. Before that they mean nothing, but where they
    are there and disagree, somebody is deceiving whoever looks at only one of them.
    """
    if reading.problem or not reading.messages:
        return ""
    version = first(headers, b"mcp-protocol-version")
    known = version is not None and _DATE.fullmatch(version) is not None
    modern = (known and version is not None and version >= _MODERN) or any(
        message.modern for message in reading.messages
    )
    for name in _MIRRORED:
        if sum(key == name for key, _ in headers) > 1:
            return f"{name.decode()} is given twice"
    if modern and reading.batch:
        return "a batch has no one method"
    for message in reading.messages:
        if message.kind not in ("request", "notification"):
            continue
        strict = modern and message.kind == "request"
        said = message.version if message.modern else ""
        if strict and (version is None or not said or version != said.encode()):
            return _differs("mcp-protocol-version", "io.modelcontextprotocol/protocolVersion")
        method = first(headers, b"mcp-method")
        if (strict and method is None) or (
            method is not None and method != message.method.encode()
        ):
            return _differs("mcp-method", "method")
        key = NAMED_BY.get(message.method)
        name_given = first(headers, b"mcp-name")
        if key is None:
            continue
        wanted = field(message.params, key)
        if (strict and wanted and name_given is None) or (
            name_given is not None and _decoded(name_given) != text(wanted)
        ):
            return _differs("mcp-name", f"params.{key}")
    return ""


def _differs(header: str, where: str) -> str:
    return f"{header} does not match {where} of the body"


def _decoded(value: bytes) -> str | None:
    """A header's value as text; None where it is not what it says it is."""
    wrapped = _BASE64.fullmatch(value)
    try:
        if wrapped is None:
            return value.decode("ascii")
        plain = base64.b64decode(wrapped[1], validate=True)
        return plain.decode() if base64.b64encode(plain) == wrapped[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


# --- who may ask --------------------------------------------------------------------------


def may_ask(headers: Headers, allowed: frozenset[str]) -> str:
    """Why a request is refused, or ''. Against DNS rebinding: a page that a browser loaded from
    elsewhere names its own host. An address as Host is no name that could be rebound; as an
    Origin it is somebody's page. allowed: names beside the loopback's own."""
    host = host_of(first(headers, b"host") or b"")
    if not (_loopback(host) or host in allowed or _address(host)):
        return "Host"
    for key, value in headers:
        if key == b"origin":
            scheme, slashes, rest = value.partition(b"://")
            name = host_of(rest)
            if not slashes or scheme.lower() not in (b"http", b"https"):
                return "Origin"
            if not (_loopback(name) or name in allowed):
                return "Origin"
    return ""


def host_of(authority: bytes) -> str:
    """The host of `host:port`, in lower case; '' where it is none."""
    try:
        host = authority.decode("ascii").lower()
    except UnicodeDecodeError:
        return ""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", host)
    return found[1].strip("[]").rstrip(".") if found else ""


def _address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    return _address(host) and ipaddress.ip_address(host).is_loopback
