"""What every point that holds actions does alike: it asks the set in force within a bound, follows
that set, keeps the log, counts answers that are given again, and takes the terms of a challenge.

A decider that hangs is not waited for: its question is answered as the set fails, and so is every
further one until it comes back. What cannot be logged is not let through. Where the set in force is
followed, each action is decided by one set, the old or the new one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from hullwatch.decide import deciding
from hullwatch.decide.applied import Entry as Change
from hullwatch.decide.approvals import Approvals, Challenge, Terms, Waiting, terms_of
from hullwatch.decide.deciding import Decider, Deciding
from hullwatch.decide.following import Following
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Fail, Mode, Question

__all__ = ["OTHER_TERMS", "Rulings", "terms"]

FLUSH = 1.0  # s between two writings of what nobody waits for
FOLLOW = 0.5  # s between two looks at the set in force
COUNTED = 60.0  # s between two of the counts of remembered answers
MAX_KNOWN = 4096  # answers that are remembered
OTHER_TERMS = "the policies changed while it waited, and now ask for another approval; ask again"


class Rulings:
    """tier: of the point that asks, as the log has it. client: pid of the process below which
    nobody may approve; 0: not known. following: gives another decider when the set in force
    changes. tell: says what a person there should know, without waiting for it.

    decider: the set in force; whoever takes several steps keeps to the one that it began with.
    on_change: called when it is another one. behind: what was noted could not be written. problem:
    what went wrong last, for whoever shows it.
    """

    def __init__(
        self,
        decider: Decider,
        log: Log,
        tier: str,
        client: int = 0,
        clock: Callable[[], int] = time.time_ns,
        *,
        following: Following | None = None,
        tell: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.decider = decider
        self.log = log
        self.approvals = Approvals(log, client, clock)
        self.on_change: Callable[[], None] = lambda: None
        self.behind = False
        self.problem = ""
        self.tell = tell
        self._tier = tier
        self._clock = clock
        self._following = following
        self._asking = Deciding()
        self._known: OrderedDict[Entry, int] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """LogError."""
        self.approvals.sweep()
        self._tasks = [asyncio.create_task(self._tidy())]
        if self._following is not None:
            if self._following.entry is not None:
                self.approvals.policies_changed(self._following.entry.at)
            self._tasks.append(asyncio.create_task(self._follow(self._following)))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            self.approvals.close()
            self._count()
            self.log.flush()
        except LogError as error:
            self.problem = str(error)
        self._asking.close()

    # --- one action -----------------------------------------------------------------------

    async def decide(
        self,
        decider: Decider,
        questions: Sequence[Question],
        approved: bool,
        listed: bool = True,
    ) -> Decision:
        """Of one action; as `Engine.decide_any`."""
        began = time.perf_counter_ns()
        decision = await self._asking.ask(decider, questions, approved, listed)
        if decision is not None:
            return decision
        fail = _fail(decider)
        within = f"{deciding.DECIDING:g} s"
        return Decision(
            effect=Effect.ALLOW if fail is Fail.OPEN else Effect.BLOCK,
            wanted=Effect.BLOCK,
            failed=tuple(decider.policies)[:8],
            reason=f"the policies gave no answer within {within}, and fail {fail}",
            version=decider.version,
            took=time.perf_counter_ns() - began,
        )

    async def outgrown(
        self,
        decider: Decider,
        questions: Sequence[Question],
        waiting: Waiting,
        listed: bool = True,
    ) -> Decision | None:
        """What this set says, where it asks for another approval than the one that was waited for
        and that another set asked for; else None."""
        if decider.version == waiting.entry.version:
            return None
        again = await self.decide(decider, questions, False, listed)
        same = (
            set(again.policies) <= set(waiting.entry.policies)
            and terms(decider, again) == waiting.terms
        )
        return again if again.effect is Effect.CHALLENGE and not same else None

    def entry(self, question: Question, decision: Decision) -> Entry:
        """What a decision says, without who asked."""
        return Entry.of(question, decision, self._tier, self._clock())

    def allow(self, entry: Entry, count: int = 1) -> None:
        """One that would say what another one said already is counted. count: so many of it.
        LogError."""
        if self.behind:
            self.log.flush()
            self.behind = False
        # First what would be done, were it enforced.
        if entry.wanted is not Effect.ALLOW or entry.failed or not self._again(entry, count):
            self.log.note(entry)

    def block(self, entry: Entry) -> None:
        """On the disk when it returns, the first time; then counted, for a point that is asked by
        the thousand. LogError."""
        if not self._again(entry, 1):
            self.log.append(entry)

    def _again(self, entry: Entry, count: int) -> bool:
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

    # --- beside it ------------------------------------------------------------------------

    async def _follow(self, following: Following) -> None:
        """Each change is in the log before it has an effect; one that cannot be logged waits."""
        new: Decider | None = None
        said = ""
        while True:
            await asyncio.sleep(FOLLOW)
            # Reading a set takes longer than an action may wait.
            new = await asyncio.to_thread(following.follow) or new
            try:
                if new is not None and following.entry is not None:
                    self._put_into_force(new, following.entry)
                    new = None
                if following.problem != said:
                    if following.problem:
                        self._keep(following.problem)
                    said = following.problem
            except LogError as error:
                self.problem = str(error)

    def _put_into_force(self, decider: Decider, change: Change) -> None:
        self.log.append(
            Entry(
                time=self._clock(),
                kind="policies",
                action=change.what,
                resource=f"Set:{change.version}",
                version=change.version,
                by=change.by,
                why=change.note,
                tier=self._tier,
            )
        )
        self.decider = decider
        self.approvals.policies_changed(change.at)
        if self._asking.stuck:  # with a set that is no longer asked
            self._asking.close()
            self._asking = Deciding()
        self.tell(f"policies: set {change.version[:12]} is in force, by {change.by}")
        self.on_change()

    def _keep(self, problem: str) -> None:
        version = self.decider.version
        said = f"{problem}; set {version[:12]} stays in force"
        self.log.append(
            Entry(
                time=self._clock(),
                kind="policies",
                action="keep",
                resource=f"Set:{version}",
                version=version,
                reason=said,
                tier=self._tier,
            )
        )
        self.tell(f"policies: {said}")

    async def _tidy(self) -> None:
        counted = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH)
            try:
                if time.monotonic() - counted >= COUNTED:
                    counted = time.monotonic()
                    self._count()
                self.log.flush()
                self.behind = False
            except LogError as error:  # tried again; nothing goes on meanwhile
                self.behind = True
                self.problem = str(error)

    def _count(self) -> None:
        for known, count in list(self._known.items()):
            self._note_count(known, count)
            self._known[known] = 0

    def _note_count(self, known: Entry, count: int) -> None:
        if count:
            kind = "allows" if known.effect is Effect.ALLOW else "blocks"
            entry = msgspec.structs.replace(known, kind=kind, time=self._clock(), count=count)
            self.log.note(entry)


def terms(decider: Decider, decision: Decision) -> Terms:
    """Of a challenge: what all of its policies ask for."""
    known = decider.policies
    said: list[Challenge] = [
        known[one]
        for one in decision.policies
        if one in known and known[one].does is Effect.CHALLENGE
    ]
    return terms_of(said)


def _fail(decider: Decider) -> Fail:
    """Of the whole set: open only where every policy of it that is enforced is."""
    fails = [one.fail for one in decider.policies.values() if one.mode is Mode.ENFORCE]
    return Fail.OPEN if all(one is Fail.OPEN for one in fails) else Fail.CLOSED
