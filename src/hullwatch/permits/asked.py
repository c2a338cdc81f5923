"""What is asked about an open or an exec, and what the policies say to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Decision, Effect, Entity, Question, Value
from hullwatch.opened import OPENS, READING, WRITING, things

__all__ = [
    "BY_PURPOSE",
    "KINDS",
    "Approval",
    "Asked",
    "Ruled",
    "Verdict",
    "questions_of",
    "strongest_of",
    "things_of",
    "verdict_of",
]


class Asked(NamedTuple):
    """What a decision depends on. names: its path, and the one that the file is known by. plugins:
    as which kind of code the program loads it, by each name; '': it does not, or no policy speaks
    of that. facts: those of the thread that the policies read. new: the kinds of what baselines
    have that its path is not among; None: nothing is known, or no policy asks."""

    container: str
    exec: bool
    names: tuple[str, ...]
    plugins: tuple[str, ...]
    upper: bool | None
    facts: tuple[tuple[str, Value], ...]
    new: frozenset[str] | None = None


class Ruled(NamedTuple):
    """challenges: those of the policies that want an approval."""

    action: str
    thing: Entity
    decision: Decision
    challenges: tuple[Policy, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether no policy speaks of it."""
        one = self.decision
        silent = not one.policies and not one.failed
        return silent and one.effect is Effect.ALLOW and one.wanted is Effect.ALLOW

    @property
    def strength(self) -> tuple[int, int]:
        return _RANK[self.decision.effect], _RANK[self.decision.wanted]


class Approval(NamedTuple):
    """Of what was ruled, by these policies and no others."""

    ruled: Ruled

    def is_of(self, other: Ruled) -> bool:
        """Of the same action, by the same name of the file."""
        one = self.ruled
        return (one.action, one.thing.id) == (other.action, other.thing.id)

    def answers(self, other: Ruled) -> bool:
        """Another set may ask for other people."""
        return self.is_of(other) and {*other.challenges} <= {*self.ruled.challenges}


_RANK = {effect: rank for rank, effect in enumerate(Effect)}
Verdict = tuple[Ruled, ...]
"""One for each action that is asked about. None, where no policy speaks of it."""
KINDS = {"exec": "exec", **dict.fromkeys(READING, "read"), **dict.fromkeys(WRITING, "write")}
"""By action, how baselines call it."""
BY_PURPOSE = {"read": READING, "write": WRITING, "": OPENS}
"""By what a file is opened for: which actions that is. Where it is not known, all of them."""


def questions_of(
    asked: Asked, workload: str, about: Mapping[str, Value], actions: Sequence[str]
) -> list[list[Question]]:
    """For each of the actions that it may be those about each name. workload: whose it is, and what
    is known of that."""
    context: dict[str, Value] = {**about, **dict(asked.facts)}
    who = Entity("Workload", workload)
    found = [
        things_of(name, asked.upper, plugin)
        for name, plugin in zip(asked.names, asked.plugins, strict=True)
    ]
    made = [
        [
            Question(
                principal=who,
                action=action,
                resource=one[action],
                context=context | _news(asked, action),
            )
            for one in found
            if action in one
        ]
        for action in actions
        if (action == "exec") == asked.exec
    ]
    return [same for same in made if same]


def _news(asked: Asked, action: str) -> dict[str, Value]:
    return {} if asked.new is None else {"first_seen": KINDS[action] in asked.new}


def verdict_of(
    engine: Engine, questions: Sequence[Sequence[Question]], approved: Collection[Approval]
) -> Verdict:
    """approved: whose challenges are answered; it satisfies no other's, nor under another name."""
    return tuple(
        max((_ruled(engine, one, approved) for one in same), key=lambda one: one.strength)
        for same in questions
    )


def _ruled(engine: Engine, question: Question, approved: Collection[Approval]) -> Ruled:
    decision = engine.decide(question)
    if decision.effect is not Effect.CHALLENGE:
        return Ruled(question.action, question.resource, decision)
    known = (engine.policies[ident] for ident in decision.policies)
    asking = tuple(one for one in known if one.does is Effect.CHALLENGE)
    ruled = Ruled(question.action, question.resource, decision, asking)
    if any(one.answers(ruled) for one in approved):
        return ruled._replace(decision=engine.decide(question, approved=True))
    return ruled


def strongest_of(verdict: Verdict, approved: Collection[Approval]) -> Ruled:
    """Where all is allowed, what a person or a policy has said of it."""

    def rank(one: Ruled) -> tuple[int, int, bool, bool]:
        return *one.strength, any(each.is_of(one) for each in approved), not one.quiet

    return max(verdict, key=rank)


def things_of(name: str, upper: bool | None, plugin: str) -> dict[str, Entity]:
    """What a file is, by the action that it is asked about for."""
    layer: dict[str, Value] = {} if upper is None else {"upper": upper}
    return {"exec": Entity("Binary", name, layer), **things(name, upper, plugin)}
