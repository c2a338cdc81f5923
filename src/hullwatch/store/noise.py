"""What is loud: findings grouped, counted and ordered, from the rows of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["GROUPS", "Loud", "loudest"]

_Body = Mapping[str, Any]


class Loud(NamedTuple):
    """One rule, everywhere or in one place. share: of all findings, 0 to 1.

    newer, older: findings that began in the later and in the earlier half of the time asked about.
    """

    rule: str
    where: str
    findings: int
    events: int
    share: float
    newer: int
    older: int
    bodies: tuple[_Body, ...]

    @property
    def trend(self) -> str:
        """Rising or falling where one half has half as many again as the other."""
        if self.newer > 1.5 * self.older:
            return "rising"
        return "falling" if self.older > 1.5 * self.newer else "steady"


def _container(body: _Body) -> str:
    ident = str(body.get("container_full_id") or body.get("container_id") or "")
    return str(body.get("container_name") or ident[:12] or "host")


GROUPS: dict[str, Callable[[_Body], str]] = {
    "rule": lambda body: "",
    "workload": _container,
    "image": lambda body: str(body.get("image") or "(no image)"),
}


def loudest(bodies: Sequence[_Body], by: str, since: int, until: int) -> list[Loud]:
    """Loudest first: by findings, then by events. since, until: unix ns."""
    groups: dict[tuple[str, str], list[_Body]] = {}
    for body in bodies:
        groups.setdefault((str(body.get("rule") or ""), GROUPS[by](body)), []).append(body)
    middle = (since + until) // 2
    found = [
        Loud(
            rule,
            where,
            len(held),
            sum(int(one.get("count") or 1) for one in held),
            len(held) / len(bodies),
            sum(_first(one) >= middle for one in held),
            sum(since <= _first(one) < middle for one in held),
            tuple(held),
        )
        for (rule, where), held in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.findings, -one.events, one.rule, one.where))


def _first(body: _Body) -> int:
    return int(body.get("first") or body.get("time") or 0)
