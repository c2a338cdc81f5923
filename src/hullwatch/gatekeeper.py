"""Policy at the gateway: a tool call becomes a question, the question a decision, a challenge an
action that waits for a person, and all of it entries of the decision log.

A decider that hangs is not waited for: its question is answered as the set fails, and so is every
further one until it comes back. What cannot be logged is not let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hullwatch.agent.mcp.gate import Asked, Ruling
from hullwatch.agent.report import Reporter
from hullwatch.agent.secrets import Key, redact
from hullwatch.context.call import MAX_TEXT, Signal
from hullwatch.decide.approvals import (
    Approvals,
    Full,
    Person,
    Refused,
    Waiting,
    ancestors,
)
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Entity, Question
from hullwatch.ruling import Decider, Rulings, entry_of

__all__ = ["Decider", "Gatekeeper", "Requester"]

MAX_SHOWN = 2048  # characters of a held call's arguments that are shown
_TIER = "gateway"


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
        return cls(_uid(pid), pid, _container(pid), _program(pid))

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
    """A Gate (agent/mcp/gate.py). fail: of a set that cannot be asked."""

    def __init__(
        self,
        decider: Decider,
        log: Log,
        requester: Requester,
        reporter: Reporter,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self.requester = requester
        self._reporter = reporter
        self._clock = clock
        self.approvals = Approvals(log, requester.pid, clock)
        self._rulings = Rulings(decider, log, clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._flooded = 0  # when that was told last
        self._key = Key(os.urandom(32))
        self.problem = ""

    async def start(self) -> None:
        """LogError."""
        self.approvals.sweep()
        self._tasks = [asyncio.create_task(self._rulings.tidy())]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            self.approvals.close()
            self._rulings.close()
        except LogError as error:
            self.problem = str(error)
        self.problem = self.problem or self._rulings.problem

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer. LogError."""
        self._log.flush()
        found = [one for one in self._log.entries(newest=200) if one.principal == principal]
        names = "time kind action resource effect policies reason tool_call count".split()
        return [{name: getattr(one, name) for name in names} for one in found[-10:]]

    # --- one call -------------------------------------------------------------------------

    async def ask(self, asked: Asked) -> Ruling:
        try:
            question = self._question(asked)
            approved = asked.approved == question.hash()
            decision = await self._decide(question, approved)
            entry = self._entry(asked, question, decision)
            if decision.effect is Effect.ALLOW:
                return self._allow(entry, asked.approved if approved else "")
            if decision.effect is Effect.CHALLENGE:
                return await self._challenge(asked, question, decision, entry)
            self._log.append(entry)
            return _blocked(decision)
        except LogError as error:
            self.problem = str(error)
            return Ruling(False, f"held by hullwatch: a decision cannot be logged: {error}")

    def _question(self, asked: Asked) -> Question:
        server, tool = asked.server, asked.tool
        known: dict[str, Any] = {
            "labels": (),
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
            context={name: value for name, value in known.items() if value != ""},
        )

    def _allow(self, entry: Entry, approved: str) -> Ruling:
        self._rulings.allow(entry)
        return Ruling(True, approved=approved)

    async def _challenge(
        self, asked: Asked, question: Question, decision: Decision, entry: Entry
    ) -> Ruling:
        granted = self.approvals.granted(entry)
        if granted is not None:
            again = await self._decide(question, True)
            if again.effect is not Effect.ALLOW:
                self._log.append(self._entry(asked, question, again))
                return _blocked(again)
            why = f"approved for every such call by {granted.by}: {granted.why}"
            self._log.append(
                msgspec.structs.replace(
                    entry, effect=again.effect, why=why, scope=granted.scope, by=granted.by
                )
            )
            return Ruling(True, approved=question.hash())
        over = asyncio.Event()
        try:
            waiting = self.approvals.hold(
                entry,
                self._rulings.terms(decision),
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
        pending = _Pending(self, asked, waiting, over)
        return Ruling(False, decision.reason, decision.policies, pending=pending)

    def _shown(self, raw: bytes) -> str:
        """Arguments for the eyes of whoever answers, without secrets; kept nowhere."""
        text = redact(raw[: 16 * MAX_SHOWN].decode("utf-8", "replace"), self._key)
        return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."

    async def approved(self, asked: Asked) -> Ruling:
        """Asked again with what is known now: an approval lifts a challenge, and nothing else."""
        question = self._question(asked)
        decision = await self._decide(question, True)
        if decision.effect is not Effect.ALLOW:
            self._log.append(self._entry(asked, question, decision))
            return _blocked(decision)
        return Ruling(True, approved=question.hash())

    async def _decide(self, question: Question, approved: bool) -> Decision:
        return await self._rulings.decide(
            lambda: self._rulings.decider.decide(question, approved=approved)
        )

    def _entry(self, asked: Asked, question: Question, decision: Decision) -> Entry:
        return msgspec.structs.replace(
            entry_of(question, decision, _TIER, self._clock()),
            server=asked.server,
            identity=self.requester.identity,
            tool_call=f"{asked.call:016x}",
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
        self.asks = self._question() if waiting.terms.requester else ""

    def _question(self) -> str:
        entry, said = self._waiting.entry, str(self._waiting.context.get("said", ""))
        asked = f"Call {self._asked.tool} of {self._asked.server}? {entry.reason}"
        return f"{asked} (policy {', '.join(entry.policies)})" + (f"\n{said}" if said else "")

    async def outcome(self) -> Ruling:
        waiting, keeper = self._waiting, self._keeper
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    await self._over.wait()
            except TimeoutError:
                keeper.approvals.expire(waiting)
            if waiting.effect is Effect.ALLOW:
                return await keeper.approved(self._asked)
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
            keeper.approvals.answer(self.id, keeper.requester.person, yes, why)
        except (Refused, LogError) as error:
            keeper.problem = str(error)

    def cancel(self, why: str) -> None:
        """Nothing, where it is over."""
        try:
            self._keeper.approvals.cancel(self._waiting, why)
        except LogError as error:
            self._keeper.problem = str(error)


def _blocked(decision: Decision) -> Ruling:
    named = f"policy {', '.join(decision.policies)}: " if decision.policies else ""
    return Ruling(False, f"blocked by hullwatch: {named}{decision.reason}", decision.policies)


def _container(pid: int) -> str:
    """The id in a process's cgroup path, as runtimes write it; '' on the host."""
    try:
        path = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    parts = path.replace("-", "/").replace(".scope", "").replace(":", "/").split("/")
    ids = (one.strip() for one in parts)
    return next((one for one in ids if len(one) == 64 and set(one) <= set("0123456789abcdef")), "")


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
