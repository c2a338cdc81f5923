"""Text without its secrets: each becomes `[kind:hash]`, so that one can tell which is which."""

from __future__ import annotations

from collections.abc import Mapping

from hullwatch.agent.secrets.detection import MAX_SECRET, detect
from hullwatch.agent.secrets.key import Key

__all__ = ["redact"]

_DIGITS = 8  # of the hash
_EVERYWHERE = 8  # characters: a shorter value may be a word of the text
_MOST = 64  # values that are looked for elsewhere in the text


def redact(
    text: str, key: Key, *, whole: bool = True, known: Mapping[str, str] | None = None
) -> str:
    """What is found in one place is taken out of all the others too, where nothing beside it says
    that it is a secret. JSON stays JSON. Never raises.

    whole: else more belongs behind it, so that a secret may be cut there: as much as the longest
    has is left away. known: further values, and what kind each is."""
    labels: dict[str, str] = {}
    for value, kind in (known or {}).items():
        text = text.replace(value, _label(kind, value, key))
    found = detect(text)
    for kind, start, stop in found:
        value = text[start:stop]
        labels.setdefault(value, _label(kind, value, key))
    everywhere = [value for value in labels if len(value) >= _EVERYWHERE][:_MOST]
    end = len(text)
    if not whole:
        end = max(0, end - MAX_SECRET)
        for value in everywhere:  # one that is only known from elsewhere may stand there, too
            across = text.find(value, max(0, end - len(value)), end + len(value))
            end = across if 0 <= across < end else end
    pieces: list[str] = []
    at = 0
    for _, start, stop in found:
        if start < end:
            pieces += (text[at:start], labels[text[start:stop]])
            at = stop
    out = "".join((*pieces, text[at:end]))
    for value in everywhere:
        out = out.replace(value, labels[value])
    return out


def _label(kind: str, value: str, key: Key) -> str:
    return f"[{kind}:{key.hash(value)[:_DIGITS]}]"
