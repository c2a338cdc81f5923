"""The agent's control socket: questions to a running agent and live streams from it.

One thread, no asyncio. Requests and answers are lines of JSON. Publishing never blocks: a
follower that does not read fast enough loses its connection, and that is counted.
Only root and the agent's own user are let in (SO_PEERCRED), and nobody out of a container.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.context.cgroups import is_foreign

__all__ = ["Control", "ControlError", "ask", "follow"]

_UCRED = struct.Struct("3i")
_REQUEST_MAX = 4096
_CLIENTS_MAX = 32
TOPICS = ("findings", "events")


class ControlError(Exception):
    """The agent cannot be reached, or refused: where, what, mend."""


class _Client:
    """A connection: bytes not yet sent, and what it follows."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""
        self.topic = ""
        self.queue: deque[memoryview] = deque()
        self.queued = 0


class Control:
    """Serve `path` until `close`. status() is called in the control thread.

    backlog: bytes that may wait for one follower before it is dropped.
    """

    def __init__(
        self,
        path: Path | str,
        status: Callable[[], dict[str, Any]],
        backlog: int = 1 << 20,
    ) -> None:
        self.path = Path(path)
        self._status = status
        self._backlog = backlog
        self._allowed = {0, os.geteuid()}
        self._clients: dict[int, _Client] = {}
        self._mutex = threading.Lock()
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._inbox_bytes = 0
        self._following: dict[str, int] = dict.fromkeys(TOPICS, 0)
        self._missed: dict[str, int] = dict.fromkeys(TOPICS, 0)
        self.dropped = 0
        self.refused = 0
        self._running = True
        with contextlib.suppress(FileNotFoundError):
            # Left by an agent that was killed: the store's lock keeps out a living one.
            self.path.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(_address(self.path))
        finally:
            os.umask(before)
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def wants(self, topic: str) -> bool:
        """Whether anybody follows: nothing needs to be made for nobody."""
        return self._following.get(topic, 0) > 0

    def publish(self, topic: str, line: bytes) -> None:
        """Send one line (JSON without a newline) to the topic's followers. Never blocks."""
        if not self.wants(topic):
            return
        with self._mutex:
            if self._inbox_bytes > self._backlog:
                self.dropped += 1  # our own thread does not keep up; the followers are told
                self._missed[topic] += 1
                return
            self._inbox.append((topic, line))
            self._inbox_bytes += len(line)
        self._wake()

    def close(self) -> None:
        self._running = False
        self._wake()
        self._thread.join(5)
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        self._listener.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_out, b"x")

    # --- the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        while self._running:
            for key, mask in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_in:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_in, 4096)
                    self._spread()
                else:
                    client: _Client = key.data
                    if mask & selectors.EVENT_READ:
                        self._read(client)
                    if mask & selectors.EVENT_WRITE and client.sock.fileno() >= 0:
                        self._send(client)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            pid, uid, _ = _UCRED.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            )
            allowed = uid in self._allowed and not is_foreign(pid)
            if not allowed or len(self._clients) >= _CLIENTS_MAX:
                self.refused += 1
                reason = "too many clients" if allowed else "permission denied"
                sock.send(msgspec.json.encode({"error": reason}) + b"\n")
                sock.close()
                return
            client = _Client(sock)
            self._clients[sock.fileno()] = client
            self._selector.register(sock, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.request += data
        while b"\n" in client.request:
            line, _, client.request = client.request.partition(b"\n")
            self._put(client, msgspec.json.encode(self._answer(client, line)))
        if len(client.request) > _REQUEST_MAX:
            self._drop(client)

    def _answer(self, client: _Client, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            return {"error": 'a request is one line of JSON: {"ask": "status"}'}
        what, topic = request.get("ask"), request.get("topic")
        if what == "status":
            try:
                return {"status": self._status()}
            except Exception as error:  # the agent's state is being taken down, say
                return {"error": f"status: {type(error).__name__}: {error}"}
        if what == "follow" and topic in TOPICS:
            if not client.topic:
                client.topic = topic
                self._following[topic] += 1
            return {"following": client.topic}
        return {"error": "ask is status, or follow with topic findings or events"}

    def _spread(self) -> None:
        with self._mutex:
            lines = list(self._inbox)
            self._inbox.clear()
            self._inbox_bytes = 0
            for topic, count in self._missed.items():
                if count:
                    lines.append((topic, msgspec.json.encode({"dropped": count})))
                    self._missed[topic] = 0
        for client in list(self._clients.values()):
            for topic, line in lines:
                if client.topic == topic:
                    self._put(client, line)

    def _put(self, client: _Client, line: bytes) -> None:
        if client.sock.fileno() < 0:
            return
        if client.queued + len(line) > self._backlog and client.queued:
            self.dropped += 1
            self._drop(client)
            return
        client.queue.append(memoryview(line + b"\n"))
        client.queued += len(line) + 1
        self._send(client)

    def _send(self, client: _Client) -> None:
        try:
            while client.queue:
                sent = client.sock.send(client.queue[0])
                client.queued -= sent
                if sent < len(client.queue[0]):
                    client.queue[0] = client.queue[0][sent:]
                    break
                client.queue.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.queue else 0)
        self._selector.modify(client.sock, wanted, client)

    def _drop(self, client: _Client) -> None:
        if client.sock.fileno() < 0:
            return
        if client.topic:
            self._following[client.topic] -= 1
        self._selector.unregister(client.sock)
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()


def _address(path: Path) -> str:
    """A socket's address holds 107 bytes; a longer path is reached through its directory's fd."""
    if len(os.fsencode(path)) <= 107:
        return str(path)
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{path.name}"


def _connect(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(_address(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise ControlError(
            f"{path}: no agent is running here; start it with `hullwatch up`"
        ) from None
    except PermissionError:
        sock.close()
        raise ControlError(f"{path}: permission denied; run as root or the agent's user") from None
    except OSError as error:
        sock.close()
        raise ControlError(f"{path}: {error.strerror or error}") from None
    return sock


def ask(path: Path | str, what: str = "status", timeout: float = 5.0) -> Any:
    """One question, one answer; ControlError."""
    path = Path(path)
    with _connect(path, timeout) as sock, sock.makefile("rb") as file:
        try:
            sock.sendall(msgspec.json.encode({"ask": what}) + b"\n")
            answer = msgspec.json.decode(file.readline() or b"{}")
        except (OSError, msgspec.DecodeError) as error:
            raise ControlError(f"{path}: no answer: {error}") from None
    if "error" in answer:
        raise ControlError(f"{path}: {answer['error']}")
    return answer.get(what)


def follow(path: Path | str, topic: str) -> Iterator[Any]:
    """Values of a topic as they come, until the agent ends or drops us (ControlError)."""
    path = Path(path)
    with _connect(path, 5.0) as sock, sock.makefile("rb") as file:
        sock.sendall(msgspec.json.encode({"ask": "follow", "topic": topic}) + b"\n")
        first = msgspec.json.decode(file.readline() or b"{}")
        if "error" in first:
            raise ControlError(f"{path}: {first['error']}")
        sock.settimeout(None)
        yield None  # from here on nothing is missed
        for line in file:
            yield msgspec.json.decode(line)
    raise ControlError(f"{path}: the agent ended the stream; it stopped, or we were too slow")
