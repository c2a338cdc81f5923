"""The exporter against an endpoint of its own: what is sent, tried again, lost, never said."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hullwatch.agent.otlp import wire
from hullwatch.agent.otlp.endpoint import Endpoint, EndpointError, headers_from
from hullwatch.agent.otlp.exporter import Exporter, Pace, retry_after
from hullwatch.agent.otlp.intake import Answer
from hullwatch.agent.otlp.names import RESOURCE, WANTED
from hullwatch.agent.otlp.receiver import Receiver
from hullwatch.agent.otlp.reply import body_of
from hullwatch.context.call import Call, Signal
from support.otlp import BEGIN

SECRET = "planted-api-key-0451"
FAST = Pace(batch=0.01, first=0.01, most=0.02, timeout=5.0, give_up=30.0)


def call(ident, **more):
    more.setdefault("source", "gateway")
    return Call(id=ident, kind="tool", name=f"t{ident}", begin=BEGIN, end=BEGIN + 1, **more)


class Backend:
    """Answers each request with the next of `answers` (status, headers, body), then with 200."""

    def __init__(self, answers=(), context=None):
        self.answers = list(answers)
        self.requests = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                backend.requests.append((self.path, dict(self.headers), body))
                status, headers, data = (
                    backend.answers.pop(0) if backend.answers else (200, {}, b"")
                )
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.port = self.server.server_address[1]

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextlib.contextmanager
def sending(answers=(), pace=FAST, headers=None, path=""):
    backend = Backend(answers)
    exporter = Exporter(
        Endpoint.parse(f"http://127.0.0.1:{backend.port}{path}"), headers, pace, host="node"
    )
    try:
        yield backend, exporter
    finally:
        exporter.close(1.0)
        backend.close()


def wait(condition):
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def names(body):
    return [span.name for span in wire.read(body, WANTED, RESOURCE).spans]


def test_what_is_told_is_sent():
    with sending(headers={"Authorization": SECRET}, path="/otlp") as (backend, exporter):
        exporter.ended(call(1))
        exporter.signal(Signal(kind="k", subject="s", detail="", time=BEGIN))
        exporter.finding({"id": "f", "span": 1, "output": "o"})
        wait(lambda: exporter.stats().get("findings_sent"))
        paths = {path for path, _, _ in backend.requests}
        assert paths == {"/otlp/v1/traces", "/otlp/v1/logs"}
        for _, headers, _ in backend.requests:
            assert headers["Authorization"] == SECRET
            assert headers["Content-Type"] == "application/x-protobuf"
        stats = exporter.stats()
        assert (stats["calls_sent"], stats["signals_sent"], stats["waiting"]) == (1, 1, 0)
        assert SECRET not in str(stats) + repr(exporter) + repr(vars(exporter)["_endpoint"])


def test_what_ends_together_is_one_request():
    with sending(pace=FAST._replace(batch=30.0, size=10)) as (backend, exporter):
        for number in range(1, 11):
            exporter.ended(call(number))
        wait(lambda: exporter.stats().get("calls_sent") == 10)
        assert len(backend.requests) == 1


def test_what_came_by_otlp_is_not_sent_back():
    with sending() as (backend, exporter):
        exporter.ended(call(1, source="otlp"))
        exporter.ended(call(2))
        wait(lambda: exporter.stats().get("calls_sent"))
        exporter.close()
        assert [name for _, _, body in backend.requests for name in names(body)] == [
            "execute_tool t2"
        ]


@pytest.mark.parametrize(
    "answer",
    [
        (429, {}, b""),
        (502, {}, b""),
        (503, {"Retry-After": "0"}, b""),
        (504, {}, b""),
        (0, {}, b""),
    ],
)
def test_it_tries_again(answer):
    with sending([answer, answer]) as (backend, exporter):
        exporter.ended(call(1))
        wait(lambda: exporter.stats().get("calls_sent"))
        assert len(backend.requests) >= 3
        bodies = {body for _, _, body in backend.requests}
        assert len(bodies) == 1
        assert exporter.stats()["trouble"] == ""


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500, 301])
def test_what_is_refused_is_lost_and_said(status):
    with sending([(status, {"Location": "http://127.0.0.1:1/"}, b"")]) as (backend, exporter):
        exporter.ended(call(1))
        wait(lambda: exporter.stats().get("calls_lost"))
        assert exporter.stats()["trouble"] == f"HTTP {status}"
        exporter.ended(call(2))
        wait(lambda: exporter.stats().get("calls_sent"))
        assert len(backend.requests) == 2


def test_a_wait_that_was_asked_for_is_kept():
    with sending([(429, {"Retry-After": "1"}, b"")]) as (_, exporter):
        begun = time.monotonic()
        exporter.ended(call(1))
        wait(lambda: exporter.stats().get("calls_sent"))
        assert time.monotonic() - begun >= 1.0


def test_a_wait_that_is_too_long_is_given_up():
    with sending([(429, {"Retry-After": "9999"}, b"")]) as (_, exporter):
        exporter.ended(call(1))
        wait(lambda: exporter.stats().get("calls_lost"))


def test_what_cannot_be_encoded_is_lost_and_the_next_is_sent():
    with sending() as (_, exporter):
        exporter.finding({"id": "f", "span": "no number"})
        wait(lambda: exporter.stats().get("findings_lost"))
        assert exporter.stats()["trouble"].startswith("ValueError")
        exporter.finding({"id": "g"})
        wait(lambda: exporter.stats().get("findings_sent"))


def test_rejections_are_counted():
    answer = (200, {}, body_of(Answer("ok", 3, "three"), "protobuf"))
    with sending([answer, (200, {}, b"{}")]) as (_, exporter):
        exporter.ended(call(1))
        wait(lambda: exporter.stats().get("rejected") == 3)
        exporter.ended(call(2))
        wait(lambda: exporter.stats().get("calls_sent") == 2)


def test_a_queue_that_is_full_loses_and_counts():
    pace = FAST._replace(queue=5, batch=30.0)
    with sending(pace=pace) as (_, exporter):
        for number in range(1, 9):
            exporter.ended(call(number))
        assert (exporter.stats()["waiting"], exporter.stats()["calls_lost"]) == (5, 3)
        exporter.close()
        assert exporter.stats()["calls_sent"] == 5


def test_closing_ends_in_time_and_counts_what_is_lost():
    closed = Backend()
    closed.close()
    exporter = Exporter(Endpoint.parse(f"http://127.0.0.1:{closed.port}"), None, FAST)
    for number in range(1, 2000):
        exporter.ended(call(number))
    exporter.close(0.2)
    assert not exporter._thread.is_alive()
    stats = exporter.stats()
    assert stats["calls_lost"] == 1999 and stats["waiting"] == 0
    assert "Connection refused" in stats["trouble"]


def test_calls_begun_before_make_one_trace():
    with sending() as (backend, exporter):
        exporter.began(call(1))
        exporter.began(call(2, parent=1))
        for one in (call(3, parent=2), call(2, parent=1), call(1)):
            exporter.ended(one)
            wait(lambda one=one: exporter.stats().get("calls_sent") == 4 - one.id)
        found = [
            span
            for _, _, body in backend.requests
            for span in wire.read(body, WANTED, RESOURCE).spans
        ]
        assert len({span.trace_id for span in found}) == 1


def test_our_receiver_takes_what_our_exporter_sends():
    receiver = Receiver(["127.0.0.1:0"])
    exporter = Exporter(Endpoint.parse(f"http://{receiver.addresses[0]}"), None, FAST)
    try:
        exporter.ended(call(1))
        exporter.finding({"id": "f"})
        wait(lambda: exporter.stats().get("findings_sent"))
        assert [one.call.name for one in receiver.take()] == ["t1"]
        assert receiver.stats()["ignored_logs"] == 1
    finally:
        exporter.close()
        receiver.close()


# --- TLS ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    here = tmp_path_factory.mktemp("tls")
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem".split(),
        cwd=here,
        check=True,
        capture_output=True,
    )
    return here


def test_tls_is_verified(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    backend = Backend(context=context)
    url = f"https://127.0.0.1:{backend.port}"
    try:
        for ca, what in ((certificate / "cert.pem", "sent"), (None, "lost")):
            endpoint = Endpoint.parse(url, secret=True, ca=ca)
            exporter = Exporter(endpoint, {"x-key": SECRET}, FAST._replace(give_up=0.2))
            exporter.ended(call(1))
            wait(lambda exporter=exporter, what=what: exporter.stats().get(f"calls_{what}"))
            assert ca or "CERTIFICATE_VERIFY_FAILED" in exporter.stats()["trouble"]
            exporter.close()
        assert len(backend.requests) == 1
    finally:
        backend.close()


# --- where to and with what ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost", "http://localhost:4318"),
        ("http://127.0.0.1:9/otlp/", "http://127.0.0.1:9/otlp"),
        ("https://x.example/a", "https://x.example:443/a"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_endpoints(url, shown):
    assert str(Endpoint.parse(url, secret=True)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x:4318",
        "ftp://x",
        "https://",
        "https://x:port",
        "https://x/?a=b",
        "https://x/a b",
        f"https://user:{SECRET}@x/",
        "http://x.example/",  # headers in the clear
    ],
)
def test_endpoints_that_are_none(url):
    with pytest.raises(EndpointError) as raised:
        Endpoint.parse(url, secret=True)
    assert SECRET not in str(raised.value)


def test_headers_of_a_file(tmp_path):
    path = tmp_path / "headers"
    path.write_text(f"# ours\nAuthorization: Bearer {SECRET}\n\nx-org:7\n")
    path.chmod(0o600)
    assert headers_from(f"file:{path}") == {"Authorization": f"Bearer {SECRET}", "x-org": "7"}
    path.chmod(0o640)
    with pytest.raises(EndpointError, match="chmod 600"):
        headers_from(f"file:{path}")


def test_headers_of_the_environment(monkeypatch):
    monkeypatch.setenv("HEADERS", f"api-key={SECRET}, x%2Dy=1,z=a%20b%3D,")
    assert headers_from("env:HEADERS") == {"api-key": SECRET, "x-y": "1", "z": "a b="}


@pytest.mark.parametrize(
    "text", [f"a\nb{SECRET}", f"Host={SECRET}", f"a=x%0d%0aB: {SECRET}", f"é={SECRET}", "=x"]
)
def test_headers_that_are_none_are_refused_without_saying_them(monkeypatch, text):
    monkeypatch.setenv("HEADERS", text)
    with pytest.raises(EndpointError, match="header 1") as raised:
        headers_from("env:HEADERS")
    assert SECRET not in str(raised.value)


def test_headers_from_nowhere(tmp_path):
    for source in ("", "Authorization: x", "env:NOT_THERE_AT_ALL", f"file:{tmp_path}/none"):
        with pytest.raises(EndpointError):
            headers_from(source)


def test_retry_after():
    assert retry_after(None, 0.0) == 0
    assert retry_after("7", 0.0) == 7
    assert retry_after("9" * 400, 0.0) == 999_999_999
    assert retry_after(formatdate(1_780_000_010, usegmt=True), 1_780_000_000.0) == 10
    assert retry_after(formatdate(1_780_000_000, usegmt=True), 1_780_000_010.0) == 0
    for nonsense in ("", "soon", "-1", "٣"):
        assert retry_after(nonsense, 0.0) == 0
