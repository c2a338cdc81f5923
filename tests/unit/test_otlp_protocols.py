"""HTTP/1.1 and gRPC, the server's side, without a socket."""

from __future__ import annotations

import gzip
import struct

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullwatch.agent.otlp.grpc import Grpc
from hullwatch.agent.otlp.http1 import Http1
from hullwatch.agent.otlp.intake import Allowance, Answer, Intake, Request
from hullwatch.agent.otlp.received import NOBODY
from hullwatch.agent.otlp.reply import CODES, body_of, status_of
from hullwatch.agent.otlp.span import Limits
from hullwatch.context.protobuf import INT, STR, Message, decode
from support.otlp import as_json, as_protobuf, export, span

# A busy machine is no fault of the tests.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROTOBUF = b"Content-Type: application/x-protobuf\r\n"


def post(body=b"", headers=PROTOBUF, path=b"/v1/traces", length=True):
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + headers
    if length:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


def chunked(*parts, headers=PROTOBUF, end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end
    return post(body, headers + b"Transfer-Encoding: chunked\r\n", length=False)


# --- HTTP/1.1 -----------------------------------------------------------------------------


def test_a_request():
    machine = Http1()
    (one,) = machine.receive(post(b"abc"))
    assert one == Request(1, "traces", "protobuf", False, b"abc")
    machine.answer(one, Answer("ok"))
    assert machine.take() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
    )
    assert not machine.closing and not machine.pending and machine.held == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_it_may_come_in_any_pieces(size):
    data = post(b"abc") + chunked(b"de", b"fgh") + post(b"ij", path=b"/v1/logs?x=1")
    machine, found = Http1(), []
    for at in range(0, len(data), size):
        found += machine.receive(data[at : at + size])
    assert [(one.signal, one.body) for one in found] == [
        ("traces", b"abc"),
        ("traces", b"defgh"),
        ("logs", b"ij"),
    ]


@pytest.mark.parametrize(
    ("headers", "form", "packed"),
    [
        (b"content-type: application/json; charset=utf-8\r\n", "json", False),
        (b"Content-Type:application/x-protobuf\r\nContent-Encoding: GZIP\r\n", "protobuf", True),
        (PROTOBUF + b"Content-Encoding: identity\r\n", "protobuf", False),
    ],
)
def test_forms(headers, form, packed):
    (one,) = Http1().receive(post(b"x", headers))
    assert (one.form, one.gzip, one.fault) == (form, packed, "ok")


@pytest.mark.parametrize("path", [b"/", b"/v1/tracesx", b"/v1/traces/", b"/V1/TRACES"])
def test_a_path_that_is_none(path):
    (one,) = Http1().receive(post(b"x", path=path))
    assert (one.signal, one.fault) == ("", "ok")


CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED = [
    (b"GET /v1/traces HTTP/1.1\r\n\r\n", "method"),
    (b"OPTIONS /v1/traces HTTP/1.1\r\nOrigin: https://evil\r\n\r\n", "unauthorized"),
    (post(b"x", PROTOBUF + b"Origin: https://evil\r\n"), "unauthorized"),
    (post(b"x", b"Content-Type: text/plain\r\n"), "media"),
    (post(b"x", b""), "media"),
    (post(b"x", PROTOBUF + b"Content-Encoding: br\r\n"), "media"),
    (post(b"x", PROTOBUF + CHUNKED), "malformed"),  # two lengths
    (post(b"x", PROTOBUF + b"Content-Length: 1\r\n"), "malformed"),
    (post(b"x", PROTOBUF + b"Content-Length: +1\r\n", length=False), "malformed"),
    (post(b"x", PROTOBUF + b"Content-Length: 1, 1\r\n", length=False), "malformed"),
    (post(b"x", PROTOBUF + b"Content-Length: \r\n", length=False), "malformed"),
    (post(b"x", PROTOBUF + b"Content-Length: 9999\r\n", length=False), "oversize"),
    (post(b"", PROTOBUF + b"Transfer-Encoding: gzip, chunked\r\n", length=False), "unsupported"),
    (post(b"", PROTOBUF + b"Transfer-Encoding : chunked\r\n", length=False), "malformed"),
    (post(b"", PROTOBUF + b" folded\r\n"), "malformed"),
    (post(b"", PROTOBUF + b"A\x00: b\r\n"), "malformed"),
    (post(b"", PROTOBUF + b"A: b\nContent-Length: 5\r\n"), "malformed"),
    (b"POST  /v1/traces HTTP/1.1\r\n\r\n", "malformed"),
    (b"POST /v1/traces HTTP/2.0\r\n\r\n", "malformed"),
    (b"POST http://x/v1/traces HTTP/1.1\r\n\r\n", "malformed"),
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "malformed"),
    (b"a" * 9000, "headers"),
    (post(b"", PROTOBUF + b"A: " + b"b" * 9000 + b"\r\n"), "headers"),
    (chunked(end=b"-1\r\n"), "malformed"),
    (chunked(end=b"0x1\r\n"), "malformed"),
    (chunked(end=b"123456789\r\n"), "malformed"),
    (chunked(end=b"3e9\r\n"), "oversize"),
    (chunked(b"x" * 900, end=b"200\r\n"), "oversize"),
    (chunked(b"x", end=b"2\r\nabc\r\n"), "malformed"),
    (chunked(end=b"1;" + b"x" * 300), "malformed"),
    (chunked(end=b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "headers"),
]


@pytest.mark.parametrize(("data", "fault"), REFUSED)
def test_what_is_refused(data, fault):
    machine = Http1(Limits(message=1000))
    (one,) = machine.receive(data)
    assert one.fault == fault and one.message
    machine.answer(one, Answer(one.fault, message=one.message))
    out = machine.take()
    assert out.startswith(b"HTTP/1.1 %d " % CODES[fault].http)
    assert b"Connection: close\r\n" in out
    assert machine.closing and machine.held == 0
    assert machine.receive(post(b"abc")) == []


def test_a_body_over_the_limit_is_refused_before_it_comes():
    machine = Http1(Limits(message=1000))
    (one,) = machine.receive(post(b"", PROTOBUF + b"Content-Length: 1001\r\n", length=False))
    assert one.fault == "oversize"


def test_requests_ahead_of_their_answers_are_bounded():
    found = Http1().receive(post() * 100)
    assert len(found) < 30 and found[-1].fault == "malformed"


def test_continue_is_said_to_who_asks():
    machine = Http1()
    head, body = post(b"abc", PROTOBUF + b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
    assert machine.receive(head + b"\r\n\r\n") == []
    assert machine.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert [one.body for one in machine.receive(body)] == [b"abc"]


@pytest.mark.parametrize(
    ("data", "closing"),
    [
        (post(), False),
        (post(headers=PROTOBUF + b"Connection: close\r\n"), True),
        (post().replace(b"HTTP/1.1", b"HTTP/1.0"), True),
        (post(headers=PROTOBUF + b"Connection: Keep-Alive\r\n").replace(b"/1.1", b"/1.0"), False),
    ],
)
def test_when_the_connection_ends(data, closing):
    machine = Http1()
    assert len(machine.receive(data)) == 1
    assert machine.closing is closing


def test_what_came_too_late_is_told_so():
    machine = Http1()
    machine.receive(post(b"abc")[:-1])
    assert machine.pending
    assert [one.fault for one in machine.late()] == ["slow"]
    assert machine.closing and not machine.pending


@PATIENT
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 30))
def test_chunks_are_put_together(parts, size):
    data = chunked(*(part for part in parts if part)) + post(b"next")
    machine, found = Http1(), []
    for at in range(0, len(data), size):
        found += machine.receive(data[at : at + size])
    assert [one.body for one in found] == [b"".join(parts), b"next"]


@PATIENT
@given(st.data())
def test_any_bytes_are_requests_or_refused(data):
    whole = bytearray(post(b"abc") + chunked(b"de", b"f"))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    machine = Http1(Limits(message=1000))
    for request in machine.receive(bytes(whole)):
        machine.answer(request, Answer(request.fault, message=request.message))
    assert machine.held <= len(whole) + 2000


# --- gRPC ---------------------------------------------------------------------------------

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Client:
    """A client on h2, and the server's machine that it talks to."""

    def __init__(self, limits=Limits()):
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self.http = h2.connection.H2Connection(config)
        self.http.initiate_connection()
        self.server = Grpc(limits)
        self.events = []

    def talk(self):
        """Bytes to and fro until there are none; the requests that the server found."""
        found = []
        while True:
            there = self.http.data_to_send()
            if there:
                found += self.server.receive(there)
            back = self.server.take()
            if back:
                self.events += self.http.receive_data(back)
            if not there and not back:
                return found

    def call(self, message=b"", path=EXPORT, packed=0, frame=None, **more):
        number = self.http.get_next_available_stream_id()
        self.http.send_headers(
            number,
            [
                (":method", more.get("method", "POST")),
                (":scheme", "http"),
                (":path", path),
                (":authority", "x"),
                ("te", "trailers"),
                ("content-type", more.get("kind", "application/grpc")),
                *more.get("headers", ()),
            ],
        )
        if frame is None:
            frame = struct.pack(">BI", packed, len(message)) + message
        found = self.talk()
        for at in range(0, len(frame), 16_000):
            if found:
                return found
            part = frame[at : at + 16_000]
            self.http.send_data(number, part)
            found += self.talk()
        if not found:
            self.http.end_stream(number)
        return found + self.talk()

    def answered(self, request, answer):
        self.server.answer(request, answer)
        self.talk()
        headers, body = {}, b""
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers |= dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
        return headers, body


def test_a_grpc_call():
    client = Client()
    (one,) = client.call(b"abc" * 50_000)
    assert (one.signal, one.body, one.gzip, one.fault) == ("traces", b"abc" * 50_000, False, "ok")
    headers, body = client.answered(one, Answer("ok", 2, "two"))
    assert (headers[":status"], headers["grpc-status"]) == ("200", "0")
    assert body[:5] == struct.pack(">BI", 0, len(body) - 5)
    assert body[5:] == body_of(Answer("ok", 2, "two"), "protobuf")


def test_a_grpc_call_that_is_refused():
    client = Client()
    (one,) = client.call(b"abc")
    headers, body = client.answered(one, Answer("busy", message="slow down, 100%", retry=3))
    assert headers["grpc-status"] == "14" and not body
    assert headers["grpc-message"] == "slow down%2C 100%25"
    assert headers["grpc-status-details-bin"]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"frame": b""}, "malformed"),
        ({"frame": b"\0\0\0\0\5abc"}, "malformed"),
        ({"frame": b"\0\0\0\0\1abc"}, "malformed"),
        ({"frame": b"\2\0\0\0\1a"}, "malformed"),
        ({"message": b"x", "packed": 1}, "unsupported"),
        ({"message": b"x" * 20_000}, "oversize"),
        ({"kind": "application/x-protobuf"}, "media"),
        ({"method": "GET"}, "method"),
    ],
)
def test_grpc_that_is_refused(more, fault):
    client = Client(Limits(message=10_000))
    (one,) = client.call(**more)
    assert one.fault == fault
    headers, _ = client.answered(one, Answer(one.fault, message=one.message))
    assert headers["grpc-status"] == str(CODES[fault].grpc)
    assert not client.server.closing and client.server.held == 0
    (after,) = client.call(b"after")
    assert after.body == b"after"


def test_gzip_of_grpc():
    (one,) = Client().call(b"x", packed=1, headers=[("grpc-encoding", "gzip")])
    assert one.gzip


def test_a_method_that_is_none():
    (one,) = Client().call(path="/x.Y/Z")
    assert (one.signal, one.fault) == ("", "ok")


def test_no_http2_closes():
    server = Grpc()
    assert server.receive(b"PRI * HTTP/2.0\r\n\r\nnonsense and more of it") == []
    assert server.closing


def test_frames_that_lead_nowhere_end_the_connection():
    client = Client()
    client.talk()
    for _ in range(2000):
        client.http.ping(b"12345678")
        client.server.receive(client.http.data_to_send())
        if client.server.closing:
            break
    assert client.server.closing


def test_streams_begun_and_reset_end_the_connection():
    client = Client()
    client.talk()
    for _ in range(2000):
        number = client.http.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":path", EXPORT), (":authority", "x")]
        client.http.send_headers(number, [*head, ("content-type", "application/grpc")])
        client.http.reset_stream(number)
        client.server.receive(client.http.data_to_send())
        if client.server.closing:
            break
    assert client.server.closing and client.server.held == 0


def test_a_client_that_opens_no_window_ends_the_connection():
    client = Client()
    client.http.update_settings({4: 0})  # SETTINGS_INITIAL_WINDOW_SIZE
    (one,) = client.call(b"abc")
    client.server.answer(one, Answer("ok", 1, "x"))
    assert client.server.closing


def test_grpc_that_came_too_late_is_told_so():
    client = Client()
    number = client.http.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "http"), (":path", EXPORT), (":authority", "x")]
    client.http.send_headers(number, [*head, ("content-type", "application/grpc")])
    client.talk()
    assert client.server.pending
    (one,) = client.server.late()
    headers, _ = client.answered(one, Answer(one.fault))
    assert headers["grpc-status"] == "4" and client.server.closing


@PATIENT
@given(st.data())
def test_any_bytes_after_the_preface_are_survived(data):
    client = Client()
    client.talk()
    number = client.http.get_next_available_stream_id()
    head = [(":method", "POST"), (":scheme", "http"), (":path", EXPORT), (":authority", "x")]
    client.http.send_headers(number, [*head, ("content-type", "application/grpc")])
    client.http.send_data(number, struct.pack(">BI", 0, 3) + b"abc", end_stream=True)
    whole = bytearray(client.http.data_to_send())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for request in client.server.receive(bytes(whole)):
        client.server.answer(request, Answer(request.fault, message=request.message))
    client.server.take()


# --- what becomes of a request ------------------------------------------------------------


def intake(room=1000, **more):
    taken = []

    def put(calls):
        left_out = max(len(calls) - room, 0)
        taken.extend(calls[:room])
        return left_out

    return Intake(put, **more), taken


def request(body, form="protobuf", **more):
    return Request(1, more.pop("signal", "traces"), form, more.pop("gzip", False), body, **more)


TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "secret": "x"}


@pytest.mark.parametrize("form", ["protobuf", "json"])
@pytest.mark.parametrize("packed", [False, True])
def test_calls_are_taken(form, packed):
    body = {"protobuf": as_protobuf, "json": as_json}[form](
        export(span(attributes=TOOL), span(ident="01" * 8))
    )
    one, taken = intake()
    sent = request(gzip.compress(body) if packed else body, form, gzip=packed)
    assert one.take(sent, NOBODY, 0.0) == Answer("ok")
    assert [received.call.name for received in taken] == ["t"]
    assert one.counts == {
        "spans": 2,
        "calls": 1,
        "calls_dropped": 0,
        "spans_other": 1,
        "attributes_dropped": 1,
        "requests_ok": 1,
    }


def test_other_signals_are_thanked_for_and_counted():
    one, taken = intake()
    for signal in ("logs", "metrics", "profiles"):
        assert one.take(request(b"\xff", signal=signal), NOBODY, 0.0) == Answer("ok")
    assert not taken and one.counts["ignored_logs"] == one.counts["ignored_metrics"] == 1


def test_what_is_no_export_is_refused_and_counted():
    one, _ = intake(limits=Limits(inflated=10))
    for sent, outcome in (
        (request(b"\xff"), "malformed"),
        (request(b"{", "json"), "malformed"),
        (request(b"x", gzip=True), "malformed"),
        (request(gzip.compress(b"x" * 11), gzip=True), "oversize"),
        (request(b"", signal=""), "unknown"),
        (request(b"", fault="media", message="m"), "media"),
    ):
        answer = one.take(sent, NOBODY, 0.0)
        assert answer.outcome == outcome and answer.message
    assert one.counts["requests_malformed"] == 3
    assert one.counts["requests_oversize"] == 1


def test_calls_without_room_are_told_of_and_counted():
    spans = [span(ident=f"{number:016x}", attributes=TOOL) for number in range(1, 6)]
    one, taken = intake(room=2)
    answer = one.take(request(as_protobuf(export(*spans, span(ident="")))), NOBODY, 0.0)
    assert (answer.outcome, answer.rejected) == ("ok", 4)
    assert "3 calls found no room" in answer.message and "1 spans" in answer.message
    assert len(taken) == 2
    assert (one.counts["calls_dropped"], one.counts["spans_rejected"]) == (3, 4)


def test_who_sends_too_much_is_told_to_wait():
    body = as_protobuf(export(*(span(ident=f"{number:016x}") for number in range(1, 101))))
    one, _ = intake(spans=10.0)
    assert one.take(request(body), NOBODY, 0.0).outcome == "ok"
    assert one.take(request(body), NOBODY, 0.1) == Answer(
        "busy", message="too many spans a second", retry=1
    )
    assert one.take(request(body), NOBODY, 60.0).outcome == "ok"


def test_an_allowance_has_a_burst_and_pays_its_debts():
    one = Allowance(10.0, 20.0)
    assert one.open(0.0)
    one.charge(30.0)
    assert not one.open(0.0) and not one.open(0.9) and one.open(1.1)
    assert one.open(1000.0)
    one.charge(20.0)
    assert not one.open(1000.0)


def test_answers_as_the_protocol_has_them():
    partial = Message({1: ("partial", Message({1: ("rejected", INT), 2: ("message", STR)}))})
    assert decode(partial, body_of(Answer("ok", 3, "three"), "protobuf")) == {
        "partial": {"rejected": 3, "message": "three"}
    }
    assert body_of(Answer("ok"), "protobuf") == b"" and body_of(Answer("ok"), "json") == b"{}"
    assert body_of(Answer("ok", 3, "three"), "json") == (
        b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"three"}}'
    )
    status = Message({1: ("code", INT), 2: ("message", STR)})
    assert decode(status, status_of(Answer("malformed", message="m"))) == {
        "code": 3,
        "message": "m",
    }
    assert body_of(Answer("malformed", message="m"), "json") == b'{"code":3,"message":"m"}'
