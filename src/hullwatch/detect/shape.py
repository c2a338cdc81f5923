"""The shape of a text: what stays when the same thing is done again with another number or name.

`/proc/4711/environ` and `/proc/12/environ` are one shape, `/proc/*/environ`. Findings fold by it.
Addresses stay as they are: another destination is another behaviour.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["as_glob", "shape"]

MAX_TEXT = 4096
_LONG = 16  # letters and digits in one word of this length: made up by a program
_HEX = 8
_SCRATCH = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/", "/var/run/", "memfd:")
_PIECE = re.compile(
    r"(?P<address>\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.]))"
    r"|(?P<word>[A-Za-z0-9]+)"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"[0-9]+")
# tempfile.mkstemp, mktemp: `tmp` and six or more of their own.
_TEMPORARY = re.compile(r"(?<=/)tmp[._-]?[A-Za-z0-9_]{6,32}(?=/|$)")
# mkstemp's XXXXXX after a name of the program's choice.
_SUFFIX = re.compile(r"(?<=[._-])[A-Za-z0-9]{6,12}(?=/|$)")
_GLOB_SPECIAL = re.compile(r"[\[\]\\?!+@(]")


@lru_cache(maxsize=4096)
def shape(text: str) -> str:
    """`text` with numbers, hexadecimal ids, UUIDs, random words and temporary names as `*`.

    Idempotent. Of more than MAX_TEXT characters, the end counts: a path's name is there.
    """
    text = _UUID.sub("*", text[-MAX_TEXT:])
    if text.startswith(_SCRATCH):
        text = _SUFFIX.sub(_suffix, _TEMPORARY.sub("tmp*", text))
    text = _PIECE.sub(_piece, text)
    while "**" in text:
        text = text.replace("**", "*")
    return text


def as_glob(found: str) -> str:
    """A shape as a pattern for `glob`, which holds for every text of that shape."""
    return _GLOB_SPECIAL.sub("?", found)


def _piece(found: re.Match[str]) -> str:
    if found["address"]:
        return found[0]
    word = found["word"]
    if not _DIGITS.search(word):
        return word
    if word.isdigit() or len(word) >= _LONG:
        return "*"
    if len(word) >= _HEX and all(char in "0123456789abcdefABCDEF" for char in word):
        return "*"
    return _DIGITS.sub("*", word)


def _suffix(found: re.Match[str]) -> str:
    word = found[0]
    mixed = not (word.islower() or word.isupper()) or any(char.isdigit() for char in word)
    return "*" if mixed and not word.istitle() else word
