"""Which files have probes, with the kernel's side played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hullwatch.sensor import uprobes
from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.tlsfiles import FileKey, Found, Hook
from hullwatch.sensor.uprobes import Reading, Uprobes, returns_are_safe

OPENSSL = Found(("OpenSSL",), (Hook("tls_read", 16), Hook("tls_return", 16, True)))
RUSTLS = Found(opaque="rustls: no names")


def key(inode: int) -> FileKey:
    return FileKey(1, inode, 0, 100)


class Attached:
    """A program, and its links: where it is attached."""

    def __init__(self, refuse: int | None = None) -> None:
        self.at: list[int] = []
        self.refuse = refuse

    def attach_uprobe(self, path: str, offset: int, at_return: bool) -> _Link:
        if offset == self.refuse:
            raise BpfError(22, "attach")
        self.at.append(offset)
        return _Link(self, offset)


class _Link:
    def __init__(self, program: Attached, offset: int) -> None:
        self.program, self.offset = program, offset

    def close(self) -> None:
        self.program.at.remove(self.offset)


class Files:
    """Played files: pid -> what it maps."""

    examined, unreadable = 0, {"cut short": 2}

    def __init__(self, **maps: object) -> None:
        self.maps: dict[int, list[tuple[FileKey, Found]]] = {}

    def of(self, pid: int) -> Iterator[tuple[FileKey, Found, str]]:
        for each, found in self.maps.get(pid, []):
            yield each, found, "/proc/self/fd/0"


@pytest.fixture
def played(monkeypatch):
    files = Files()
    monkeypatch.setattr(uprobes, "TlsFiles", lambda: files)
    alive: set[str] = set()
    monkeypatch.setattr(uprobes.os.path, "exists", lambda path: path in alive)
    files.alive = alive
    return files


def made(refuse: int | None = None, **bounds: int) -> tuple[Uprobes, dict[str, Attached]]:
    programs = {"tls_read": Attached(refuse), "tls_return": Attached(refuse)}
    return Uprobes(programs, **bounds), programs


def test_a_file_is_hooked_once(played):
    probes, programs = made()
    played.maps = {1: [(key(1), OPENSSL)], 2: [(key(1), OPENSSL), (key(2), RUSTLS)]}
    assert probes.look(1) == Reading("tapped", ("OpenSSL",), ())
    assert probes.look(2) == Reading("tapped", ("OpenSSL",), ("rustls: no names",))
    assert programs["tls_read"].at == programs["tls_return"].at == [16]
    assert probes.look(3) == Reading()
    probes.close()
    assert programs["tls_read"].at == programs["tls_return"].at == []


def test_only_opaque(played):
    probes, _ = made()
    played.maps = {1: [(key(2), RUSTLS)]}
    assert probes.look(1) == Reading("opaque", (), ("rustls: no names",))
    assert probes.look(2) == Reading()


def test_all_hooks_or_none(played):
    probes, programs = made(refuse=32)
    broken = Found(("OpenSSL",), (Hook("tls_read", 16), Hook("tls_return", 32, True)))
    played.maps = {1: [(key(1), broken)]}
    for _ in range(2):
        reading = probes.look(1)
        assert reading == Reading("opaque", (), ("OpenSSL: not hooked: Invalid argument",))
    assert programs["tls_read"].at == []
    assert probes.failures() == {"not hooked: Invalid argument": 1, "cut short": 2}


@pytest.mark.parametrize("bounds", [{"files": 2}, {"probes": 5}])
def test_room(played, bounds):
    probes, _ = made(**bounds)
    for pid in (1, 2, 3):
        played.maps[pid] = [(key(pid), OPENSSL)]
    played.alive |= {"/proc/1", "/proc/2", "/proc/3"}
    assert [probes.look(pid).state for pid in (1, 2, 3)] == ["tapped", "tapped", "opaque"]
    assert probes.failures()["not hooked, as many other files are"] == 1
    probes.ended(2)
    assert probes.look(3).state == "tapped"
    assert probes.counts()["files"] == 2
    # The first has another program now, which does not use the file.
    played.maps[1] = []
    probes.look(1)
    assert probes.look(2).state == "tapped"


@pytest.mark.parametrize(
    ("release", "safe"),
    [
        ("6.1.0-56-amd64", True),
        ("6.10.14", True),
        ("6.11.0-26-generic", False),
        ("6.12.13", False),
        ("6.12.14", True),
        ("6.12.117+deb12-amd64", True),
        ("6.13.9", False),
        ("6.14.0", True),
        ("7.0-rc1", True),
    ],
)
def test_kernels_whose_return_probes_end_programs(played, monkeypatch, release, safe):
    assert returns_are_safe(release, "x86_64") == safe
    assert returns_are_safe(release, "aarch64")
    system = type("", (), {"release": release, "machine": "x86_64"})
    monkeypatch.setattr(uprobes.os, "uname", lambda: system)
    probes, programs = made()
    programs["go_read"] = programs["tls_read"]
    go = Found(("Go",), (Hook("go_read", 8),))
    played.maps = {1: [(key(1), OPENSSL)], 2: [(key(2), go)]}
    assert probes.look(1).state == ("tapped" if safe else "opaque")
    assert probes.look(2).state == "tapped"
