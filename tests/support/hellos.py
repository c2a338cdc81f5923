"""TLS ClientHellos: as OpenSSL makes them, and taken apart to be put together otherwise."""

from __future__ import annotations

import ssl

__all__ = ["hello", "of_records", "with_extensions"]


def hello(name: str | None, *, newest: bool = True, protocols: tuple[str, ...] = ()) -> bytes:
    """One record. name: None for a client that asks for none; newest: TLS 1.3, else 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if not newest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


def with_extensions(data: bytes, before: bytes) -> bytes:
    """The same with more extensions before its own, as padding and tickets may come."""
    at = 5 + 4 + 2 + 32
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        at += width + int.from_bytes(data[at : at + width], "big")
    extensions = before + data[at + 2 :]
    body = data[9:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return data[:3] + len(message).to_bytes(2, "big") + message


def of_records(data: bytes, first: int) -> bytes:
    """The same divided over two records, so many bytes of it in the first."""
    message = data[5:]
    parts = message[:first], message[first:]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)
