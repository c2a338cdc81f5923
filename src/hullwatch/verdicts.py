"""What policies in force stopped in the kernel, and what they let go on, as entries of the decision
log; and who is set apart for it.

    a `policy` event → Stopped → which policies said so → an entry, a quarantine
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.policy import Policy
from hullwatch.decide.quarantine import How, Quarantine
from hullwatch.decide.question import Decision, Effect, Mode
from hullwatch.detect.row import Row
from hullwatch.questions import Act, Asked, act_of, workload_name
from hullwatch.sensor.events import POLICY_ACTIONS
from hullwatch.sensor.wire import UNREAD, Class, Done, Mark, Privilege

__all__ = ["Stopped", "Verdicts", "stopped_of"]

MAX_NAMED = 5  # containers that one count names
MAX_WAITING = 10_000  # verdicts that are still to be logged
_CLASS = {
    "exec": Class.EXEC,
    "open-read": Class.OPEN,
    "open-write": Class.OPEN,
    "use-secret": Class.OPEN,
    "connect": Class.CONNECT,
    "listen": Class.LISTEN,
}
_PRIVILEGE = {
    int(Privilege.PTRACE): Class.PTRACE,
    int(Privilege.MOUNT): Class.MOUNT,
    int(Privilege.BPF): Class.BPF,
    int(Privilege.MODULE): Class.MODULE,
    int(Privilege.SETUID): Class.SETID,
    int(Privilege.CAPABILITY): Class.CAPSET,
}
_OWN = "it reached for Hullwatch itself"
_UNKNOWN = "what it is about cannot be told"
_UNTOLD = {"use-secret": "it is a secret by where it lies, whatever it is reached by"}
_UNREAD = "its TLS hello is in a form that is not read: which server it asks for cannot be told"
_HOW = {
    int(Done.KILLED): "the program was ended before its first instruction",
    int(Done.DROPPED): "a packet of an open connection was dropped",
}


class Stopped(NamedTuple):
    """What the kernel did at the policies' word. ts: unix ns. done: enum hw_done. tool_call: its
    id; several where it may be of any, by commas. act: of a server name that TLS asked for, as its
    hello; unread: that could not be read."""

    ts: int
    done: int
    action: str
    act: Act
    identity: str
    tool_call: str
    tier: str
    own: bool = False  # it reached for the agent itself: no policy was asked
    unread: bool = False

    @property
    def workload(self) -> Workload:
        return self.act.actor.workload


def stopped_of(row: Row, offset: int, tier: str) -> Stopped:
    """Of a `policy` event. offset: from its clock to the wall."""
    action, done = row.event.flags & 0xFFFF, row.event.flags >> 16
    name = POLICY_ACTIONS[action]
    act = act_of(row)
    cls = _PRIVILEGE.get(row.event.num, Class.BPF) if name == "privilege" else _CLASS[name]
    if name == "connect":
        new = bool(row.event.marks & Mark.UPPER) or None  # HW_M_NEW
        act = act._replace(upper=None, actor=act.actor._replace(first_seen=new))
    said = (row.obj2.text,) if name == "connect" and row.obj2 is not None else ()
    if said:
        cls = Class.TLS
    # Names that anybody may have said are not what policy knows: `Guarding.questions`.
    act = act._replace(cls=int(cls), flags=int(name == "open-write"), names=said)
    if name == "privilege" and act.object:  # the program that the rights come with
        act = act._replace(actor=act.actor._replace(program=act.object))
    own = name == "privilege" and row.event.num == Privilege.OWN
    image = row.image
    identity = f"uid:{image.euid} {image.exepath}" if image is not None else ""
    return Stopped(
        row.ts + offset,
        done,
        name,
        act,
        identity,
        ",".join(f"{one.id:016x}" for one in row.calls if one.kind == "tool"),
        tier,
        own,
        name == "connect" and row.event.num == UNREAD,
    )


class Verdicts:
    """open_log: called in the thread that all but `expects` is for, as the log is for one thread.
    quarantine: who is to be set apart. say: why nothing can be logged; '' once it can again.

    lost: verdicts that were not logged.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        quarantine: Callable[[Quarantine], None],
        say: Callable[[str], None],
    ) -> None:
        self._open_log = open_log
        self._log: Log | None = None
        self._quarantine = quarantine
        self._say = say
        self._waiting = 0
        self._counted: Mapping[tuple[int, int], int] = {}
        self.lost = 0

    def expects(self) -> bool:
        """`write` will be called with one more. False: too many wait, and it is lost."""
        if self._waiting >= MAX_WAITING:
            self.lost += 1
            return False
        self._waiting += 1
        return True

    def begin(self) -> None:
        """LogError."""
        self._log = self._open_log()

    def flush(self) -> None:
        """What cannot be written now is kept, as far as there is room. LogError."""
        if self._log is None:
            self.begin()
        elif self._log.waiting:
            self._log.flush()
            self._say("")

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def write(self, one: Stopped, engine: Engine | None, questions: Collection[Asked]) -> None:
        """questions: that the kernel's answer was about. engine: in force; None: none is."""
        self._waiting -= 1
        full = self._log is None or self._log.waiting >= MAX_WAITING
        if self._log is None or full or (engine is None and not one.own):
            self.lost += 1
            return
        entry = _entry(one, engine, () if one.own or one.unread else questions)
        try:
            self._log.note(entry)
        except LogError as error:
            self._say(f"LogError: {error}")
        if entry.effect is Effect.BLOCK and engine is not None:
            what = f"{one.action} {one.act.object}"
            self.set_apart(one.workload, entry.policies, engine.policies, what)

    def set_apart(
        self,
        workload: Workload,
        policies: Iterable[str],
        known: Mapping[str, Policy],
        what: str,
    ) -> None:
        """The strongest way that a policy asks for that stopped it; once while it is set apart."""
        asked = [
            policy
            for ident in policies
            if (policy := known.get(ident)) and policy.quarantine and policy.mode is Mode.ENFORCE
        ]
        if not asked or not workload.container_id:
            return
        ways = list(How)
        policy = max(asked, key=lambda each: ways.index(each.quarantine or How.NETWORK))
        self._quarantine(
            Quarantine(
                id=secrets.token_hex(4),
                container_id=workload.container_id,
                container=workload_name(workload),
                how=policy.quarantine or How.NETWORK,
                owner=f"policy {policy.id}",
                reason=policy.reason or f"it was stopped: {what}",
                created=time.time_ns(),
            )
        )

    def count(
        self,
        version: str,
        allowed: Mapping[tuple[int, int], int],
        whose: Mapping[int, Collection[str]],
    ) -> None:
        """What was allowed, of each kind of container and action: one entry for all since the last
        time. allowed: by (scope, action), since the set is in force; whose: names by scope."""
        if self._log is None:
            return
        for (scope, action), count in allowed.items():
            more = count - self._counted.get((scope, action), 0)
            names = sorted(whose.get(scope, ()))
            if more > 0 and names:
                rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
                entry = Entry(
                    time=time.time_ns(),
                    kind="allows",
                    principal=f"Workload:{', '.join(names[:MAX_NAMED])}{rest}",
                    action=POLICY_ACTIONS.get(action, "connect"),
                    version=version,
                    reason="answered in the kernel",
                    tier="kernel",
                    count=more,
                )
                self._log.note(entry)
        self._counted = allowed

    def begin_anew(self) -> None:
        """Another set is in force: nothing of it is counted yet."""
        self._counted = {}


def _entry(one: Stopped, engine: Engine | None, questions: Collection[Asked]) -> Entry:
    stopped = one.done != Done.TOLD
    ranks = list(Effect)
    reason = _OWN if one.own else _UNTOLD.get(one.action, _UNKNOWN)
    unasked = Decision(effect=Effect.BLOCK, wanted=Effect.BLOCK, reason=reason)
    asked = questions if engine is not None else ()
    decision = max(
        (engine.decide_any(each.questions, listed=each.listed) for each in asked if engine),
        key=lambda found: ranks.index(found.wanted),
        default=unasked,
    )
    wanted = decision.wanted
    if stopped and wanted is Effect.ALLOW:  # the policies are others by now
        wanted = Effect.BLOCK
    said = one.act.cls == Class.TLS  # what it is called, and not where it goes
    first = next(iter(questions), None)
    thing = first.questions[-1 if said else 0].resource if first is not None else None
    return Entry(
        time=one.ts,
        principal=f"Workload:{workload_name(one.workload)}",
        action=one.action,
        resource=f"{thing.kind}:{thing.id}" if thing is not None else one.act.object,
        effect=Effect.BLOCK if stopped else Effect.ALLOW,
        wanted=wanted,
        mode=Mode.ENFORCE if stopped else Mode.OBSERVE,
        policies=decision.policies,
        failed=decision.failed,
        reason=decision.reason,
        version=engine.version if engine is not None else "",
        took=decision.took,
        tier=one.tier,
        identity=one.identity,
        tool_call=one.tool_call,
        why=_UNREAD if one.unread else _HOW.get(one.done, ""),
    )
