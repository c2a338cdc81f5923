"""OTLP over gRPC, the server's side: bytes in, requests out. No socket.

On h2, sans-io HTTP/2, which takes 5 MiB: this module is imported when the first such client comes.
gRPC over HTTP/2: grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import struct
from urllib.parse import quote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from hullwatch.agent.otlp.intake import Answer, Outcome, Request, Signal
from hullwatch.agent.otlp.reply import CODES, body_of, status_of
from hullwatch.agent.otlp.span import Limits

__all__ = ["Grpc"]

_MAX_STREAMS = 32
_MAX_HEADERS = 8192  # bytes
_MAX_IDLE = 1000  # frames that bring no request any further, since the last whole one

_COLLECTOR = "/opentelemetry.proto.collector"
_METHODS: dict[bytes, Signal] = {
    f"{_COLLECTOR}.trace.v1.TraceService/Export".encode(): "traces",
    f"{_COLLECTOR}.logs.v1.LogsService/Export".encode(): "logs",
    f"{_COLLECTOR}.metrics.v1.MetricsService/Export".encode(): "metrics",
    f"{_COLLECTOR}.profiles.v1development.ProfilesService/Export".encode(): "profiles",
}


class _Stream:
    def __init__(self, signal: Signal, coding: bytes) -> None:
        self.signal: Signal = signal
        self.coding = coding
        self.body = bytearray()


class Grpc:
    """One connection. `closing` is set when it should be closed once `take` has been sent."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._http = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        # Set like this they hold from the start, and not only once the peer has acknowledged them.
        self._http.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
                codes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            },
        )
        self._http.decoder.max_header_list_size = _MAX_HEADERS
        self._http.initiate_connection()
        self._streams: dict[int, _Stream] = {}
        self._idle = 0
        self.closing = False

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(len(stream.body) for stream in self._streams.values())

    @property
    def pending(self) -> bool:
        """Whether a request has begun and is not whole."""
        return bool(self._streams)

    def receive(self, data: bytes) -> list[Request]:
        """Each has to be answered, in whatever order."""
        if self.closing:
            return []
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.closing = True
            return []
        requests: list[Request] = []
        for event in events:
            request = self._event(event)
            if request is not None:
                requests.append(request)
        if self._idle > _MAX_IDLE:
            self._http.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            self.closing = True
        return requests

    def late(self) -> list[Request]:
        """The time for the requests is over."""
        numbers = list(self._streams)
        self._streams.clear()
        self.closing = True
        return [
            _refused(number, "slow", "the request did not arrive in time") for number in numbers
        ]

    def answer(self, request: Request, answer: Answer) -> None:
        codes = CODES[answer.outcome]
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        status = [("grpc-status", str(codes.grpc))]
        if answer.outcome != "ok":
            status.append(("grpc-message", quote(answer.message, safe=" ")))
            details = base64.b64encode(status_of(answer)).decode().rstrip("=")
            status.append(("grpc-status-details-bin", details))
        number = request.stream
        try:
            if answer.outcome == "ok":
                body = body_of(answer, "protobuf")
                self._http.send_headers(number, headers)
                self._http.send_data(number, struct.pack(">BI", 0, len(body)) + body)
                self._http.send_headers(number, status, end_stream=True)
            else:
                self._http.send_headers(number, headers + status, end_stream=True)
                if request.fault == "oversize":  # it would go on sending
                    self._http.reset_stream(number, h2.errors.ErrorCodes.NO_ERROR)
        except h2.exceptions.StreamClosedError:
            pass  # it has hung up meanwhile
        except h2.exceptions.ProtocolError:
            self.closing = True  # no room for an answer of a hundred bytes: a window of nothing

    def take(self) -> bytes:
        """What is to be sent."""
        return bytes(self._http.data_to_send())

    def _event(self, event: h2.events.Event) -> Request | None:
        self._idle += 1
        if isinstance(event, h2.events.RequestReceived):
            return self._begin(event.stream_id, event.headers or [])
        if isinstance(event, h2.events.DataReceived):
            return self._data(event)
        if isinstance(event, h2.events.StreamEnded):
            return self._whole(event.stream_id)
        if isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id or 0, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.closing = True
        return None

    def _begin(self, number: int, headers: list[tuple[bytes, bytes]]) -> Request | None:
        said = dict(headers)
        if said.get(b":method") != b"POST":
            return _refused(number, "method", "POST is taken")
        if not said.get(b"content-type", b"").startswith(b"application/grpc"):
            return _refused(number, "media", "gRPC is taken here, and OTLP/HTTP over HTTP/1.1")
        signal = _METHODS.get(said.get(b":path", b""), "")
        self._streams[number] = _Stream(signal, said.get(b"grpc-encoding", b"identity"))
        return None

    def _data(self, event: h2.events.DataReceived) -> Request | None:
        number = event.stream_id or 0
        size = event.flow_controlled_length or 0
        if size:
            self._http.acknowledge_received_data(size, number)
        stream = self._streams.get(number)
        if stream is None:
            return None
        if event.data:
            self._idle = max(self._idle - 1, 0)
        stream.body += event.data or b""
        if len(stream.body) <= self._limits.message + 5:
            return None
        del self._streams[number]
        return _refused(number, "oversize", f"more than {self._limits.message} bytes")

    def _whole(self, number: int | None) -> Request | None:
        stream = self._streams.pop(number or 0, None)
        if stream is None or number is None:
            return None
        self._idle = 0
        body = bytes(stream.body)
        if len(body) < 5:
            return _refused(number, "malformed", "no message")
        packed, size = struct.unpack(">BI", body[:5])
        if packed > 1 or size != len(body) - 5:
            return _refused(number, "malformed", "not one whole message")
        if packed and stream.coding != b"gzip":
            return _refused(number, "unsupported", "of encodings gzip is taken")
        return Request(number, stream.signal, "protobuf", packed == 1, body[5:])


def _refused(number: int, outcome: Outcome, message: str) -> Request:
    return Request(number, "", "protobuf", False, b"", outcome, message)
