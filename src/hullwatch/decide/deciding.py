"""A decider that is asked without being waited for longer than a moment."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from hullwatch.decide.question import Decision, Question

__all__ = ["DECIDING", "Decider", "Deciding"]

DECIDING = 1.0  # s that a decision may take: ten thousand times what it usually takes


class Decider(Protocol):
    """policies: by their ids."""

    @property
    def version(self) -> str: ...
    @property
    def policies(self) -> Mapping[str, Any]: ...
    def reads(self, action: str) -> frozenset[str]: ...
    def decide_any(
        self, questions: Sequence[Question], *, listed: bool = True, approved: bool = False
    ) -> Decision: ...


class Deciding:
    """Deciders in a thread of their own, so that they can be given up on. stuck: it hangs."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stuck = False
        # A daemon: one that hangs must not keep the process from ending.
        threading.Thread(target=self._serve, name="decider", daemon=True).start()

    def close(self) -> None:
        self._questions.put(None)

    async def ask(
        self, decider: Decider, questions: Sequence[Question], approved: bool, listed: bool = True
    ) -> Decision | None:
        """None: no answer in time, or it raised."""
        if self.stuck:
            return None
        ask = partial(decider.decide_any, questions, listed=listed, approved=approved)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Decision | None] = loop.create_future()
        self._questions.put((ask, loop, answer))
        try:
            async with asyncio.timeout(DECIDING):
                return await answer
        except TimeoutError:
            self.stuck = True
            self._questions.put((ask, loop, None))  # tells when it is back
            return None

    def _serve(self) -> None:
        while (item := self._questions.get()) is not None:
            ask, loop, answer = item
            if answer is None:
                self.stuck = False
                continue
            decision = None
            if not answer.cancelled():
                try:
                    decision = ask()
                except BaseException:  # a panic in native code, too: as if it had not answered
                    decision = None
            try:
                loop.call_soon_threadsafe(_give, answer, decision)
            except RuntimeError:  # the loop has ended
                return


def _give(answer: asyncio.Future[Decision | None], decision: Decision | None) -> None:
    if not answer.done():
        answer.set_result(decision)
