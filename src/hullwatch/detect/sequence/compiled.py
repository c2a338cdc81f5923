"""A sequence ready to run: its steps are hidden rules of the same program as all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hullwatch.detect.errors import RuleError
from hullwatch.detect.language.sequences import ByDef, SequenceDef, StepDef
from hullwatch.detect.output import Output, read_output
from hullwatch.detect.sequence.keys import (
    TREE,
    WORDS,
    Keys,
    Word,
    field_source,
    is_per_event,
)
from hullwatch.detect.source import Source

__all__ = ["Sequence", "Step", "compile_sequence"]

# What only one boot of the machine knows: process keys.
_OF_BOOT = frozenset((TREE, "process"))


@dataclass(frozen=True, slots=True)
class Step:
    """rule: the hidden rule's name. shown: fields of this step's event that the output prints.
    per_event: its events are looked at one by one, not as groups."""

    id: str
    rule: str
    count: int
    distinct: Source | None
    keys: Keys
    shown: tuple[Source, ...]
    per_event: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """within: ns. of_boot: its state means nothing after a reboot."""

    within: int
    ordered: bool
    steps: tuple[Step, ...]
    by: tuple[str, ...]
    of_boot: bool


def compile_sequence(
    definition: SequenceDef, compile_step: Callable[[StepDef, str], tuple[int, ...]]
) -> tuple[Sequence, Output]:
    """compile_step(step, name) compiles the hidden rule and returns its event classes.

    Raises RuleError with the place.
    """
    output = read_output(
        definition.output, definition.output_place, tuple(step.id for step in definition.steps)
    )
    steps = []
    for step in definition.steps:
        name = f"{definition.name} / {step.id}"
        classes = compile_step(step, name)
        values = [_value(by, step) for by in definition.by if by.every != TREE]
        distinct = field_source(step.distinct, step.distinct_place) if step.distinct else None
        read = [*values, *([distinct] if distinct else [])]
        steps.append(
            Step(
                step.id,
                name,
                step.count,
                distinct,
                Keys(values, any(by.every == TREE for by in definition.by)),
                output.of_step(step.id),
                any(_per_event(one, classes) for one in read),
            )
        )
    if sum(by.every == TREE for by in definition.by) > 1:
        raise RuleError("'by' names the tree twice", definition.by[0].place)
    return (
        Sequence(
            definition.within,
            definition.ordered,
            tuple(steps),
            tuple(_shown(by) for by in definition.by),
            any(by.every in _OF_BOOT for by in definition.by),
        ),
        output,
    )


def _value(by: ByDef, step: StepDef) -> Source | Word:
    text = by.every or by.by_step[step.id]
    return WORDS.get(text) or field_source(text, by.place)


def _per_event(value: Source | Word, classes: tuple[int, ...]) -> bool:
    return value.per_event if isinstance(value, Word) else is_per_event(value, classes)


def _shown(by: ByDef) -> str:
    return by.every or ", ".join(f"{ident}: {text}" for ident, text in by.by_step.items())
