"""The CRI client against a server made of the same sans-io HTTP/2, and the decoder under fuzz."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.context.cri import _CONTAINER_STATUS, _SANDBOX_STATUS, RuntimeSocket
from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts
from hullwatch.context.grpc_call import CallError
from hullwatch.context.protobuf import INT, STR_MAP, Malformed, Message, decode, encode
from hullwatch.context.sockets import Sockets

ME = (os.getuid(),)
Handler = Callable[[str, bytes, dict[str, str]], bytes | int | None]


class FakeRuntime:
    """Answers unary calls; a handler gives a message, a gRPC status, or None to hang up."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.handler = handler
        self.calls: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                self._talk(link)

    def _talk(self, link: socket.socket) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        http = h2.connection.H2Connection(config)
        http.initiate_connection()
        link.sendall(http.data_to_send())
        headers: dict[str, str] = {}
        body = b""
        while data := link.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = {str(k): str(v) for k, v in event.headers or ()}
                    body = b""
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    self.calls.append(headers[":path"])
                    answer = self.handler(headers[":path"], body[5:], headers)
                    if answer is None:
                        return
                    stream = event.stream_id or 1
                    http.send_headers(stream, [(":status", "200")])
                    if isinstance(answer, bytes):
                        framed = struct.pack(">BI", 0, len(answer)) + answer
                        for at in range(0, len(framed), 16384):
                            http.send_data(stream, framed[at : at + 16384])
                    status = str(answer if isinstance(answer, int) else 0)
                    http.send_headers(stream, [("grpc-status", status)], end_stream=True)
            link.sendall(http.data_to_send())


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Handler], tuple[FakeRuntime, str]]]:
    made: list[FakeRuntime] = []

    def start(handler: Handler) -> tuple[FakeRuntime, str]:
        path = str(tmp_path / f"s{len(made)}")
        made.append(FakeRuntime(path, handler))
        return made[-1], path

    yield start
    for server in made:
        server.close()


def entry(key: str, value: str) -> bytes:
    return encode({1: key, 2: value})


def number(field: int, value: int) -> bytes:
    out = bytes([field << 3])
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


POD_LABELS = encode({12: entry("io.kubernetes.pod.name", "agent-0")}) + encode(
    {12: entry("io.kubernetes.pod.namespace", "prod")}
)
STATUS = (
    encode({1: "abc", 2: encode({1: "app"}) + number(2, 3)})
    + number(3, 1)
    + number(4, 1_700_000_000_000_000_000)
    + encode({8: encode({1: "ghcr.io/a/b:1"}), 9: "ghcr.io/a/b@sha256:" + "2" * 64})
    + POD_LABELS
    + encode({13: entry("io.hullwatch.role", "sidecar"), 14: b"", 15: "/log"})
)
POD = encode(
    {
        1: "pod1",
        2: encode({1: "agent-0", 2: "uid-1", 3: "prod"}),
        7: entry("app", "agent"),
        8: entry("kubectl.kubernetes.io/last-applied-configuration", "secret"),
    }
)


def cri(method: str, body: bytes, headers: dict[str, str]) -> bytes | int | None:
    if method == "/runtime.v1.RuntimeService/ContainerStatus":
        return encode({1: STATUS}) if b"abc" in body else 5
    if method == "/runtime.v1.RuntimeService/PodSandboxStatus":
        return encode({1: POD})
    return 12


def test_container_and_pod(serve: Callable[[Handler], tuple[FakeRuntime, str]]) -> None:
    _, path = serve(cri)
    runtime = RuntimeSocket(path, ME)
    facts = runtime.everything(Facts(source="disk", container_id="abc", sandbox_id="pod1"))
    assert facts is not None
    assert (facts.name, facts.image, facts.attempt) == ("app", "ghcr.io/a/b:1", 3)
    assert facts.image_digest == "sha256:" + "2" * 64
    assert (facts.pod, facts.namespace, facts.pod_uid) == ("agent-0", "prod", "uid-1")
    assert facts.pod_labels == {"app": "agent"} and facts.role == "sidecar"
    assert facts.start_ts == 1_700_000_000_000_000_000
    assert "secret" not in repr(facts)
    assert runtime.container("other") is None


def test_older_cri(serve: Callable[[Handler], tuple[FakeRuntime, str]]) -> None:
    def old(method: str, body: bytes, headers: dict[str, str]) -> bytes | int:
        return encode({1: STATUS}) if "v1alpha2" in method else 12

    _, path = serve(old)
    assert RuntimeSocket(path, ME).container("abc") is not None


def test_local_image_gets_its_digest_from_containerd(
    serve: Callable[[Handler], tuple[FakeRuntime, str]],
) -> None:
    seen: list[str] = []

    def native(method: str, body: bytes, headers: dict[str, str]) -> bytes | int:
        seen.append(headers.get("containerd-namespace", ""))
        if method.endswith("Containers/Get"):
            return encode({1: encode({1: "job", 3: "localhost/x:1", 5: b"\xff spec"})})
        if method.endswith("Images/Get"):
            target = encode({2: "sha256:" + "3" * 64})
            return encode({1: encode({1: "localhost/x:1", 3: target})})
        return 12

    _, path = serve(native)
    facts = RuntimeSocket(path, ME).everything(
        Facts(source="disk", container_id="job", containerd_namespace="default")
    )
    assert facts is not None
    assert (facts.image, facts.image_digest) == ("localhost/x:1", "sha256:" + "3" * 64)
    assert seen == ["default", "default"]


def test_reconnects_once(serve: Callable[[Handler], tuple[FakeRuntime, str]]) -> None:
    hang = [False]

    def sometimes(method: str, body: bytes, headers: dict[str, str]) -> bytes | int | None:
        if hang[0]:
            hang[0] = False
            return None
        return cri(method, body, headers)

    _, path = serve(sometimes)
    runtime = RuntimeSocket(path, ME)
    assert runtime.container("abc") is not None
    hang[0] = True
    assert runtime.container("abc") is not None


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x0a\x7f", None, 13, b"\x00" * 200])
def test_bad_answers_are_errors(
    serve: Callable[[Handler], tuple[FakeRuntime, str]], answer: bytes | int | None
) -> None:
    _, path = serve(lambda *_: answer)
    with pytest.raises(CallError):
        RuntimeSocket(path, ME, timeout=0.5).container("abc")


def test_silent_runtime_times_out(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with pytest.raises(CallError, match=r"in time|timed out"):
        RuntimeSocket(str(tmp_path / "s"), ME, timeout=0.1).container("abc")
    listener.close()


def test_answer_over_the_limit(
    serve: Callable[[Handler], tuple[FakeRuntime, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hullwatch.context.grpc_call._MAX_ANSWER", 10_000)
    _, path = serve(lambda *_: encode({1: b"x" * 30_000}))
    with pytest.raises(CallError, match="over"):
        RuntimeSocket(path, ME, timeout=2).container("abc")


def test_only_roots_sockets_are_believed(
    serve: Callable[[Handler], tuple[FakeRuntime, str]],
) -> None:
    _, path = serve(cri)
    with pytest.raises(CallError, match="not believed"):
        RuntimeSocket(path, (os.getuid() + 1,)).container("abc")


def test_sockets_ask_until_one_knows(
    serve: Callable[[Handler], tuple[FakeRuntime, str]], tmp_path: Path
) -> None:
    _, deaf = serve(lambda *_: 12)
    _, path = serve(cri)
    roots = Roots(sockets=(str(tmp_path / "none"), deaf, path), socket_owners=ME)
    sockets = Sockets(roots)
    found, problem = sockets.ask(Facts(source="disk", container_id="abc"), None)
    assert found is not None and problem == ""
    sockets.close()  # the fake talks to one at a time
    found, problem = Sockets(Roots(sockets=(deaf,), socket_owners=ME)).ask(
        Facts(source="disk", container_id="abc"), None
    )
    assert found is None and "does not know it" in problem


def test_negative_and_default_numbers() -> None:
    shape = Message({1: ("n", INT), 2: ("m", STR_MAP)})
    assert decode(shape, b"") == {"n": 0, "m": {}}
    assert decode(shape, b"\x08" + b"\xff" * 9 + b"\x01")["n"] == -1


@given(st.binary(max_size=300))
def test_decoder_raises_only_malformed(data: bytes) -> None:
    for shape in (_CONTAINER_STATUS, _SANDBOX_STATUS):
        with contextlib.suppress(Malformed):
            decode(shape, data)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 7), st.binary(max_size=40)), max_size=30)
)
def test_decoder_on_almost_messages(fields: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(
        bytes([field << 3 & 0xFF | wire, len(value)]) + value for field, wire, value in fields
    )
    with contextlib.suppress(Malformed):
        decode(_CONTAINER_STATUS, encode({1: data}))


@given(st.text(max_size=50), st.text(max_size=50))
def test_round_trip(key: str, value: str) -> None:
    shape = Message({7: ("labels", STR_MAP)})
    assert decode(shape, encode({7: encode({1: key, 2: value})})) == {"labels": {key: value}}
