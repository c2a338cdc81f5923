"""Shell patterns and regular expressions, both matched by RE2 in time linear in the text.

Falco's glob is fnmatch(3) with FNM_EXTMATCH and without FNM_PATHNAME: '*' crosses '/'. Its
regex is RE2 and must match the whole value.
"""

from __future__ import annotations

from collections.abc import Callable

import re2

__all__ = ["PatternError", "glob_literals", "glob_pattern", "matcher"]

MAX_PATTERN = 4096
_MAX_PROGRAM = 1 << 20  # bytes of one compiled pattern
_EXTENDED = {"?": "?", "*": "*", "+": "+", "@": ""}


class PatternError(ValueError):
    """A pattern that cannot be used."""


def matcher(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A test of whole values against an RE2 pattern; raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"a pattern of more than {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM
    options.case_sensitive = not ignore_case
    try:
        match = re2.compile(pattern, options).fullmatch
    except (re2.error, UnicodeEncodeError) as problem:
        said = problem.args[0] if problem.args else problem
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise PatternError(text) from None
    return lambda value: match(value) is not None


def glob_pattern(glob: str, *, within: bool = False) -> str:
    """The RE2 pattern of a shell pattern. within: '*' and '?' stay inside one path component."""
    any_char = "[^/]" if within else "."
    body, at = _translate(glob, 0, any_char, depth=0)
    assert at == len(glob)
    return "(?s)" + body


def glob_literals(glob: str) -> tuple[str, list[str]]:
    """(how every match begins, texts that every match holds) of a shell pattern."""
    runs = [""]
    depth = at = 0
    while at < len(glob):
        char, after = glob[at], glob[at + 1 : at + 2]
        plain = ""
        if char in "?*+@!" and after == "(":
            depth += 1
            at += 1
        elif depth:
            depth += (char == "(") - (char == ")")
            at += char == "\\"
        elif char == "[":
            at = _bracket(glob, at)[1] - 1
        elif char == "\\" and after:
            plain = after
            at += 1
        elif char not in "*?":
            plain = char
        if plain:
            runs[-1] += plain
        elif runs[-1] or len(runs) == 1:
            runs.append("")
        at += 1
    return runs[0], [run for run in runs if run]


def _translate(glob: str, at: int, any_char: str, depth: int) -> tuple[str, int]:
    if depth > 16:
        raise PatternError("patterns nested more than 16 deep")
    out: list[str] = []
    while at < len(glob):
        char = glob[at]
        if char in "?*+@!" and glob[at + 1 : at + 2] == "(":
            if char == "!":
                raise PatternError("'!(...)' is not supported")
            inner, end = _translate(glob, at + 2, any_char, depth + 1)
            if glob[end : end + 1] != ")":
                raise PatternError(f"'{char}(' is not closed")
            out.append(f"(?:{inner}){_EXTENDED[char]}")
            at = end + 1
        elif depth and char == ")":
            return "".join(out), at
        elif depth and char == "|":
            out.append("|")
            at += 1
        elif char == "*":
            if not out or out[-1] != any_char + "*":
                out.append(any_char + "*")
            at += 1
        elif char == "?":
            out.append(any_char)
            at += 1
        elif char == "[":
            text, at = _bracket(glob, at)
            out.append(text)
        elif char == "\\" and at + 1 < len(glob):
            out.append(re2.escape(glob[at + 1]))
            at += 2
        else:
            out.append(re2.escape(char))
            at += 1
    return "".join(out), at


def _bracket(glob: str, at: int) -> tuple[str, int]:
    """A bracket expression; one without its end is a plain '[', as in fnmatch."""
    start = at + 1
    negated = glob[start : start + 1] in ("!", "^") and start < len(glob)
    first = start + negated
    end = first + (glob[first : first + 1] == "]")
    while end < len(glob) and glob[end] != "]":
        if glob[end : end + 2] == "[:" and ":]" in glob[end + 2 :]:
            end = glob.index(":]", end + 2) + 2
        else:
            end += 2 if glob[end] == "\\" else 1
    if end >= len(glob):
        return "\\[", at + 1
    body = glob[first:end]
    safe: list[str] = []
    index = 0
    while index < len(body):
        if body.startswith("[:", index) and ":]" in body[index:]:
            stop = body.index(":]", index) + 2
            safe.append(body[index:stop])
            index = stop
            continue
        char = body[index]
        safe.append(
            char if char == "-" or char.isalnum() else "\\" + char if char != "\\" else "\\\\"
        )
        index += 1
    return f"[{'^' if negated else ''}{''.join(safe)}]", end + 1
