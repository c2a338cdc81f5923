"""What the Python clients share: the plan, the calls, and the ids that these had on the wire."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

ids: dict[str, Any] = {}  # token → JSON-RPC id
current = contextvars.ContextVar("current", default="")


@dataclass
class Plan:
    calls: list[dict[str, Any]]
    concurrency: int
    era: str
    url: str
    command: list[str]
    env: dict[str, str]

    @classmethod
    def read(cls) -> Plan:
        return cls(**json.load(sys.stdin))


class Noted:
    """The stream that a session writes to; notes the id of each tools/call."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> Noted:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        return await self._stream.__aexit__(*why)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def send(self, message: Any) -> None:
        body = getattr(message.message, "root", message.message)
        if getattr(body, "method", "") == "tools/call":
            ids.setdefault(current.get(), body.id)
        await self._stream.send(message)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def call_all(plan: Plan, call: Callable[..., Awaitable[tuple[bool, str]]]) -> None:
    """All calls of the plan, so many at a time."""
    left = iter(plan.calls)

    async def work() -> None:
        for one in left:
            token = one["token"]
            current.set(token)
            begin = time.time_ns()
            try:
                ok, text = await call(one["tool"], one["arguments"])
            except Exception as error:
                ok, text = False, f"{type(error).__name__}: {error}"
            end = time.time_ns()
            say(token=token, begin=begin, end=end, ok=ok, text=text, rpc_id=str(ids.get(token, "")))

    await asyncio.gather(*(work() for _ in range(plan.concurrency)))
