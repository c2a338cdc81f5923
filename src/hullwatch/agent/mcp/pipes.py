"""File descriptors for asyncio without a buffer of ours: who reads slowly slows who writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat

__all__ = ["Sink", "Source", "own"]


def own(fd: int, flags: int) -> int:
    """A descriptor for the same stream. O_NONBLOCK on the one that we were given would be seen by
    everybody who shares it, so a pipe or a terminal is opened anew; the others are copied."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd):
        flags |= os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", flags)
    return os.dup(fd)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _End:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None
        os.set_blocking(fd, False)

    async def _ready(self, write: bool) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        if write:
            loop.add_writer(self.fd, _wake, waiter)
        else:
            loop.add_reader(self.fd, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if write:
                loop.remove_writer(self.fd)
            else:
                loop.remove_reader(self.fd)

    def close(self) -> None:
        """Whoever waits here gets the end of the stream, or BrokenPipeError."""
        if not self.closed:
            self.closed = True
            if self._waiter is not None:
                _wake(self._waiter)
            with contextlib.suppress(OSError):
                # Not before the waiter has taken it out of the loop.
                asyncio.get_running_loop().call_soon(os.close, self.fd)


class Source(_End):
    """Reading. A regular file is always ready."""

    _patience: float | None = None

    async def read(self, size: int = 1 << 16) -> bytes:
        """b'' at the end, and where the other side is broken."""
        while not self.closed:
            try:
                return os.read(self.fd, size)
            except BlockingIOError:
                patience = self._patience
                try:
                    async with asyncio.timeout(patience):
                        await self._ready(write=False)
                except TimeoutError:
                    return b""
            except OSError:  # a terminal that went away, a connection that was reset
                return b""
        return b""

    def hurry(self, seconds: float) -> None:
        """Whoever should write is gone: what is there is read, and no more is waited for."""
        self._patience = seconds
        if self._waiter is not None:
            _wake(self._waiter)


class Sink(_End):
    """Writing. The lock is for whole messages: two writers, one stream."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Returns when all of it is gone. BrokenPipeError: nobody reads."""
        rest = memoryview(data)
        while rest:
            if self.closed:
                raise BrokenPipeError
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:
                await self._ready(write=True)
            except OSError as error:
                raise BrokenPipeError from error
