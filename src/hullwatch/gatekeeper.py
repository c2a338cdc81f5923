"""Policy at the gateway: a tool call becomes a question, the question a decision, a challenge an
action that waits for a person, and all of it entries of the decision log.

A decider that hangs is not waited for: its question is answered as the set fails, and so is every
further one until it comes back. What cannot be logged is not let through. Where the set in force is
followed, each call is decided by one set, the old or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from hullwatch.agent.mcp.gate import Asked, Ruling
from hullwatch.agent.report import Reporter
from hullwatch.agent.secrets import Key, redact
from hullwatch.context.call import MAX_TEXT, Signal
from hullwatch.context.cgroups import container_of
from hullwatch.decide.applied import Entry as Change
from hullwatch.decide.approvals import (
    Approvals,
    Challenge,
    Full,
    Person,
    Refused,
    Terms,
    Waiting,
    ancestors,
    terms_of,
)
from hullwatch.decide.deciding import DECIDING, Decider, Deciding
from hullwatch.decide.following import Following
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Entity, Fail, Mode, Question

__all__ = ["Gatekeeper", "Requester"]

FLUSH = 1.0  # s between two writings of what nobody waits for
FOLLOW = 0.5  # s between two looks at the set in force
COUNTED = 60.0  # s between two of the counts of remembered allows
MAX_SHOWN = 2048  # characters of a held call's arguments that are shown
MAX_KNOWN = 4096  # allows that are remembered
_TIER = "gateway"
_UNLABELLED = (
    "policies: some read labels, and no agent tells those of this client and server; they cannot be"
    " evaluated and take their @fail"
)
_OTHER_TERMS = "the policies changed while it waited, and now ask for another approval; ask again"


class Requester(NamedTuple):
    """Who is on the other side of the gateway, as the kernel says. workload: id of its container,
    or ''. pid: of the client; 0: not known, as over TCP."""

    uid: int
    pid: int = 0
    workload: str = ""
    program: str = ""

    @property
    def identity(self) -> str:
        said = [f"uid:{self.uid}", self.workload and f"container:{self.workload}", self.program]
        return " ".join(filter(None, said))

    @classmethod
    def of_client(cls) -> Requester:
        """The process above us at the other end of our stdin; shells may be between."""
        pid = os.getppid()
        with contextlib.suppress(OSError):
            stream = os.readlink("/proc/self/fd/0")
            if stream.startswith(("pipe:", "socket:")):
                pid = [pid, *(one for one in ancestors(pid) if _has(one, stream))][-1]
        return cls(_uid(pid), pid, container_of(pid), _program(pid))

    @classmethod
    def over_network(cls) -> Requester:
        return cls(os.getuid())

    @property
    def person(self) -> Person:
        return Person.of(self.uid, self.pid)

    def principal(self, client: str) -> Entity:
        """The container where there is one. Else an agent by the name that it gives itself: that
        tells programs of one user apart, and proves nothing."""
        if self.workload:
            return Entity("Workload", self.workload)
        return Entity("Agent", client or self.program or "unknown")


class Gatekeeper:
    """A Gate (agent/mcp/gate.py). following: gives another decider when the set in force changes.
    tell: says what a person at the gateway should know, without waiting for it. on_held: called
    with what begins to wait, and returns at once."""

    def __init__(
        self,
        decider: Decider,
        log: Log,
        requester: Requester,
        reporter: Reporter,
        clock: Callable[[], int] = time.time_ns,
        *,
        following: Following | None = None,
        tell: Callable[[str], None] = lambda said: None,
    ) -> None:
        self._decider = decider
        self._log = log
        self.requester = requester
        self._reporter = reporter
        self._clock = clock
        self.approvals = Approvals(log, requester.pid, clock)
        self._following = following
        self._tell = tell
        self._asking = Deciding()
        self._known: OrderedDict[Entry, int] = OrderedDict()
        self.on_held: Callable[[Waiting], None] = lambda waiting: None
        self._tasks: list[asyncio.Task[None]] = []
        self._flooded = 0  # when that was told last
        self._key = Key(os.urandom(32))
        self._unlabelled = ""  # version of the set that read labels which nobody told
        self._behind = False  # what was noted could not be written
        self.problem = ""

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
            self._log.flush()
        except LogError as error:
            self.problem = str(error)
        self._asking.close()

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer. LogError."""
        self._log.flush()
        found = [one for one in self._log.entries(newest=200) if one.principal == principal]
        names = "time kind action resource effect policies reason tool_call count".split()
        return [{name: getattr(one, name) for name in names} for one in found[-10:]]

    # --- one call -------------------------------------------------------------------------

    async def ask(self, asked: Asked) -> Ruling:
        decider = self._decider
        try:
            question = self._question(asked, await self._labels(decider))
            approved = asked.approved == _approval(decider, question)
            decision = await self._decide(decider, question, approved)
            entry = self._entry(asked, question, decision)
            if decision.effect is Effect.ALLOW:
                return self._allow(entry, asked.approved if approved else "")
            if decision.effect is Effect.CHALLENGE:
                return await self._challenge(decider, asked, question, decision, entry)
            self._log.append(entry)
            return _blocked(decision)
        except LogError as error:
            self.problem = str(error)
            return Ruling(False, f"held by hullwatch: a decision cannot be logged: {error}")

    def _question(self, asked: Asked, labels: tuple[str, ...] | None = None) -> Question:
        server, tool = asked.server, asked.tool
        known: dict[str, Any] = {
            "labels": labels,
            "signals": asked.signals(),
            "server": server,
            "tool_call": tool,
            "definition": asked.definition,
            "secret_kinds": asked.secret_kinds,
            "arguments": asked.arguments,
            "container": self.requester.workload,
            "program": self.requester.program,
            "uid": self.requester.uid,
        }
        return Question(
            principal=self.requester.principal(asked.client[:MAX_TEXT]),
            action="tool-call",
            resource=Entity("Tool", f"{server}/{tool}", {"name": tool, "server": server}),
            context={name: value for name, value in known.items() if value not in ("", None)},
        )

    async def _labels(self, decider: Decider) -> tuple[str, ...] | None:
        """Of client and server, as an agent knows them; None: nobody knows, and policies that read
        them fail as they say."""
        if "labels" not in decider.reads("tool-call"):
            return None
        labels = await self._reporter.labels()
        if labels is None and self._unlabelled != decider.version:
            self._unlabelled = decider.version
            self._tell(_UNLABELLED)
        return labels

    def _allow(self, entry: Entry, approved: str) -> Ruling:
        """One that would say what another one said already is counted. LogError."""
        if self._behind:
            self._log.flush()
            self._behind = False
        known = msgspec.structs.replace(
            entry, time=0, took=0, tool_call="", question="", arguments=""
        )
        if entry.wanted is not Effect.ALLOW or entry.failed:
            self._log.note(entry)  # what would be done, were it enforced
        elif known in self._known:
            self._known[known] += 1
            self._known.move_to_end(known)
        else:
            self._known[known] = 0
            self._log.note(entry)
            if len(self._known) > MAX_KNOWN:
                self._note_count(*self._known.popitem(last=False))
        return Ruling(True, approved=approved)

    async def _challenge(
        self,
        decider: Decider,
        asked: Asked,
        question: Question,
        decision: Decision,
        entry: Entry,
    ) -> Ruling:
        granted = self.approvals.granted(entry)
        if granted is not None:
            again = await self._decide(decider, question, True)
            if again.effect is not Effect.ALLOW:
                self._log.append(self._entry(asked, question, again))
                return _blocked(again)
            why = f"approved for every such call by {granted.by}: {granted.why}"
            self._log.append(
                msgspec.structs.replace(
                    entry, effect=again.effect, why=why, scope=granted.scope, by=granted.by
                )
            )
            return Ruling(True, approved=_approval(decider, question))
        over = asyncio.Event()
        try:
            waiting = self.approvals.hold(
                entry,
                _terms(decider, decision),
                over.set,
                {
                    "definition": asked.definition,
                    "secret_kinds": asked.secret_kinds,
                    "client": asked.client,
                    "said": self._shown(asked.raw),
                },
            )
        except Full as error:
            blocked = msgspec.structs.replace(entry, effect=Effect.BLOCK, reason=str(error))
            self._log.append(blocked)
            self._tell_flood(entry)
            return Ruling(False, f"blocked by hullwatch: {error}", decision.policies)
        self._tell_flood(entry)
        self.on_held(waiting)
        pending = _Pending(self, asked, waiting, over)
        return Ruling(False, decision.reason, decision.policies, pending=pending)

    def _shown(self, raw: bytes) -> str:
        """Arguments for the eyes of whoever answers, without secrets; kept nowhere."""
        text = redact(raw[: 16 * MAX_SHOWN].decode("utf-8", "replace"), self._key)
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."

    async def approved(self, asked: Asked, waiting: Waiting) -> Ruling:
        """Asked again with what is known now: an approval lifts the challenge that it was given
        for, and nothing else."""
        decider = self._decider
        question = self._question(asked, await self._labels(decider))
        if decider.version != waiting.entry.version:
            again = await self._decide(decider, question, False)
            if again.effect is Effect.CHALLENGE and not (
                set(again.policies) <= set(waiting.entry.policies)
                and _terms(decider, again) == waiting.terms
            ):
                entry = self._entry(asked, question, again)
                self._log.append(
                    msgspec.structs.replace(entry, effect=Effect.BLOCK, reason=_OTHER_TERMS)
                )
                return Ruling(False, f"blocked by hullwatch: {_OTHER_TERMS}", again.policies)
        decision = await self._decide(decider, question, True)
        if decision.effect is not Effect.ALLOW:
            self._log.append(self._entry(asked, question, decision))
            return _blocked(decision)
        return Ruling(True, approved=_approval(decider, question))

    async def _decide(self, decider: Decider, question: Question, approved: bool) -> Decision:
        began = time.perf_counter_ns()
        decision = await self._asking.ask(decider, question, approved)
        if decision is not None:
            return decision
        fail = _fail(decider)
        effect = Effect.ALLOW if fail is Fail.OPEN else Effect.BLOCK
        return Decision(
            effect=effect,
            wanted=Effect.BLOCK,
            failed=tuple(decider.policies)[:8],
            reason=f"the policies gave no answer within {DECIDING:g} s, and fail {fail}",
            version=decider.version,
            took=time.perf_counter_ns() - began,
        )

    def _entry(self, asked: Asked, question: Question, decision: Decision) -> Entry:
        return Entry(
            time=self._clock(),
            principal=f"{question.principal.kind}:{question.principal.id}",
            action=question.action,
            resource=f"{question.resource.kind}:{question.resource.id}",
            server=asked.server,
            effect=decision.effect,
            wanted=decision.wanted,
            mode=Mode.ENFORCE if decision.effect is decision.wanted else Mode.OBSERVE,
            policies=decision.policies,
            failed=decision.failed,
            reason=decision.reason,
            version=decision.version,
            took=decision.took,
            tier=_TIER,
            identity=self.requester.identity,
            tool_call=f"{asked.call:016x}",
            question=question.hash(),
            arguments=asked.arguments,
        )

    # --- beside it ------------------------------------------------------------------------

    def _tell_flood(self, entry: Entry) -> None:
        """Once a minute."""
        now = self._clock()
        if now - self._flooded < 60 * 10**9:
            return
        try:
            count = self.approvals.flooded(entry)
        except LogError as error:  # what is held is held all the same
            self.problem = str(error)
            return
        if not count:
            return
        self._flooded = now
        self._reporter.signal(
            Signal(
                kind="approval_flood",
                subject=entry.principal[:MAX_TEXT],
                detail=f"{count} actions were held for a person within a minute",
                time=now,
                server=entry.server[:MAX_TEXT],
                held=True,
            )
        )

    async def _follow(self, following: Following) -> None:
        """Each change is in the log before it has an effect; one that cannot be logged waits."""
        new: Decider | None = None
        said = ""
        while True:
            await asyncio.sleep(FOLLOW)
            # Reading a set takes longer than a call may wait.
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
        self._log.append(
            Entry(
                time=self._clock(),
                kind="policies",
                action=change.what,
                resource=f"Set:{change.version}",
                version=change.version,
                by=change.by,
                why=change.note,
                tier=_TIER,
            )
        )
        self._decider = decider
        self.approvals.policies_changed(change.at)
        if self._asking.stuck:  # with a set that is no longer asked
            self._asking.close()
            self._asking = Deciding()
        self._tell(f"policies: set {change.version[:12]} is in force, by {change.by}")

    def _keep(self, problem: str) -> None:
        version = self._decider.version
        said = f"{problem}; set {version[:12]} stays in force"
        self._log.append(
            Entry(
                time=self._clock(),
                kind="policies",
                action="keep",
                resource=f"Set:{version}",
                version=version,
                reason=said,
                tier=_TIER,
            )
        )
        self._tell(f"policies: {said}")

    async def _tidy(self) -> None:
        counted = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH)
            try:
                if time.monotonic() - counted >= COUNTED:
                    counted = time.monotonic()
                    self._count()
                self._log.flush()
                self._behind = False
            except LogError as error:  # tried again; nothing goes on meanwhile
                self._behind = True
                self.problem = str(error)

    def _count(self) -> None:
        for known, count in list(self._known.items()):
            self._note_count(known, count)
            self._known[known] = 0

    def _note_count(self, known: Entry, count: int) -> None:
        if count:
            entry = msgspec.structs.replace(known, kind="allows", time=self._clock(), count=count)
            self._log.note(entry)


class _Pending:
    """One held call, as the gateway waits for it."""

    def __init__(
        self, keeper: Gatekeeper, asked: Asked, waiting: Waiting, over: asyncio.Event
    ) -> None:
        self._keeper = keeper
        self._asked = asked
        self._waiting = waiting
        self._over = over
        self.id = waiting.id
        self.seconds = waiting.terms.deadline
        self._until = asyncio.get_running_loop().time() + self.seconds
        self.asks = self._question() if waiting.terms.requester else ""

    def _question(self) -> str:
        entry, said = self._waiting.entry, str(self._waiting.context.get("said", ""))
        asked = f"Call {self._asked.tool} of {self._asked.server}? {entry.reason}"
        return f"{asked} (policy {', '.join(entry.policies)})" + (f"\n{said}" if said else "")

    async def over(self) -> None:
        try:
            async with asyncio.timeout_at(self._until):
                await self._over.wait()
        except TimeoutError:
            try:
                self._keeper.approvals.expire(self._waiting)
            except LogError as error:  # nothing goes on that cannot be logged
                self._keeper.problem = str(error)

    def resumes(self, asked: Asked) -> bool:
        same = self._keeper._question(asked).hash() == self._waiting.entry.question
        if same:
            self._asked = asked
        return same

    async def outcome(self) -> Ruling:
        waiting, keeper = self._waiting, self._keeper
        try:
            await self.over()
            if not waiting.ended:
                return Ruling(False, "held by hullwatch: a decision cannot be logged")
            if waiting.effect is Effect.ALLOW:
                return await keeper.approved(self._asked, waiting)
        except LogError as error:
            keeper.problem = str(error)
            return Ruling(False, f"held by hullwatch: a decision cannot be logged: {error}")
        policies = waiting.entry.policies
        how = {"denied": "denied by a person", "expired": "not approved in time"}
        said = how.get(waiting.ended, waiting.ended)
        named = ", ".join(policies)
        why = f"{said} (policy {named}): {waiting.why}"
        return Ruling(False, f"blocked by hullwatch: {why}", policies)

    def answer(self, yes: bool, why: str) -> None:
        """One that does not count leaves it waiting for others."""
        keeper = self._keeper
        try:
            if self._waiting.ended and not yes:
                keeper.approvals.take_back(self._waiting, keeper.requester.person, why)
                return
            keeper.approvals.answer(self.id, keeper.requester.person, yes, why)
        except (Refused, LogError) as error:
            keeper.problem = str(error)

    def cancel(self, why: str) -> None:
        """Nothing, where it is over."""
        try:
            self._keeper.approvals.cancel(self._waiting, why)
        except LogError as error:
            self._keeper.problem = str(error)


def _approval(decider: Decider, question: Question) -> str:
    """What an approval of exactly this action is bound to, while these policies are in force."""
    return f"{question.hash()}:{decider.version}"


def _fail(decider: Decider) -> Fail:
    """Of the whole set: open only where every policy of it that is enforced is."""
    fails = [one.fail for one in decider.policies.values() if one.mode is Mode.ENFORCE]
    return Fail.OPEN if all(one is Fail.OPEN for one in fails) else Fail.CLOSED


def _terms(decider: Decider, decision: Decision) -> Terms:
    known = decider.policies
    said: list[Challenge] = [
        known[one]
        for one in decision.policies
        if one in known and known[one].does is Effect.CHALLENGE
    ]
    return terms_of(said)


def _blocked(decision: Decision) -> Ruling:
    named = f"policy {', '.join(decision.policies)}: " if decision.policies else ""
    return Ruling(False, f"blocked by hullwatch: {named}{decision.reason}", decision.policies)


def _uid(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return os.getuid()


def _has(pid: int, stream: str) -> bool:
    with contextlib.suppress(OSError):
        for one in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(one.path) == stream:
                    return True
    return False


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
