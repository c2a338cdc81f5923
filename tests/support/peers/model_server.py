"""The process that answers as model APIs do: HTTP/1.1 over TLS on a loopback port.

Usage: model_server.py LOG [CERTIFICATE KEY]. Says {"port", "pid"}; LOG gets a line of JSON for each
request: what was asked, and what was answered.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.peers.dialects import CUT, SLOW, Answer, answer
from support.peers.truth import tokens_in

PAUSE_S = 0.002  # between the pieces of a stream: they shall be packets of their own
THOUGHT_S = 0.3


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._whole(200, "application/json", b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        begin = time.time_ns()
        text = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = answer(path, headers, json.loads(text))
        if found is None:
            self._whole(404, "application/json", b'{"error": {"message": "no such API"}}')
            return
        if found.asked.model == SLOW:
            time.sleep(THOUGHT_S)
        if found.said is not None and found.asked.streamed:
            self._stream(found)
        else:
            self._whole(found.status, found.kind, b"".join(found.pieces))
        self._note(found, begin, min(tokens_in(text.decode()), default=""))

    def _whole(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, found: Answer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", found.kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in self._cut(found):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(PAUSE_S)
        if found.asked.model == CUT:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _cut(self, found: Answer) -> Iterator[bytes]:
        for number, piece in enumerate(found.pieces):
            if found.asked.model == CUT and number == 2:
                return
            yield piece

    def _note(self, found: Answer, begin: int, token: str) -> None:
        asked, said = found.asked, found.said
        cut = asked.streamed and asked.model == CUT
        line = {
            "token": token,
            "begin": begin,
            "end": time.time_ns(),
            "provider": found.provider,
            "operation": found.operation,
            "host": self.headers["Host"],
            "name": getattr(self.connection, "asked_name", None) or "",
            "model": asked.model,
            "answered": said.model if said else "",
            "offered": asked.offered,
            "chosen": [said.chosen] if said and said.chosen else [],
            "input_tokens": said.input if said else 0,
            "output_tokens": said.output if said and not cut else 0,
            "finish": said.finish if said and not cut else "",
            "cut": cut,
            "streamed": asked.streamed,
            "status": found.status,
            "key": asked.key,
        }
        with self.log.open("a") as file:  # one write, so that threads do not mix
            file.write(json.dumps(line) + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def get_request(self) -> tuple[Any, Any]:
        peer, address = super().get_request()
        peer.settimeout(30)
        if self.tls is None:
            return peer, address
        # The handshake comes with the first read, in the connection's own thread.
        wrapped = self.tls.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, *_: object) -> None:
        pass  # a client that went away or does not trust us


def _remember_name(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
    connection.asked_name = name


def main() -> None:
    log, *certificate = sys.argv[1:]
    Handler.log = Path(log)
    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(*certificate)
        server.tls.set_alpn_protocols(["http/1.1"])
        server.tls.sni_callback = _remember_name
    print(json.dumps({"port": server.server_address[1], "pid": os.getpid()}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
