"""A kind of secret: one row that says how it looks. The tables are in `table/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Kind", "assigned", "pem"]

Check = Callable[[bytes], bool]


class Kind(NamedTuple):
    """name: what is stored and shown. keywords: separated by spaces; a text without any of them is
    not looked at. pattern: RE2, over bytes; its first group is the secret, without one the whole
    match. It begins with `(?i)` where letters' case does not count, in keywords neither. example:
    its shape, which `examples.fill` makes a value of. entropy: bits a byte that the secret has at
    least. check: what a pattern cannot say (a checksum, a structure)."""

    name: str
    provider: str
    keywords: str
    pattern: str
    example: str
    entropy: float = 3.0
    check: Check | None = None


def assigned(words: str, value: str) -> str:
    """The pattern of a value that is assigned to a name with one of `words` (an alternation) in it,
    in code, JSON, YAML, a header or a shell."""
    return (
        rf"(?i)(?:{words})[\w .-]{{0,24}}[\"'\]]{{0,2}}[ \t]{{0,4}}(?::=|=>|[:=])[ \t]{{0,4}}"
        rf"[\"']?((?-i:{value}))(?:[^\w+/=-]|$)"
    )


def pem(label: str) -> str:
    """The pattern of an armoured key: to its end, or where that is missing, as far as there are
    lines of it. Prose that mentions the label has none. Between lines may stand what a source's
    strings are joined with."""
    between, line = r"[\s\"',+;]", "[A-Za-z0-9+/=]"
    end = rf"(?:{between}{{1,12}}{line}{{0,80}})?{between}{{0,12}}(?:-----END {label}-----|\z)"
    return (
        rf"-----BEGIN {label}-----{between}+(?:[A-Z][A-Za-z-]{{2,20}}: [^\r\n]{{0,120}}\s+){{0,6}}"
        rf"{line}{{40,}}(?:{between}{{1,12}}{line}{{16,}})*(?:{end})?"
    )
