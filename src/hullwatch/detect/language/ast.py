"""Conditions as trees. Every node knows its offset in the text it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hullwatch.detect.errors import NOWHERE, Place
from hullwatch.detect.language.strings import quote

__all__ = [
    "And",
    "Check",
    "Expr",
    "FieldRef",
    "Literal",
    "Macro",
    "Not",
    "Operand",
    "Or",
    "Transform",
    "show",
]


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written. quoted: never the name of a list."""

    text: str
    quoted: bool = False
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return quote(self.text, always=self.quoted)


@dataclass(frozen=True, slots=True)
class FieldRef:
    """proc.aname[2], evt.arg.flags (name 'evt.arg', arg 'flags')."""

    name: str
    arg: str | None = None
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        if self.arg is None:
            return self.name
        plain = self.arg and not any(c in "[]\"'" or c.isspace() for c in self.arg)
        return (
            f"{self.name}[{self.arg}]" if plain else f"{self.name}[{quote(self.arg, always=True)}]"
        )


@dataclass(frozen=True, slots=True)
class Transform:
    """tolower(x), val(x), concat(x, "-", y)."""

    name: str
    args: tuple[Operand, ...]
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        parts = (
            quote(arg.text, always=True) if isinstance(arg, Literal) else str(arg)
            for arg in self.args
        )
        return f"{self.name}({', '.join(parts)})"


Operand = FieldRef | Transform | Literal


@dataclass(frozen=True, slots=True)
class Check:
    """left op right. right: () for `exists`, literals, or one Transform (field to field).

    modifier: '' | 'oneof' | 'anyof' | 'allof'. listed: right was in parentheses.
    """

    left: FieldRef | Transform
    op: str
    right: tuple[Operand, ...] = ()
    modifier: str = ""
    listed: bool = False
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Macro:
    name: str
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    child: Expr
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class And:
    children: tuple[Expr, ...]
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Or:
    children: tuple[Expr, ...]
    place: Place = field(default=NOWHERE, compare=False)


Expr = Check | Macro | Not | And | Or


def show(expr: Expr) -> str:
    """The condition as text that reads back to the same tree."""
    match expr:
        case Macro(name):
            return name
        case Not(child):
            return f"not ({show(child)})" if isinstance(child, And | Or) else f"not {show(child)}"
        case And(children):
            return " and ".join(
                f"({show(c)})" if isinstance(c, Or | And) else show(c) for c in children
            )
        case Or(children):
            return " or ".join(
                f"({show(c)})" if isinstance(c, Or | And) else show(c) for c in children
            )
        case Check(left, op, right, modifier, listed):
            words = [str(left), op]
            if modifier:
                words.append(modifier)
            if listed:
                words.append("(" + ", ".join(str(value) for value in right) + ")")
            else:
                words += [str(value) for value in right]
            return " ".join(words)
