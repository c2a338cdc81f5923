"""A model server as small as it can be: reads its weights, then answers chat completions.

It "decides" to call a tool when the conversation offers one, as a model does.
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
    """A tool call for the user's wish, and a plain answer once the tool has spoken."""
    if messages[-1]["role"] == "tool":
        return {"role": "assistant", "content": f"In short: {messages[-1]['content']}"}
    name = tools[0]["function"]["name"]
    function = {"name": name, "arguments": json.dumps({"path": "/srv/reports/q3.txt"})}
    call = {"id": "call_1", "type": "function", "function": function}
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
