"""Reporters that remember, and a gateway over stdio that reports into a file.

python -m support.mcp_reporter TRACE [--hold] [--pins FILE] -- COMMAND...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.agent.mcp.observer import Observer
from hullwatch.agent.mcp.pins import Pins
from hullwatch.agent.report import Said, Whose
from hullwatch.context.call import Call, Signal

__all__ = ["Recording", "read_trace"]


class Recording:
    """A reporter. log: (begin|end|signal|said, value) in order. content: as agents ask for it.
    carried: labels, as an agent tells them; whose: the container."""

    carried: tuple[str, ...] | None = None
    whose: Whose | None = None

    def __init__(self, content: int = 0) -> None:
        self.content = content
        self.log: list[tuple[str, Any]] = []

    async def begin(self, call: Call) -> bool:
        await asyncio.sleep(0)
        self.log.append(("begin", call))
        return True

    async def labels(self) -> tuple[str, ...] | None:
        return self.carried

    async def workload(self) -> Whose | None:
        return self.whose

    def end(self, call: Call) -> None:
        self.log.append(("end", call))

    def signal(self, signal: Signal) -> None:
        self.log.append(("signal", signal))

    def said(self, said: Said) -> None:
        self.log.append(("said", said))

    def of(self, kind: str) -> list[Any]:
        return [value for what, value in self.log if what == kind]

    @property
    def signals(self) -> list[tuple[str, str]]:
        return [(signal.kind, signal.subject) for signal in self.of("signal")]

    @property
    def ends(self) -> list[tuple[str, str]]:
        return [(call.name, call.status) for call in self.of("end")]


class _ToFile(Recording):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _write(self, kind: str, value: Any) -> None:
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode({kind: value}) + b"\n")

    async def begin(self, call: Call) -> bool:
        await asyncio.sleep(0.02)  # the server would have it by now if it were passed on already
        self._write("begin", call)
        return True

    def end(self, call: Call) -> None:
        self._write("end", call)

    def signal(self, signal: Signal) -> None:
        self._write("signal", signal)


def read_trace(path: Path) -> list[tuple[str, Any]]:
    """(begin|end|signal|server, value) in the order in which they happened."""
    if not path.exists():
        return []
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    return [(kind, value) for line in lines for kind, value in line.items()]


def main() -> int:
    from hullwatch.agent.mcp.stdio import serve, start

    at = sys.argv.index("--")
    options, command = sys.argv[1:at], sys.argv[at + 1 :]
    pins = Pins(Path(options[options.index("--pins") + 1])) if "--pins" in options else None
    observer = Observer("peer", _ToFile(Path(options[0])), pins=pins, hold="--hold" in options)
    return asyncio.run(serve(start(command), observer))


if __name__ == "__main__":
    sys.exit(main())
