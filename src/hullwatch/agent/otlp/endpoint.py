"""Where the exporter sends to, and with which headers. Errors say the mend; secrets are never said.

Headers hold the key of the backend, so they come from a file or the environment: a command line can
be read by every process of the machine.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["Endpoint", "EndpointError", "headers_from"]

_MAX_HEADERS = 16 << 10  # bytes
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
_OURS = frozenset(("host", "content-type", "content-length", "content-encoding", "connection"))
_OURS |= {"transfer-encoding"}
_HERE = frozenset(("localhost", "::1"))


class EndpointError(Exception):
    """It cannot be exported there: where, what, mend."""


class Endpoint(NamedTuple):
    """path: of the endpoint itself; a signal's is below it. context: None without TLS."""

    host: str
    port: int
    path: str
    context: ssl.SSLContext | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.context else 'http'}://{host}:{self.port}{self.path}"

    @classmethod
    def parse(cls, url: str, *, secret: bool = False, ca: Path | None = None) -> Endpoint:
        """https://HOST[:PORT][/PATH]; certificates are verified, against `ca` if given, else the
        system's. http:// too, but not with secret headers to another machine."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise EndpointError(f"{url}: {error}") from None
        host = parts.hostname or ""
        if parts.username is not None or parts.password is not None:
            raise EndpointError(
                f"{host}: no user or password in the URL, every process could read it;"
                " put an Authorization header in a file"
            )
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise EndpointError(f"{url}: give https://HOST[:PORT][/PATH]")
        path = parts.path.rstrip("/")
        if not path.isascii() or not path.isprintable() or " " in path:
            raise EndpointError(f"{url}: percent-encode what is not plain ASCII in the path")
        if parts.scheme == "http":
            if secret and host not in _HERE and not host.startswith("127."):
                raise EndpointError(f"{url}: the headers would go in the clear; use https")
            return cls(host, port or 4318, path, None)
        try:
            context = ssl.create_default_context(cafile=str(ca) if ca else None)
        except (OSError, ssl.SSLError) as error:
            raise EndpointError(f"{ca}: no certificates to trust: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return cls(host, port or 443, path, context)


def headers_from(source: str) -> dict[str, str]:
    """file:PATH with `Name: value` lines, or env:NAME in the form of OTEL_EXPORTER_OTLP_HEADERS
    (name=value,..., percent-encoded; W3C baggage)."""
    kind, _, where = source.partition(":")
    if kind == "file":
        pairs = [line.partition(":") for line in _lines(Path(where))]
    elif kind == "env":
        text = os.environ.get(where)
        if text is None:
            raise EndpointError(f"{source}: not in the environment")
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        pairs = [(unquote(name), sep, unquote(value)) for name, sep, value in pairs]
    else:
        raise EndpointError("headers: give file:PATH or env:NAME")
    headers: dict[str, str] = {}
    for at, (name, sep, value) in enumerate(pairs, 1):
        name, value = name.strip(), value.strip()
        if not sep or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise EndpointError(f"{source}: header {at} is none")
        if name.lower() in _OURS:
            raise EndpointError(f"{source}: header {at}: {name} is not to be given")
        headers[name] = value
    return headers


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_HEADERS + 1)
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode) or len(data) > _MAX_HEADERS:
        raise EndpointError(f"{path}: give a plain file of at most {_MAX_HEADERS} bytes")
    if status.st_mode & 0o077:
        raise EndpointError(f"{path}: others can read or write it; chmod 600 {path}")
    lines = data.decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
