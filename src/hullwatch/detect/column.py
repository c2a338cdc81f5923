"""All predicates on one value, asked together.

A predicate is a bit. `Column.bits(value)` is the sum of the bits that hold for a value; it is
worked out once for each distinct value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hullwatch.detect.operators import Test
from hullwatch.detect.source import Source

__all__ = ["Column", "Predicate", "merged"]

_MEMO = 2_048
_MEMO_TEXT = 512  # characters: a longer text is worked out each time


@dataclass(frozen=True, slots=True)
class Predicate:
    """One interned comparison. bit: its power of two. text: as `explain` shows it."""

    bit: int
    text: str
    source: Source
    test: Test


@dataclass(slots=True)
class Column:
    """Predicates that share a source."""

    source: Source
    predicates: list[Predicate] = field(default_factory=list)
    all_bits: int = 0
    _always: int = 0  # holds for every present value, but for those in _without
    _with: dict[Any, int] = field(default_factory=dict)
    _without: dict[Any, int] = field(default_factory=dict)
    _runs: list[tuple[int, Any]] = field(default_factory=list)
    _starts: dict[str, list[Predicate]] = field(default_factory=dict)
    _ends: dict[str, list[Predicate]] = field(default_factory=dict)
    _holding: dict[str, list[Predicate]] = field(default_factory=dict)
    _prefixes: tuple[str, ...] = ()
    _suffixes: tuple[str, ...] = ()
    _memo: dict[Any, int] = field(default_factory=dict)

    def add(self, predicate: Predicate) -> None:
        self.predicates.append(predicate)
        self.all_bits |= predicate.bit
        test, bit = predicate.test, predicate.bit
        if test.equal is not None:
            for value in test.equal:
                self._with[value] = self._with.get(value, 0) | bit
        elif test.unequal is not None:
            self._always |= bit
            self._without[test.unequal] = self._without.get(test.unequal, 0) | bit
        elif test.prefixes or test.suffixes or test.parts:
            for texts, held in (
                (test.prefixes, self._starts),
                (test.suffixes, self._ends),
                (test.parts, self._holding),
            ):
                for text in texts:
                    held.setdefault(text, []).append(predicate)
            self._prefixes = tuple(self._starts)
            self._suffixes = tuple(self._ends)
        else:
            self._runs.append((bit, test.run))
        self._memo.clear()

    def bits(self, value: Any) -> int:
        """The predicates that hold; 0 for None. A tuple: those that hold for any member."""
        if value is None:
            return 0
        if self.source.any:
            found = 0
            for one in value:
                found |= self._remembered(one)
            return found
        return self._remembered(value)

    def about(self, alphabet: frozenset[str]) -> tuple[int, int]:
        """(may hold, always hold) of a text that is made of these characters alone."""
        may = always = 0
        for predicate in self.predicates:
            test, bit = predicate.test, predicate.bit
            needed = test.equal or test.prefixes or test.suffixes or test.parts
            if test.unequal is not None and not alphabet.issuperset(test.unequal):
                always |= bit
            elif not needed or any(alphabet.issuperset(text) for text in needed):
                may |= bit
        return may, always

    def _remembered(self, value: Any) -> int:
        found = self._memo.get(value)
        if found is None:
            found = self.fresh(value)
            if isinstance(value, str) and len(value) > _MEMO_TEXT:
                return found
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[value] = found
        return found

    def fresh(self, value: Any) -> int:
        """The same for one value that will not be asked about again."""
        found = self._always | self._with.get(value, 0)
        if self._without:
            found &= ~self._without.get(value, 0)
        # One call in C for all prefixes: most texts have none of them.
        if self._prefixes and value.startswith(self._prefixes):
            for prefix, predicates in self._starts.items():
                if value.startswith(prefix):
                    for one in predicates:
                        if one.test.exact or one.test.run(value):
                            found |= one.bit
        if self._suffixes and value.endswith(self._suffixes):
            for suffix, predicates in self._ends.items():
                if value.endswith(suffix):
                    for one in predicates:
                        if one.test.exact or one.test.run(value):
                            found |= one.bit
        for part, predicates in self._holding.items():
            if part in value:
                for one in predicates:
                    if one.test.exact or one.test.run(value):
                        found |= one.bit
        for bit, run in self._runs:
            if run(value):
                found |= bit
        return found


def merged(columns: list[Column]) -> Column | None:
    """One column for several that have the same value, to be asked by `fresh`."""
    if not columns:
        return None
    found = Column(columns[0].source)
    for column in columns:
        for predicate in column.predicates:
            found.add(predicate)
    return found
