"""How whoever sees calls tells the agent of them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from hullwatch.context.call import Call, Signal

__all__ = ["Nobody", "Reporter", "Said", "Whose"]


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """Content of a call, redacted. name: OTel's attribute. lost: there was some, and none of it
    could be kept."""

    call: int
    name: str
    text: str = ""
    lost: bool = False


class Whose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A container. name: what policies call it. about: what else they may read of it, such as image
    and kind."""

    name: str
    container: str
    about: dict[str, str] = {}


class Reporter(Protocol):
    """Never raises: an agent that is away must not break what is watched."""

    async def begin(self, call: Call) -> bool:
        """Returns once the call is known to the kernel (then the request may go on), or at the
        latest after a deadline. False: nobody knows of it."""
        ...

    def end(self, call: Call) -> None:
        """The call with its end, status and sizes."""
        ...

    async def labels(self) -> tuple[str, ...] | None:
        """What whoever reports and its server's processes carry now: where their information came
        from. None: not known in time."""
        ...

    async def workload(self) -> Whose | None:
        """The container that whoever reports is in. None: in none, or not known in time."""
        ...

    def signal(self, signal: Signal) -> None: ...

    content: int
    """Bytes of an item that are kept of the call that began last; 0: nothing is."""

    def said(self, said: Said) -> None:
        """Of a call that runs, and where `content` asks for it."""
        ...


class Nobody:
    """A reporter where no agent runs."""

    content = 0

    async def begin(self, call: Call) -> bool:
        return False

    def end(self, call: Call) -> None:
        pass

    async def labels(self) -> tuple[str, ...] | None:
        return None

    async def workload(self) -> Whose | None:
        return None

    def signal(self, signal: Signal) -> None:
        pass

    def said(self, said: Said) -> None:
        pass
