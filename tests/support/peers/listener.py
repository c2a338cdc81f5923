"""Destinations on loopback: a port for each call, so that the port tells whose connection it is."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

__all__ = ["Listener"]

_ASKED = 4096  # bytes read of what a peer says
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close"
_PAGE = f"{_HEAD}\r\n\r\nquiet".encode()


class Listener:
    """A thread that answers one message on each connection: a page if it was HTTP, else a line.

    reached: the ports on which that happened."""

    def __init__(self) -> None:
        self.reached: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._ours: list[socket.socket] = []
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, selectors.EVENT_READ, None)
        self._ours += [self._wake, woken]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for one in self._ours:
            one.close()
        self._selector.close()

    def port(self) -> int:
        """A port of 127.0.0.1 that nobody else was given; open until the end."""
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self._ours.append(listening)
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        return int(listening.getsockname()[1])

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with contextlib.suppress(OSError):  # the peer is gone
                    key.data(key.fileobj)

    def _accept(self, listening: socket.socket) -> None:
        peer, _ = listening.accept()
        peer.setblocking(False)
        self._selector.register(peer, selectors.EVENT_READ, self._answer)

    def _answer(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        with peer:
            asked = peer.recv(_ASKED)
            self.reached.add(peer.getsockname()[1])
            peer.sendall(_PAGE if asked.startswith(b"GET ") else b"quiet\n")
