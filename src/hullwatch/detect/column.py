"""All predicates on one value, asked together.

A predicate is a bit. `Column.bits(value)` is the sum of the bits that hold for a value; it is
worked out once for each distinct value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hullwatch.detect.operators import Test
from hullwatch.detect.source import Source

__all__ = ["Column", "Predicate"]

_MEMO = 65_536


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
    _always: int = 0  # holds for every present value, but for those in _without
    _with: dict[Any, int] = field(default_factory=dict)
    _without: dict[Any, int] = field(default_factory=dict)
    _runs: list[tuple[int, Any]] = field(default_factory=list)
    _memo: dict[Any, int] = field(default_factory=dict)

    def add(self, predicate: Predicate) -> None:
        self.predicates.append(predicate)
        test, bit = predicate.test, predicate.bit
        if test.equal is not None:
            for value in test.equal:
                self._with[value] = self._with.get(value, 0) | bit
        elif test.unequal is not None:
            self._always |= bit
            self._without[test.unequal] = self._without.get(test.unequal, 0) | bit
        else:
            self._runs.append((bit, test.run))
        self._memo.clear()

    @property
    def all_bits(self) -> int:
        return sum(predicate.bit for predicate in self.predicates)

    def bits(self, value: Any) -> int:
        """The predicates that hold; 0 for None. A tuple: those that hold for any member."""
        if value is None:
            return 0
        if self.source.any:
            found = 0
            for one in value:
                found |= self._one(one)
            # `proc.aname exists` asks for one ancestor at least, which the loop answers too.
            return found
        return self._one(value)

    def _one(self, value: Any) -> int:
        found = self._memo.get(value)
        if found is None:
            found = self._always & ~self._without.get(value, 0) | self._with.get(value, 0)
            for bit, run in self._runs:
                if run(value):
                    found |= bit
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[value] = found
        return found
