"""Ways around the usual system calls: io_uring, and 32-bit calls from a 64-bit program."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hullwatch.sensor.wire import Mark
from support.watch import Child, Watch

pytestmark = pytest.mark.scenario

SOURCE = Path(__file__).parents[1] / "support" / "raw_calls.c"
IO_OPENAT = 18


@pytest.fixture(scope="module")
def raw_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that makes such calls, see its head for how."""
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs clang: apt-get install clang")
    program = tmp_path_factory.mktemp("raw") / "raw_calls"
    subprocess.run([compiler, "-O1", "-w", "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path.resolve()


def uring(watch: Watch, program: Path, *words: str | Path) -> Child:
    """Run one io_uring operation; skips where the kernel has none."""
    child = watch.run([str(program), "uring", *map(str, words)])
    if child.status == 77:
        pytest.skip(f"no io_uring here: {child.result.decode().strip()}")
    assert child.status == 0
    return child


def test_ring_set_up(watch: Watch, raw_calls: Path, folder: Path):
    child = uring(watch, raw_calls, "mkdir", folder / "x")
    setup = child.event("io_uring", op="io_uring_setup")
    assert setup.num == 8 and setup.ret > 2


@pytest.mark.parametrize("how", ["open", "quiet-open"])
def test_open(watch: Watch, raw_calls: Path, folder: Path, how: str):
    child = uring(watch, raw_calls, how, folder / "file")
    attempt = child.event("io_uring", num=IO_OPENAT)
    assert attempt.obj == str(folder / "file")
    assert attempt.marks & Mark.IO_URING and attempt.marks & Mark.ATTEMPT
    assert (folder / "file").exists()
    if how == "quiet-open" and not watch.lsm:
        return  # no completion, so the attempt is all that a tracepoint sees
    event = child.event("open", obj=str(folder / "file"))
    assert event.marks & Mark.IO_URING and event.marks & Mark.CREATED
    assert event.flags & os.O_ACCMODE == os.O_RDWR
    assert event.num == (folder / "file").stat().st_ino
    if not watch.lsm:
        assert event.ret == int(child.result)


def test_calls_on_names(watch: Watch, raw_calls: Path, folder: Path):
    (folder / "a").write_text("x")
    for words in (
        ("rename", folder / "a", folder / "b"),
        ("link", folder / "b", folder / "c"),
        ("symlink", "../target", folder / "d"),
        ("unlink", folder / "c"),
        ("mkdir", folder / "e"),
        ("rmdir", folder / "e"),
    ):
        child = uring(watch, raw_calls, *words)
        event = child.event(words[0])
        assert event.marks & Mark.IO_URING and event.marks & Mark.ATTEMPT
        assert bool(event.marks & Mark.RAW_PATH) == (not watch.lsm)
        assert [t for t in (event.obj, event.obj2) if t] == [str(w) for w in words[1:]]
    assert sorted(p.name for p in folder.iterdir()) == ["b", "d"]


def test_directory_renamed_through_a_ring(watch: Watch, raw_calls: Path, folder: Path):
    (folder / "old").mkdir()
    (folder / "old" / "file").write_text("x")
    watch.act(lambda: os.open(folder / "old" / "file", os.O_RDONLY))
    uring(watch, raw_calls, "rename", folder / "old", folder / "new")
    child = watch.act(lambda: os.open(folder / "new" / "file", os.O_RDONLY))
    child.event("open", obj=str(folder / "new" / "file"))


def test_connect_and_accept(watch: Watch, raw_calls: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = uring(watch, raw_calls, "connect", str(port))
        assert int(child.result) == 0
        event = child.event("connect")
        accepted, (_, client_port) = server.accept()
        accepted.close()
    assert (event.obj, event.obj2, event.port) == (f"127.0.0.1:{port}", "127.0.0.1", client_port)
    assert event.marks & Mark.IO_URING and event.ret == 0
    flow = watch.expect("flow", proc=child.proc, obj=f"127.0.0.1:{port}")
    assert flow.port == client_port
    child = uring(watch, raw_calls, "accept", "-")
    port, fd = map(int, child.result.split())
    event = child.event("accept")
    assert (event.obj, event.ret) == (f"127.0.0.1:{port}", fd)
    assert event.marks & Mark.IO_URING


def known(child: Child, since: str) -> int:
    """The operation's result; skips where the kernel does not know the operation."""
    result = int(child.result.split()[-1])
    if result == -errno.EINVAL:
        pytest.skip(f"needs Linux {since}: io_uring has no such operation here")
    return result


def test_connect_that_fails(watch: Watch, raw_calls: Path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # and does not listen
        port = server.getsockname()[1]
        child = uring(watch, raw_calls, "connect", str(port))
    assert int(child.result) == -errno.ECONNREFUSED
    event = child.event("connect")
    assert (event.obj, event.ret) == (f"127.0.0.1:{port}", -errno.ECONNREFUSED)
    assert event.marks & Mark.IO_URING and event.marks & Mark.RAW_PATH


def test_connect_to_a_unix_socket(watch: Watch, raw_calls: Path, folder: Path):
    path = folder / "runtime.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        child = uring(watch, raw_calls, "connect-unix", path)
    assert int(child.result) == 0
    event = child.event("connect")
    assert (event.obj, event.ret, event.flags >> 16) == (str(path), 0, socket.AF_UNIX)
    assert event.marks & Mark.IO_URING


@pytest.mark.parametrize("how", ["sendmsg", "send", "send-zc", "send-connected", "send-registered"])
def test_datagram(watch: Watch, raw_calls: Path, how: str):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        child = uring(watch, raw_calls, how, str(port))
        assert known(child, "6.1") == 12 and len(server.recv(100)) == 12
    event = child.event("send")
    assert event.obj == f"127.0.0.1:{port}"
    assert event.op == ("sendmsg" if how == "sendmsg" else "sendto")
    assert event.marks & Mark.IO_URING and event.marks & Mark.ATTEMPT
    assert event.flags >> 16 == socket.AF_INET
    # A registered file is looked up only later, so what kind of socket it is cannot be told.
    kind = 0 if how == "send-registered" else socket.SOCK_DGRAM
    assert event.flags >> 8 & 0xFF == kind


def test_bind(watch: Watch, raw_calls: Path):
    child = uring(watch, raw_calls, "bind", "0")
    assert known(child, "6.11") == 0
    event = child.event("bind")
    address, _, port = event.obj.rpartition(":")
    assert address == "127.0.0.1" and int(port) > 0, "the port that the kernel chose"
    assert (event.op, event.ret, event.marks) == ("bind", 0, Mark.IO_URING)


def test_bind_that_fails(watch: Watch, raw_calls: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = uring(watch, raw_calls, "bind", str(port))
    assert known(child, "6.11") == -errno.EADDRINUSE
    event = child.event("bind")
    assert (event.obj, event.ret) == ("", -errno.EADDRINUSE)
    assert event.marks == Mark.IO_URING | Mark.UNREADABLE


def test_bind_of_a_unix_socket(watch: Watch, raw_calls: Path, folder: Path):
    child = uring(watch, raw_calls, "bind-unix", folder / "made.sock")
    assert known(child, "6.11") == 0
    event = child.event("bind")
    assert (event.obj, event.ret) == (str(folder / "made.sock"), 0)


def test_listen(watch: Watch, raw_calls: Path):
    child = uring(watch, raw_calls, "listen", "7")
    assert known(child, "6.11") == 0
    event = child.event("listen")
    assert event.obj == f"127.0.0.1:{int(child.result.split()[0])}"
    assert (event.op, event.ret, event.num, event.marks) == ("listen", 0, 7, Mark.IO_URING)


def test_unusual_socket(watch: Watch, raw_calls: Path):
    child = uring(watch, raw_calls, "socket", str(socket.AF_PACKET), str(socket.SOCK_RAW))
    fd = known(child, "5.19")
    event = child.event("socket", flags=socket.AF_PACKET << 16 | socket.SOCK_RAW << 8)
    assert (event.op, event.ret, event.marks) == ("socket", fd, Mark.IO_URING)


def test_open_that_fails(watch: Watch, raw_calls: Path, folder: Path):
    child = uring(watch, raw_calls, "open-old", folder / "missing")
    assert int(child.result) == -errno.ENOENT
    child.event("io_uring", num=IO_OPENAT, obj=str(folder / "missing"))
    event = child.event("open", obj=str(folder / "missing"))
    assert (event.op, event.ret) == ("openat", -errno.ENOENT)
    assert event.flags & os.O_ACCMODE == os.O_WRONLY
    assert event.marks & Mark.IO_URING and event.marks & Mark.RAW_PATH
    assert not event.marks & Mark.ATTEMPT


# -- 32-bit calls -----------------------------------------------------------------------------

ia32 = pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86's")


def int80(watch: Watch, program: Path, *words: object) -> Child:
    child = watch.run([str(program), "int80", *map(str, words)])
    if child.status < 0:
        pytest.skip("the kernel has no 32-bit emulation (CONFIG_IA32_EMULATION)")
    assert child.status == 0
    return child


@ia32
def test_32_bit_open(watch: Watch, raw_calls: Path, folder: Path):
    path = folder / "file"
    path.write_text("x")
    for number, words, op in (
        (5, (path, 0), "open"),
        (295, (-100, path, 0), "openat"),
        (8, (path, 0o600), "creat"),
    ):
        child = int80(watch, raw_calls, number, *words)
        event = child.event("open", obj=str(path))
        assert event.op == op and event.marks & Mark.COMPAT
        if not watch.lsm:
            assert event.ret == int(child.result)
    failed = int80(watch, raw_calls, 5, folder / "missing", 0)
    event = failed.event("open", obj=str(folder / "missing"))
    assert event.ret == -2 and event.marks & Mark.COMPAT


@ia32
def test_32_bit_calls_on_names(watch: Watch, raw_calls: Path, folder: Path):
    (folder / "a").write_text("x")
    renamed = int80(watch, raw_calls, 38, folder / "a", folder / "b").event("rename")
    assert (renamed.obj, renamed.obj2) == (str(folder / "a"), str(folder / "b"))
    assert renamed.marks & Mark.COMPAT
    mode = int80(watch, raw_calls, 15, folder / "b", 0o755).event("chmod")
    assert mode.obj == str(folder / "b") and mode.flags & 0o7777 == 0o755
    unlinked = int80(watch, raw_calls, 10, folder / "b").event("unlink")
    assert unlinked.obj == str(folder / "b") and unlinked.marks & Mark.COMPAT


@ia32
def test_32_bit_sensitive_calls(watch: Watch, raw_calls: Path):
    event = int80(watch, raw_calls, 213, 4321).event("setid")  # setuid32
    assert (event.op, event.num, event.flags) == ("setuid", 4321, 4321)
    assert event.marks & Mark.COMPAT
    event = int80(watch, raw_calls, 310, 0x4000000).event("unshare")
    assert event.flags == 0x4000000 and event.marks & Mark.COMPAT
    event = int80(watch, raw_calls, 356, "hidden", 0).event("memfd")
    assert event.obj == "hidden" and event.marks & Mark.COMPAT


@ia32
def test_32_bit_exec(watch: Watch, raw_calls: Path):
    program = os.path.realpath(shutil.which("true") or "/bin/true")
    child = int80(watch, raw_calls, 11, program)
    assert [(e.obj, e.op) for e in child.events("exec")][-1] == (program, "execve")


@ia32
def test_32_bit_exec_that_fails(watch: Watch, raw_calls: Path, folder: Path):
    child = int80(watch, raw_calls, 11, folder / "missing", 0)
    assert int(child.result) == -errno.ENOENT
    event = child.event("exec_failed")
    assert (event.obj, event.op, event.ret) == (str(folder / "missing"), "execve", -errno.ENOENT)
    assert event.marks == Mark.COMPAT | Mark.RAW_PATH
    child = int80(watch, raw_calls, 358, -100, folder / "missing", 0)
    assert child.event("exec_failed", op="execveat").obj == str(folder / "missing")


@ia32
def test_32_bit_number_is_not_taken_for_a_native_one(watch: Watch, raw_calls: Path):
    """20 is getpid for 32 bit and writev for 64; 41 is dup and socket."""
    child = int80(watch, raw_calls, 41, 0)
    assert not child.events("socket")


@ia32
@pytest.mark.parametrize("by_socketcall", [False, True])
def test_32_bit_connect(watch: Watch, raw_calls: Path, by_socketcall: bool):
    """socketcall(2) multiplexes what the 64-bit ABI has as calls of their own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = watch.run([str(raw_calls), "connect32", str(port), str(int(by_socketcall))])
    assert child.status == 0, "the call failed"
    event = child.event("connect")
    assert (event.obj, event.ret) == (f"127.0.0.1:{port}", 0)
    assert event.marks & Mark.COMPAT
