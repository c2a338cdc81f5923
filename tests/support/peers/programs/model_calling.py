"""What the clients of model APIs share: the plan, names that lead to the test's server, the lines.

A call is {token, operation, stream, tools, model, key}; a line is {token, begin, end, pid,
received}, with what the client made of the answer."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = ("read_file", "write_file")
LED = (("127.0.0.1", 443), ("127.0.0.1", 80))
Call = dict[str, Any]
Received = dict[str, Any]


def plan() -> dict[str, Any]:
    asked = json.load(sys.stdin)
    _lead(asked["hosts"], asked["port"])
    return asked


def _lead(names: list[str], port: int) -> None:
    """Those names are 127.0.0.1 here, and their standard ports the server's."""
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def resolve_led(host: Any, *rest: Any, **more: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        return resolve("127.0.0.1" if text in names else host, *rest, **more)

    def connect_led(this: socket.socket, to: Any) -> None:
        connect(this, ("127.0.0.1", port) if to in LED else to)

    socket.getaddrinfo = resolve_led
    socket.socket.connect = connect_led


def prompt(call: Call) -> str:
    return f"{call['token']} what happened today"


def line(call: Call, begin: int, received: Received) -> None:
    told = {"token": call["token"], "begin": begin, "end": time.time_ns(), "pid": os.getpid()}
    sys.stdout.write(json.dumps(told | {"received": received}) + "\n")
    sys.stdout.flush()


def call_all(asked: dict[str, Any], act: Callable[[Call], Received]) -> None:
    """With blocking clients, in threads."""

    def one(call: Call) -> None:
        begin = time.time_ns()
        line(call, begin, act(call))

    with ThreadPoolExecutor(asked["concurrency"]) as pool:
        list(pool.map(one, asked["calls"]))


async def call_all_async(asked: dict[str, Any], act: Callable[[Call], Any]) -> None:
    """In one thread, in an event loop."""
    left = iter(asked["calls"])

    async def work() -> None:
        for call in left:
            begin = time.time_ns()
            line(call, begin, await act(call))

    await asyncio.gather(*(work() for _ in range(asked["concurrency"])))


class Vendor(NamedTuple):
    """A vendor's client. make: from (client, style, base, key), without retries, so that a call is
    one request. request: the method to call, and with what. failure: carries `status_code`."""

    make: Callable[[str, str, str, str], Any]
    request: Callable[[Any, Call], tuple[Callable[..., Any], dict[str, Any]]]
    read: Callable[[Call, list[Any]], Received]
    failure: type[Exception]


def main(vendor: Vendor) -> None:
    """What the plan says, with that client; one of them for each key."""
    asked = plan()

    @functools.cache
    def client(key: str) -> Any:
        return vendor.make(asked["client"], asked["style"], asked["base"], key)

    def act(call: Call) -> Received:
        method, arguments = vendor.request(client(call["key"]), call)
        try:
            answer = method(**arguments)
            parts = list(answer) if call["stream"] else [answer]
        except vendor.failure as failed:
            return {"status": failed.status_code}
        except Exception:  # each client has its own for a stream that breaks off
            return {"cut": True}
        return {"status": 200} | vendor.read(call, parts)

    async def act_async(call: Call) -> Received:
        method, arguments = vendor.request(client(call["key"]), call)
        try:
            answer = await method(**arguments)
            parts = [part async for part in answer] if call["stream"] else [answer]
        except vendor.failure as failed:
            return {"status": failed.status_code}
        except Exception:  # each client has its own for a stream that breaks off
            return {"cut": True}
        return {"status": 200} | vendor.read(call, parts)

    if asked["style"] == "async":
        asyncio.run(call_all_async(asked, act_async))
    else:
        call_all(asked, act)
