"""Where people answer: a Unix socket of the process that holds the actions. Who speaks, the kernel
says (SO_PEERCRED). A line of JSON each way, and the end:

    {"ask": "list"}                                  what waits, as far as the asker may answer it
    {"ask": "answer", "held": ID, "yes": true, "why": TEXT, "scope": "once", "seconds": 0}

root and the holder's own user see everything; whoever a policy names, what it lets them answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.context.cgroups import is_foreign
from hullwatch.decide.approvals import Approvals, Person, Refused, Waiting
from hullwatch.decide.log import LogError

__all__ = ["Desk", "DeskError", "ask", "desks", "folder"]

_UCRED = struct.Struct("3i")
_LINE_MAX = 4096  # bytes of a question
_ANSWER_MAX = 1 << 20
_CLIENTS_MAX = 32
_PATIENCE = 5.0  # s that either side may take
_NAME = "hullwatch/approvals"
_RUN = Path("/run", _NAME)


_FOREIGN = {"error": "permission denied: answer on the host, not in a container"}


class DeskError(Exception):
    """An answer that was not taken: why."""


class _Question(msgspec.Struct):
    ask: str
    held: str = ""
    yes: bool = False
    why: str = ""
    scope: str = "once"
    seconds: float = 0


def folder() -> Path:
    """Where the desks of this user's gateways are: HULLWATCH_APPROVALS, root: /run/hullwatch, else
    below XDG_RUNTIME_DIR or the home."""
    if given := os.environ.get("HULLWATCH_APPROVALS"):
        return Path(given)
    if os.geteuid() == 0:
        return _RUN
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base) / _NAME if base.startswith("/") else _home()


def _home() -> Path:
    return Path.home() / ".local" / "state" / _NAME


class Desk:
    """story: what the log has of a principal, to be shown with what waits."""

    def __init__(
        self, approvals: Approvals, story: Callable[[str], list[Any]], where: Path | None = None
    ) -> None:
        self._approvals = approvals
        self._story = story
        self.path = (where or folder()) / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def open(self) -> None:
        """OSError."""
        if not self.path.parent.exists():
            self.path.parent.mkdir(parents=True)
            self.path.parent.chmod(0o755)  # whatever the umask; what is below a home stays closed
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # of a process that had our pid
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o111)  # anybody may speak, the kernel says who it is
        try:
            listener.bind(str(self.path))
        finally:
            os.umask(before)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_MAX)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _CLIENTS_MAX:
                async with asyncio.timeout(_PATIENCE):
                    line = await reader.readuntil(b"\n")
                    peer = writer.get_extra_info("socket")
                    credentials = peer.getsockopt(
                        socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size
                    )
                    pid, uid, _ = _UCRED.unpack(credentials)
                    answer = (
                        _FOREIGN if is_foreign(pid) else self._answer(line, Person.of(uid, pid))
                    )
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._clients -= 1
            writer.close()

    def _answer(self, line: bytes, person: Person) -> dict[str, Any]:
        try:
            asked = msgspec.json.decode(line, type=_Question)
            if asked.ask == "list":
                return {"held": [self._shown(one) for one in self._seen_by(person)]}
            if asked.ask == "answer":
                done = self._approvals.answer(
                    asked.held, person, asked.yes, asked.why, asked.scope, asked.seconds
                )
                return {"done": done}
        except (Refused, LogError) as error:
            return {"error": str(error)}
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        return {"error": "ask is list, or answer with held, yes and why"}

    def _seen_by(self, person: Person) -> Iterator[Waiting]:
        for one in self._approvals.waiting.values():
            if person.uid in (0, os.geteuid()) or one.terms.may(person.uid):
                yield one

    def _shown(self, waiting: Waiting) -> dict[str, Any]:
        entry = msgspec.to_builtins(waiting.entry)
        return entry | {
            "terms": waiting.terms,
            "agreed": [person.name for person, _, _ in waiting.agreed],
            "context": waiting.context,
            "story": self._story(waiting.entry.principal),
        }


def desks() -> Iterator[Path]:
    """Sockets there are, of gateways that may have ended: this user's, and the system's; to root,
    every user's."""
    uid = os.geteuid()
    # A gateway may have been started without what a login has in its environment.
    places = [folder(), _home(), Path(f"/run/user/{uid}", _NAME), _RUN]
    if uid == 0:
        places += Path("/run/user").glob(f"*/{_NAME}")
    for place in dict.fromkeys(places):
        yield from sorted(place.glob("*.sock"))[:_CLIENTS_MAX]


def ask(path: Path, **question: Any) -> dict[str, Any]:
    """One question to one desk. DeskError; OSError where nobody is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(str(path))
        sock.sendall(msgspec.json.encode(question) + b"\n")
        data = b""
        while not data.endswith(b"\n") and len(data) < _ANSWER_MAX:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            data += piece
    try:
        answer: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise DeskError(f"{path}: no answer") from None
    if "error" in answer:
        raise DeskError(str(answer["error"]))
    return answer
