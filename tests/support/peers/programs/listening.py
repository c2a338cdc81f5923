"""Serve an ASGI app on a free port of 127.0.0.1, and say which: {"port", "pid"} on one line."""

import json
import os
import socket
from typing import Any

import uvicorn


async def serve(app: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])
