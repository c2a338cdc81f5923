"""The other end of a theft: listens in a network namespace, and keeps what it is sent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from pathlib import Path

__all__ = ["Listener"]

_CLONE_NEWNET = 0x40000000
_MOST = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Listener:
    """Listens on construction; `received` grows, one value a connection. A socket stays in the
    namespace it was made in, so that only its making needs a thread there."""

    def __init__(self, namespace: Path, address: str, port: int) -> None:
        self.received: list[bytes] = []
        self._bytes = 0
        self._failed: OSError | None = None
        maker = threading.Thread(target=self._listen, args=(namespace, address, port))
        maker.start()
        maker.join()
        if self._failed is not None:
            raise self._failed
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()

    def _listen(self, namespace: Path, address: str, port: int) -> None:
        try:
            number = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(number, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
                self._socket = socket.create_server((address, port))
            finally:
                os.close(number)
        except OSError as error:
            self._failed = error

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self.received.append(b"")
                with client, contextlib.suppress(OSError):
                    client.settimeout(30)
                    while (data := client.recv(65536)) and self._bytes < _MOST:
                        self.received[-1] += data
                        self._bytes += len(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._server.join(5)
