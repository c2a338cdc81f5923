"""What crosses between the agent and the child that reads Sigma, as JSON.

The reply's items are plain values of our rule language, as a YAML file would hold them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hullwatch.detect.errors import Place

__all__ = ["Converted", "Problem", "Reply", "Request", "SigmaText"]


class SigmaText(msgspec.Struct, frozen=True):
    path: str
    text: str


class Request(msgspec.Struct, frozen=True):
    texts: tuple[SigmaText, ...]


class Converted(msgspec.Struct, frozen=True):
    """body: one item of our language (`rule: ...` or `sequence: ...`). ident: Sigma's id or ''."""

    place: Place
    ident: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return next(iter(self.body))


class Problem(msgspec.Struct, frozen=True):
    """A refusal, or (warning) something to know about a rule that is used all the same."""

    place: Place
    item: str
    message: str
    mend: str = ""
    warning: bool = False


class Reply(msgspec.Struct, frozen=True):
    items: list[Converted] = []
    problems: list[Problem] = []
