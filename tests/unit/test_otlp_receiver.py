"""The receiver over real sockets: raw bytes, and the official exporters."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from hullwatch.agent.otlp import receiver as module
from hullwatch.agent.otlp.receiver import (
    Address,
    Bounds,
    Receiver,
    ReceiverError,
    parse_address,
)
from hullwatch.agent.otlp.span import Limits
from support.otlp import as_protobuf, export, span

HERE = "127.0.0.1:0"
TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "add"}
BODY = as_protobuf(export(span(attributes=TOOL), resource={"service.name": "s"}))


def post(body=BODY, headers=b""):
    return (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
        + headers
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.fixture
def receiver():
    with running() as made:
        yield made


@contextlib.contextmanager
def running(*addresses, **more):
    made = Receiver(addresses or (HERE,), **more)
    try:
        yield made
    finally:
        made.close()


def connect(receiver):
    address = receiver.addresses[0]
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.path)
    else:
        sock = socket.create_connection((address.host, address.port))
    sock.settimeout(30)
    return sock


def said(sock):
    """Everything until the other side closes."""
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            out += data
    return out


def wait(condition):
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def test_a_call_by_http(receiver):
    with connect(receiver) as sock:
        sock.sendall(post())
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        port = sock.getsockname()[1]
    (one,) = receiver.take()
    assert (one.call.name, one.call.source, one.where.service) == ("add", "otlp", "s")
    assert (one.where.peer.address, one.where.peer.port) == ("127.0.0.1", port)
    assert receiver.take() == []


def test_a_unix_socket_knows_its_peer(tmp_path):
    path = tmp_path / "otlp.sock"
    with running(f"unix:{path}", mode=0o600) as made:
        assert path.stat().st_mode & 0o777 == 0o600
        with connect(made) as sock:
            sock.sendall(post())
            assert b" 200 OK" in sock.recv(65536)
        (one,) = made.take()
        peer = one.where.peer
        assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
        assert one.call.pid == one.where.host_pid == os.getpid()
    assert not path.exists()


def test_a_socket_that_was_left_is_taken_over_and_others_are_not(tmp_path):
    path = tmp_path / "otlp.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with running(f"unix:{path}"):
        with pytest.raises(ReceiverError, match="another process listens there"):
            Receiver([f"unix:{path}"])
        assert path.exists()
    path.write_text("a file")
    with pytest.raises(ReceiverError, match="is there and no socket; remove it"):
        Receiver([f"unix:{path}"])
    assert path.read_text() == "a file"


def test_an_address_in_use_is_said(receiver):
    with pytest.raises(ReceiverError, match=r"127\.0\.0\.1:\d+: .*in use; give another address"):
        Receiver([str(receiver.addresses[0])])


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("127.0.0.1:4318", Address(host="127.0.0.1", port=4318), True),
        ("[::1]:4317", Address(host="::1", port=4317), True),
        ("0.0.0.0:0", Address(host="0.0.0.0", port=0), False),
        ("unix:/run/x.sock", Address(path="/run/x.sock"), True),
    ],
)
def test_addresses(text, address, local):
    assert parse_address(text) == address
    assert (str(address), address.local) == (text, local)


@pytest.mark.parametrize(
    "text",
    ["", "4318", ":4318", "x:", "x:y", "x:70000", "::1:4318", "unix:x", "unix:/" + "x" * 200],
)
def test_addresses_that_are_none(text):
    with pytest.raises(ReceiverError, match="give|put"):
        parse_address(text)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post(b"\xff\xff"), b"400"),
        (post(headers=b"Origin: http://x\r\n"), b"403"),
        (b"GET / HTTP/1.1\r\n\r\n", b"405"),
        (b"POST / HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", b"404"),
        (post(b"x" * 70_000), b"413"),
        (b"\0" * 9000, b"431"),
        (b"\x16\x03\x01 a TLS client\r\n\r\n", b"400"),
    ],
)
def test_whatever_is_sent_there_is_an_answer(data, status):
    with running(limits=Limits(message=65_536)) as made, connect(made) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert said(sock).startswith(b"HTTP/1.1 " + status)
        assert made.take() == []
        assert sum(v for k, v in made.stats().items() if k.startswith("requests_")) == 1


def test_a_request_that_trickles_is_ended():
    with running(bounds=Bounds(request=0.2)) as made, connect(made) as sock:
        sock.sendall(post()[:40])
        assert said(sock).startswith(b"HTTP/1.1 408")
        assert made.stats()["connections_slow"] == 1


@pytest.mark.parametrize("first", [b"", b"PRI"])
def test_who_says_nothing_is_ended(first):
    with running(bounds=Bounds(request=0.2)) as made, connect(made) as sock:
        sock.sendall(first)
        assert said(sock) == b""
        assert made.stats()["connections_slow"] == 1


def test_an_idle_connection_is_ended():
    with running(bounds=Bounds(idle=0.2)) as made, connect(made) as sock:
        sock.sendall(post())
        assert b" 200 OK" in said(sock)
        assert made.stats()["connections_idle"] == 1


def test_too_many_connections_are_refused_unless_one_is_quiet():
    with running(bounds=Bounds(connections=2)) as made, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connect(made)) for _ in range(2)]
        wait(lambda: made.stats()["connections"] == 2)
        with connect(made) as third:
            assert said(third) == b""
        assert made.stats()["connections_refused"] == 1
        busy[0].sendall(post())
        assert b" 200 OK" in busy[0].recv(65536)
        with connect(made) as fourth:
            fourth.sendall(post())
            assert b" 200 OK" in fourth.recv(65536)
        assert said(busy[0]) == b""
        assert made.stats()["connections_displaced"] == 1


def test_unfinished_requests_are_bounded_together():
    with running(bounds=Bounds(held=100_000)) as made, contextlib.ExitStack() as stack:
        links = [stack.enter_context(connect(made)) for _ in range(3)]
        for link in links:
            with contextlib.suppress(OSError):
                link.sendall(post(b"x" * 60_000)[:-1])
        wait(lambda: made.stats().get("connections_crowded"))
        with connect(made) as sock:
            sock.sendall(post())
            assert b" 200 OK" in sock.recv(65536)


def test_who_does_not_read_its_answers_is_ended(tmp_path):
    address = f"unix:{tmp_path / 'otlp.sock'}"
    with running(address, bounds=Bounds(unsent=1000)) as made, connect(made) as sock:
        for number in range(1, 10_000):
            sock.sendall(post(b""))
            wait(lambda number=number: made.stats().get("requests_ok", 0) == number)
            if made.stats().get("connections_deaf"):
                break
        assert made.stats()["connections"] == 0


def test_calls_that_nobody_takes_are_dropped_and_counted():
    spans = [span(ident=f"{number:016x}", attributes=TOOL) for number in range(1, 9)]
    with running(bounds=Bounds(queue=5)) as made, connect(made) as sock:
        sock.sendall(post(as_protobuf(export(*spans))))
        assert b"3 calls found no room" in sock.recv(65536)
        assert (made.stats()["calls"], made.stats()["calls_dropped"]) == (5, 3)
        assert made.stats()["waiting"] == 5
        assert [one.call.id for one in made.take(2)] == [1, 2]
        assert len(made.take()) == 3


def test_a_fault_ends_one_connection_only(receiver, monkeypatch):
    class Broken:
        def __init__(self, limits):
            raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patch, connect(receiver) as sock:
        patch.setattr(module, "Http1", Broken)
        sock.sendall(post())
        assert said(sock) == b""
        assert receiver.stats()["faults_RuntimeError"] == 1
    with connect(receiver) as sock:
        sock.sendall(post())
        assert b" 200 OK" in sock.recv(65536)


def test_closing_lets_go_of_everything(tmp_path):
    path = tmp_path / "otlp.sock"
    before = set(os.listdir("/proc/self/fd"))
    made = Receiver([HERE, f"unix:{path}"])
    with connect(made):
        wait(lambda: made.stats()["connections"] == 1)
        made.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not path.exists()


@pytest.mark.parametrize("heavy", ["h2", "asyncio", "http.client", "ssl", "email", "duckdb"])
def test_listening_does_not_import(heavy):
    code = (
        "import sys\nfrom hullwatch.agent.otlp.receiver import Receiver\n"
        f"Receiver(['127.0.0.1:0']).close()\nsys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the official exporters ---------------------------------------------------------------

_PACKAGES = {
    "http": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


def _exporter(kind, address, packed):
    found = pytest.importorskip(
        _PACKAGES[kind], reason=f"needs opentelemetry-exporter-otlp-proto-{kind}"
    )
    if kind == "http":
        from opentelemetry.exporter.otlp.proto.http import Compression

        compression = Compression.Gzip if packed else Compression.NoCompression
        url = f"http://{address}/v1/traces"
        return found.OTLPSpanExporter(endpoint=url, compression=compression)
    import grpc

    compression = grpc.Compression.Gzip if packed else grpc.Compression.NoCompression
    target = str(address) if address.path else f"http://{address}"
    return found.OTLPSpanExporter(endpoint=target, insecure=True, compression=compression)


def _sdk_spans(exporter, count=1):
    """Spans of the official SDK, exported all at once: how that ended."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    ended = InMemorySpanExporter()
    resource = Resource({"service.name": "agent", "process.pid": os.getpid()})
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(ended))
    start = provider.get_tracer("test").start_as_current_span
    with start("invoke_agent a") as agent:
        agent.set_attribute("gen_ai.operation.name", "invoke_agent")
        agent.set_attribute("gen_ai.agent.name", "a")
        for number in range(count):
            with start("HTTP POST"), start("execute_tool add") as tool:
                tool.set_attribute("gen_ai.operation.name", "execute_tool")
                tool.set_attribute("gen_ai.tool.name", f"add{number}")
                tool.set_attribute("gen_ai.tool.call.arguments", '{"a": "planted"}')
    return exporter.export(ended.get_finished_spans()).name


@pytest.mark.parametrize("kind", sorted(_PACKAGES))
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_the_official_exporters(receiver, kind, packed):
    exporter = _exporter(kind, receiver.addresses[0], packed)
    assert _sdk_spans(exporter, count=300) == "SUCCESS"
    exporter.shutdown()
    found = [one.call for one in receiver.take()]
    assert len(found) == 301 and "planted" not in str(found)
    agent = found[-1]
    assert (agent.kind, agent.name, agent.status) == ("task", "a", "ok")
    assert [(one.kind, one.name, one.parent) for one in found[:-1]] == [
        ("tool", f"add{number}", agent.id) for number in range(300)
    ]
    assert all(0 < one.begin <= one.end <= agent.end for one in found)
    stats = receiver.stats()
    assert (stats["requests_ok"], stats["spans"], stats["calls"]) == (1, 601, 301)


def test_the_official_grpc_exporter_on_a_unix_socket(tmp_path):
    with running(f"unix:{tmp_path / 'otlp.sock'}") as made:
        exporter = _exporter("grpc", made.addresses[0], False)
        assert _sdk_spans(exporter) == "SUCCESS"
        exporter.shutdown()
        assert {one.call.pid for one in made.take()} == {os.getpid()}


@pytest.mark.parametrize("kind", sorted(_PACKAGES))
def test_the_official_exporters_come_again_when_told_to_wait(kind):
    """Only the second of two is throttled; it is sent again after a second, and arrives."""
    with running(spans=20.0) as made:
        exporter = _exporter(kind, made.addresses[0], False)
        assert _sdk_spans(exporter, count=55) == "SUCCESS"
        assert _sdk_spans(exporter, count=1) == "SUCCESS"
        exporter.shutdown()
        assert made.stats()["requests_ok"] == 2
        assert made.stats()["requests_busy"] >= 1


@pytest.mark.parametrize("kind", sorted(_PACKAGES))
def test_the_official_exporters_give_up_what_is_too_large(kind):
    with running(limits=Limits(message=1000)) as made:
        exporter = _exporter(kind, made.addresses[0], False)
        assert _sdk_spans(exporter, count=50) == "FAILURE"
        exporter.shutdown()
        assert made.stats()["requests_oversize"] == 1
        assert made.take() == []
