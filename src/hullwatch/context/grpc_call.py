"""Unary gRPC calls over a Unix socket: one connection, one call at a time, a deadline each.

On h2 (sans-io HTTP/2), which costs 5 MiB of memory where grpcio costs 17. Import this module only
when there is a socket to talk to. gRPC over HTTP/2: grpc/doc/PROTOCOL-HTTP2.md.
"""

import socket
import stat
import struct
import time
from pathlib import Path
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions

__all__ = ["NOT_FOUND", "UNIMPLEMENTED", "CallError", "Channel"]

NOT_FOUND, UNIMPLEMENTED = 5, 12
_MAX_ANSWER = 4 << 20


class CallError(Exception):
    """A call that got no answer. ``code``: gRPC's status, or None if it never got that far."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Channel:
    """A connection that is made when first needed and made again when it broke."""

    def __init__(self, path: str, owners: tuple[int, ...] = (0,), timeout: float = 2.0) -> None:
        self.path = path
        self._owners = owners
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._http: h2.connection.H2Connection | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._http = None

    def call(self, method: str, body: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
        """The answer's message. ``method`` is ``/package.Service/Method``. Raises CallError."""
        reused = self._socket is not None
        deadline = time.monotonic() + self._timeout
        try:
            return self._try(method, body, metadata, deadline)
        except CallError as error:
            if error.code is None:
                self.close()
            if error.code is not None or not reused:
                raise
        return self._try(method, body, metadata, deadline)  # the old connection had gone stale

    def _connect(self) -> tuple[socket.socket, h2.connection.H2Connection]:
        if self._socket is not None and self._http is not None:
            return self._socket, self._http
        status = Path(self.path).stat()
        if not stat.S_ISSOCK(status.st_mode):
            raise CallError(f"{self.path}: not a socket")
        if status.st_uid not in self._owners:
            raise CallError(f"{self.path}: owned by uid {status.st_uid}, not believed")
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.settimeout(self._timeout)
            link.connect(self.path)
            peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            _, uid, _ = struct.unpack("iII", peer)
            if uid not in self._owners:
                raise CallError(f"{self.path}: served by uid {uid}, not believed")
            http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
            http.initiate_connection()
            link.sendall(http.data_to_send())
        except BaseException:
            link.close()
            raise
        self._socket, self._http = link, http
        return link, http

    def _try(
        self,
        method: str,
        body: bytes,
        metadata: tuple[tuple[str, str], ...],
        deadline: float,
    ) -> bytes:
        try:
            link, http = self._connect()
            stream = http.get_next_available_stream_id()
            headers = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "hullwatch"),
                *metadata,
            ]
            http.send_headers(stream, headers)
            http.send_data(stream, struct.pack(">BI", 0, len(body)) + body, end_stream=True)
            link.sendall(http.data_to_send())
            return self._receive(link, http, stream, deadline)
        except (OSError, h2.exceptions.H2Error, UnicodeDecodeError) as error:
            self.close()
            raise CallError(f"{self.path}: {method}: {error}") from None

    def _receive(
        self,
        link: socket.socket,
        http: h2.connection.H2Connection,
        stream: int,
        deadline: float,
    ) -> bytes:
        answer = bytearray()
        status: dict[str, str] = {}
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            link.settimeout(left)
            data = link.recv(65536)
            if not data:
                raise ConnectionResetError("closed by the runtime")
            ended = False
            for event in http.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise ConnectionResetError("connection ended by the runtime")
                if getattr(event, "stream_id", stream) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    status.update((str(k), str(v)) for k, v in event.headers or ())
                elif isinstance(event, h2.events.DataReceived):
                    answer += event.data or b""
                    http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                    if len(answer) > _MAX_ANSWER:
                        raise ConnectionResetError("answer over the limit")
                elif isinstance(event, h2.events.StreamReset):
                    raise ConnectionResetError("call reset by the runtime")
                elif isinstance(event, h2.events.StreamEnded):
                    ended = True
            if out := http.data_to_send():
                link.sendall(out)
            if ended:
                return _message(bytes(answer), status, self.path)


def _message(answer: bytes, status: dict[str, str], path: str) -> bytes:
    code = status.get("grpc-status", "")
    if code != "0":
        words = unquote(status.get("grpc-message", ""))[:300] or f"HTTP {status.get(':status')}"
        raise CallError(f"{path}: {words}", int(code) if code.isascii() and code.isdigit() else 2)
    if len(answer) < 5:
        raise CallError(f"{path}: empty answer", 2)
    compressed, size = struct.unpack(">BI", answer[:5])
    if compressed or size != len(answer) - 5:
        raise CallError(f"{path}: an answer that is not one plain message", 2)
    return answer[5:]
