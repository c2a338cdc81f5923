"""One policy, what may be said of it, and what can be wrong with a set.

@id("no-shell")
@mode("observe")
@review("2027-01-31")
forbid (principal, action == Action::"exec", resource)
when { resource.name == "sh" };
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import NamedTuple

import msgspec

from hullwatch.decide.quarantine import How
from hullwatch.decide.question import ACTIONS, Effect, Entity, Fail, Mode
from hullwatch.detect.errors import Place, did_you_mean
from hullwatch.detect.frameworks import NAMES
from hullwatch.detect.language.sequences import duration

__all__ = [
    "ANNOTATIONS",
    "DEADLINE",
    "ID",
    "OF_CHALLENGES",
    "OF_FORBIDS",
    "Policy",
    "PolicyError",
    "Problem",
    "Scope",
]

DEADLINE = 15 * 60  # s; how long a challenge waits for a person, unless the policy says otherwise

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Problem(NamedTuple):
    """policy: its id, or '' for the file. mend: what to do about it, or ''."""

    place: Place
    policy: str
    message: str
    mend: str = ""

    def __str__(self) -> str:
        item = f"policy '{self.policy}': " if self.policy else ""
        return f"{self.place}: {item}{self.message}" + (f" ({self.mend})" if self.mend else "")


class PolicyError(Exception):
    """A set that cannot be used. problems: all that is wrong with it, in the order of the files."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Scope(NamedTuple):
    """Who a policy's head speaks of: any, or of a kind, or exactly one."""

    kind: str = ""
    id: str | None = None

    def fits(self, kind: str, ident: str) -> bool:
        return (not self.kind or self.kind == kind) and (self.id is None or self.id == ident)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """does: allow for a permit; block or challenge for a forbid. deadline: s. text: as written.

    matcher: the same policy as a forbid without annotations. A set of those tells of *every* policy
    whether it holds, which Cedar's own answer does not (a deny does not name permits).
    reads: words that may be names of attributes; None: all of them.
    """

    id: str
    does: Effect
    mode: Mode = Mode.ENFORCE
    fail: Fail = Fail.CLOSED
    owner: str = ""
    review: date | None = None
    controls: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    quarantine: How | None = None
    deadline: int = 0
    people: int = 1
    answer: str = "others"
    reason: str = ""
    place: Place
    text: str
    matcher: str
    principal: Scope = Scope()
    actions: tuple[str, ...] = ACTIONS
    reads: frozenset[str] | None = None

    def lists(self, principal: Entity, socket: bool) -> bool:
        """Whether, as a permit, it makes a list of what this principal may do. socket: of Unix
        sockets, where only those count that read a path."""
        spoken = not socket or self.reads is None or "path" in self.reads
        return spoken and self.principal.fits(principal.kind, principal.id)


class Annotation(NamedTuple):
    """read: raises ValueError with what is wrong."""

    field: str
    read: Callable[[str], object]
    example: str
    doc: str


def _ident(text: str) -> str:
    if not ID.fullmatch(text):
        raise ValueError("up to 100 letters, digits, '_', '.' and '-'")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text[:40]!r} is neither {' nor '.join(words)}")
        return text

    return read


def _effect(text: str) -> Effect:
    if text != Effect.CHALLENGE:
        raise ValueError("permit allows and forbid blocks; only a challenge is said here")
    return Effect.CHALLENGE


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no date") from None


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise ValueError("a name is empty")
    return words


def _controls(text: str) -> tuple[str, ...]:
    for word in _words(text):
        if word not in NAMES:
            near = did_you_mean(word, NAMES)
            raise ValueError(f"{word[:40]!r} is no control that we know{near and f'; {near}'}")
    return _words(text)


def _deadline(text: str) -> int:
    seconds = duration(text, Place("")) // 10**9
    if not 1 <= seconds <= 24 * 3600:
        raise ValueError("from 1s to 24h")
    return seconds


def _text(text: str) -> str:
    if not text.strip() or len(text) > 500:
        raise ValueError("up to 500 characters, and not none")
    return text


ANNOTATIONS: dict[str, Annotation] = {
    "id": Annotation("id", _ident, "no-shell", "its name in decisions; else FILE-NUMBER"),
    "effect": Annotation("does", _effect, "challenge", "a person has to approve"),
    "mode": Annotation(
        "mode",
        lambda text: Mode(_one_of("observe", "enforce")(text)),
        "observe",
        "observe: only tell what it would do; default enforce",
    ),
    "fail": Annotation(
        "fail",
        lambda text: Fail(_one_of("open", "closed")(text)),
        "open",
        "when it cannot be evaluated: closed (the default), as if a forbid held and a permit did"
        " not; open, the other way",
    ),
    "owner": Annotation("owner", _text, "ml-platform", "who answers for it"),
    "review": Annotation(
        "review", _date, "2027-01-31", "look at it again by then; late: a warning"
    ),
    "controls": Annotation("controls", _controls, "ASI02,LLM06", "of OWASP, ATT&CK or ATLAS"),
    "reason": Annotation("reason", _text, "agents run no shells", "told to who is stopped"),
    "approvers": Annotation(
        "approvers",
        _words,
        "alice,oncall",
        "users, groups and `link:NAME` that may approve; default root and the gateway's own user",
    ),
    "deadline": Annotation("deadline", _deadline, "15m", "to approve by, 1s to 24h; default 15m"),
    "people": Annotation(
        "people",
        lambda text: int(_one_of("1", "2", "3")(text)),
        "2",
        "how many different persons have to approve; default 1",
    ),
    "answer": Annotation(
        "answer",
        _one_of("others", "requester"),
        "requester",
        "who asks may approve, too; default others",
    ),
    "quarantine": Annotation(
        "quarantine",
        lambda text: How(_one_of(*How)(text)),
        "network",
        "the container that it stops in the kernel is set apart: network, freeze or kill",
    ),
}
OF_FORBIDS = ("quarantine",)
OF_CHALLENGES = ("approvers", "deadline", "people", "answer")
