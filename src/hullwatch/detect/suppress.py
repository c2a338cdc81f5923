"""Suppressions: matches that somebody answers for, until a day. They are kept, and not told.

A suppression names a rule and a condition in the rules' own language. It is asked of matches, which
are few, and of nothing else; what it does not know (a container that is pending) it does not quiet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import msgspec

from hullwatch.detect.errors import Place, RuleError, did_you_mean
from hullwatch.detect.fields import Where
from hullwatch.detect.fields.field import ALL
from hullwatch.detect.finding import Match
from hullwatch.detect.glob import PatternError, glob_pattern, matcher
from hullwatch.detect.language.ast import Expr
from hullwatch.detect.language.collect import Collection
from hullwatch.detect.language.expand import Expander
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.parts import Parts
from hullwatch.detect.program import Program
from hullwatch.detect.row import Env, Row
from hullwatch.detect.ruleset import Rule, RuleSet
from hullwatch.detect.source import Source
from hullwatch.detect.tree import ALWAYS, NEVER, Tree

__all__ = ["MAX_DAYS", "MAX_SUPPRESSIONS", "Suppression", "Suppressions", "rules_of"]

MAX_DAYS = 366
MAX_SUPPRESSIONS = 200  # in force at once: each is asked of each match of its rule
_MEMO = 4_096
CONDITION = "condition"  # what errors call the place of a condition
_ALL_NUMBERS = ("op", "marks", "flags", "ret", "port", "num", "num2", "obj2")


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """rule: a name, or a pattern of names. condition: '' for every match of it. Times: unix ns.

    removed: when somebody took it back; 0 = not.
    """

    id: str
    rule: str
    condition: str
    owner: str
    reason: str
    created: int
    expires: int
    removed: int = 0

    def in_force(self, moment: int) -> bool:
        return not self.removed and moment < self.expires


class _Asked(NamedTuple):
    suppression: Suppression
    tree: Tree


class Suppressions:
    """Compiled against a rule set; those that cannot be are in `errors`, and quiet nothing.

    apart: columns of events that must be told apart for the conditions to be asked of the first
    of several events (engine.py, Match).
    """

    def __init__(self, rules: RuleSet, given: Iterable[Suppression], env: Env) -> None:
        self.rules = rules
        self.env = env
        self.errors: list[tuple[Suppression, RuleError]] = []
        self.given: list[Suppression] = []
        self._program = Program()
        self._asked: list[_Asked] = []
        self._by_rule: dict[str, list[_Asked]] = {}
        for one in given:
            try:
                tree = self._compile(one)
            except RuleError as problem:
                self.errors.append((one, problem))
                continue
            self.given.append(one)
            self._asked.append(_Asked(one, tree))
        self._parts = Parts(self._program, env)
        self.apart = _apart(source for _, source in self._program.sources())

    def mark(self, matches: list[Match]) -> list[Match]:
        """The same matches; those that are suppressed say by which."""
        if not self._asked:
            return matches
        return [self._marked(match) for match in matches]

    def _marked(self, match: Match) -> Match:
        asked = self._by_rule.get(match.rule.name)
        if asked is None:
            asked = self._for(match.rule.name)
        if not asked:
            return match
        # The last of its events decides: what ends in doubt is told.
        moment = match.last + self.env.wall_offset
        truth: tuple[int, int] | None = None
        for suppression, tree in asked:
            if not suppression.in_force(moment):
                continue
            if truth is None:
                truth = self.truth(match.row)
            if tree.ask(*truth):
                return replace(match, suppressed_by=suppression.id)
        return match

    def truth(self, row: Row) -> tuple[int, int]:
        """(holds, fails) of every predicate of the conditions for one event."""
        return self._parts.truth(row)

    def holds(self, ident: str, row: Row) -> bool:
        """Whether the condition of a suppression holds for an event, whatever its rule and time."""
        return any(
            one.tree.ask(*self.truth(row)) for one in self._asked if one.suppression.id == ident
        )

    def fields(self) -> tuple[str, ...]:
        """The fields that the conditions read."""
        return tuple(
            dict.fromkeys(
                bound.field.name for _, source in self._program.sources() for bound in source.bounds
            )
        )

    def _for(self, name: str) -> list[_Asked]:
        if len(self._by_rule) >= _MEMO:
            self._by_rule.clear()
        found = [one for one in self._asked if names(one.suppression.rule, name)]
        self._by_rule[name] = found
        return found

    def _compile(self, one: Suppression) -> Tree:
        about = rules_of(one.rule, self.rules)
        if not one.condition.strip():
            return ALWAYS
        tree, _ = self._program.tree(_expanded(one.condition, self.rules))
        possible = [rule for rule in about if any(self._may_be(tree, cls) for cls in rule.classes)]
        if tree is NEVER or not possible:
            raise RuleError(
                f"never holds for what rule {one.rule!r} finds",
                Place(CONDITION, 1, 1),
                mend="`hullwatch rules explain` names the fields of its events",
            )
        if tree is ALWAYS:
            raise RuleError(
                "holds for everything",
                Place(CONDITION, 1, 1),
                mend="to quiet the whole rule, leave the condition out and say so",
            )
        return tree

    def _may_be(self, tree: Tree, cls: int) -> bool:
        return tree.ask(*self._program.by_class(cls))


def _expanded(condition: str, rules: RuleSet) -> Expr:
    written = parse(condition, lambda at: Place(CONDITION, 1, at + 1))
    expander = Expander(Collection(lists=rules.lists, macros=rules.macros))
    return expander.expand(written)[0]


def names(pattern: str, name: str) -> bool:
    """Whether a suppression's rule, a name or a pattern, means this one."""
    if pattern == name:
        return True
    if not set(pattern) & set("*?["):
        return False
    try:
        return matcher(glob_pattern(pattern))(name)
    except PatternError:
        return False


def rules_of(pattern: str, rules: RuleSet) -> list[Rule]:
    """The rules that a name or a pattern means; RuleError where there is none."""
    found = [rule for rule in rules.rules if names(pattern, rule.name)]
    if not found:
        hint = did_you_mean(pattern, [rule.name for rule in rules.rules])
        raise RuleError(
            f"there is no rule {pattern!r}",
            Place("rule"),
            mend=hint or "`hullwatch rules list` names them",
        )
    return found


def _apart(sources: Iterable[Source]) -> tuple[str, ...]:
    """Matches stand for events of one process, object and container. What else do these read?"""
    found: dict[str, None] = {}
    for source in sources:
        for where in {source.where(cls) for cls in ALL}:
            if where is Where.EVENT:
                found |= dict.fromkeys(("op", *sorted(source.reads)))
            elif where is Where.OBJ2:
                found["obj2"] = None
            elif where is Where.OBJ and any(bound.field.row for bound in source.bounds):
                found |= {"obj2": None, "port": None}  # a connection's two ends
            elif where in (Where.NAME, Where.ROW):
                found |= dict.fromkeys((*_ALL_NUMBERS, "tid", "span", "ts"))
    return tuple(found)
