r"""Quoted strings and escapes, as libsinsp/filter/escaping.cpp has them.

Inside quotes: ``\b \f \n \r \t \\ \/``, the quote itself, and ``\ `` (backslash blank) which
Falco reads as one backslash. Anything else is an error, as there.
"""

from __future__ import annotations

__all__ = ["QuoteError", "quote", "read_quoted"]

_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "\\": "\\", "/": "/", " ": "\\"}
_REVERSE = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


class QuoteError(ValueError):
    """A quoted string that cannot be read; `at` is the offset."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


def read_quoted(text: str, start: int) -> tuple[str, int]:
    """The string whose opening quote is text[start], and the offset after its closing quote."""
    delimiter = text[start]
    out: list[str] = []
    at = start + 1
    while at < len(text):
        char = text[at]
        if char == delimiter:
            return "".join(out), at + 1
        if char != "\\":
            out.append(char)
            at += 1
            continue
        escaped = text[at + 1 : at + 2]
        if escaped == delimiter:
            out.append(delimiter)
        elif escaped in _ESCAPES and escaped:
            out.append(_ESCAPES[escaped])
        else:
            raise QuoteError(f"unsupported escape '\\{escaped}' in a quoted string", at)
        at += 2
    raise QuoteError("a quoted string is not closed", start)


def quote(value: str, *, always: bool = False) -> str:
    """value as it must be written in a condition: bare where the grammar allows it."""
    if (
        not always
        and value
        and not any(char in "()\"',=" or char.isspace() or ord(char) < 32 for char in value)
    ):
        return value
    body = "".join(_REVERSE.get(char, char) for char in value).replace('"', '\\"')
    return f'"{body}"'
