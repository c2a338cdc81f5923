"""A stdio server behind the gateway: started, piped, watched, reaped.

What the client writes and the server answers passes byte by byte as it came. Lines of our own go to
the client: errors for calls that are held or blocked and for requests that a server left open when
it ended, and the progress of calls that wait for a person; and to the server, where what it asks of
the client's model waits or is refused. Source: MCP, stdio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from hullwatch.agent.mcp.gate import Held
from hullwatch.agent.mcp.lines import Lines, Piece
from hullwatch.agent.mcp.message import Reading, error_response, peek, read
from hullwatch.agent.mcp.observer import SERVER_GONE, Dialogue, Observer, Open
from hullwatch.agent.mcp.pipes import Sink, Source, own
from hullwatch.agent.mcp.sampling import Refusal, Waits

__all__ = ["StartError", "exit_code", "serve", "start"]

GRACE = 5.0  # s for a server to end by itself, and again between SIGTERM and SIGKILL
_LINGER = 1.0  # s that the end of a process and that of its output may lie apart
_RETURN = "a carriage return inside of it, where some servers end a message"
_SILENT, _DEAF = "closed its output", "reads no more"
_TOO_LARGE = "too large to be parsed"
_MAX_REFUSALS = 64  # that a server has not read yet; then nothing more is read from it
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StartError(Exception):
    """The server cannot be started. code: as shells have it, 126 or 127."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def exit_code(returncode: int) -> int:
    """A server's end as our own: its code, or 128 and the signal that killed it."""
    return 128 - returncode if returncode < 0 else returncode


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The server's process. StartError."""
    try:
        return subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
    except FileNotFoundError:
        raise StartError(f"{command[0]}: no such program", 127) from None
    except OSError as error:
        raise StartError(f"{command[0]}: {error.strerror}", 126) from None


async def serve(
    child: subprocess.Popen[bytes], observer: Observer, stdin: int = 0, stdout: int = 1
) -> int:
    """Until the server has ended: its exit code. stdin, stdout: the client's side."""
    gateway = _Stdio(child, observer, stdin, stdout)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, gateway.signalled, number)
    try:
        return await gateway.run()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if child.poll() is None:
            child.kill()


class _Stdio:
    def __init__(
        self, child: subprocess.Popen[bytes], observer: Observer, stdin: int, stdout: int
    ) -> None:
        assert child.stdin is not None and child.stdout is not None
        self._child = child
        self._observer = observer
        self._dialogue = Dialogue()
        self._from_client = Source(own(stdin, os.O_RDONLY))
        self._to_client = Sink(own(stdout, os.O_WRONLY))
        self._stdout = stdout
        self._at_terminal = os.isatty(stdin)
        self._to_server = Sink(os.dup(child.stdin.fileno()))
        self._from_server = Source(os.dup(child.stdout.fileno()))
        child.stdin.close()
        child.stdout.close()
        self._killer: asyncio.TimerHandle | None = None
        self._deaf = False  # the server reads no more
        self._mid_line = False  # what the client got last was no whole line
        self._begun: Open | None = None  # a large message of the client that is on its way
        self._size = 0
        self._holding: set[asyncio.Task[None]] = set()  # messages that wait for a person
        self._refusals: set[asyncio.Task[None]] = set()  # lines of ours for the server

    def signalled(self, number: signal.Signals) -> None:
        # Ctrl-C at a terminal goes to the server as well, by itself.
        if not (number == signal.SIGINT and self._at_terminal):
            self._send(number)
        self._end_in(GRACE, signal.SIGKILL)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(loop.run_in_executor(None, self._child.wait))
        upward = asyncio.create_task(self._client_to_server())
        downward = asyncio.create_task(self._server_to_client())
        both: set[asyncio.Future[Any]] = {ended, downward}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                # What it wrote is still in the pipe. A process of its own that has inherited the
                # pipe must not keep the client waiting.
                self._from_server.hurry(_LINGER)
                await downward
            else:
                await asyncio.wait({ended}, timeout=_LINGER)
            await self._tell_gone(_how(self._child.returncode) if ended.done() else _SILENT)
            if not ended.done():
                self._close_output()
                await ended
        finally:
            tasks = (upward, downward, *self._holding, *self._refusals)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._killer is not None:
                self._killer.cancel()
            for end in (self._from_client, self._to_server, self._from_server, self._to_client):
                end.close()
            self._observer.abandon(self._dialogue, "lost", "server ended")
            self._observer.close()
        return exit_code(self._child.returncode)

    # --- client to server -----------------------------------------------------------------

    async def _client_to_server(self) -> None:
        lines = Lines()
        while data := await self._from_client.read():
            for piece in lines.feed(data):
                await self._up(piece)
        for piece in lines.close():
            await self._up(piece)
        # Nobody is there for whom it could be done.
        for task in self._holding:
            task.cancel()
        await asyncio.gather(*self._holding, return_exceptions=True)
        self._to_server.close()

    async def _up(self, piece: Piece) -> None:
        if piece.large:
            await self._up_large(piece)
        elif not piece.data.strip():
            await self._write(piece.data)
        else:
            reading = read(piece.data)
            if self._observer.strict and b"\r" in piece.data.rstrip(b"\r\n"):
                reading = reading._replace(problem=_RETURN)
            outcome = None
            if not self._deaf:
                outcome = await self._observer.sent(
                    self._dialogue, reading, len(piece.data), self._child.pid
                )
            if isinstance(outcome, Held):
                # The others go on meanwhile; the one that takes it back, too.
                task = asyncio.create_task(self._hold(piece, reading, outcome))
                self._holding.add(task)
                task.add_done_callback(self._holding.discard)
                held = outcome  # one that is cancelled before it runs must not wait on
                task.add_done_callback(lambda _: held.close())
            else:
                await self._decided(piece, reading, outcome)

    async def _hold(self, piece: Piece, reading: Reading, held: Held) -> None:
        answers = await held.settle(self._answer)
        if held.instead:
            piece = piece._replace(data=held.instead + b"\n")
        await self._decided(piece, reading, answers)

    async def _decided(self, piece: Piece, reading: Reading, answers: list[bytes] | None) -> None:
        """answers: instead of passing it on; None: it goes on."""
        if answers is None and not await self._write(piece.data):
            keys = [one.key for one in reading.messages if one.kind == "request"]
            self._observer.abandon(self._dialogue, "lost", "server gone", keys)
            answers = self._observer.refuse(reading, SERVER_GONE, _gone(_DEAF))
        await self._answer(answers or ())

    async def _up_large(self, piece: Piece) -> None:
        peeked = peek(piece.head, piece.tail)
        if piece.first:
            self._size, self._begun = 0, None
            if not (self._observer.strict or self._deaf):
                pid = self._child.pid
                self._begun = await self._observer.sent_large(self._dialogue, peeked, pid)
        self._size += len(piece.data)
        if self._observer.strict:
            if piece.last:
                await self._answer(self._observer.refuse_large(peeked))
            return
        await self._write(piece.data)
        if not piece.last:
            return
        self._observer.sent_all(self._dialogue, self._begun, peeked, self._size)
        if self._deaf and peeked.kind == "request":
            self._observer.abandon(self._dialogue, "lost", "server gone", [peeked.key])
            await self._answer([error_response(peeked.id, SERVER_GONE, _gone(_DEAF))])

    async def _write(self, data: bytes) -> bool:
        """False: the server reads no more. It may still answer what it has read."""
        if not self._deaf:
            try:
                async with self._to_server.lock:
                    await self._to_server.write(data)
            except BrokenPipeError:
                self._deaf = True
                self._to_server.close()
        return not self._deaf

    # --- server to client -----------------------------------------------------------------

    async def _server_to_client(self) -> None:
        lines = Lines()
        size = 0
        holding = False  # the client's stream, for a whole line
        guarded = False  # a line is asked about before a byte of it goes on
        try:
            while True:
                data = await self._from_server.read()
                for piece in lines.feed(data) if data else lines.close():
                    size = len(piece.data) + (0 if piece.first else size)
                    if piece.first:
                        guarded = self._observer.sampling.guarded
                    if guarded:
                        await self._down(piece)
                        continue
                    self._heard(piece, size)
                    if not holding:
                        holding = await self._to_client.lock.acquire()
                    await self._to_client.write(piece.data)
                    self._mid_line = not piece.data.endswith(b"\n")
                    if piece.last:
                        self._to_client.lock.release()
                        holding = False
                if not data:
                    return
        except BrokenPipeError:
            # The client is gone: the server learns it as it would without us.
            self._to_server.close()
            self._end_in(GRACE, signal.SIGTERM)
            while await self._from_server.read():
                pass
        finally:
            if holding:
                self._to_client.lock.release()

    async def _down(self, piece: Piece) -> None:
        sampling, dialogue = self._observer.sampling, self._dialogue
        if piece.large:
            if piece.last:
                peeked = Reading((peek(piece.head, piece.tail),))
                await self._refused(sampling.refuse(dialogue, peeked, _TOO_LARGE))
        elif not piece.data.strip():
            await self._pass(piece)
        else:
            reading = read(piece.data, sender="server")
            if b"\r" in piece.data.rstrip(b"\r\n"):
                reading = reading._replace(problem=_RETURN)
            outcome = await sampling.asks(dialogue, reading)
            if isinstance(outcome, Waits):
                # The others go on meanwhile; what takes it back, too.
                task = asyncio.create_task(self._wait(piece, reading, outcome))
                self._holding.add(task)
                task.add_done_callback(self._holding.discard)
                waits = outcome  # one that is cancelled before it runs must not wait on
                task.add_done_callback(lambda _: waits.close())
            elif outcome is None:
                await self._pass(piece, reading)
            else:
                await self._refused(outcome)

    async def _wait(self, piece: Piece, reading: Reading, waits: Waits) -> None:
        refusal = await waits.settle(self._answer, self._keep_alive)
        if refusal is not None:
            await self._refused(refusal)
            return
        with contextlib.suppress(BrokenPipeError):  # who reads from the server sees to that
            await self._pass(piece, reading)

    async def _pass(self, piece: Piece, reading: Reading | None = None) -> None:
        """A whole line to the client."""
        if reading is not None:
            self._observer.heard(self._dialogue, reading, len(piece.data))
        async with self._to_client.lock:
            await self._to_client.write(piece.data)
            self._mid_line = not piece.data.endswith(b"\n")

    async def _refused(self, refusal: Refusal) -> None:
        await self._answer(refusal.to_client)
        if not refusal.to_server:
            return
        while len(self._refusals) >= _MAX_REFUSALS:
            await asyncio.wait(self._refusals, return_when=asyncio.FIRST_COMPLETED)
        self._tell_server_beside(refusal.to_server)

    async def _keep_alive(self, lines: Sequence[bytes]) -> None:
        """The server, which may have to read first what it was told before."""
        if not self._refusals:
            self._tell_server_beside(lines)

    def _tell_server_beside(self, lines: Sequence[bytes]) -> None:
        """By itself: a server may read nothing more before it has written all that it has."""
        task = asyncio.create_task(self._tell_server(lines))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _tell_server(self, lines: Sequence[bytes]) -> None:
        await self._write(b"".join(line + b"\n" for line in lines))

    def _heard(self, piece: Piece, size: int) -> None:
        if piece.large:
            if piece.last:
                self._observer.heard_large(self._dialogue, peek(piece.head, piece.tail), size)
        elif piece.data.strip():
            reading = read(piece.data, doubles=False)
            self._observer.heard(self._dialogue, reading, len(piece.data))

    async def _answer(self, answers: Sequence[bytes]) -> None:
        """Lines of our own, between those of the server."""
        with contextlib.suppress(BrokenPipeError):
            for answer in answers:
                async with self._to_client.lock:
                    start = b"\n" if self._mid_line else b""
                    self._mid_line = False
                    await self._to_client.write(start + answer + b"\n")

    async def _tell_gone(self, how: str) -> None:
        """Whoever waits for an answer gets an error instead."""
        ids = self._observer.abandon(self._dialogue, "lost", "server gone")
        await self._answer([error_response(one, SERVER_GONE, _gone(how)) for one in ids])

    def _close_output(self) -> None:
        """The client sees the end of the stream when nobody has it open any more."""
        self._to_client.close()
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nothing, self._stdout)
        os.close(nothing)

    # --- the server's end -----------------------------------------------------------------

    def _send(self, number: signal.Signals) -> None:
        if self._child.poll() is None:
            self._child.send_signal(number)

    def _end_in(self, seconds: float, how: signal.Signals) -> None:
        """Unless it ends before: it knows already that it should."""
        if self._killer is not None:
            self._killer.cancel()
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(seconds, self._make_end, how)

    def _make_end(self, how: signal.Signals) -> None:
        self._send(how)
        if how != signal.SIGKILL:
            self._end_in(GRACE, signal.SIGKILL)


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by signal {-returncode}"
    return f"ended with code {returncode}"


def _gone(how: str) -> str:
    return f"hullwatch: the MCP server {how} before it answered"
