"""Names sorted into classes by a table of patterns."""

from __future__ import annotations

from functools import cached_property

import re2

__all__ = ["Classes"]


class Classes:
    """rows: class and patterns, separated by spaces; the first row that holds counts, and the
    class "" is none. `?` is a character, `*` stays in one folder, `**` does not. any_folder: a
    pattern that begins with neither `/` nor `**` holds in any folder. any_case: A is a, too."""

    def __init__(
        self,
        rows: tuple[tuple[str, str], ...],
        *,
        any_folder: bool = False,
        any_case: bool = False,
    ) -> None:
        self._rows = rows
        self._any_folder = any_folder
        self._case = "(?i)" if any_case else ""

    def find(self, name: str) -> str | None:
        rows = self._set.Match(name.encode("utf-8", "surrogatepass"))
        return self._rows[min(rows)][0] or None if rows else None

    @property
    def pattern(self) -> str:
        """RE2 (with `s`: a dot is any character) of all names that may have a class, and few more:
        for a first look by those who have RE2 and many names."""
        rows = (patterns for name, patterns in self._rows if name)
        every = (self._translated(one) for patterns in rows for one in patterns.split())
        return self._case + "|".join(every)

    @cached_property
    def _set(self) -> re2.Set:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.dot_nl = True
        options.log_errors = False
        made = re2.Set.FullMatchSet(options)
        for _, patterns in self._rows:
            made.Add((self._case + "|".join(map(self._translated, patterns.split()))).encode())
        made.Compile()
        return made

    def _translated(self, pattern: str) -> str:
        escaped = re2.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
        body = escaped.replace(r"\?", "[^/]")
        anywhere = self._any_folder and not pattern.startswith(("/", "**"))
        return f"(?:.*/)?{body}" if anywhere else body
