"""Calls of models: what a store says of them against what was done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from hullwatch.store.calls import CallRow
from support.peers.model_api import ModelTruth

__all__ = ["Matched", "matched"]

_SLACK_NS = 20_000_000  # a client's clock is read before its request is made, and after its reply


class Matched(NamedTuple):
    """found: pairs. missed: calls that nobody saw. extra: calls that nobody made. differing: of
    found ones, what is not as it was: (field, was, said)."""

    found: list[tuple[ModelTruth, CallRow]]
    missed: list[ModelTruth]
    extra: list[CallRow]
    differing: list[tuple[str, Any, Any]]


def matched(truths: Sequence[ModelTruth], calls: Sequence[CallRow]) -> Matched:
    """A call is one of its process that begins within it; those that agree in all go together
    first. Of several the one whose time runs out first takes the earliest: so the most find one."""
    of: dict[int, int] = {}
    order = sorted(range(len(truths)), key=lambda t: truths[t].end)
    for most in (0, 9):
        for t in (t for t in order if t not in of):
            fitting = [
                (_ns(call.begun), c)
                for c, call in enumerate(calls)
                if c not in of.values()
                and truths[t].pid == call.pid
                and _within(truths[t], call)
                and len(_differences(truths[t], call)) <= most
            ]
            if fitting:
                of[t] = min(fitting)[1]
    return Matched(
        [(truths[t], calls[c]) for t, c in of.items()],
        [truth for t, truth in enumerate(truths) if t not in of],
        [call for c, call in enumerate(calls) if c not in of.values()],
        [one for t, c in of.items() for one in _differences(truths[t], calls[c])],
    )


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)


def _within(truth: ModelTruth, call: CallRow) -> bool:
    """By its begin: a client may go on before the last bytes of a stream are read."""
    return truth.begin - _SLACK_NS <= _ns(call.begun) <= truth.end + _SLACK_NS


_NAMES = {
    "status": ("http.response.status_code", 0),
    "answered": ("gen_ai.response.model", ""),
    "chosen": ("hullwatch.tools.chosen", ""),
    "input_tokens": ("gen_ai.usage.input_tokens", 0),
    "output_tokens": ("gen_ai.usage.output_tokens", 0),
}


def _differences(truth: ModelTruth, call: CallRow) -> list[tuple[str, Any, Any]]:
    """Of what the client was told, and what it asked for."""
    said = call.attributes.get
    fields: list[tuple[str, Any, Any]] = [
        ("model", truth.model, call.name),
        ("offered", ",".join(truth.offered), said("hullwatch.tools.offered", "")),
        ("embeds", truth.operation == "embeddings", said("gen_ai.operation.name") == "embeddings"),
        ("key", bool(truth.key), bool(said("hullwatch.api_key.hash"))),
    ]
    for name in truth.received.keys() & _NAMES.keys() if not truth.cut else ():
        was = truth.received[name]
        fields.append((name, ",".join(was) if name == "chosen" else was, said(*_NAMES[name])))
    return [one for one in fields if one[1] != one[2]]
