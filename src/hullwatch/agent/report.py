"""How whoever sees calls tells the agent of them."""

from __future__ import annotations

from typing import Protocol

from hullwatch.context.call import Call, Signal

__all__ = ["Nobody", "Reporter"]


class Reporter(Protocol):
    """Never raises: an agent that is away must not break what is watched."""

    async def begin(self, call: Call) -> bool:
        """Returns once the call is known to the kernel (then the request may go on), or at the
        latest after a deadline. False: nobody knows of it."""
        ...

    def end(self, call: Call) -> None:
        """The call with its end, status and sizes."""
        ...

    def signal(self, signal: Signal) -> None: ...


class Nobody:
    """A reporter where no agent runs."""

    async def begin(self, call: Call) -> bool:
        return False

    def end(self, call: Call) -> None:
        pass

    def signal(self, signal: Signal) -> None:
        pass
