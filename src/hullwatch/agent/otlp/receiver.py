"""The OTLP receiver: one thread, any number of addresses, HTTP/1.1 and gRPC on each of them.

Calls are handed over through a bounded queue that `take` empties: whoever watches never waits for
this thread. Everything is bounded, and what is refused or lost is counted (`stats`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hullwatch.agent.otlp.http1 import Http1
from hullwatch.agent.otlp.intake import Answer, Intake, Request
from hullwatch.agent.otlp.received import Peer, Received
from hullwatch.agent.otlp.span import Limits

__all__ = ["DEFAULT_ADDRESSES", "Address", "Bounds", "Receiver", "ReceiverError", "parse_address"]

DEFAULT_ADDRESSES = ("127.0.0.1:4318", "127.0.0.1:4317")
_UCRED = struct.Struct("3i")
_READ = 65536
_PREFACE = b"PRI * HTTP/2.0"  # RFC 9113, 3.4
_TURN = 0.5  # s between looks at what is late
_UNIX_PATH = 107  # bytes of sun_path


class ReceiverError(Exception):
    """It cannot listen: where, what, mend."""


class Bounds(NamedTuple):
    """request: seconds from its first byte to its last; idle: seconds without one; held: bytes of
    unfinished requests of all connections; unsent: bytes of answers that one peer does not read;
    queue: calls that wait to be taken."""

    connections: int = 64
    request: float = 10.0
    idle: float = 300.0
    held: int = 32 << 20
    unsent: int = 256 << 10
    queue: int = 4096


class Address(NamedTuple):
    """path: of a Unix socket; else host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"

    @property
    def local(self) -> bool:
        """Only this machine's processes (of the host's network namespace, for TCP) reach it."""
        return bool(self.path) or self.host in ("::1", "localhost") or self.host[:4] == "127."


def parse_address(text: str) -> Address:
    """HOST:PORT, [HOST]:PORT or unix:/PATH. Raises ReceiverError."""
    kind, _, path = text.partition(":")
    if kind == "unix":
        if not path.startswith("/") or len(os.fsencode(path)) > _UNIX_PATH:
            raise ReceiverError(
                f"{text}: give an absolute path of at most {_UNIX_PATH} bytes after unix:"
            )
        return Address(path=path)
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ReceiverError(f"{text}: give HOST:PORT, [HOST]:PORT or unix:/PATH")
    if ":" in bare and host == bare:
        raise ReceiverError(f"{text}: put an IPv6 address in brackets: [{bare}]:{port}")
    return Address(host=bare, port=int(port))


class _Machine(Protocol):
    """http1.Http1 or grpc.Grpc."""

    closing: bool

    @property
    def held(self) -> int: ...
    @property
    def pending(self) -> bool: ...
    def receive(self, data: bytes) -> list[Request]: ...
    def late(self) -> list[Request]: ...
    def answer(self, request: Request, answer: Answer) -> None: ...
    def take(self) -> bytes: ...


class _Link:
    """A connection. machine: None until its first bytes have said which protocol it is."""

    def __init__(self, sock: socket.socket, peer: Peer, now: float) -> None:
        self.sock = sock
        self.peer = peer
        self.machine: _Machine | None = None
        self.first = b""
        self.unsent = bytearray()
        self.heard = now
        self.began: float | None = now  # of the unfinished request; a silent one is unfinished
        self.leaving = False  # nothing more is read from it but to throw it away

    @property
    def held(self) -> int:
        return len(self.first) + len(self.unsent) + (self.machine.held if self.machine else 0)


class Receiver:
    """Listens from construction (ReceiverError) until `close`.

    mode: of a Unix socket; who may write to it may tell of calls, and is known by its credentials.
    """

    def __init__(
        self,
        addresses: Iterable[str] = DEFAULT_ADDRESSES,
        *,
        limits: Limits = Limits(),
        bounds: Bounds = Bounds(),
        spans: float = 2000.0,
        cpu: float = 0.05,
        mode: int = 0o666,
    ) -> None:
        self._bounds = bounds
        self._limits = limits
        self._intake = Intake(self._put, limits, spans, cpu)
        self._counts = self._intake.counts
        self._queue: deque[Received] = deque()
        self._links: dict[int, _Link] = {}
        self._paths: list[tuple[Path, int]] = []
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._running = True
        self.addresses: list[Address] = []
        """Where it listens, with the ports that the kernel chose."""
        try:
            for address in map(parse_address, addresses):
                self._listen(address, mode)
        except BaseException:
            self._release()
            raise
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="otlp", daemon=True)
        self._thread.start()

    def take(self, most: int = 1024) -> list[Received]:
        """What came since, in order. From any one thread; never waits."""
        taken: list[Received] = []
        while len(taken) < most:
            try:
                taken.append(self._queue.popleft())
            except IndexError:
                break
        return taken

    def stats(self) -> dict[str, Any]:
        """Counts since the start, for `status`."""
        return {
            "addresses": [str(address) for address in self.addresses],
            "connections": len(self._links),
            "waiting": len(self._queue),
            **dict(sorted(dict(self._counts).items())),
        }

    def close(self) -> None:
        self._running = False
        with contextlib.suppress(OSError):
            os.write(self._wake_out, b"x")
        self._thread.join(5)
        for link in list(self._links.values()):
            self._drop(link)
        self._release()
        os.close(self._wake_in)
        os.close(self._wake_out)

    # --- listening ------------------------------------------------------------------------

    def _listen(self, address: Address, mode: int) -> None:
        try:
            if address.path:
                listener = self._listen_unix(Path(address.path), mode)
            else:
                family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
                listener = socket.create_server((address.host, address.port), family=family)
        except OSError as error:
            raise ReceiverError(
                f"OTLP receiver: {address}: {os.strerror(error.errno) if error.errno else error};"
                " give another address, or end what listens there"
            ) from None
        listener.setblocking(False)
        self._listeners.append(listener)
        self.addresses.append(_address_of(listener))
        self._selector.register(listener, selectors.EVENT_READ)

    def _listen_unix(self, path: Path, mode: int) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ReceiverError(f"OTLP receiver: {path} is there and no socket; remove it")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ReceiverError(f"OTLP receiver: {path}: another process listens there")
            path.unlink()  # left by an agent that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(mode)
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        self._paths.append((path, path.stat().st_ino))
        return listener

    def _release(self) -> None:
        self._selector.close()
        for listener in self._listeners:
            listener.close()
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # not a successor's
                    path.unlink()

    # --- the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        due = time.monotonic() + _TURN
        while self._running:
            for key, mask in self._selector.select(_TURN):
                link = key.data
                if isinstance(link, _Link):
                    self._guard(link, partial(self._turn, link, mask))
                elif isinstance(key.fileobj, socket.socket):
                    self._accept(key.fileobj)
            if (now := time.monotonic()) >= due:
                due = now + _TURN
                for link in list(self._links.values()):
                    self._guard(link, partial(self._look_if_late, link, now))

    def _put(self, calls: list[Received]) -> int:
        room = max(self._bounds.queue - len(self._queue), 0)
        self._queue.extend(calls[:room])
        return len(calls) - len(calls[:room])

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._counts["connections_refused"] += 1
                time.sleep(_TURN)  # it stays readable, and there is nothing to do about it
            return
        sock.setblocking(False)
        now = time.monotonic()
        if len(self._links) >= self._bounds.connections and not self._make_room():
            self._counts["connections_refused"] += 1
            sock.close()
            return
        link = _Link(sock, _peer(sock), now)
        self._links[sock.fileno()] = link
        self._selector.register(sock, selectors.EVENT_READ, link)
        self._counts["connections_accepted"] += 1

    def _make_room(self) -> bool:
        """Whoever has been quiet for longest, between two requests, goes: it comes again."""
        quiet = [link for link in self._links.values() if link.began is None and not link.unsent]
        if not quiet:
            return False
        self._counts["connections_displaced"] += 1
        self._drop(min(quiet, key=lambda link: link.heard))
        return True

    def _turn(self, link: _Link, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            self._read(link)
        if mask & selectors.EVENT_WRITE and link.sock.fileno() >= 0:
            self._send(link)

    def _guard(self, link: _Link, work: Callable[[], None]) -> None:
        """One peer's bytes must not end the others' receiver."""
        try:
            work()
        except Exception as error:
            self._counts[f"faults_{type(error).__name__}"] += 1
            self._drop(link)

    def _read(self, link: _Link) -> None:
        try:
            data = link.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(link)
            return
        if link.leaving:
            return
        now = link.heard = time.monotonic()
        self._counts["bytes"] += len(data)
        machine = link.machine
        if machine is None:
            link.first += data
            machine = link.machine = self._machine(link.first)
            if machine is None:
                return
            data, link.first = link.first, b""
        requests = machine.receive(data)
        self._answer(link, machine, requests, now)
        if not machine.pending:
            link.began = None
        elif requests or link.began is None:
            link.began = now
        if machine.held and sum(one.held for one in self._links.values()) > self._bounds.held:
            self._counts["connections_crowded"] += 1
            self._drop(max(self._links.values(), key=lambda one: one.held))

    def _machine(self, first: bytes) -> _Machine | None:
        """The protocol, as soon as it can be told."""
        if len(first) < len(_PREFACE) and _PREFACE.startswith(first):
            return None
        if not first.startswith(_PREFACE):
            return Http1(self._limits)
        from hullwatch.agent.otlp.grpc import Grpc

        return Grpc(self._limits)

    def _answer(self, link: _Link, machine: _Machine, requests: list[Request], now: float) -> None:
        for request in requests:
            machine.answer(request, self._intake.take(request, link.peer, now))
        link.unsent += machine.take()
        self._send(link)

    def _send(self, link: _Link) -> None:
        try:
            while link.unsent:
                del link.unsent[: link.sock.send(link.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(link)
            return
        if len(link.unsent) > self._bounds.unsent:
            self._counts["connections_deaf"] += 1
            self._drop(link)
            return
        if not link.unsent and link.machine and link.machine.closing and not link.leaving:
            # Closed with bytes unread it would be reset, and the answer lost with it.
            link.leaving = True
            with contextlib.suppress(OSError):
                link.sock.shutdown(socket.SHUT_WR)
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.unsent else 0)
        self._selector.modify(link.sock, wanted, link)

    def _look_if_late(self, link: _Link, now: float) -> None:
        began = link.began
        if link.leaving or link.unsent:
            if now - link.heard > self._bounds.request:
                self._drop(link)
        elif began is not None and now - began > self._bounds.request:
            self._counts["connections_slow"] += 1
            if link.machine is None:
                self._drop(link)
            else:
                self._answer(link, link.machine, link.machine.late(), now)
        elif now - link.heard > self._bounds.idle:
            self._counts["connections_idle"] += 1
            self._drop(link)

    def _drop(self, link: _Link) -> None:
        number = link.sock.fileno()
        if number < 0:
            return
        self._selector.unregister(link.sock)
        self._links.pop(number, None)
        link.sock.close()


def _address_of(listener: socket.socket) -> Address:
    name = listener.getsockname()
    return Address(path=name) if isinstance(name, str) else Address(host=name[0], port=name[1])


def _peer(sock: socket.socket) -> Peer:
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # gone already
            address, port, *_ = sock.getpeername()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Peer(address=address, port=port)
        return Peer()
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid=pid, inner_pid=_inner_pid(pid), uid=uid)


def _inner_pid(pid: int) -> int:
    """How a process sees itself: the last of NSpid in /proc/PID/status (proc(5)); 0: it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return 0
