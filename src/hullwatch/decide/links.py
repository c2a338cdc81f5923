"""Signed links by which somebody elsewhere answers what waits, and whether they count.

A link proves that whoever has it was sent it, and nothing of who that is. So it speaks as
`link:NAME`, for policies that name that among their approvers and for no others, and as one person
however often it is used. It is of exactly one held action, until its deadline, for one answer. The
key is this process's own and ends with it, as what is held does.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from hashlib import sha256

from hullwatch.decide.approvals import Approvals, Person, Refused, Waiting

__all__ = ["PATH", "Links", "Over"]

PATH = "/answer/"
"""Before the token, in a link."""
_MAX_TOKEN = 200  # characters


class Over(Exception):
    """A link of ours whose action does not wait any more, or that was used."""


class Links:
    """name: what they speak as. clock: unix ns."""

    def __init__(
        self, approvals: Approvals, name: str, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._approvals = approvals
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._used: set[str] = set()  # held ids; of those that wait
        self.person = Person.by_link(name)

    def counts(self, waiting: Waiting) -> bool:
        """Whether its policies let such a link answer."""
        return waiting.terms.may(self.person)

    def token(self, waiting: Waiting) -> str:
        """HELD.DEADLINE.ACTION.MAC, of letters that a URL takes."""
        said = _said(waiting)
        return f"{said}.{self._mac(said)}"

    def waiting(self, token: str) -> Waiting:
        """What a token is for. Refused: it is none of ours. Over."""
        said, _, mac = token[:_MAX_TOKEN].rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(said).encode()):
            raise Refused("no such link")
        found = self._approvals.waiting.get(said.partition(".")[0])
        if found is None or _said(found) != said:
            raise Over("it does not wait any more: it was answered, taken back, or is too late")
        if found.id in self._used or self._clock() >= found.entry.deadline:
            raise Over("this link was used, or is too late")
        return found

    def answer(self, token: str, yes: bool, why: str) -> str:
        """As `Approvals.answer`, for exactly this action, once. Refused, Over, LogError."""
        found = self.waiting(token)
        done = self._approvals.answer(found.id, self.person, yes, why)
        self._used = {one for one in (*self._used, found.id) if one in self._approvals.waiting}
        return done

    def _mac(self, said: str) -> str:
        mac = hmac.new(self._key, f"{self.person.link} {said}".encode(), sha256)
        return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode()


def _said(waiting: Waiting) -> str:
    return f"{waiting.id}.{waiting.entry.deadline}.{waiting.entry.question}"
