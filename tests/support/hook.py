"""A webhook's other end: what it was told, and answers by the links in it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import urlopen

from support.scratch import poll

__all__ = ["Hook", "answer"]


class Hook:
    """told: headers and body of each post, as they came."""

    def __init__(self) -> None:
        told: list[tuple[dict[str, str], bytes]] = []
        self.told = told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                told.append((dict(self.headers), self.rfile.read(size)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def post(self, number: int) -> dict[str, Any]:
        """What the post of this number says; waits for it."""
        poll(lambda: len(self.told) > number, seconds=20, waiting_for="the webhook")
        found: dict[str, Any] = json.loads(self.told[number][1])
        return found


def answer(link: str, wish: str, why: str) -> None:
    """As its page's buttons do. HTTPError."""
    urlopen(link, urlencode({"answer": wish, "why": why}).encode(), timeout=20).close()
