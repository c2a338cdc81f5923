"""Who is cut off from the network is told so at once; open connections fall silent; nobody else."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hullwatch.sensor.tier import cgroup2_root
from support.watch import Watch

pytestmark = pytest.mark.scenario


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """One with another inside it."""
    root = cgroup2_root()
    assert root is not None
    outer = Path(root) / f"hwtest-cut-{os.getpid()}"
    (outer / "inner").mkdir(parents=True)
    yield outer
    (outer / "inner").rmdir()
    outer.rmdir()


def within(cgroup: Path, act: Callable[[], str]) -> str:
    """What a process says that was put there first."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            said = act()
        except BaseException as error:
            said = repr(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


@pytest.mark.parametrize("inside", ["", "inner"])
def test_nothing_goes_out_and_it_is_said_at_once(watch: Watch, cgroup: Path, inside: str):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.bind(("127.0.0.1", 0))
        tcp, udp = server.getsockname(), other.getsockname()

        def acts() -> str:
            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
                    mine.sendto(b"out", udp)

            def connect() -> None:
                socket.create_connection(tcp, timeout=5).close()

            return f"{attempt(connect)} {attempt(send)}"

        assert within(cgroup / inside, acts) == "done done"
        assert watch.sensor.cut.hold([cgroup.stat().st_ino]) == {cgroup.stat().st_ino}
        assert within(cgroup / inside, acts) == "EPERM EPERM"
        socket.create_connection(tcp, timeout=5).close()  # nobody else is
        watch.sensor.cut.hold([])
        assert within(cgroup / inside, acts) == "done done"


def test_an_open_connection_falls_silent_until_it_is_let_go(watch: Watch, cgroup: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        go, ready = os.pipe()

        def acts() -> str:
            with socket.create_connection(server.getsockname(), timeout=5) as mine:
                mine.sendall(b"before")
                assert os.read(go, 1)  # cut off from here on
                mine.sendall(b"after")
                return "sent"

        if (pid := os.fork()) == 0:
            said = within(cgroup, acts)
            os._exit(0 if said == "sent" else 1)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(10)
            assert accepted.recv(100) == b"before"
            watch.sensor.cut.hold([cgroup.stat().st_ino])
            os.write(ready, b"x")
            accepted.settimeout(1)
            with pytest.raises(TimeoutError):
                accepted.recv(100)
            watch.sensor.cut.hold([])
            accepted.settimeout(30)  # the kernel tries again by itself
            assert accepted.recv(100) == b"after"
        assert os.waitpid(pid, 0)[1] == 0
