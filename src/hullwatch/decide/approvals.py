"""Actions that wait for a person: who may answer, how far an answer reaches, and when it is over.

What waits is held in one process, and only that process lets it go on: an approval is no token that
somebody else could use. If the process ends the action ends with it, whatever was approved. Every
step is in the decision log before it has an effect.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from hullwatch.context.call import MAX_TEXT, Signal
from hullwatch.decide.log import Entry, Kind, Log, LogError
from hullwatch.decide.policy import DEADLINE
from hullwatch.decide.question import Effect, Fail

__all__ = [
    "FLOOD", "MAX_HELD", "SCOPES", "Approvals", "Challenge", "Full", "Person", "Refused", "Terms",
    "Waiting", "ancestors", "terms_of",
]  # fmt: skip

MAX_HELD = 16  # of one principal, at once
FLOOD = 8  # held for one principal within a minute: somebody hopes for a tired yes
MANY = 4  # times as many of one identity, as a client chooses its name
MAX_WIDE = 30 * 24 * 3600.0  # s that a widened approval lasts
MAX_WHY = 500  # characters
SCOPES = ("once", "tool", "server")
"""once: exactly this action. tool: any call of this tool by this principal. server: of any tool of
this server. The last two last as long as they say, and until the policies change."""
_LINK = "link:"
_LOST = {"fanotify": (Effect.ALLOW, "who held it has ended, and the kernel let it go on")}
"""What becomes of what is held when its holder is killed, by enforcement point (`tier`)."""
_MINUTE = 60 * 10**9
_UNSET = 0xFFFFFFFF  # loginuid of what nobody logged in for


class Refused(Exception):
    """An answer that does not count: why."""


class Full(Exception):
    """Too much of one principal waits already."""


class Person(NamedTuple):
    """Who answers, as the kernel says (SO_PEERCRED). login: the user that logged in, which sudo
    does not change; uid, where there was none. link: instead of all that, the name of the link
    that somebody has (links.py)."""

    uid: int
    pid: int = 0
    login: int = -1
    link: str = ""

    @property
    def name(self) -> str:
        if self.link:
            return f"{_LINK}{self.link}"
        return _user(self.uid) + (f" ({_user(self.login)})" if self.login != self.uid else "")

    @classmethod
    def of(cls, uid: int, pid: int) -> Person:
        try:
            login = int(Path(f"/proc/{pid}/loginuid").read_text())
        except (OSError, ValueError):
            login = _UNSET
        return cls(uid, pid, uid if login == _UNSET else login)

    @classmethod
    def by_link(cls, name: str) -> Person:
        return cls(-1, link=name)

    def same(self, other: Person) -> bool:
        if self.link or other.link:
            return self.link == other.link
        mine, others = ({one.uid, one.login} for one in (self, other))
        return bool(mine & others)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """approvers: for each policy that names some, users and groups by name, `uid:N` or `link:NAME`;
    whoever approves is one of each. Where none does: root, and the user who runs the gateway.
    people: how many different persons. deadline: s. fail: what happens when it passes. requester:
    who asked may answer."""

    approvers: tuple[tuple[str, ...], ...] = ()
    people: int = 1
    deadline: float = DEADLINE
    fail: Fail = Fail.CLOSED
    requester: bool = False

    def may(self, person: Person) -> bool:
        groups = self.approvers or (("uid:0", f"uid:{os.geteuid()}"),)
        return all(any(_is(person, name) for name in group) for group in groups)


class Challenge(Protocol):
    """What a policy says of its challenge. deadline: s, 0: the default. answer: `requester`, where
    who asked may answer."""

    @property
    def approvers(self) -> tuple[str, ...]: ...
    @property
    def people(self) -> int: ...
    @property
    def deadline(self) -> int: ...
    @property
    def fail(self) -> Fail: ...
    @property
    def answer(self) -> str: ...


def terms_of(policies: Iterable[Challenge]) -> Terms:
    """Of all policies that challenge: the strictest of each."""
    said = list(policies)
    return Terms(
        approvers=tuple(one.approvers for one in said if one.approvers),
        people=max((one.people for one in said), default=1),
        deadline=float(min((one.deadline for one in said if one.deadline), default=DEADLINE)),
        fail=Fail.OPEN if said and all(one.fail == Fail.OPEN for one in said) else Fail.CLOSED,
        requester=bool(said) and all(one.answer == "requester" for one in said),
    )


class Waiting:
    """One held action. ended: '' while it waits, then how: a kind of the log's."""

    def __init__(
        self, entry: Entry, terms: Terms, context: Mapping[str, object], then: Callable[[], None]
    ) -> None:
        self.id = entry.held
        self.entry = entry
        self.terms = terms
        self.context = context
        self.agreed: list[tuple[Person, str, int]] = []  # scope and expires of each
        self.ended: Kind | str = ""
        self.effect = Effect.BLOCK
        self.why = ""
        self._then = then

    def end(self, kind: Kind, effect: Effect, why: str) -> None:
        self.ended, self.effect, self.why = kind, effect, why
        self._then()


class Approvals:
    """What this process holds. client: pid of the process whose descendants are the requester; 0:
    not known. clock: unix ns. on_held: told what begins to wait; returns at once. on_flood: told,
    once a minute at most, where somebody has so much held that a person may tire.
    """

    def __init__(self, log: Log, client: int = 0, clock: Callable[[], int] = time.time_ns) -> None:
        self._log = log
        self._client = client
        self._clock = clock
        self._owner = _owner()
        self.waiting: dict[str, Waiting] = {}
        self.on_held: Callable[[Waiting], None] = lambda waiting: None
        self.on_flood: Callable[[Signal], None] = lambda signal: None
        self._changed = 0  # when other policies came into force
        self._flooded = 0  # when a flood was told last

    def policies_changed(self, at: int) -> None:
        """What was widened before (unix ns) ends, also where the policies of then come back."""
        self._changed = at

    def sweep(self) -> int:
        """End in the log what was held by processes that are gone. How many."""
        lost = [entry for entry in self._log.open() if not _lives(entry.owner)]
        if lost:
            nothing = Effect.BLOCK, "the gateway that held it has ended; nothing was passed on"
            self._log.append(
                *(self._after(one, "lost", *_LOST.get(one.tier, nothing)) for one in lost)
            )
        return len(lost)

    def _look_for_flood(self, entry: Entry) -> None:
        """Many that were held for the same within a minute are told, once a minute."""
        now = self._clock()
        if now - self._flooded < _MINUTE:
            return
        try:
            held = self._log.entries(since=now - _MINUTE, kinds=("held",))
        except LogError:  # what is held is held all the same; the next entry says so, too
            return
        own, all_ = _counts(entry, held)
        count = all_ if all_ >= MANY * FLOOD else own if own >= FLOOD else 0
        if not count:
            return
        self._flooded = now
        self.on_flood(
            Signal(
                kind="approval_flood",
                subject=entry.principal[:MAX_TEXT],
                detail=f"{count} actions were held for a person within a minute",
                time=now,
                server=entry.server[:MAX_TEXT],
                held=True,
            )
        )

    def hold(
        self,
        verdict: Entry,
        terms: Terms,
        then: Callable[[], None],
        context: Mapping[str, object] | None = None,
    ) -> Waiting:
        """verdict: the entry of the challenge. then: called once, when it is over. context: what is
        known and shown of it. Full, LogError."""
        own, all_ = _counts(verdict, self._log.open())
        if own >= MAX_HELD or all_ >= MANY * MAX_HELD:
            self._look_for_flood(verdict)
            raise Full(f"{max(own, all_)} actions of {verdict.principal} wait already")
        entry = msgspec.structs.replace(
            verdict,
            kind="held",
            held=secrets.token_hex(6),
            deadline=self._clock() + int(terms.deadline * 1e9),
            fail=terms.fail,
            owner=self._owner,
        )
        self._log.append(entry)
        waiting = Waiting(entry, terms, context or {}, then)
        self.waiting[waiting.id] = waiting
        self._look_for_flood(entry)
        self.on_held(waiting)
        return waiting

    def answer(
        self,
        ident: str,
        person: Person,
        yes: bool,
        why: str,
        scope: str = "once",
        seconds: float = 0,
    ) -> str:
        """What came of it: approved, denied, or agreed (others have to approve, too). Refused."""
        waiting = self.waiting.get(ident)
        if waiting is None or self._clock() >= waiting.entry.deadline:
            raise Refused(f"{ident}: nothing of this id waits here")
        why = " ".join(why.split())
        if not why or len(why) > MAX_WHY:
            raise Refused(f"say why, in at most {MAX_WHY} characters")
        if not waiting.terms.may(person):
            raise Refused(f"{person.name} may not answer this; its policy says who may")
        if not yes:
            self._end(waiting, "denied", Effect.BLOCK, why, person.name)
            return "denied"
        return self._approve(waiting, person, why, scope, seconds)

    def _approve(
        self, waiting: Waiting, person: Person, why: str, scope: str, seconds: float
    ) -> str:
        terms = waiting.terms
        # Of a link nobody knows who has it: its policy has named it all the same.
        asks = not person.link and self._client and _descends(person.pid, self._client)
        if not terms.requester and asks:
            raise Refused("whoever asks does not approve; answer outside of the client")
        if scope not in SCOPES:
            raise Refused(f"scope {scope}: one of {', '.join(SCOPES)}")
        if (scope == "once") != (seconds == 0) or not 0 <= seconds <= MAX_WIDE:
            raise Refused("what is widened has an end, 30 days away at most")
        if any(person.same(other) for other, _, _ in waiting.agreed):
            raise Refused("this person has approved it already; another one has to")
        now = self._clock()
        expires = now + int(seconds * 1e9) if seconds else 0
        agreed = [*waiting.agreed, (person, scope, expires)]
        if len(agreed) < terms.people:
            self._log.append(
                self._after(
                    waiting.entry, "agreed", Effect.CHALLENGE, why, person.name, scope, expires
                )
            )
            waiting.agreed = agreed
            return "agreed"
        # As far as all of them meant it.
        narrowest = min((one for _, one, _ in agreed), key=SCOPES.index)
        until = min((end for _, _, end in agreed if end), default=0) if narrowest != "once" else 0
        names = ", ".join(one.name for one, _, _ in agreed)
        self._end(waiting, "approved", Effect.ALLOW, why, names, narrowest, until)
        return "approved"

    def expire(self, waiting: Waiting) -> None:
        """Its deadline has passed: as its policy says."""
        effect = Effect.ALLOW if waiting.terms.fail == Fail.OPEN else Effect.BLOCK
        why = f"nobody answered within {waiting.terms.deadline:g} s"
        self._end(waiting, "expired", effect, why)

    def cancel(self, waiting: Waiting, why: str) -> None:
        """Whoever asked does not want it any more."""
        self._end(waiting, "cancelled", Effect.BLOCK, why)

    def take_back(self, waiting: Waiting, person: Person, why: str) -> None:
        """Whoever asked says no after others have approved, before anything was passed on."""
        why = " ".join(why.split())[:MAX_WHY]
        self._log.append(
            self._after(waiting.entry, "denied", Effect.BLOCK, why, person.name),
        )
        waiting.ended, waiting.effect, waiting.why = "denied", Effect.BLOCK, why

    def granted(self, asked: Entry) -> Entry | None:
        """What a widened approval makes of a challenged action, if there is one: as it is logged
        where the policies let it go on."""
        for entry in self._log.widened(self._clock()):
            same = (
                (entry.principal, entry.identity) == (asked.principal, asked.identity)
                and (entry.action, entry.server) == (asked.action, asked.server)
                and entry.version == asked.version
                and entry.time >= self._changed
                and set(asked.policies) <= set(entry.policies)
            )
            if same and (entry.scope == "server" or entry.resource == asked.resource):
                why = f"approved for every such action by {entry.by}: {entry.why}"
                return msgspec.structs.replace(
                    asked, effect=Effect.ALLOW, why=why, scope=entry.scope, by=entry.by
                )
        return None

    def close(self) -> None:
        """The gateway ends: so does all that it holds."""
        for waiting in list(self.waiting.values()):
            self.cancel(waiting, "the gateway ended")

    def _end(
        self,
        waiting: Waiting,
        kind: Kind,
        effect: Effect,
        why: str,
        by: str = "",
        scope: str = "",
        expires: int = 0,
    ) -> None:
        if waiting.ended:
            return
        self._log.append(self._after(waiting.entry, kind, effect, why, by, scope, expires))
        del self.waiting[waiting.id]
        waiting.end(kind, effect, why)

    def _after(
        self,
        entry: Entry,
        kind: Kind,
        effect: Effect,
        why: str,
        by: str = "",
        scope: str = "",
        expires: int = 0,
    ) -> Entry:
        return msgspec.structs.replace(
            entry,
            kind=kind,
            time=self._clock(),
            effect=effect,
            why=why,
            by=by,
            scope=scope,
            expires=expires,
            took=0,
        )


def _counts(asked: Entry, held: Iterable[Entry]) -> tuple[int, int]:
    """How many are of its principal, and of its identity whatever it calls itself."""
    own = [one for one in held if one.identity == asked.identity]
    return sum(one.principal == asked.principal for one in own), len(own)


# --- processes and users ------------------------------------------------------------------


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid:{uid}"


def _is(person: Person, name: str) -> bool:
    """name: a user's, a group's, `uid:N` or `link:NAME`."""
    uid = person.uid
    if person.link or name.startswith(_LINK):
        return bool(person.link) and name == f"{_LINK}{person.link}"
    if name.startswith("uid:"):
        return name[4:] == str(uid)
    with contextlib.suppress(KeyError):
        if pwd.getpwnam(name).pw_uid == uid:
            return True
    with contextlib.suppress(KeyError):
        group, user = grp.getgrnam(name), pwd.getpwuid(uid)
        return user.pw_name in group.gr_mem or user.pw_gid == group.gr_gid
    return False


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, ppid, ...; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def ancestors(pid: int) -> list[int]:
    """A process and those above it, nearest first; ends with 0 where one could not be read."""
    found = [pid]
    while pid > 1 and len(found) < 1000:
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
        if pid or not fields:
            found.append(pid)
    return found


def _descends(pid: int, ancestor: int) -> bool:
    """Whether a process is below another, or that one; True where it cannot be told."""
    return bool({ancestor, 0} & {*ancestors(pid)})


def _owner() -> str:
    """This process, as nobody else is it: boot, pid namespace, pid, start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    space = os.stat("/proc/self/ns/pid").st_ino
    return f"{boot} {space} {os.getpid()} {_stat(os.getpid())[19]}"


def _lives(owner: str) -> bool:
    """True also for one of another pid namespace: it cannot be seen from here."""
    boot, space, pid, start = [*owner.split(), *("",) * 4][:4]
    mine = _owner().split()
    if boot != mine[0]:
        return False
    if space != mine[1]:
        return True
    fields = _stat(int(pid)) if pid.isdecimal() else []
    return bool(fields) and fields[19] == start and fields[0] not in ("Z", "X")
