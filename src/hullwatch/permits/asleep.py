"""The doorkeeper before it is told something, in as few modules as that takes; and those who come
to a page that nobody answers at: left alone, they would wait for ever."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Sequence

__all__ = ["sleep", "turn_away"]

_PAUSE = 0.1  # s, however many come


def sleep(agent: int, listening: Sequence[int]) -> None:
    """Until the agent speaks or ends. Descriptors; listening: of sockets that nobody answers at
    yet, so that links are those of an earlier run."""
    while agent not in select.select([agent, *listening], [], [])[0]:
        for one in listening:
            turn_away(one)
        time.sleep(_PAUSE)


def turn_away(listening: int) -> None:
    """Whoever has come by now."""
    import socket  # where there is such a socket; else whoever sleeps does without

    with socket.socket(fileno=os.dup(listening)) as sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        while True:
            sock.accept()[0].close()
