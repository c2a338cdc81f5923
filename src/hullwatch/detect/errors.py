"""What can be wrong with a rule file, always with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["NOWHERE", "Place", "RuleError", "Warning_", "did_you_mean"]


class Place(NamedTuple):
    """path:line:col, both counted from 1; 0 = not known."""

    path: str
    line: int = 0
    col: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.path
        return f"{self.path}:{self.line}:{self.col}" if self.col else f"{self.path}:{self.line}"


NOWHERE = Place("<text>")


class RuleError(Exception):
    """A rule file, or one item of it, cannot be used.

    item: 'rule "Name"', 'macro "x"', ... or '' for the file. mend: what to do about it.
    """

    def __init__(
        self, message: str, place: Place = NOWHERE, *, item: str = "", mend: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.item = item
        self.mend = mend

    def of(self, item: str) -> RuleError:
        """The same error, said to be of `item` unless it already names one."""
        return RuleError(self.message, self.place, item=self.item or item, mend=self.mend)

    def __str__(self) -> str:
        head = f"{self.place}: {self.item}: " if self.item else f"{self.place}: "
        return head + self.message + (f" ({self.mend})" if self.mend else "")


class Warning_(NamedTuple):
    """Something a rule's author should know; the rule is used all the same."""

    place: Place
    item: str
    message: str

    def __str__(self) -> str:
        head = f"{self.place}: {self.item}: " if self.item else f"{self.place}: "
        return head + self.message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known word, or ''."""
    near = difflib.get_close_matches(word[:64], list(known), 1, 0.7)
    return f"did you mean {near[0]!r}?" if near else ""
