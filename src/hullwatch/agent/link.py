"""The way to a running agent: a reporter over its socket (reports.py has the other end)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.agent.report import Said, Whose
from hullwatch.context.call import Call, Signal

__all__ = ["DEFAULT_SOCKET", "Link", "connect", "socket_path", "tell"]

DEFAULT_SOCKET = Path("/run/hullwatch/calls.sock")
_DEADLINE = 1.0  # s: an agent that does not answer must not hold up what is watched
_ASIDE = 0.05  # s that a call waits for what only its policies ask for
_BACKLOG = 1 << 20  # bytes that may wait for it


def socket_path() -> Path:
    """HULLWATCH_CALLS, or where an agent listens by default."""
    return Path(os.environ.get("HULLWATCH_CALLS") or DEFAULT_SOCKET)


class Link:
    """A Reporter. unanswered: calls that the agent did not confirm; unsent: what it did not take;
    late: labels, or a container's name, that were not waited for.

    Once the agent is gone the link stays down: nothing is asked of it any more.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._asking = asyncio.Lock()
        self._owed = 0  # answers that are due; all but the last one nobody waits for any more
        self.up = True
        self.content = 0
        self.unanswered = 0
        self.unsent = 0
        self.late = 0
        self.problem = ""

    async def serve(self, name: str, port: int = 0) -> bool:
        """This process is a server, and what it starts from now on is of it; with a port, what
        listens there on this machine is, too."""
        return await self._ask({"serve": name} | ({"port": port} if port else {}))

    async def served(self) -> bool:
        """What was started stays of the server; this process is not."""
        return await self._ask({"served": True})

    async def begin(self, call: Call, scope: str = "server") -> bool:
        return await self._ask({"begin": call, "scope": scope})

    async def labels(self) -> tuple[str, ...] | None:
        found = (await self._aside({"labels": True})).get("labels")
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            return None  # an older agent, or one that does not follow them
        return tuple(found)

    async def workload(self) -> Whose | None:
        found = (await self._aside({"workload": True})).get("workload")
        try:
            return msgspec.convert(found, Whose | None)
        except msgspec.ValidationError:
            return None

    async def _aside(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer; nothing where there is none in a moment."""
        try:
            async with asyncio.timeout(_ASIDE), self._asking:
                return await self._exchange(request) if self.up else {}
        except TimeoutError:
            self.late += 1
        except (OSError, ValueError) as error:
            self._down(str(error))
        return {}

    def end(self, call: Call) -> None:
        self._send({"end": call})

    def signal(self, signal: Signal) -> None:
        self._send({"signal": signal})

    def said(self, said: Said) -> None:
        self._send({"said": said})

    async def close(self) -> None:
        self.up = False
        self._writer.close()

    async def _ask(self, request: Mapping[str, Any]) -> bool:
        async with self._asking:
            try:
                async with asyncio.timeout(_DEADLINE):
                    answer = await self._exchange(request)
            except (TimeoutError, OSError, ValueError) as error:
                self._down(str(error) or "no answer in time")
                self.unanswered += 1
                return False
        if "error" in answer:
            self.problem = str(answer["error"])
            self.unanswered += 1
            return False
        if "begin" in request:
            self.content = int(answer.get("content", 0))
        return True

    async def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer. May be cancelled: then the answer is passed over when it comes. OSError,
        ValueError."""
        self._send(request)
        if not self.up:
            raise ConnectionResetError(self.problem)
        self._owed += 1
        while True:
            line = await self._reader.readline()
            self._owed -= 1
            if not self._owed:
                answer: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
                return answer

    def _send(self, request: Mapping[str, Any]) -> None:
        transport = self._writer.transport
        if not self.up or transport.is_closing():
            self._down("the agent is gone")
        elif transport.get_write_buffer_size() < _BACKLOG:
            self._writer.write(msgspec.json.encode(request) + b"\n")
            return
        self.unsent += 1

    def _down(self, why: str) -> None:
        self.up = False
        self.problem = self.problem or why
        self._writer.close()


async def connect(path: Path | None = None) -> Link:
    """Raises OSError: no agent there, or not for us."""
    where = path or socket_path()
    reader, writer = await asyncio.open_unix_connection(str(where))
    return Link(reader, writer)


async def tell(signal: Signal) -> bool:
    """One signal, where an agent runs. False: it was not told."""
    try:
        async with asyncio.timeout(_DEADLINE):
            link = await connect()
    except OSError:  # TimeoutError is one
        return False
    link.signal(signal)
    await link.close()
    return not link.unsent
