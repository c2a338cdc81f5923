"""What is known of a call without any tracer: it was asked for, with a token of its own."""

from __future__ import annotations

import re
import secrets
from typing import Literal, NamedTuple

import msgspec

__all__ = ["Destination", "File", "Process", "Truth", "new_run", "token", "tokens_in"]

_TOKEN = re.compile(r"tk-[0-9a-f]{8}-\d{5}")


class Process(NamedTuple):
    """A program that ran with the call's token among its arguments."""

    program: str


class File(NamedTuple):
    """path: absolute."""

    path: str
    use: Literal["read", "write"]


class Destination(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """One call. begin, end: unix ns at the client, around the call. rpc_id: its JSON-RPC id on the
    wire. ok: the reply was what was expected (for `fail`, an error). pid: who served it, pids: what
    it started; both are known only of our workers."""

    tool: str
    token: str
    begin: int = 0
    end: int = 0
    rpc_id: str = ""
    ok: bool = False
    text: str = ""
    protocol: str = ""
    pid: int = 0
    pids: tuple[int, ...] = ()
    processes: tuple[Process, ...] = ()
    files: tuple[File, ...] = ()
    destinations: tuple[Destination, ...] = ()


def new_run() -> str:
    """What the tokens of one run share."""
    return secrets.token_hex(4)


def token(run: str, number: int) -> str:
    return f"tk-{run}-{number:05}"


def tokens_in(text: str) -> set[str]:
    return set(_TOKEN.findall(text))
