"""Policy at the gateway: a tool call, or what a server asks of the client's model, becomes a
question, the question a decision, a challenge an action that waits for a person, and all of it
entries of the decision log (decide/ruling.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from hullwatch.agent.mcp.gate import Asked, Ruling
from hullwatch.agent.report import Reporter, Whose
from hullwatch.agent.secrets import Key, redact
from hullwatch.context.call import MAX_TEXT
from hullwatch.context.cgroups import container_of
from hullwatch.decide.approvals import Full, Person, Refused, Waiting, ancestors
from hullwatch.decide.deciding import Decider
from hullwatch.decide.following import Following
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Entity, Mode, Question
from hullwatch.decide.ruling import OTHER_TERMS, Rulings, terms

__all__ = ["Gatekeeper", "Requester"]

MAX_SHOWN = 2048  # characters of a held call's arguments that are shown
_TIER = "gateway"
_UNLABELLED = (
    "policies: some read labels, and no agent tells those of this client and server; they cannot be"
    " evaluated and take their @fail"
)


class Requester(NamedTuple):
    """Who is on the other side of the gateway, as the kernel says. workload: id of its container,
    or ''. pid: of the client; 0: not known, as over TCP. beside: it is in the gateway's own
    container. whose: what an agent knows of that."""

    uid: int
    pid: int = 0
    workload: str = ""
    program: str = ""
    beside: bool = False
    whose: Whose | None = None

    @property
    def identity(self) -> str:
        workload = self.whose.container if self.whose else self.workload
        said = [f"uid:{self.uid}", workload and f"container:{workload}", self.program]
        return " ".join(filter(None, said))

    @classmethod
    def of_client(cls) -> Requester:
        """The process above us at the other end of our stdin; shells may be between."""
        pid = os.getppid()
        with contextlib.suppress(OSError):
            stream = os.readlink("/proc/self/fd/0")
            if stream.startswith(("pipe:", "socket:")):
                pid = [pid, *(one for one in ancestors(pid) if _has(one, stream))][-1]
        workload = container_of(pid)
        beside = _is_beside(pid) and workload == container_of(os.getpid())
        return cls(_uid(pid), pid, workload, _program(pid), beside)

    @classmethod
    def over_network(cls) -> Requester:
        return cls(os.getuid())

    @property
    def about(self) -> dict[str, str]:
        """Of its container, for the context."""
        if self.whose is None:
            return {"container": self.workload}
        return {"container": self.whose.name} | self.whose.about

    @property
    def person(self) -> Person:
        return Person.of(self.uid, self.pid)

    def principal(self, client: str) -> Entity:
        """The container where there is one: by its name, as everywhere else, or as long as no agent
        tells it by its id. Else an agent by the name that it gives itself: that tells programs of
        one user apart, and proves nothing."""
        if name := self.whose.name if self.whose else self.workload:
            return Entity("Workload", name)
        return Entity("Agent", client or self.program or "unknown")


class Gatekeeper:
    """A Gate (agent/mcp/gate.py). following: gives another decider when the set in force changes.
    tell: says what a person at the gateway should know, without waiting for it."""

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
        self._rulings = Rulings(
            decider, log, _TIER, requester.pid, clock, following=following, tell=tell
        )
        self.approvals = self._rulings.approvals
        self.approvals.on_flood = reporter.signal
        self.requester = requester
        self._reporter = reporter
        self._key = Key(os.urandom(32))
        self._spoken: tuple[Decider | None, frozenset[tuple[str, Mode]]] = (None, frozenset())
        self._unlabelled = ""  # version of the set that read labels which nobody told

    @property
    def problem(self) -> str:
        return self._rulings.problem

    async def start(self) -> None:
        """LogError."""
        await self._rulings.start()

    def close(self) -> None:
        self._rulings.close()

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer. LogError."""
        return self._rulings.log.story(principal)

    # --- one call -------------------------------------------------------------------------

    def speaks(self, action: str, enforced: bool = False) -> bool:
        decider = self._rulings.decider
        if self._spoken[0] is not decider:
            both = [
                (action, one.mode) for one in decider.policies.values() for action in one.actions
            ]
            self._spoken = (decider, frozenset(both))
        modes = (Mode.ENFORCE,) if enforced else Mode
        return any((action, mode) in self._spoken[1] for mode in modes)

    async def ask(self, asked: Asked) -> Ruling:
        decider = self._rulings.decider
        try:
            await self._introduce("baseline" in decider.reads(_action(asked)))
            question = self._question(asked, await self._labels(decider, asked))
            approved = asked.approved == _approval(decider, question)
            decision = await self._rulings.decide(decider, (question,), approved)
            entry = self._entry(asked, question, decision)
            if decision.effect is Effect.ALLOW:
                self._rulings.allow(entry)
                return Ruling(True, approved=asked.approved if approved else "")
            if decision.effect is Effect.CHALLENGE:
                return await self._challenge(decider, asked, question, decision, entry)
            self._rulings.log.append(entry)
            return _blocked(decision)
        except LogError as error:
            self._rulings.problem = str(error)
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
            **self.requester.about,
            "program": self.requester.program,
            "uid": self.requester.uid,
        }
        return Question(
            principal=self.requester.principal(asked.client[:MAX_TEXT]),
            action=_action(asked),
            resource=Entity("Model", asked.model, {"name": asked.model})
            if asked.model
            else Entity("Tool", f"{server}/{tool}", {"name": tool, "server": server}),
            context={name: value for name, value in known.items() if value not in ("", None)},
        )

    async def _introduce(self, changes: bool) -> None:
        """Find out what the client's container is called, and what else an agent tells of it. One
        that does not know it yet is asked again at the next call, which waits no longer than for
        labels; and so it is where policies read what may change."""
        known = self.requester.whose is not None and not changes
        if not self.requester.beside or known:
            return
        whose = await self._reporter.workload()
        if whose is not None and self.requester.workload in ("", whose.container):
            self.requester = self.requester._replace(whose=whose)

    async def _labels(self, decider: Decider, asked: Asked) -> tuple[str, ...] | None:
        """Of client and server, as an agent knows them; None: nobody knows, and policies that read
        them fail as they say."""
        if "labels" not in decider.reads(_action(asked)):
            return None
        labels = await self._reporter.labels()
        if labels is None and self._unlabelled != decider.version:
            self._unlabelled = decider.version
            self._rulings.tell(_UNLABELLED)
        return labels

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
            again = await self._rulings.decide(decider, (question,), True)
            if again.effect is not Effect.ALLOW:
                self._rulings.log.append(self._entry(asked, question, again))
                return _blocked(again)
            self._rulings.log.append(granted)
            return Ruling(True, approved=_approval(decider, question))
        over = asyncio.Event()
        try:
            waiting = self.approvals.hold(
                entry,
                terms(decider, decision),
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
            self._rulings.log.append(blocked)
            return Ruling(False, f"blocked by hullwatch: {error}", decision.policies)
        pending = _Pending(self, asked, waiting, over)
        return Ruling(False, decision.reason, decision.policies, pending=pending)

    def _shown(self, raw: bytes) -> str:
        """Arguments for the eyes of whoever answers, without secrets; kept nowhere."""
        text = redact(raw[: 16 * MAX_SHOWN].decode("utf-8", "replace"), self._key)
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."

    async def approved(self, asked: Asked, waiting: Waiting) -> Ruling:
        """Asked again with what is known now: an approval lifts the challenge that it was given
        for, and nothing else."""
        decider = self._rulings.decider
        question = self._question(asked, await self._labels(decider, asked))
        again = await self._rulings.outgrown(decider, (question,), waiting)
        if again is not None:
            entry = self._entry(asked, question, again)
            self._rulings.log.append(
                msgspec.structs.replace(entry, effect=Effect.BLOCK, reason=OTHER_TERMS)
            )
            return Ruling(False, f"blocked by hullwatch: {OTHER_TERMS}", again.policies)
        decision = await self._rulings.decide(decider, (question,), True)
        if decision.effect is not Effect.ALLOW:
            self._rulings.log.append(self._entry(asked, question, decision))
            return _blocked(decision)
        return Ruling(True, approved=_approval(decider, question))

    def _entry(self, asked: Asked, question: Question, decision: Decision) -> Entry:
        return msgspec.structs.replace(
            self._rulings.entry(question, decision),
            server=asked.server,
            identity=self.requester.identity,
            tool_call=f"{asked.call:016x}" if asked.call else "",
        )


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
        one, what = self._asked, f"Call {self._asked.tool} of {self._asked.server}?"
        if one.model:
            what = f"Let {one.server} use your model {one.model!a}?"
        asked = f"{what} {entry.reason} (policy {', '.join(entry.policies)})"
        return asked + (f"\n{said}" if said else "")

    async def over(self) -> None:
        try:
            async with asyncio.timeout_at(self._until):
                await self._over.wait()
        except TimeoutError:
            try:
                self._keeper.approvals.expire(self._waiting)
            except LogError as error:  # nothing goes on that cannot be logged
                self._keeper._rulings.problem = str(error)

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
            keeper._rulings.problem = str(error)
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
            keeper._rulings.problem = str(error)

    def cancel(self, why: str) -> None:
        """Nothing, where it is over."""
        try:
            self._keeper.approvals.cancel(self._waiting, why)
        except LogError as error:
            self._keeper._rulings.problem = str(error)


def _action(asked: Asked) -> str:
    return "model-call" if asked.model else "tool-call"


def _approval(decider: Decider, question: Question) -> str:
    """What an approval of exactly this action is bound to, while these policies are in force."""
    return f"{question.hash()}:{decider.version}"


def _blocked(decision: Decision) -> Ruling:
    named = f"policy {', '.join(decision.policies)}: " if decision.policies else ""
    return Ruling(False, f"blocked by hullwatch: {named}{decision.reason}", decision.policies)


def _is_beside(pid: int) -> bool:
    """Whether a process sees the same cgroups as we do."""
    try:
        return os.readlink(f"/proc/{pid}/ns/cgroup") == os.readlink("/proc/self/ns/cgroup")
    except OSError:
        return False


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
