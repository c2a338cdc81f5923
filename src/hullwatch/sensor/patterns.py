"""Path patterns compiled to automata that the kernel runs over each new path (kernel/label.h).

A pattern is text with `?` (a character), `*` (within one folder) and `**` (across folders), for
labels in any case of ASCII letters; one that begins with neither `/` nor `**` holds in any folder.
Automata of many patterns grow with what they have to remember, so there are several, and those for
patterns that are known by their end read from there.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.wire import GUARD_ROWS, PATH_STATE, PATH_TABLE

__all__ = ["Pattern", "Tables", "TooManyPatterns", "compiled", "matches", "told_apart"]

_ACROSS, _WITHIN, _ONE, _END = "**", "*", "?", ""
_MOST_STATES = 2_048  # of one automaton, before its patterns are split
_MOST_PATTERNS = 64  # of one automaton: more have too many states, which takes long to find out
_ROOM = 16_384  # states in all: kernel/label.h
_CLASSES = PATH_STATE["next"].shape[0]
_AUTOMATA = PATH_TABLE["starts"].shape[0]
ROWS = GUARD_ROWS // 2
"""Automata that may tell rows: kernel/guard.h."""
ROWED = 8_192
"""States of all of them: kernel/label.h."""


class TooManyPatterns(ValueError):
    """The kernel has no room for automata of so many patterns."""


class Pattern(NamedTuple):
    """rank 0: the labels count in any case; else, of the patterns that hold, those of the lowest
    rank alone (a pattern with no labels excepts what ranks above it)."""

    text: str
    labels: int
    rank: int = 0


class Tables(NamedTuple):
    """table: PATH_TABLE[1]; states: PATH_STATE[n], the first is the one that nothing leaves."""

    table: np.ndarray
    states: np.ndarray

    def labels(self, path: bytes) -> int:
        """What the kernel finds, worked out here."""
        return self.found(path)[0]

    def found(self, path: bytes) -> tuple[int, int]:
        """Labels, and the lowest rank above 0 of a pattern that holds; 0: none does."""
        table, states = self.table[0], self.states
        labels = ranked = 0
        lowest = 1 << 32
        for number in range(int(table["count"])):
            state = int(table["starts"][number])
            backwards = int(table["reversed"]) >> number & 1
            for byte in reversed(path) if backwards else path:
                state = int(states["next"][state][table["class_of"][byte]])
                if not state:
                    break
            rank, found = int(states["rank"][state]), int(states["labels"][state])
            if not rank:
                labels |= found
            elif rank < lowest:
                lowest, ranked = rank, found
        return labels | ranked, lowest & 0xFFFFFFFF


def matches(pattern: str, text: str) -> bool:
    """Whether it holds for a text, where case counts, as `told_apart` has it."""
    parts = {_ACROSS: "(?s:.*)", _WITHIN: "[^/]*", _ONE: "[^/]"}
    return bool(re.fullmatch("".join(parts.get(t) or re.escape(t) for t in _tokens(pattern)), text))


def compiled(patterns: Iterable[Pattern]) -> Tables:
    """Raises TooManyPatterns."""
    given = [(pattern, _tokens(pattern.text.lower())) for pattern in patterns]
    letters = _letters(given)
    table = np.zeros(1, PATH_TABLE)
    for number, letter in enumerate(letters, 1):
        for byte in {ord(letter), ord(letter.upper())}:
            table["class_of"][0][byte] = number
    rows: list[_Row] = [(array("H", [0]) * _CLASSES, 0, 0)]
    # Apart, as the ranks of one cannot cut the other short.
    for ranked in (True, False):
        some = [one for one in given if (one[0].rank > 0) is ranked]
        for backwards in (True, False):
            group = [one for one in some if (one[1][-1:] != [_ACROSS]) is backwards]
            _add(group, backwards, letters, table, rows)
    states = np.zeros(len(rows), PATH_STATE)
    for number, (following, labels, rank) in enumerate(rows):
        states[number] = following, labels, rank
    return Tables(table, states)


def told_apart(
    groups: Sequence[Sequence[Pattern]],
    base: int,
    row: Callable[[int, int, bytes], int],
    room: int = ROWED,
) -> Tables:
    """One automaton for each group, where case counts; raises TooManyPatterns.

    At its end each gives a row instead of labels: row(group, labels that hold, a text they hold
    for), asked once for each set of labels, which may have any number of bits. States are numbered
    from `base` on, `room` at most; none of them is the one that nothing leaves, as nothing may mean
    something, too.
    """
    given = [[(one, _tokens(one.text)) for one in group] for group in groups]
    letters = _letters([one for group in given for one in group])
    if len(groups) > ROWS:
        raise TooManyPatterns(f"{len(groups)} automata; at most {ROWS}")
    table = np.zeros(1, PATH_TABLE)
    for number, letter in enumerate(letters, 1):
        table["class_of"][0][ord(letter)] = number
    table["count"][0] = len(groups)
    parts: list[np.ndarray] = []
    total = 0
    for number, group in enumerate(given):
        backwards = all(tokens[-1:] != [_ACROSS] for _, tokens in group)
        made = _automaton(group, backwards, letters, base + total, dead=True)
        if made is None or total + len(made) > room:
            raise TooManyPatterns("there is no room for so many patterns with `*`")
        table["starts"][0][number] = base + total
        table["reversed"][0] |= np.uint32(backwards << number)
        texts = _texts(made, base + total, letters, backwards)
        rows: dict[int, int] = {}
        states = np.zeros(len(made), PATH_STATE)
        for at, (following, labels, _) in enumerate(made):
            if labels not in rows:
                rows[labels] = row(number, labels, texts[at])
            states[at] = following, rows[labels], 0
        parts.append(states)
        total += len(made)
    return Tables(table, np.concatenate(parts) if parts else np.zeros(0, PATH_STATE))


def _texts(made: Sequence[_Row], base: int, letters: list[str], backwards: bool) -> list[bytes]:
    """The shortest text that leads to each state."""
    other = next(chr(code) for code in range(33, 127) if chr(code) not in letters)
    signs = [other, *letters]
    found: dict[int, str] = {0: ""}
    waiting = [0]
    for state in waiting:
        following = made[state][0]
        for number, sign in enumerate(signs):
            then = following[number] - base
            if then not in found:
                found[then] = found[state] + sign
                waiting.append(then)
    texts = (found[at] for at in range(len(made)))
    return [(text[::-1] if backwards else text).encode() for text in texts]


def _letters(given: Sequence[_Given]) -> list[str]:
    letters = {t for _, tokens in given for t in tokens if len(t) == 1} - {_WITHIN, _ONE}
    if len(letters | {"/"}) >= _CLASSES:
        raise TooManyPatterns(f"{len(letters)} different characters; at most {_CLASSES - 1}")
    return sorted({"/", *letters})


_Given = tuple[Pattern, list[str]]
_Row = tuple["array[int]", int, int]
"""A state: where each class of characters leads, labels, rank."""


def _add(
    group: list[_Given],
    backwards: bool,
    letters: list[str],
    table: np.ndarray,
    rows: list[_Row],
) -> None:
    """Put automata for these patterns into the table, as many as it takes."""
    if not group:
        return
    few = len(group) <= _MOST_PATTERNS
    made = _automaton(group, backwards, letters, len(rows)) if few else None
    if made is None:
        half = len(group) // 2
        if not half:
            raise TooManyPatterns(f"{group[0][0].text}: too many `*`")
        _add(group[:half], backwards, letters, table, rows)
        _add(group[half:], backwards, letters, table, rows)
        return
    number = int(table["count"][0])
    if number == _AUTOMATA or len(rows) + len(made) > _ROOM:
        raise TooManyPatterns("there is no room for so many patterns with `*`")
    table["starts"][0][number] = len(rows)
    table["reversed"][0] |= np.uint32(backwards << number)
    table["count"][0] = number + 1
    rows += made


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while at < len(text):
        wide = text.startswith(_ACROSS, at)
        tokens.append(_ACROSS if wide else text[at])
        at += 2 if wide else 1
    if not text.isascii():
        raise TooManyPatterns(f"{text}: only ASCII characters")
    if not text.startswith(("/", _ACROSS)):
        tokens = [_ACROSS, "/", *tokens]
    return tokens


def _automaton(
    group: list[_Given], backwards: bool, letters: list[str], base: int, dead: bool = False
) -> list[_Row] | None:
    """All states that can be reached, numbered from `base`; None: there are too many. dead: also
    the one that nothing leaves, which otherwise is 0.

    A set of positions in the patterns, laid end to end, is a number with a bit for each.
    """
    laid: list[str] = []
    start = 0
    ends: dict[int, Pattern] = {}  # by its bit
    spans: dict[int, int] = {}  # rank -> its positions
    lasting: dict[int, int] = {}  # rank -> ends that no character leaves
    for pattern, tokens in group:
        first = len(laid)
        anywhere = not pattern.text.startswith(("/", _ACROSS))
        ordered = tokens[::-1] if backwards else tokens
        laid += [*ordered, _END]
        start |= 1 << first
        if anywhere and backwards:  # `/` and `**` at its end may be missing
            ends[1 << len(laid) - 3] = pattern
        elif anywhere:
            start |= 1 << first + 2
        ends[1 << len(laid) - 1] = pattern
        spans[pattern.rank] = spans.get(pattern.rank, 0) | (1 << len(laid)) - (1 << first)
        if ordered[-1] == _ACROSS:
            lasting[pattern.rank] = lasting.get(pattern.rank, 0) | 1 << len(laid) - 1
    at = {token: _mask(laid, token) for token in (_ACROSS, _WITHIN, _ONE)}
    on = [_mask(laid, letter) for letter in letters]
    skipped = at[_ACROSS] | at[_WITHIN]
    any_end = sum(ends)
    ranks, lasts = sorted(rank for rank in lasting if rank), sum(lasting.values())
    above = {r: sum(span for other, span in spans.items() if other >= r) for r in spans if r}

    def closed(state: int) -> int:
        while (more := state | (state & skipped) << 1) != state:
            state = more
        for rank in ranks if state & lasts else ():
            if held := state & lasting[rank]:
                # Nothing that ranks as this or above can change the answer any more.
                kept = held & -held
                return state & ~above[rank] | kept | kept >> 1
        return state

    def number_of(state: int) -> int:
        found = numbers.get(state)
        if found is None:
            then = closed(state)
            found = numbers.setdefault(then, base + len(waiting))
            if found == base + len(waiting):
                waiting.append(then)
            numbers[state] = found
        return found

    waiting: list[int] = []
    numbers = {} if dead else {0: 0}
    number_of(start)
    rows: list[_Row] = []
    slash = letters.index("/") + 1
    for state in waiting:
        within = state & at[_ACROSS] | state & at[_WITHIN] | (state & at[_ONE]) << 1
        following = array("H", [number_of(within)]) * _CLASSES  # what no pattern here names
        for number, letter in enumerate(on, 1):
            if number == slash:
                following[number] = number_of(state & at[_ACROSS] | (state & letter) << 1)
            elif step := (state & letter) << 1:
                following[number] = number_of(within | step)
        if len(waiting) > (ROWED if dead else _MOST_STATES):
            return None
        held = [ends[bit] for bit in _bits(state & any_end)]
        rank = min((pattern.rank for pattern in held), default=0)
        labels = 0
        for pattern in held:
            if pattern.rank == rank:
                labels |= pattern.labels
        rows.append((following, labels, rank))
    return rows


def _bits(number: int) -> Iterator[int]:
    while number:
        yield number & -number
        number &= number - 1


def _mask(laid: list[str], token: str) -> int:
    return sum(1 << place for place, other in enumerate(laid) if other == token)
