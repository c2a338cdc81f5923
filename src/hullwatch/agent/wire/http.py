"""What HTTP says, whatever its version: heads, pieces of bodies, ends.

One shape for HTTP/1.1 (`http1.py`) and HTTP/2 (`http2.py`). These values carry content and keys:
they pass through, are not stored, and none shows them when it is printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

__all__ = [
    "MAX_VALUE",
    "Data",
    "End",
    "Event",
    "Head",
    "Lost",
    "Upgraded",
    "header_table",
    "split_target",
]

MAX_VALUE = 16 << 10  # bytes of a header's value; tokens are long
KEPT = frozenset(
    "host content-type content-length content-encoding transfer-encoding connection upgrade"
    " accept authorization proxy-authorization x-api-key api-key x-goog-api-key user-agent"
    " mcp-method mcp-name mcp-session-id mcp-protocol-version"
    " x-amzn-errortype x-amzn-bedrock-input-token-count x-amzn-bedrock-output-token-count"
    " grpc-status grpc-encoding".split()
)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Of a request (status 0) or a response. headers: lower-case names of KEPT only."""

    method: str = ""
    target: str = ""
    status: int = 0
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        said = self.status or self.method
        return f"Head({said}, headers={sorted(self.headers)})"


class Data(NamedTuple):
    """A piece of a body. missing: bytes of it that nobody saw, after `data`."""

    data: bytes
    missing: int = 0

    def __repr__(self) -> str:
        return f"Data({len(self.data)}, missing={self.missing})"


class End(NamedTuple):
    """The message is over. whole: it came to its end, as far as its framing tells."""

    whole: bool


class Lost(NamedTuple):
    """What follows could not be read; more may follow that can."""

    reason: str


class Upgraded(NamedTuple):
    """From here on the connection speaks something else."""

    protocol: str


Event = Head | Data | End | Lost | Upgraded


def header_table(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those that are kept, repeated ones joined by a comma (RFC 9110, 5.3)."""
    table: dict[str, str] = {}
    for name, value in pairs:
        if name in KEPT:
            joined = f"{table[name]}, {value}" if name in table else value
            table[name] = joined[:MAX_VALUE]
    return table


def split_target(head: Head) -> tuple[str, str, str]:
    """(host, path, query) of a request; a proxy is told the host in the target."""
    host, target = head.headers.get("host", ""), head.target
    scheme, mark, rest = target.partition("://")
    if mark and scheme.lower() in ("http", "https"):
        host, slash, path = rest.partition("/")
        target = slash + path
    path, _, query = target.partition("?")
    return host.strip().lower()[:255], path, query
