"""A model server as small as it can be: reads its weights, then answers chat completions.

It "decides" to call each tool that the conversation offers, as a model does.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

WEIGHTS = Path("/models/tiny.safetensors")


def complete(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Tool calls for the user's wish, one after the other, and a plain answer in the end."""
    said = [message["content"] for message in messages if message["role"] == "tool"]
    if len(said) == len(tools):
        return {"role": "assistant", "content": f"In short: {' '.join(said)}"}
    name = tools[len(said)]["function"]["name"]
    function = {"name": name, "arguments": json.dumps({"path": "/srv/reports/q3.txt"})}
    call = {"id": f"call_{len(said) + 1}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        request = json.loads(self.rfile.read(length))
        message = complete(request["messages"], request.get("tools") or [])
        body = json.dumps({"model": request["model"], "choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(f"answered {len(body)} bytes", flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: do_POST says what there is to say."""


def main() -> None:
    weights = WEIGHTS.read_bytes()
    digest = hashlib.sha256(weights).hexdigest()[:12]
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"serving {len(weights)} bytes of weights ({digest})", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
