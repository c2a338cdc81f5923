"""A set of policies, asked.

Cedar tells of every policy whether it holds (one look, all of them written as forbids); what that
comes to is decided here, so that nothing hides anything:

1. A forbid that holds: block.
2. Permits whose head names this action and principal are a list of what they may do. If none of
   them holds: block. Where no permit speaks of them, all is allowed that no forbid names.
3. A challenge that holds: challenge, unless a person approved. An approval lifts nothing else.

A policy that cannot be evaluated takes its `fail`; Cedar alone would skip it, and a broken forbid
would allow.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import cache
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from threading import Lock
from time import perf_counter_ns
from typing import Any, NamedTuple

import cedarpy
import msgspec

from hullwatch.decide.policy import Policy, PolicyError, Problem
from hullwatch.decide.question import PRINCIPALS, Decision, Effect, Entity, Fail, Mode, Question
from hullwatch.decide.schema import (
    APPLIES,
    CONTEXT,
    ENTITIES,
    Attribute,
    clean,
    conform,
    derived,
    is_socket,
    kind_of,
)
from hullwatch.decide.source import read_files, read_policies

__all__ = ["NO_PERMIT", "Answer", "CacheStats", "Engine"]

NO_PERMIT = "there are permits for it, and none of them holds"

MAX_CACHED = 16_384  # decisions
MAX_MAYBE = 4  # attributes that may be missing, where it is asked what could hold
MAX_CACHED_TEXT = 4_096  # characters of one question; longer ones are asked again

# A panic in Cedar is no Exception, and must not let anything through.
_STOP = (KeyboardInterrupt, SystemExit, GeneratorExit)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALL = {name for owner in (CONTEXT, *ENTITIES.values()) for name in owner}
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@-]*")
# What belongs to one question, not to a workload.
_EACH_TIME = frozenset(
    "labels hour weekday program parent command uid tool_call server arguments signals secret_kinds"
    " definition privilege bytes first_seen baseline".split()
)
_ERROR = re.compile(r"policy `policy(\d+)`")


class CacheStats(NamedTuple):
    """hits, misses: questions since the start; size: decisions that are kept."""

    hits: int
    misses: int
    size: int


class Answer(NamedTuple):
    """Of a question, one by one. asked: all policies of its action."""

    asked: tuple[Policy, ...]
    matched: frozenset[str]
    failed: frozenset[str]


class _Part(NamedTuple):
    """The policies of one action; None as `reads`: every attribute."""

    policies: tuple[Policy, ...]
    handle: cedarpy.PolicySet
    context: tuple[Attribute, ...]
    entities: Mapping[str, tuple[Attribute, ...]]


class _Asked(NamedTuple):
    """A question as far as the policies read it: equal ones have equal answers."""

    principal: tuple[str, str]
    resource: tuple[str, str]
    context: tuple[Any, ...]
    of_principal: tuple[Any, ...]
    of_resource: tuple[Any, ...]


class _Key(NamedTuple):
    """What a decision depends on."""

    action: str
    approved: bool
    listed: bool
    asked: tuple[_Asked, ...]


class Engine:
    """Immutable but for its cache; may be asked by many threads."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self.policies: dict[str, Policy] = {one.id: one for one in policies}
        self.version = _version(self.policies.values())
        self._parts = {action: _part(action, self.policies.values()) for action in APPLIES}
        self._cache: OrderedDict[_Key, Decision] = OrderedDict()
        self._lock = Lock()
        self._hits = self._misses = 0

    @classmethod
    def load(cls, paths: Iterable[str | Path]) -> Engine:
        """The set of these files and folders (*.cedar); PolicyError with all that is wrong."""
        return cls.of(*read_files(map(Path, paths)))

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]], problems: Sequence[Problem] = ()) -> Engine:
        """The set of (text, path); PolicyError, which has `problems` too."""
        policies, wrong = read_policies(texts)
        if problems or wrong:
            raise PolicyError([*problems, *wrong])
        return cls(policies)

    def narrowed(self, only: Mapping[str, Collection[str]]) -> Engine:
        """What is left of the set, by the same version: these of its policies, by id, each for
        these of its actions."""
        made = Engine(
            msgspec.structs.replace(
                one, actions=tuple(action for action in one.actions if action in only[one.id])
            )
            for one in self.policies.values()
            if one.id in only
        )
        made.version = self.version
        return made

    def overdue(self, today: date | None = None) -> list[Problem]:
        """Policies whose `review` has passed: warnings, they are used all the same."""
        today = today or date.today()
        return [
            Problem(one.place, one.id, f"was to be reviewed by {one.review}", "review it")
            for one in self.policies.values()
            if one.review and one.review < today
        ]

    def reads(self, action: str) -> frozenset[str]:
        """Attributes of the context and of things that decide about an action; others need not be
        told."""
        part = self._parts.get(action)
        if part is None:
            return frozenset()
        return frozenset(one.name for of in (part.context, *part.entities.values()) for one in of)

    @property
    def cache(self) -> CacheStats:
        return CacheStats(self._hits, self._misses, len(self._cache))

    def decide(
        self, question: Question, *, approved: bool = False, now: datetime | None = None
    ) -> Decision:
        """Never raises: what cannot be asked fails every policy. approved: a person said yes to
        exactly this. now: aware, else local; where the context has no `hour` and `weekday`."""
        return self.decide_any((question,), approved=approved, now=now)

    def decide_any(
        self,
        questions: Sequence[Question],
        *,
        listed: bool = True,
        approved: bool = False,
        now: datetime | None = None,
    ) -> Decision:
        """Of one action that has several questions, such as a connection to an address and to each
        of its names: same principal and action. A policy that holds for any of them holds; one that
        cannot be evaluated for one of them and holds for none fails. listed=False: permits make no
        list here. For the rest as `decide`."""
        began = perf_counter_ns()
        try:
            part, key = self._key(questions, listed, approved, now)
            with self._lock:
                found = self._cache.get(key)
                if found is not None:
                    self._hits += 1
                    self._cache.move_to_end(key)
                else:
                    self._misses += 1
            if found is not None:
                return msgspec.structs.replace(found, took=perf_counter_ns() - began)
            answer = _joined([self._answer(part, key.action, asked) for asked in key.asked])
        except _STOP:
            raise
        except BaseException:
            answer = self._all_fail(questions)
            return self._weigh(questions, answer, approved, listed, began)
        made = self._weigh(questions, answer, approved, listed, began)
        if sum(map(_length, key.asked)) <= MAX_CACHED_TEXT:
            with self._lock:
                self._cache[key] = made
                if len(self._cache) > MAX_CACHED:
                    self._cache.popitem(last=False)
        return made

    def _key(
        self, questions: Sequence[Question], listed: bool, approved: bool, now: datetime | None
    ) -> tuple[_Part, _Key]:
        """ValueError, KeyError and others where they cannot be asked together."""
        action = questions[0].action
        part = self._parts[action]
        asked = tuple(dict.fromkeys(_asked(part, one, now) for one in questions))
        if any(one.action != action for one in questions):
            raise ValueError("questions about several actions")
        if any(one.principal != asked[0].principal for one in asked):
            raise ValueError("questions about several principals")
        return part, _Key(action, approved, listed, asked)

    def concerns(self, action: str, principal: Entity, context: Mapping[str, Any]) -> bool:
        """Whether any policy could hold for, or list, what this principal does; False is sure.

        context: what is the same for all of its questions; what comes with each is left open."""
        part = self._parts[action]
        fitting = [one for one in part.policies if one.principal.fits(principal.kind, principal.id)]
        if any(one.does is Effect.ALLOW for one in fitting):
            return True  # its head makes a list, whatever its conditions say
        if not fitting or not _PLAIN.fullmatch(principal.id):
            return bool(fitting)
        fixed = {
            one.name: conform(one, context[one.name]) for one in part.context if one.name in context
        }
        if "kind" not in fixed:
            fixed["kind"] = _known("kind", context, None)
        asked = {name: value for name, value in fixed.items() if value is not None}
        open_ = [one for one in part.context if one.name not in fixed and one.name in _EACH_TIME]
        maybe = [one.name for one in open_ if not one.sure]
        if len(maybe) > MAX_MAYBE:
            return True
        asked |= {one.name: _unknown(one.name) for one in open_ if one.sure}
        # `has` is true of what is unknown: so once with, and once without each that may be missing.
        chosen = (some for size in range(len(maybe) + 1) for some in combinations(maybe, size))
        try:
            return any(
                self._could_hold(
                    part, action, principal, asked | {one: _unknown(one) for one in some}
                )
                for some in chosen
            )
        except _STOP:
            raise
        except BaseException:
            return True  # Cedar calls it an experiment: nothing hangs on it but what it costs

    def _could_hold(
        self, part: _Part, action: str, principal: Entity, context: Mapping[str, Any]
    ) -> bool:
        who = {
            "uid": {"type": principal.kind, "id": principal.id},
            "attrs": _said(part.entities[principal.kind], _values(part, principal)),
            "parents": [],
        }
        does = {"uid": {"type": "Action", "id": action}, "attrs": {}, "parents": []}
        found = cedarpy.is_authorized_partial(
            {
                "principal": f'{principal.kind}::"{principal.id}"',
                "action": f'Action::"{action}"',
                "context": msgspec.json.encode(context).decode(),
            },
            part.handle,
            msgspec.json.encode([who, does]).decode(),
        )
        said = found.diagnostics
        return bool(said.errors or said.reasons or said.may_be_determining)

    def answer(self, question: Question, now: datetime | None = None) -> Answer:
        """What each policy says; every one fails where the question cannot be asked."""
        try:
            part = self._parts[question.action]
            return self._answer(part, question.action, _asked(part, question, now))
        except _STOP:
            raise
        except BaseException:
            return self._all_fail((question,))

    def _all_fail(self, questions: Sequence[Question]) -> Answer:
        actions = {one.action if isinstance(one.action, str) else "" for one in questions}
        part = self._parts.get(actions.pop()) if len(actions) == 1 else None
        return _all_fail(part.policies if part else tuple(self.policies.values()))

    def _answer(self, part: _Part, action: str, asked: _Asked) -> Answer:
        kinds = APPLIES[action]
        if asked.principal[0] not in PRINCIPALS or asked.resource[0] not in kinds:
            return _all_fail(part.policies)
        if not part.policies:
            return Answer((), frozenset(), frozenset())
        entities = [
            {"uid": {"type": uid[0], "id": uid[1]}, "attrs": attributes, "parents": []}
            for uid, values in (
                (asked.principal, asked.of_principal),
                (asked.resource, asked.of_resource),
            )
            if (attributes := _said(part.entities[uid[0]], values))
        ]
        found = cedarpy.is_authorized(
            {
                "principal": {"type": asked.principal[0], "id": asked.principal[1]},
                "action": {"type": "Action", "id": action},
                "resource": {"type": asked.resource[0], "id": asked.resource[1]},
                "context": _said(part.context, asked.context),
            },
            part.handle,
            msgspec.json.encode(entities).decode(),
        )
        said = found.diagnostics
        failed = {_ERROR.search(error) for error in said.errors}
        if found.decision is cedarpy.Decision.NoDecision or None in failed:
            return _all_fail(part.policies)
        return Answer(
            part.policies,
            frozenset(part.policies[int(one.removeprefix("policy"))].id for one in said.reasons),
            frozenset(part.policies[int(one[1])].id for one in failed if one),
        )

    def _weigh(
        self,
        questions: Sequence[Question],
        answer: Answer,
        approved: bool,
        listed: bool,
        began: int,
    ) -> Decision:
        who = questions[0].principal if questions and listed else None
        enforced = tuple(one for one in answer.asked if one.mode is Mode.ENFORCE)
        socket = any(
            one.resource.kind == "Address" and is_socket(one.resource.id) for one in questions
        )
        effect = weigh(enforced, answer, who, approved, socket)
        wanted = effect
        if len(enforced) != len(answer.asked):
            wanted = weigh(answer.asked, answer, who, approved, socket)
        reason = effect.reason
        if wanted.effect is not effect.effect and not effect.policies:
            reason = f"only observed: {wanted.reason}"
        first, then = (effect, wanted) if effect.rank >= wanted.rank else (wanted, effect)
        return Decision(
            effect=effect.effect,
            wanted=wanted.effect,
            policies=tuple(dict.fromkeys((*first.policies, *then.policies))),
            failed=tuple(one.id for one in answer.asked if one.id in answer.failed),
            reason=reason,
            version=self.version,
            took=perf_counter_ns() - began,
        )


class Weighed(NamedTuple):
    effect: Effect
    policies: tuple[str, ...]
    reason: str

    @property
    def rank(self) -> int:
        return list(Effect).index(self.effect)


def weigh(
    policies: Iterable[Policy],
    answer: Answer,
    principal: Entity | None,
    approved: bool,
    socket: bool = False,
) -> Weighed:
    """What these policies of an answer come to. principal: whose permits make a list; None:
    nobody's. socket: it is about a Unix socket."""
    if principal is not None:
        principal = Entity(principal.kind, clean(principal.id))
    holding: dict[Effect, list[Policy]] = {effect: [] for effect in Effect}
    listed = False
    for one in policies:
        if one.does is Effect.ALLOW and principal is not None:
            listed = listed or one.lists(principal, socket)
        # closed: the stricter way, which for a permit is that it does not hold.
        strict = Fail.OPEN if one.does is Effect.ALLOW else Fail.CLOSED
        if one.id in answer.matched or (one.id in answer.failed and one.fail is strict):
            holding[one.does].append(one)
    permits, challenges, forbids = holding.values()
    if forbids:
        return _said_by(Effect.BLOCK, forbids, answer)
    if listed and not permits:
        return Weighed(Effect.BLOCK, (), NO_PERMIT)
    if challenges and not approved:
        return _said_by(Effect.CHALLENGE, challenges, answer)
    if challenges:
        return Weighed(Effect.ALLOW, tuple(one.id for one in challenges), "approved")
    if permits:
        return _said_by(Effect.ALLOW, permits, answer)
    return Weighed(Effect.ALLOW, (), "no policy speaks of it")


def _said_by(effect: Effect, policies: Sequence[Policy], answer: Answer) -> Weighed:
    first = policies[0]
    said = first.reason or f"policy {first.id}"
    if first.id in answer.failed:
        said = f"policy {first.id} could not be evaluated, and fails {first.fail}"
    return Weighed(effect, tuple(one.id for one in policies), said)


def _joined(answers: Sequence[Answer]) -> Answer:
    """Of the questions about one action: what holds for any of them holds."""
    if len(answers) == 1:
        return answers[0]
    matched = frozenset[str]().union(*(one.matched for one in answers))
    failed = frozenset[str]().union(*(one.failed for one in answers))
    return Answer(answers[0].asked, matched, failed - matched)


def _unknown(name: str) -> dict[str, Any]:
    return {"__extn": {"fn": "unknown", "arg": name}}


def _all_fail(policies: tuple[Policy, ...]) -> Answer:
    return Answer(policies, frozenset(), frozenset(one.id for one in policies))


def _version(policies: Iterable[Policy]) -> str:
    """32 hex digits, of what the set says, wherever it stands."""
    said = sorted((one.id, one.text) for one in policies)
    return blake2b(msgspec.json.encode(said), digest_size=16).hexdigest()


def _part(action: str, policies: Iterable[Policy]) -> _Part:
    chosen = tuple(one for one in policies if action in one.actions)
    if not chosen:  # a plan has thousands of small sets
        return _none()
    words: set[str] = set()
    for one in chosen:
        words |= _ALL if one.reads is None else one.reads

    def read(attributes: Mapping[str, Attribute]) -> tuple[Attribute, ...]:
        return tuple(one for one in attributes.values() if one.name in words)

    handle = cedarpy.PolicySet.from_str("\n".join(one.matcher for one in chosen))
    return _Part(chosen, handle, read(CONTEXT), {kind: read(of) for kind, of in ENTITIES.items()})


@cache
def _none() -> _Part:
    return _Part((), cedarpy.PolicySet.from_str(""), (), dict.fromkeys(ENTITIES, ()))


def _asked(part: _Part, question: Question, now: datetime | None) -> _Asked:
    given: Mapping[str, Any] = question.context
    context = []
    for attribute in part.context:
        name = attribute.name
        value = conform(attribute, given[name]) if name in given else None
        if value is None and name not in given:
            value = _known(name, given, now)
        context.append(value)
    principal, resource = question.principal, question.resource
    return _Asked(
        (principal.kind, clean(principal.id)),
        (resource.kind, clean(resource.id)),
        tuple(context),
        _values(part, principal),
        _values(part, resource),
    )


def _known(name: str, given: Mapping[str, Any], now: datetime | None) -> Any:
    """What follows from the moment and from the rest of the context."""
    if name == "hour":
        return (now or datetime.now()).hour
    if name == "weekday":
        return _DAYS[(now or datetime.now()).weekday()]
    if name == "kind" and isinstance(image := given.get("image"), str):
        return kind_of(image)
    return None


def _values(part: _Part, entity: Entity) -> tuple[Any, ...]:
    wanted = part.entities.get(entity.kind, ())
    if not wanted:
        return ()
    said = {**derived(entity.kind, entity.id), **entity.attributes}
    return tuple(conform(one, said[one.name]) if one.name in said else None for one in wanted)


def _said(attributes: Sequence[Attribute], values: Sequence[Any]) -> dict[str, Any]:
    return {
        one.name: {"__extn": {"fn": "ip", "arg": value}} if one.type == "ipaddr" else value
        for one, value in zip(attributes, values, strict=True)
        if value is not None
    }


def _length(asked: _Asked) -> int:
    length = len(asked.principal[1]) + len(asked.resource[1])
    for value in (*asked.context, *asked.of_principal, *asked.of_resource):
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, tuple):
            length += sum(map(len, value))
    return length
