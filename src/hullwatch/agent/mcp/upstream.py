"""The server's side of the reverse proxy: connections over HTTP/1.1, kept and used again."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

__all__ = ["Link", "Unreachable", "Upstream", "UrlError"]

HEAD_MAX = 64 << 10  # bytes of a message's head
CHUNK = 64 << 10
_CONNECT = 15.0  # s
_IDLE = 2.0  # s: shorter than what common servers keep (5), so that none closes as we write
_KEPT = 64


class UrlError(Exception):
    """An --upstream that is none: what, mend."""


class Unreachable(Exception):
    """The server does not answer, breaks off, or does not speak HTTP/1.1."""


class Link:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
        self.since = time.monotonic()
        local = writer.get_extra_info("sockname")
        self.local_port = int(local[1]) if isinstance(local, tuple) else 0

    async def send(self, *events: Any) -> None:
        try:
            data = b"".join(self._conn.send(event) or b"" for event in events)
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, h11.LocalProtocolError) as error:
            raise Unreachable(f"{type(error).__name__} while sending") from None

    async def receive(self) -> Any:
        """The next event of h11; never NEED_DATA."""
        try:
            while (event := self._conn.next_event()) is h11.NEED_DATA:
                self._conn.receive_data(await self._reader.read(CHUNK))
        except OSError as error:
            raise Unreachable(type(error).__name__) from None
        except h11.RemoteProtocolError as error:
            raise Unreachable(str(error)) from None
        if isinstance(event, h11.ConnectionClosed):
            raise Unreachable("the connection was closed")
        return event

    def again(self) -> bool:
        """Whether it can carry another request."""
        if self._conn.our_state is not h11.DONE or self._conn.their_state is not h11.DONE:
            return False
        self._conn.start_next_cycle()
        self.since = time.monotonic()
        return not self.stale()

    def stale(self) -> bool:
        return (
            self._reader.at_eof()
            or self._writer.is_closing()
            or time.monotonic() - self.since > _IDLE
        )

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


class Upstream:
    """url: http or https; certificates are verified, against ca if it is given."""

    def __init__(self, url: str, ca: Path | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UrlError(f"--upstream {url!r}: not an http or https URL, as https://host/mcp is")
        if parts.username or parts.password:
            raise UrlError("--upstream: no user or password in the URL; the client sends those")
        self.host = parts.hostname
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.path = parts.path or "/"
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = (shown if port is None else f"{shown}:{port}").encode()
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=str(ca) if ca else None)
            except (OSError, ssl.SSLError) as error:
                raise UrlError(f"--ca {ca}: {error}") from None
            self._tls.set_alpn_protocols(["http/1.1"])
        self._kept: list[Link] = []

    async def acquire(self) -> Link:
        """Unreachable, with the reason, where no connection can be had."""
        while self._kept:
            link = self._kept.pop()
            if not link.stale():
                return link
            link.close()
        try:
            async with asyncio.timeout(_CONNECT):
                return Link(*await asyncio.open_connection(self.host, self.port, ssl=self._tls))
        except TimeoutError:
            raise Unreachable("no connection within 15 s") from None
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"its certificate: {error.verify_message}") from None
        except OSError as error:
            raise Unreachable(error.strerror or type(error).__name__) from None

    def release(self, link: Link, fresh: bool = False) -> None:
        """fresh: nothing was sent on it."""
        if len(self._kept) < _KEPT and (fresh or link.again()):
            self._kept.append(link)
        else:
            link.close()

    def close(self) -> None:
        while self._kept:
            self._kept.pop().close()
