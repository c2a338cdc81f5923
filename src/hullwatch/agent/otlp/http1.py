"""OTLP over HTTP/1.1, the server's side: bytes in, requests out. No socket.

Strict where leniency has let requests be smuggled: CRLF only, one length, no folded headers
(RFC 9112). Browsers are refused: no page may tell a workload's agent anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hullwatch.agent.otlp.intake import Answer, Form, Outcome, Request, Signal
from hullwatch.agent.otlp.reply import CODES, body_of
from hullwatch.agent.otlp.span import Limits

__all__ = ["Http1"]

_MAX_HEAD = 8192  # bytes of request line and headers
_MAX_LINE = 256  # of a chunk's size with its extensions; of all trailers it is four times that
_MAX_PIPELINED = 16  # requests in one read: no exporter sends ahead of the answer

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,255}) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_PATHS: dict[bytes, Signal] = {
    b"/v1/traces": "traces",
    b"/v1/logs": "logs",
    b"/v1/metrics": "metrics",
    b"/v1development/profiles": "profiles",
}
_FORMS: dict[bytes, Form] = {b"application/x-protobuf": "protobuf", b"application/json": "json"}
_TYPES: dict[Form, str] = {"protobuf": "application/x-protobuf", "json": "application/json"}


class _Fault(Exception):
    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class _Head(NamedTuple):
    """length: of the body, -1: it comes in chunks."""

    signal: Signal
    form: Form
    gzip: bool
    length: int
    close: bool


class Http1:
    """One connection. `closing` is set when it should be closed once `take` has been sent."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._in = bytearray()
        self._out = bytearray()
        self._head: _Head | None = None
        self._body = bytearray()
        self._left = -1  # bytes of the present chunk, with its CRLF; -1: its size comes next
        self._trailers = -1  # bytes of trailers seen; -1: not there yet
        self._forms: dict[int, Form] = {}
        self._count = 0
        self.closing = False

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self._in) + len(self._body) + len(self._out)

    @property
    def pending(self) -> bool:
        """Whether a request has begun and is not whole."""
        return bool(self._in) or self._head is not None

    def receive(self, data: bytes) -> list[Request]:
        """Each has to be answered, in order."""
        if self.closing:
            return []
        self._in += data
        requests: list[Request] = []
        try:
            while (request := self._next()) is not None:
                requests.append(request)
                if self.closing:
                    self._in.clear()
                    break
                if len(requests) > _MAX_PIPELINED:
                    raise _Fault("malformed", "requests ahead of their answers")
        except _Fault as fault:
            requests.append(self._refused(fault.outcome, str(fault)))
        return requests

    def late(self) -> list[Request]:
        """The time for the request is over."""
        return [self._refused("slow", "the request did not arrive in time")]

    def answer(self, request: Request, answer: Answer) -> None:
        codes = CODES[answer.outcome]
        body = body_of(answer, request.form)
        lines = [
            f"HTTP/1.1 {codes.http} {codes.words}",
            f"Content-Type: {_TYPES[request.form]}",
            f"Content-Length: {len(body)}",
        ]
        if answer.retry:
            lines.append(f"Retry-After: {answer.retry}")
        if answer.outcome == "method":
            lines.append("Allow: POST")
        if self.closing:
            lines.append("Connection: close")
        self._out += "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def take(self) -> bytes:
        """What is to be sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _refused(self, outcome: Outcome, message: str) -> Request:
        """Where it ends is not known any more, so neither is where the next would begin."""
        self.closing = True
        self._in.clear()
        self._body.clear()
        form = self._head.form if self._head else "protobuf"
        self._head = None
        return Request(0, "", form, False, b"", outcome, message)

    def _next(self) -> Request | None:
        if self._head is None:
            self._head = self._read_head()
            if self._head is None:
                return None
        head = self._head
        if not (self._read_chunks() if head.length < 0 else self._read_body(head.length)):
            return None
        self.closing = self.closing or head.close
        self._count += 1
        request = Request(self._count, head.signal, head.form, head.gzip, bytes(self._body))
        self._body.clear()
        self._head, self._left, self._trailers = None, -1, -1
        return request

    def _read_head(self) -> _Head | None:
        while self._in.startswith(b"\r\n"):  # RFC 9112, 2.2: empty lines before it
            del self._in[:2]
        end = self._in.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            if len(self._in) >= _MAX_HEAD:
                raise _Fault("headers", f"more than {_MAX_HEAD} bytes of headers")
            return None
        first, *lines = bytes(self._in[:end]).split(b"\r\n")
        del self._in[: end + 4]
        found = _REQUEST.fullmatch(first)
        if found is None:
            raise _Fault("malformed", "no HTTP/1.1 request")
        headers, old = _headers(lines), found[3] == b"0"
        head = _head(found[1], found[2], old, headers, self._limits)
        if headers.get(b"expect") and not old and not self._in:
            self._out += b"HTTP/1.1 100 Continue\r\n\r\n"
        return head

    def _read_body(self, length: int) -> bool:
        part = self._in[: length - len(self._body)]
        self._body += part
        del self._in[: len(part)]
        return len(self._body) == length

    def _read_chunks(self) -> bool:
        while True:
            if self._trailers >= 0:
                line = self._line()
                if line is None:
                    return False
                self._trailers += len(line) + 2
                if self._trailers > 4 * _MAX_LINE:
                    raise _Fault("headers", "too many trailers")
                if not line:
                    return True
            elif self._left < 0:
                line = self._line()
                if line is None:
                    return False
                found = _SIZE.fullmatch(line)
                if found is None:
                    raise _Fault("malformed", "a chunk without a size")
                size = int(found[1], 16)
                if len(self._body) + size > self._limits.message:
                    raise _Fault("oversize", f"more than {self._limits.message} bytes")
                if size:
                    self._left = size + 2
                else:
                    self._trailers = 0
            else:
                part = self._in[: max(self._left - 2, 0)]
                self._body += part
                del self._in[: len(part)]
                self._left -= len(part)
                if self._left > 2 or len(self._in) < 2:
                    return False
                if self._in[:2] != b"\r\n":
                    raise _Fault("malformed", "a chunk longer than its size")
                del self._in[:2]
                self._left = -1

    def _line(self) -> bytes | None:
        end = self._in.find(b"\r\n", 0, _MAX_LINE)
        if end < 0:
            if len(self._in) >= _MAX_LINE:
                raise _Fault("malformed", "a line too long among the chunks")
            return None
        line = bytes(self._in[:end])
        del self._in[: end + 2]
        return line


def _headers(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise _Fault("malformed", "a header that is none")
        headers.setdefault(found[1].lower(), []).append(found[2])
    return headers


def _head(
    method: bytes, path: bytes, old: bool, headers: dict[bytes, list[bytes]], limits: Limits
) -> _Head:
    def one(name: bytes) -> bytes:
        return headers.get(name, [b""])[-1].lower()

    if b"origin" in headers:
        raise _Fault("unauthorized", "not for browsers")
    length = _length(headers, old, limits)
    if method != b"POST":
        raise _Fault("method", "POST is taken")
    form = _FORMS.get(one(b"content-type").partition(b";")[0].strip())
    if form is None:
        raise _Fault("media", "application/x-protobuf and application/json are taken")
    coding = one(b"content-encoding")
    if coding not in (b"", b"identity", b"gzip"):
        raise _Fault("media", "of content encodings gzip is taken")
    signal = _PATHS.get(path.partition(b"?")[0], "")
    options = {word.strip() for word in one(b"connection").split(b",")}
    close = b"close" in options or (old and b"keep-alive" not in options)
    return _Head(signal, form, coding == b"gzip", length, close)


def _length(headers: dict[bytes, list[bytes]], old: bool, limits: Limits) -> int:
    codings = headers.get(b"transfer-encoding")
    lengths = headers.get(b"content-length")
    if codings is not None:
        if lengths is not None or old:
            raise _Fault("malformed", "two ways to tell the length")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise _Fault("unsupported", "of transfer encodings chunked is taken")
        return -1
    if lengths is None:
        return 0
    text = lengths[0]
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,12}", text):
        raise _Fault("malformed", "a length that is no number")
    if int(text) > limits.message:
        raise _Fault("oversize", f"more than {limits.message} bytes")
    return int(text)
