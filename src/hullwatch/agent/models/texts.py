"""What is said to a model and what it says, by API: only where a workload's content is to be kept.

What is one document is taken as the API has it; of a stream, the pieces of text are put together,
so that a secret is whole again. Fields are OTel's attributes; of streams `text`, and `at.*`: which
of several texts a piece belongs to.
Sources: as in apis.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.wire.jsonscan import Paths, Picked
from hullwatch.agent.wire.said import Room, Said

__all__ = ["TEXTS", "Answer", "Texts"]

MAX_TEXTS = 16  # of one streamed answer


class Texts(NamedTuple):
    """request: of it; response: of a reply that is one document; stream: of its pieces."""

    request: Paths
    response: Paths
    stream: Paths


def _texts(
    asked: str, answered: str, pieces: str, at: Mapping[str, str], each: str = "", system: str = ""
) -> Texts:
    """Paths, several separated by spaces. each: what in a piece of the stream is one text."""
    of_request = dict.fromkeys(asked.split(), semconv.INPUT_MESSAGES)
    of_request |= dict.fromkeys(system.split(), semconv.SYSTEM_INSTRUCTIONS)
    return Texts(
        Paths({}, taken=of_request),
        Paths({}, taken=dict.fromkeys(answered.split(), semconv.OUTPUT_MESSAGES)),
        Paths(
            at,
            ends=dict.fromkeys(each.split() or [""], "end"),
            taken=dict.fromkeys(pieces.split(), "text"),
        ),
    )


_BLOCK = {"index": "at.block"}
_CHOICE = {"choices.*.index": "at.choice"}
_MESSAGES = _texts("messages", "content", "delta.text", _BLOCK, system="system")
_CHAT = _texts(
    "messages prompt", "choices", "choices.*.delta.content choices.*.text", _CHOICE, "choices.*"
)
_PART = "candidates.*.content.parts.*.text"
_GEMINI = _texts(
    "contents",
    "candidates",
    f"{_PART} *.{_PART}",
    {"candidates.*.index": "at.choice", "*.candidates.*.index": "at.choice"},
    "candidates.* *.candidates.*",
    system="systemInstruction system_instruction",
)
_CONVERSE = _texts(
    "messages", "output", "delta.text", {"contentBlockIndex": "at.block"}, system="system"
)

TEXTS: dict[str, Texts] = {
    "openai.chat": _CHAT,
    "openai.completions": _CHAT,
    "openai.responses": _texts(
        "input",
        "output",
        "delta",
        {"output_index": "at.item", "content_index": "at.block"},
        system="instructions",
    ),
    "anthropic.messages": _MESSAGES,
    "anthropic.vertex": _MESSAGES,
    "google.generate": _GEMINI,
    "bedrock.converse": _CONVERSE,
    # Each maker's own format: Anthropic, Amazon Nova, Meta, Cohere, Mistral.
    "bedrock.invoke": _texts(
        "messages prompt inputText",
        "content output generation choices outputs text",
        "delta.text contentBlockDelta.delta.text generation outputs.*.text",
        _BLOCK | {"contentBlockDelta.contentBlockIndex": "at.block"},
        system="system",
    ),
    "cohere.chat": _texts(
        "messages message", "message text", "delta.message.content.text text", _BLOCK
    ),
    "ollama.chat": _texts("messages", "message", "message.content", {}),
    "ollama.generate": _texts("prompt", "response", "response", {}, system="system"),
}


class Answer:
    """What a reply says: add what was picked. Of a stream, the texts are put together."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._documents: dict[str, Said] = {}
        self._texts: dict[tuple[tuple[str, str], ...], Said] = {}
        self._at: dict[str, str] = {}
        self._pieces: list[Said] = []
        self._deaf = False

    def add(self, found: Iterable[Picked]) -> None:
        for field, value in () if self._deaf else found:
            if field == "end":
                self._end()
            elif field == "text":
                self._pieces += [value] if isinstance(value, Said) else []
            elif isinstance(value, Said):
                self._documents[field] = value
            else:
                self._at[field] = str(value)

    def gap(self) -> None:
        """Something is missing: what comes after it is not taken."""
        self._end()
        self._deaf = True
        for text in self._texts.values():
            text.whole = False

    def said(self) -> list[tuple[str, Said]]:
        """By OTel's names."""
        self._end()
        texts = [(semconv.OUTPUT_MESSAGES, text) for text in self._texts.values()]
        return [*self._documents.items(), *texts]

    def _end(self) -> None:
        """A piece of the stream is over: its text, and where it belongs, are known."""
        at, pieces = tuple(sorted(self._at.items())), self._pieces
        self._at, self._pieces = {}, []
        if not pieces or (at not in self._texts and len(self._texts) >= MAX_TEXTS):
            return
        text = self._texts.setdefault(at, Said(self._room))
        for piece in pieces:
            said = _text_of(piece)
            text.add(said or b"")
            text.whole &= said is not None


def _text_of(piece: Said) -> bytes | None:
    """A string's text; None: it is cut, or no JSON that can be read."""
    try:
        return msgspec.json.decode(piece.data, type=str).encode() if piece.whole else None
    except (msgspec.DecodeError, UnicodeError):
        return None
