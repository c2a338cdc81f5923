"""Plain bytes of TLS connections, read from real programs: all of them, each once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from hullwatch.sensor import tap
from hullwatch.sensor.programs import Programs, RingSizes
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.uprobes import Reading, Uprobes
from hullwatch.sensor.wire import TapWhat
from support.bundles import Mount
from support.peers import environments
from support.scratch import CACHE
from support.tls.server import Echo, Post, certificate, missing_openssl, serve
from support.watch import missing_bpf

HERE = Path(__file__).parents[1] / "support" / "tls"
MILLION = 1_000_000


class Piece(NamedTuple):
    """What one call passed; data: the first bytes of it."""

    pid: int
    conn: int
    received: bool
    length: int
    data: bytes


class Tap:
    """Hears all that passes in TLS, whatever it is."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.uprobes = Uprobes(programs.object.programs)
        self.tap = tap.Tap(programs, Spans(programs))

    def take(self, pid: int) -> list[Piece]:
        heard = []
        while pieces := list(self.tap.take()):
            heard += pieces
        return [
            Piece(one.tgid, one.stream, one.received, one.total, one.data)
            for one in heard
            if one.tgid == pid and one.what == TapWhat.DATA
        ]

    def close(self) -> None:
        self.uprobes.close()
        while list(self.tap.take()):
            pass


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """For all of them: to load takes longer than most tests."""
    if reason := missing_bpf():
        pytest.skip(reason)
    made = Programs(rings=RingSizes(tap=8 << 20), policy=False)
    made.set(tap=2, calls=1)
    yield made
    made.close()


@pytest.fixture(name="tap")
def _tap(programs: Programs) -> Iterator[Tap]:
    made = Tap(programs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    if reason := missing_openssl():
        pytest.skip(reason)
    return certificate(tmp_path_factory.mktemp("tls"))


def look_at_file(tap: Tap, path: Path | str) -> Reading:
    """Of a program that is not running: it is started under another name and held for a look."""
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdout and held.stdout.readline()
    reading = tap.uprobes.look(held.pid)
    held.communicate()
    return reading


# Maps a file's code as its program would.
_HOLD = """
import mmap, sys
file = open(sys.argv[1], "rb")
held = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
print("held", flush=True)
sys.stdin.read()
"""


def run(tap: Tap, command: Sequence[str | Path], **env: str) -> list[Piece]:
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return tap.take(process.pid)


def way(pieces: list[Piece], received: bool) -> list[Piece]:
    return [piece for piece in pieces if piece.received == received]


def text(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def check_posts(pieces: list[Piece]) -> None:
    """Two posts over HTTP/1.1, `a few words` and a million bytes, each answered with itself."""
    assert len({piece.conn for piece in pieces}) == 1
    sent, received = way(pieces, False), way(pieces, True)
    assert text(sent).count(b"POST / HTTP/1.1") == 2
    assert text(received).count(b"HTTP/1.1 200 OK") == 2
    assert text(sent).count(b"a few words") == text(received).count(b"a few words") == 1
    for one in (sent, received):
        heads = MILLION + len(b"a few words")
        assert heads < sum(piece.length for piece in one) < heads + 2000


def check_talk(pieces: list[Piece]) -> None:
    """What talk.py says, and hears again."""
    assert len({piece.conn for piece in pieces}) == 1
    for received in (False, True):
        one = way(pieces, received)
        assert one[0].data == b"first words" and one[-1].data == b"last words"
        assert sum(piece.length for piece in one) == MILLION + 21
        assert set(text(one[1:-1])) == {ord("x")}


@pytest.mark.parametrize("how", [pytest.param("socket", marks=pytest.mark.scenario), "memory"])
def test_python(tap, context, how, tmp_path):
    with serve(context, Echo) as port:
        process = subprocess.Popen(
            [sys.executable, HERE / "talk.py", how, str(port), tmp_path / "go"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout and process.stdout.readline()
        assert tap.uprobes.look(process.pid).state == "tapped"
        (tmp_path / "go").touch()
        process.communicate(timeout=60)
    assert process.returncode == 0
    check_talk(tap.take(process.pid))


def test_containers_of_one_image(tap, context, runc, python_image, tmp_path):
    """Their overlays have the same library: each is looked at, and read once."""
    shutil.copy(HERE / "talk.py", tmp_path)
    with serve(context, Echo) as port:
        started = [
            runc.start(
                ["python3", "/shared/talk.py", "socket", str(port), f"/shared/go-{name}"],
                name=name,
                image=python_image,
                mounts=[Mount(tmp_path, "/shared")],
                network="host",
            )
            for name in ("one", "two")
        ]
        for container in started:
            container.wait_for_output("ready")
            assert tap.uprobes.look(container.pid).kinds == ("OpenSSL",)
        for name, container in zip(("one", "two"), started, strict=True):
            pid = container.pid
            (tmp_path / f"go-{name}").touch()
            assert container.wait().status == 0
            check_talk(tap.take(pid))


def test_both_ends_in_one_process(tap, context, tmp_path):
    """The same bytes are seen of each end, as other connections."""
    program = """
import ssl, sys
server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
server.load_cert_chain(sys.argv[1], sys.argv[2])
client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
ends = client.wrap_bio(a, b), server.wrap_bio(b, a, server_side=True)
for end in ends * 4:
    try: end.do_handshake()
    except ssl.SSLWantReadError: pass
print(flush=True); sys.stdin.readline()
ends[0].write(b"question"); assert ends[1].read() == b"question"
try: ends[1].read()
except ssl.SSLWantReadError: pass
ends[1].write(b"answer"); assert ends[0].read() == b"answer"
"""
    certificate(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "cert.pem", tmp_path / "key.pem"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline()
    tap.uprobes.look(process.pid)
    process.communicate(b"\n", timeout=60)
    seen = [(piece.received, piece.data) for piece in tap.take(process.pid)]
    assert seen == [
        (False, b"question"),
        (True, b"question"),
        (False, b"answer"),
        (True, b"answer"),
    ]


def test_curl(tap, context, tmp_path):
    if (curl := shutil.which("curl")) is None:
        pytest.skip("needs curl: apt-get install curl")
    assert look_at_file(tap, _libraries(curl, "libssl")).kinds == ("OpenSSL",)
    (tmp_path / "body").write_bytes(b"x" * MILLION)
    words = ["--http1.1", "-sk", "-H", "Expect:", "-o", "/dev/null"]
    with serve(context, Post) as port:
        url = f"https://127.0.0.1:{port}/"
        first = [*words, "-d", "a few words", url]
        second = [*words, "--data-binary", f"@{tmp_path}/body", url]
        check_posts(run(tap, [curl, *first, "--next", *second]))


def _libraries(program: str | Path, name: str) -> str:
    """The path of the library of this name that a program is linked to."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in lines.splitlines():
        if name in line:
            return line.split()[2]
    pytest.skip(f"{program} is not linked to {name}")


def test_node(tap, context):
    node = environments.NODE if environments.NODE.exists() else shutil.which("node")
    if node is None:
        pytest.skip("needs node: make peers")
    assert look_at_file(tap, node).state == "tapped"
    with serve(context, Post) as port:
        script = HERE / "post.js"
        check_posts(run(tap, [node, script, f"https://127.0.0.1:{port}/", "a few words"]))


@pytest.fixture(scope="module")
def go_programs(tmp_path_factory):
    """The programs of tests/support/tls, stripped; kept between runs, for the VMs' sake."""
    if shutil.which("go") is None:
        pytest.skip("needs Go: apt-get install golang-go")
    sources = [HERE / "post.go", HERE / "stack.go"]
    version = subprocess.run(["go", "version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + b"".join(one.read_bytes() for one in sources)).hexdigest()
    folder = CACHE.with_name("tls") / digest[:16]
    cache = str(tmp_path_factory.mktemp("go"))
    env = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": cache, "GOFLAGS": ""}
    for source in sources:
        if not (folder / source.stem).exists():
            command = ["go", "build", "-ldflags=-s -w", "-o", folder / source.stem, source]
            subprocess.run(command, env=env, check=True, timeout=600)
    return folder


@pytest.mark.scenario
def test_go(tap, context, go_programs):
    program = go_programs / "post"
    assert look_at_file(tap, program).kinds == ("Go",)
    with serve(context, Post) as port:
        check_posts(run(tap, [program, f"https://127.0.0.1:{port}/", "a few words"]))


def test_go_reads_into_a_stack_that_moves(tap, context, go_programs):
    look_at_file(tap, go_programs / "stack")
    with serve(context, Echo) as port:
        pieces = run(tap, [go_programs / "stack", f"127.0.0.1:{port}"])
    assert [(piece.received, piece.data) for piece in pieces] == [
        (False, b"on the stack"),
        (True, b"on the stack"),
    ]


def test_gnutls(tap, context):
    library = Path("/usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4")
    if not library.exists():
        pytest.skip("needs libcurl-gnutls: apt-get install libcurl3-gnutls")
    program = """
import ctypes, sys
curl = ctypes.CDLL("libcurl-gnutls.so.4")
curl.curl_easy_init.restype = ctypes.c_void_p
curl.curl_easy_perform.argtypes = [ctypes.c_void_p]
URL, FIELDS, SIZE, PEER, HOST = 10002, 10015, 60, 64, 81
handle = curl.curl_easy_init()
def option(name, value):
    kind = ctypes.c_long if isinstance(value, int) else ctypes.c_char_p
    curl.curl_easy_setopt(ctypes.c_void_p(handle), name, kind(value))
for body in (b"a few words", b"x" * 1000000):
    option(URL, sys.argv[1].encode()); option(PEER, 0); option(HOST, 0)
    option(SIZE, len(body)); option(FIELDS, body)
    assert curl.curl_easy_perform(handle) == 0
"""
    assert look_at_file(tap, _libraries(library, "libgnutls")).kinds == ("GnuTLS",)
    with serve(context, Post) as port:
        url = f"https://127.0.0.1:{port}/"
        check_posts(run(tap, [sys.executable, "-c", program, url]))


CALLED = [
    (False, b"whole"),
    (False, b"only twenty of these"),
    (False, b"retried"),
    (False, b"written"),
    (False, b"again"),
    (True, b"answer"),
    (True, b"answer"),
    (False, b"tunnel:inner"),
    (False, b"inner"),
    (True, b"answer"),
    (True, b"answer"),
    (False, b"last"),
]


@pytest.fixture
def calls(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    subprocess.run(["cc", "-O1", HERE / "calls.c", "-o", tmp_path / "calls"], check=True)
    return tmp_path / "calls"


@pytest.mark.scenario
def test_each_way_to_call(tap, calls):
    """Retries, part of a write, calls within calls, calls left by longjmp; all under seccomp."""
    assert look_at_file(tap, calls).kinds == ("OpenSSL",)
    assert [(piece.received, piece.data) for piece in run(tap, [calls])] == CALLED


def test_a_file_that_is_probed_twice_is_read_once(tap, calls, go_programs, context):
    """As of two containers, whose overlays have the same lower file."""
    other = Uprobes(tap.programs.object.programs)
    try:
        look_at_file(tap, calls)
        look_at_file(tap, go_programs / "post")
        tap.uprobes, first = other, tap.uprobes
        look_at_file(tap, calls)
        look_at_file(tap, go_programs / "post")
        tap.uprobes = first
        assert other.counts() == first.counts()
        assert [(piece.received, piece.data) for piece in run(tap, [calls])] == CALLED
        with serve(context, Post) as port:
            check_posts(
                run(tap, [go_programs / "post", f"https://127.0.0.1:{port}/", "a few words"])
            )
    finally:
        other.close()


def test_probes_make_room_when_nothing_uses_the_file(tap, calls, tmp_path):
    tap.uprobes.close()
    tap.uprobes = Uprobes(tap.programs.object.programs, files=2)
    held = []
    for name in ("one", "two", "three"):
        shutil.copy(calls, tmp_path / name)
        held.append(
            subprocess.Popen(
                [sys.executable, "-c", _HOLD, tmp_path / name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert held[-1].stdout and held[-1].stdout.readline()
    assert [tap.uprobes.look(one.pid).state for one in held] == ["tapped", "tapped", "opaque"]
    assert tap.uprobes.failures() == {"not hooked, as many other files are": 1}
    held[1].communicate()
    assert tap.uprobes.look(held[2].pid).state == "tapped"
    assert tap.uprobes.counts()["files"] == 2
    assert run(tap, [tmp_path / "one"]) and run(tap, [tmp_path / "three"])
    assert run(tap, [tmp_path / "two"]) == []
    for one in (held[0], held[2]):
        one.communicate()
