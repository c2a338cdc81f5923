"""Where in a text secrets are, and of what kind. The secrets themselves are never given.

A text is looked at in windows at fixed places, so that a stream gives the same whatever its
chunks are. In a window one RE2 set tells which keywords there are, then only the patterns of their
kinds run: all linear in the text.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import re2

from hullwatch.agent.secrets.checks import entropy, placeholder
from hullwatch.agent.secrets.escapes import unescape
from hullwatch.agent.secrets.kinds import KINDS

__all__ = ["Found", "MAX_SECRET", "Stream", "detect", "latin1"]

STEP = 64 << 10  # from one window to the next, bytes
MAX_SECRET = 16 << 10  # a longer one is found up to here
_BEFORE = 64  # bytes before a window that decide what its first ones mean
_PART = 8  # bytes of a secret that is partly another one: fewer are what stands between them
_CONTINUED = bytes(range(0x80, 0xC0))  # UTF-8: the second byte of a character, and further ones
_MAX_PROGRAM = 2 << 20  # bytes of one compiled pattern


class Found(NamedTuple):
    """A secret: text[start:end]."""

    kind: str
    start: int
    end: int


class _Candidate(NamedTuple):
    rank: int
    start: int
    end: int


def detect(text: str | bytes) -> tuple[Found, ...]:
    """The secrets of a text, in order, none over another. start and end count what the text is
    made of: characters or bytes. Never raises."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    stream = Stream()
    found = (*stream.feed(data), *stream.finish())
    if isinstance(text, bytes) or len(data) == len(text):
        return found
    return tuple(_in_characters(data, found))


class Stream:
    """Finds secrets in what comes in chunks, those that are cut by a chunk's end too.

    `feed` and `finish` give what is found since the last call, with offsets in the stream; what is
    nearer to the end than a window is held back, at most STEP + MAX_SECRET bytes.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._held = bytearray()
        self._base = 0  # the offset of what is held
        self._next = 0  # where the next window begins
        self._pending: list[_Candidate] = []

    def feed(self, chunk: bytes) -> tuple[Found, ...]:
        self._held += chunk
        found: list[Found] = []
        while self._base + len(self._held) >= self._next + STEP + MAX_SECRET:
            self._look(self._next + STEP + MAX_SECRET)
            found += self._settled(self._next)
        return tuple(found)

    def finish(self) -> tuple[Found, ...]:
        """What is left. The stream can be used again, from offset 0."""
        end = self._base + len(self._held)
        while self._next < end:
            self._look(end)
        found = tuple(self._settled(end))
        self._begin()
        return found

    def _look(self, end: int) -> None:
        """One window, up to `end`; it answers for what begins in its first STEP bytes."""
        first, last = self._next, min(end, self._next + STEP + MAX_SECRET)
        window = bytes(self._held[: last - self._base])
        for found in _candidates(window):
            if first <= self._base + found.start < first + STEP:
                self._pending.append(
                    _Candidate(found.rank, self._base + found.start, self._base + found.end)
                )
        self._next = first + STEP
        keep = max(0, self._next - _BEFORE - self._base)
        del self._held[:keep]
        self._base += keep

    def _settled(self, until: int) -> list[Found]:
        """Those that no later window can overlap."""
        chosen = _chosen(self._pending)
        self._pending = [one for one in chosen if one.end > until]
        return [Found(KINDS[rank].name, start, end) for rank, start, end in chosen if end <= until]


def _candidates(data: bytes) -> Iterator[_Candidate]:
    plain = unescape(data)
    for rank in _keywords().Match(plain.text) or ():
        kind = KINDS[rank]
        for start, end in _spans(_pattern(rank), plain.text):
            secret = plain.text[start:end]
            if (
                entropy(secret) >= kind.entropy
                and not placeholder(secret)
                and (kind.check is None or kind.check(secret))
            ):
                yield _Candidate(rank, plain.origin(start), plain.origin(end))


def _spans(pattern: re2._Regexp, text: bytes) -> Iterator[tuple[int, int]]:
    """Of the secrets. What stands after one may be what stands before the next."""
    at = 0
    while match := pattern.search(text, at):
        start, end = match.span(match.lastindex or 0)
        yield start, end
        at = max(end, match.start() + 1)


def _chosen(candidates: list[_Candidate]) -> list[_Candidate]:
    """Of those that overlap, the one of the first rank; then the first, then the longest. Of the
    others remains what it does not have, so that no part of a secret is left."""
    chosen: list[_Candidate] = []
    for rank, start, end in sorted(candidates, key=lambda one: (one.rank, one.start, -one.end)):
        at = bisect_right(chosen, start, key=lambda one: one.end)
        parts: list[_Candidate] = []
        after = at
        while after < len(chosen) and chosen[after].start < end:
            parts.append(_Candidate(rank, start, chosen[after].start))
            start = chosen[after].end
            after += 1
        parts.append(_Candidate(rank, start, end))
        for part in parts:
            if part.end - part.start >= (_PART if after > at else 1):
                insort(chosen, part, key=lambda one: one.start)
    return chosen


def _in_characters(data: bytes, found: tuple[Found, ...]) -> Iterator[Found]:
    """A secret that ends in the middle of a character (it was too long) has the whole of it."""
    at = characters = 0
    for kind, start, end in found:
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        characters += _characters(data[at:start])
        size = _characters(data[start:end])
        yield Found(kind, characters, characters + size)
        at, characters = end, characters + size


def _characters(data: bytes) -> int:
    return len(data.translate(None, _CONTINUED))


def latin1() -> re2.Options:
    """For patterns of bytes."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM
    return options


@cache
def _keywords() -> re2.Set:
    """Which kinds a text may have a secret of: by their place in KINDS."""
    found = re2.Set.SearchSet(latin1())
    for kind in KINDS:
        words = b"|".join(re2.escape(word.encode()) for word in kind.keywords.split())
        found.Add((b"(?i:%s)" if kind.pattern.startswith("(?i)") else b"%s") % words)
    found.Compile()
    return found


@cache
def _pattern(rank: int) -> re2._Regexp:
    """Compiled when a keyword of it is first seen."""
    return re2.compile(KINDS[rank].pattern.encode(), latin1())
