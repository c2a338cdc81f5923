"""Opens and execs that wait for a person, and the decision log, in a thread of their own: the disk
and the people may be slow, who is asked about files may not.

What cannot be logged is not approved. Entries that nobody waits for are written a moment later, in
bunches; those that could not be written yet are kept, up to a bound, and counted beyond it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hullwatch.context.call import Signal
from hullwatch.decide.approvals import Approvals, Full, Person, Refused, Terms, Waiting
from hullwatch.decide.desk import Desk
from hullwatch.decide.elsewhere import Elsewhere, WebhookError, telling
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Effect

if TYPE_CHECKING:
    from hullwatch.decide.webhook import Webhook

__all__ = ["Holding", "Outcome"]

MAX_UNWRITTEN = 10_000  # entries
PAUSE = 0.05  # s in which entries are gathered
_STARTS_WITHIN = 10.0  # s


class Outcome(NamedTuple):
    """Of what was held under a number. effect: allow means that a person, or its deadline, said so;
    the policies are to be asked again. entry: what became of it, for the eyes of the agent."""

    number: int
    effect: Effect
    why: str
    entry: Entry


class _Approvals(Approvals):
    """requester: whether a process is one of those that are asked about."""

    requester: Callable[[int], bool]

    def answer(
        self,
        ident: str,
        person: Person,
        yes: bool,
        why: str,
        scope: str = "once",
        seconds: float = 0,
    ) -> str:
        waiting = self.waiting.get(ident)
        asks = not person.link and self.requester(person.pid)
        if yes and waiting and not waiting.terms.requester and asks:
            raise Refused("whoever asks does not approve; answer outside of the containers")
        return super().answer(ident, person, yes, why, scope, seconds)


class Holding:
    """folder, head: of the log. wake: called from the thread when `take` has something. elsewhere:
    who is told of what waits. LogError, OSError and WebhookError where it cannot begin.

    unlogged: entries that were given up. problem: why the log cannot be written; ''.
    """

    def __init__(
        self,
        folder: Path,
        head: Path | None,
        wake: Callable[[], None],
        requester: Callable[[int], bool],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._webhook: Webhook | None = None
        self._folder, self._head = folder, head
        self._wake = wake
        self._requester = requester
        self._outcomes: deque[Outcome] = deque()
        self._floods: deque[Signal] = deque()
        self._entries: deque[Entry] = deque()
        self._held: dict[int, Waiting] = {}
        self._expire: dict[int, asyncio.TimerHandle] = {}
        self.unlogged = 0
        self.problem = ""
        self._failed: Exception | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="holding", daemon=True)
        self._thread.start()
        if not self._ready.wait(_STARTS_WITHIN):
            raise LogError(f"{folder}: the decision log does not answer")
        if self._failed is not None:
            raise self._failed

    # --- from outside ---------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """For the log, soon."""
        if len(self._entries) >= MAX_UNWRITTEN:
            self.unlogged += 1
            return
        self._entries.append(entry)
        self._call(self._write_soon)

    def hold(self, number: int, entry: Entry, terms: Terms, shown: Mapping[str, Any]) -> None:
        """An Outcome follows, whatever happens. number: of the caller's."""
        self._call(self._hold, number, entry, terms, shown)

    def cancel(self, number: int, why: str) -> None:
        self._call(self._cancel, number, why)

    def take(self) -> list[Outcome]:
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._outcomes.popleft())
        return found

    def floods(self) -> list[Signal]:
        """Since it was asked last."""
        return [self._floods.popleft() for _ in range(len(self._floods))]

    @property
    def unheard(self) -> str:
        """Why the webhook was not told last; ''."""
        return self._webhook.problem if self._webhook else ""

    def told(self) -> dict[str, int]:
        """Counts of what began to wait, by what the webhook was told of it."""
        counts = self._webhook.counts if self._webhook else {}
        return {f"webhook_{name}": counts.get(name, 0) for name in ("sent", "failed")}

    def close(self, seconds: float) -> None:
        """Cancel all that is held and write what is not written; within a time."""
        self._call(self._loop.stop)
        self._thread.join(seconds)

    def _call(self, work: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(work, *arguments)

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        told = contextlib.AsyncExitStack()
        try:
            self._log = Log(self._folder, self._head)
            self._approvals = _Approvals(self._log)
            self._approvals.requester = self._requester
            self._approvals.on_flood = self._floods.append  # whoever is held wakes us, too
            self._approvals.sweep()
            self._desk = Desk(self._approvals, self._log.story)
            self._loop.run_until_complete(self._desk.open())
            if self._elsewhere is not None:
                entered = told.enter_async_context(telling(self._elsewhere, self._approvals))
                self._webhook = self._loop.run_until_complete(entered)
        except (OSError, LogError, WebhookError) as error:
            self._failed = error
            self._ready.set()
            return
        self._writing: asyncio.TimerHandle | None = None
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(told.aclose())
            self._desk.close()
            with contextlib.suppress(LogError):
                self._approvals.close()
            self._write()
            self._log.close()
            self._loop.close()

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = self._loop.call_later(PAUSE, self._write)

    def _write(self) -> None:
        self._writing = None
        entries = list(self._entries)
        if not entries:
            return
        try:
            self._log.append(*entries)
        except LogError as error:
            self.problem = str(error)
            self._writing = self._loop.call_later(1.0, self._write)
            return
        self.problem = ""
        for _ in entries:
            self._entries.popleft()

    def _hold(self, number: int, entry: Entry, terms: Terms, shown: Mapping[str, Any]) -> None:
        try:
            self._write()  # in their order
            granted = self._approvals.granted(entry)
            if granted is not None:
                self._log.append(granted)
                self._tell(Outcome(number, Effect.ALLOW, granted.why, granted))
                return
            waiting = self._approvals.hold(entry, terms, lambda: self._over(number), shown)
        except Full as error:
            blocked = msgspec.structs.replace(entry, effect=Effect.BLOCK, reason=str(error))
            self.note(blocked)
            self._tell(Outcome(number, Effect.BLOCK, str(error), blocked))
            return
        except LogError as error:
            self.problem = str(error)
            why = "a decision cannot be logged"
            self._tell(Outcome(number, Effect.BLOCK, why, entry))
            return
        self._held[number] = waiting
        self._expire[number] = self._loop.call_later(terms.deadline, self._expired, number)
        self._tell(Outcome(number, Effect.CHALLENGE, "", waiting.entry))

    def _expired(self, number: int) -> None:
        waiting = self._held.get(number)
        if waiting is None:
            return
        try:
            self._approvals.expire(waiting)
        except LogError as error:  # not without an entry
            self.problem = str(error)
            self._over(number)

    def _cancel(self, number: int, why: str) -> None:
        waiting = self._held.get(number)
        if waiting is not None:
            try:
                self._approvals.cancel(waiting, why)
            except LogError as error:
                self.problem = str(error)
                self._over(number)

    def _over(self, number: int) -> None:
        waiting = self._held.pop(number)
        self._expire.pop(number).cancel()
        self._approvals.waiting.pop(waiting.id, None)
        kind: Any = waiting.ended or "cancelled"
        entry = msgspec.structs.replace(
            waiting.entry, kind=kind, effect=waiting.effect, why=waiting.why
        )
        self._tell(Outcome(number, waiting.effect, waiting.why, entry))

    def _tell(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake()
