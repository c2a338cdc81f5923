"""An MCP server over stdio that does what it is told, misbehaviour included.

The name of the tool that is called says what: see `ACTS`. Each call is noted in the file
HULLWATCH_TEST_TRACE before anything else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any, BinaryIO

OUT: BinaryIO = sys.stdout.buffer
TOOLS = json.loads(os.environ.get("HULLWATCH_TEST_TOOLS", "null")) or [
    {"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}
]
PAGE = int(os.environ.get("HULLWATCH_TEST_PAGE", "0"))


def send(raw: bytes) -> None:
    OUT.write(raw + b"\n")
    OUT.flush()


def answer(ident: Any, result: Any) -> None:
    send(json.dumps({"jsonrpc": "2.0", "id": ident, "result": result}).encode())


def note(what: str) -> None:
    path = os.environ.get("HULLWATCH_TEST_TRACE")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps({"server": what}) + "\n")


def call(ident: Any, name: str, arguments: dict[str, Any]) -> None:
    note(name)
    if name == "crash":
        os._exit(7)
    elif name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "cut":  # dies in the middle of a line
        OUT.write(b'{"jsonrpc":"2.0","id":')
        OUT.flush()
        os._exit(3)
    elif name == "hang":
        return
    elif name == "huge":
        # As Python's and as TypeScript's SDK order the keys.
        body = b"x" * arguments["size"]
        ident = json.dumps(ident).encode()
        if arguments.get("id_last"):
            send(b'{"result":{"text":"' + body + b'"},"jsonrpc":"2.0","id":' + ident + b"}")
        else:
            send(b'{"jsonrpc":"2.0","id":' + ident + b',"result":{"text":"' + body + b'"}}')
    elif name == "garbage":
        send(b"not json at all \xff\xfe {")
        send(b'  {"jsonrpc" : "2.0", "method":"notifications/odd",  "params":{ } }  \r')
        answer(ident, {"content": []})
    elif name == "close_output":
        OUT.flush()
        os.close(1)
        time.sleep(0.1)
    elif name == "close_input":
        os.close(0)
        answer(ident, {"content": []})
        time.sleep(30)
    elif name == "fails":
        answer(ident, {"content": [], "isError": True})
    elif name == "rpc_error":
        error = {"code": -32602, "message": "no such tool"}
        send(json.dumps({"jsonrpc": "2.0", "id": ident, "error": error}).encode())
    elif name == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        answer(ident, {"content": []})
    elif name == "slow_reader":
        answer(ident, {"content": []})
        time.sleep(arguments["seconds"])
    else:
        answer(ident, {"content": [{"type": "text", "text": arguments.get("text", name)}]})


def main() -> None:
    while line := sys.stdin.buffer.readline():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if not isinstance(message, dict):
            continue
        method, ident = message.get("method"), message.get("id")
        params = message.get("params") or {}
        if method == "initialize":
            answer(ident, {"protocolVersion": params.get("protocolVersion"), "serverInfo": {}})
        elif method == "tools/list":
            start = int(params.get("cursor") or 0)
            size = PAGE or len(TOOLS)
            page: dict[str, Any] = {"tools": TOOLS[start : start + size]}
            if start + size < len(TOOLS):
                page["nextCursor"] = str(start + size)
            answer(ident, page)
        elif method == "tools/call":
            call(ident, params.get("name", ""), params.get("arguments") or {})
        elif ident is not None:
            answer(ident, {"method": method})


if __name__ == "__main__":
    main()
