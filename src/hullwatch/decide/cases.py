"""Test cases beside policies: `NAME.test.yaml` for `NAME.cedar`.

A file is a sequence of

    - policy: no-shell
      cases:
        - name: an agent starts a shell
          expect: block                 # or challenge, or allow
          principal: Agent::coder       # KIND::ID, or {kind: , id: , attributes: {}}
          action: exec
          resource: Binary::/bin/sh
          context: {labels: [untrusted], hour: 23}

What is expected is what the set wants, also of policies that only observe: how far a policy is
rolled out does not change what it means. Where that is the policy's own effect (for a permit that
holds: allow), the policy has to be among those that decide; where it is another, it must not be.
A permit may expect block, if none of the permits holds.

`labels` are none, `hour` is 12 and `weekday` is mon unless the context says otherwise; null leaves
one out. A policy that could not be evaluated fails its case, unless the case says `fails: true`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import PolicyError, Problem
from hullwatch.decide.question import (
    ACTIONS,
    PRINCIPALS,
    RESOURCES,
    Decision,
    Effect,
    Entity,
    Question,
)
from hullwatch.decide.schema import APPLIES, CONTEXT, ENTITIES, Attribute, conform
from hullwatch.detect.errors import Place, did_you_mean

__all__ = [
    "Case",
    "Result",
    "case_files",
    "question_from",
    "read_cases",
    "read_text",
    "run_case",
    "run_cases",
]

TEST_SUFFIX = ".test.yaml"
MAX_FILE = 1 << 20  # bytes
_USUAL: Mapping[str, Any] = {"labels": [], "hour": 12, "weekday": "mon"}
_CASE = {"name", "expect", "principal", "action", "resource", "context", "fails"}


class Case(NamedTuple):
    """fails: the policy cannot be evaluated, and its `fail` counts."""

    policy: str
    name: str
    expect: Effect
    question: Question
    fails: bool
    place: Place


class Result(NamedTuple):
    """error: '' if the set did as the case expects."""

    case: Case
    decision: Decision
    error: str

    @property
    def ok(self) -> bool:
        return not self.error


def case_files(paths: Iterable[Path]) -> list[Path]:
    """The files of cases beside these policies, as far as there are any."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(path.rglob(f"*{TEST_SUFFIX}"))
        elif (beside := path.with_name(path.name.removesuffix(path.suffix) + TEST_SUFFIX)).exists():
            files.append(beside)
    return files


def read_cases(path: str | Path) -> list[Case]:
    """The cases of one file; PolicyError."""
    return cases_of(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """A file of cases; PolicyError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise _wrong(Place(str(path)), f"larger than {MAX_FILE >> 20} MiB")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(Place(str(path)), f"cannot be read: {error}") from None


def cases_of(text: str, path: str) -> list[Case]:
    """The same of its text."""
    place = Place(path)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise _wrong(place, f"cannot be read: {said}") from None
    if not isinstance(found, list):
        raise _wrong(place, "a file of cases must be a sequence")
    cases: list[Case] = []
    for group in found:
        if not isinstance(group, dict) or not isinstance(group.get("cases"), list):
            raise _wrong(place, "each item needs 'policy' and 'cases'")
        policy = str(group.get("policy", ""))
        for one in group["cases"]:
            if not isinstance(one, dict):
                raise _wrong(place, "each case must be a mapping such as '- name: ...'", policy)
            name = str(one.get("name", "?"))
            try:
                _only(one, _CASE, "a case")
                expect = one.get("expect")
                if expect not in list(Effect):
                    raise ValueError("expect must be allow, challenge or block")
                context = {**_USUAL, **_mapping(one, "context")}
                question = question_from({**one, "context": context})
            except ValueError as error:
                raise _wrong(place, f"case '{name}': {error}", policy) from None
            fails = bool(one.get("fails"))
            cases.append(Case(policy, name, Effect(expect), question, fails, place))
    return cases


def run_case(engine: Engine, case: Case) -> Result:
    decision = engine.decide(case.question)
    return Result(case, decision, _said(engine, case, decision))


def _said(engine: Engine, case: Case, decision: Decision) -> str:
    policy = engine.policies.get(case.policy)
    if policy is None:
        hint = did_you_mean(case.policy, engine.policies)
        return f"there is no policy '{case.policy}'. {hint}".strip()
    failed = case.policy in decision.failed
    if failed is not case.fails:
        return "could not be evaluated" if failed else "could be evaluated, and should not"
    by = f" (by {', '.join(decision.policies)})" if decision.policies else ""
    if decision.wanted is not case.expect:
        return f"{decision.wanted}{by}, and should {case.expect}"
    decides = case.policy in decision.policies
    if decides is not (case.expect is policy.does):
        return f"{decision.wanted}{by}, but {'' if decides else 'not '}by this policy"
    return ""


def question_from(given: Mapping[str, Any]) -> Question:
    """Of principal, action, resource and context as people write them; ValueError with the mend."""
    action = given.get("action")
    if action not in ACTIONS:
        hint = did_you_mean(str(action), ACTIONS) or f"actions are {', '.join(ACTIONS)}"
        raise ValueError(f"there is no action '{action}' ({hint})")
    resource = _entity(given.get("resource"), "resource", RESOURCES)
    if resource.kind not in APPLIES[str(action)]:
        kinds = " or ".join(APPLIES[str(action)])
        raise ValueError(f"{action} is asked about a {kinds}, not a {resource.kind}")
    return Question(
        principal=_entity(given.get("principal"), "principal", PRINCIPALS),
        action=str(action),
        resource=resource,
        context=_values(_mapping(given, "context"), CONTEXT, "context"),
    )


def _entity(given: Any, what: str, kinds: tuple[str, ...]) -> Entity:
    attributes: Mapping[str, Any] = {}
    if isinstance(given, Mapping):
        _only(given, {"kind", "id", "attributes"}, f"a {what}")
        kind, ident = str(given.get("kind", "")), str(given.get("id", ""))
        attributes = _mapping(given, "attributes")
    else:
        kind, colons, ident = str(given or "").partition("::")
        if not colons:
            raise ValueError(f"{what} is written KIND::ID, such as {kinds[0]}::NAME")
        if ident[:1] == ident[-1:] == '"' and len(ident) > 1:
            ident = ident[1:-1]
    if kind not in kinds:
        hint = did_you_mean(kind, kinds) or f"kinds are {', '.join(kinds)}"
        raise ValueError(f"{what}: there is no kind '{kind}' ({hint})")
    return Entity(kind, ident, _values(attributes, ENTITIES[kind], kind))


def _values(given: Mapping[str, Any], known: Mapping[str, Attribute], owner: str) -> dict[str, Any]:
    _only(given, known, owner)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        values[name] = tuple(value) if isinstance(value, list) else value
        if conform(known[name], value) is None:
            raise ValueError(f"{owner}: {name} is {known[name].type}, not {value!r}")
    return values


def _mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} must be a mapping")
    return found


def _only(given: Mapping[str, Any], known: Iterable[str], owner: str) -> None:
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ValueError(f"{owner} has no '{key}'" + (f" ({hint})" if hint else ""))


def _wrong(place: Place, message: str, policy: str = "") -> PolicyError:
    return PolicyError([Problem(place, policy, message)])


def run_cases(engine: Engine, files: Iterable[Path]) -> Iterator[Result]:
    """Each case of the files; PolicyError for a broken file."""
    for file in files:
        for case in read_cases(file):
            yield run_case(engine, case)
