"""What every point that asks the policies does alike: an answer within a bound, entries of the log,
answers that are counted, and the terms of a challenge.

A decider that hangs is not waited for: its question is answered as the set fails, and so is every
further one until it comes back. What cannot be logged is not let through.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from hullwatch.decide.approvals import Challenge, Terms, terms_of
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Fail, Mode, Question

__all__ = ["Decider", "Rulings", "entry_of"]

DECIDING = 1.0  # s that a decision may take: ten thousand times what it usually takes
FLUSH = 1.0  # s between two writings of what nobody waits for
COUNTED = 60.0  # s between two of the counts of remembered answers
MAX_KNOWN = 4096  # answers that are remembered


class Decider(Protocol):
    """policies: by their ids."""

    @property
    def version(self) -> str: ...
    @property
    def policies(self) -> Mapping[str, Any]: ...
    def decide(self, question: Question, *, approved: bool = False) -> Decision: ...


class Rulings:
    """problem: what went wrong last, for whoever shows it."""

    def __init__(self, decider: Decider, log: Log, clock: Callable[[], int]) -> None:
        self.decider = decider
        self.problem = ""
        self._log = log
        self._clock = clock
        self._asking = _Asking()
        self._known: OrderedDict[Entry, int] = OrderedDict()
        self.behind = False  # what was noted could not be written

    async def decide(self, ask: Callable[[], Decision]) -> Decision:
        """ask: the decider, in a thread of its own."""
        began = time.perf_counter_ns()
        decision = await self._asking.ask(ask)
        if decision is not None:
            return decision
        fail = self._fail()
        return Decision(
            effect=Effect.ALLOW if fail is Fail.OPEN else Effect.BLOCK,
            wanted=Effect.BLOCK,
            failed=tuple(self.decider.policies)[:8],
            reason=f"the policies gave no answer within {DECIDING:g} s, and fail {fail}",
            version=self.decider.version,
            took=time.perf_counter_ns() - began,
        )

    def _fail(self) -> Fail:
        """Of the whole set: open only where every policy of it that is enforced is."""
        fails = [one.fail for one in self.decider.policies.values() if one.mode is Mode.ENFORCE]
        return Fail.OPEN if all(one is Fail.OPEN for one in fails) else Fail.CLOSED

    def terms(self, decision: Decision) -> Terms:
        known = self.decider.policies
        said: list[Challenge] = [
            known[one]
            for one in decision.policies
            if one in known and known[one].does is Effect.CHALLENGE
        ]
        return terms_of(said)

    def allow(self, entry: Entry, count: int = 1) -> None:
        """One that would say what another one said already is counted. count: so many of it.
        LogError."""
        if self.behind:
            self._log.flush()
            self.behind = False
        if entry.wanted is not Effect.ALLOW or entry.failed:
            self._log.note(entry)  # what would be done, were it enforced
        elif not self._again(entry, count):
            self._log.note(entry)

    def block(self, entry: Entry) -> None:
        """On the disk when it returns, the first time; then counted, for a point that is asked by
        the thousand. LogError."""
        if not self._again(entry):
            self._log.append(entry)

    def _again(self, entry: Entry, count: int = 1) -> bool:
        known = msgspec.structs.replace(
            entry, time=0, took=0, tool_call="", question="", arguments=""
        )
        if known in self._known:
            self._known[known] += count
            self._known.move_to_end(known)
            return True
        self._known[known] = count - 1
        if len(self._known) > MAX_KNOWN:
            self._note_count(*self._known.popitem(last=False))
        return False

    async def tidy(self) -> None:
        """Writes what waits, for as long as it runs."""
        counted = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH)
            try:
                if time.monotonic() - counted >= COUNTED:
                    counted = time.monotonic()
                    self._count()
                self._log.flush()
                self.behind = False
            except LogError as error:  # tried again; nothing goes on meanwhile
                self.behind = True
                self.problem = str(error)

    def close(self) -> None:
        """LogError."""
        self._asking.close()
        self._count()
        self._log.flush()

    def _count(self) -> None:
        for known, count in list(self._known.items()):
            self._note_count(known, count)
            self._known[known] = 0

    def _note_count(self, known: Entry, count: int) -> None:
        if count:
            kind = "allows" if known.effect is Effect.ALLOW else "blocks"
            entry = msgspec.structs.replace(known, kind=kind, time=self._clock(), count=count)
            self._log.note(entry)


def entry_of(question: Question, decision: Decision, tier: str, time: int) -> Entry:
    """What a decision says, without who asked. time: unix ns."""
    return Entry(
        time=time,
        principal=f"{question.principal.kind}:{question.principal.id}",
        action=question.action,
        resource=f"{question.resource.kind}:{question.resource.id}",
        effect=decision.effect,
        wanted=decision.wanted,
        mode=Mode.ENFORCE if decision.effect is decision.wanted else Mode.OBSERVE,
        policies=decision.policies,
        failed=decision.failed,
        reason=decision.reason,
        version=decision.version,
        took=decision.took,
        tier=tier,
        question=question.hash(),
        arguments=str(question.context.get("arguments", "")),
    )


class _Asking:
    """The decider in a thread of its own, so that it can be given up on."""

    def __init__(self) -> None:
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stuck = False
        # A daemon: one that hangs must not keep the process from ending.
        threading.Thread(target=self._serve, name="decider", daemon=True).start()

    def close(self) -> None:
        self._questions.put(None)

    async def ask(self, ask: Callable[[], Decision]) -> Decision | None:
        """None: no answer in time, or it raised."""
        if self._stuck:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Decision | None] = loop.create_future()
        self._questions.put((ask, loop, answer))
        try:
            async with asyncio.timeout(DECIDING):
                return await answer
        except TimeoutError:
            self._stuck = True
            self._questions.put((ask, loop, None))  # tells when it is back
            return None

    def _serve(self) -> None:
        while (item := self._questions.get()) is not None:
            ask, loop, answer = item
            if answer is None:
                self._stuck = False
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
