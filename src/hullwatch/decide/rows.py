"""What a plan tells apart, as automata that the kernel runs (sensor/patterns.py): over paths, and
over the names of servers that TLS clients ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product

from hullwatch.decide.plan import HostRow, Plan, Row
from hullwatch.sensor.patterns import Pattern, Tables, TooManyPatterns, matches, told_apart

__all__ = ["host_rows", "path_rows"]


def path_rows(plan: Plan, first_state: int, first_row: int) -> tuple[Tables, tuple[Row, ...]]:
    """Groups are halved until their automata fit; a policy that fits alone with none is left
    out. Rows are numbered from first_row on."""
    while True:
        rows: list[Row] = []
        patterns = [plan.patterns(group) for group in range(len(plan.groups))]

        def row(
            group: int,
            held: int,
            text: bytes,
            rows: list[Row] = rows,
            patterns: list[list[str]] = patterns,
        ) -> int:
            rows.append(Row(group, text.decode(), _held(patterns[group], held)))
            return first_row + len(rows) - 1

        try:
            return told_apart([*map(_patterns, patterns)], first_state, row), tuple(rows)
        except TooManyPatterns as error:
            largest = max(range(len(plan.groups)), key=lambda at: len(plan.groups[at]))
            plan.halve(largest, str(error))


def host_rows(plan: Plan, first_state: int, room: int) -> tuple[Tables, tuple[HostRow, ...]]:
    """Names are numbered from 1 on. room: of states. TooManyPatterns."""
    rows: list[HostRow] = []

    def row(_: int, held: int, text: bytes) -> int:
        name = _name(plan.hosts, held, text.decode()) if held else _other_than(plan.hosts)
        rows.append(HostRow(name, _held(plan.hosts, held)))
        return len(rows)

    return told_apart([_patterns(plan.hosts)], first_state, row, room), tuple(rows)


def _patterns(texts: Sequence[str]) -> list[Pattern]:
    """Each with a bit of its own."""
    return [Pattern(text, 1 << bit) for bit, text in enumerate(texts)]


def _held(texts: Sequence[str], bits: int) -> frozenset[str]:
    return frozenset(one for bit, one in enumerate(texts) if bits >> bit & 1)


def _name(patterns: Sequence[str], held: int, text: str) -> str:
    """A name for which exactly these hold, as `text` is, a slash before it. That is the shortest,
    which may end in a dot: such a name is asked about without it, and is another one then."""
    if text[-1] not in "/.":
        return text[1:]
    signs = [*sorted({*"".join(patterns)} - {*"*?/[]:"}), _other_than(patterns)]
    for more in chain(signs, map("".join, product(signs, repeat=2))):
        if more[-1] != "." and all(
            matches(one, text + more) == bool(held >> bit & 1) for bit, one in enumerate(patterns)
        ):
            return text[1:] + more
    return text[1:]  # there is none


def _other_than(patterns: Sequence[str]) -> str:
    """A name that fits none, unless one fits all: of a character that is in no pattern."""
    named = frozenset("*?/[]:.").union(*patterns)
    return next(sign for sign in map(chr, range(ord("z"), 32, -1)) if sign not in named)
