"""Text without its secrets: each becomes `[kind:hash]`, so that one can tell which is which."""

from __future__ import annotations

from hullwatch.agent.secrets.detection import detect
from hullwatch.agent.secrets.key import Key

__all__ = ["redact"]

_DIGITS = 8  # of the hash
_EVERYWHERE = 8  # characters: a shorter value may be a word of the text
_MOST = 64  # values that are looked for elsewhere in the text


def redact(text: str, key: Key) -> str:
    """What is found in one place is taken out of all the others too, where nothing beside it says
    that it is a secret. JSON stays JSON. Never raises."""
    pieces: list[str] = []
    labels: dict[str, str] = {}
    at = 0
    for kind, start, end in detect(text):
        value = text[start:end]
        label = labels.setdefault(value, f"[{kind}:{key.hash(value)[:_DIGITS]}]")
        pieces += (text[at:start], label)
        at = end
    out = "".join((*pieces, text[at:]))
    for value in [value for value in labels if len(value) >= _EVERYWHERE][:_MOST]:
        out = out.replace(value, labels[value])
    return out
