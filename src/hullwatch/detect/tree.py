"""Conditions as boolean trees over predicate bits, in negation normal form.

A tree is asked with two numbers: `holds`, the bits known to be true, and `fails`, the bits
known to be false. A bit in neither is unknown, and then neither `p` nor `not p` counts: the
answer is "definitely". A bit in both stands for "either may be": the answer is "possibly".
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NEVER", "ALWAYS", "Tree", "both", "either", "literal"]


class Tree:
    """And (or Or) of literals and other trees. positive, negative: bits of the literals."""

    __slots__ = ("conjunction", "positive", "negative", "kids")

    def __init__(
        self, conjunction: bool, positive: int, negative: int, kids: tuple[Tree, ...]
    ) -> None:
        self.conjunction = conjunction
        self.positive = positive
        self.negative = negative
        self.kids = kids

    def ask(self, holds: int, fails: int) -> bool:
        if self.conjunction:
            if holds & self.positive != self.positive or fails & self.negative != self.negative:
                return False
            return all(kid.ask(holds, fails) for kid in self.kids)
        if holds & self.positive or fails & self.negative:
            return True
        return any(kid.ask(holds, fails) for kid in self.kids)

    def bits(self) -> int:
        found = self.positive | self.negative
        for kid in self.kids:
            found |= kid.bits()
        return found


ALWAYS = Tree(True, 0, 0, ())
NEVER = Tree(False, 0, 0, ())


def literal(bit: int, positive: bool) -> Tree:
    return Tree(True, bit, 0, ()) if positive else Tree(True, 0, bit, ())


def both(trees: Iterable[Tree]) -> Tree:
    return _merge(True, trees)


def either(trees: Iterable[Tree]) -> Tree:
    return _merge(False, trees)


def _merge(conjunction: bool, trees: Iterable[Tree]) -> Tree:
    neutral, absorbing = (ALWAYS, NEVER) if conjunction else (NEVER, ALWAYS)
    positive = negative = 0
    kids: list[Tree] = []
    for tree in trees:
        if tree is absorbing:
            return absorbing
        if tree is neutral:
            continue
        single = not tree.kids and (tree.positive | tree.negative).bit_count() == 1
        if tree.conjunction == conjunction or single:
            positive |= tree.positive
            negative |= tree.negative
            kids += tree.kids
        else:
            kids.append(tree)
    if positive & negative:
        return absorbing  # p and not p; p or not p (no bit here is ever unknown in itself)
    if not kids and not positive and not negative:
        return neutral
    if len(kids) == 1 and not positive and not negative:
        return kids[0]
    return Tree(conjunction, positive, negative, tuple(kids))
