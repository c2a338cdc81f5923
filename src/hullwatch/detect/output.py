"""Rule outputs: a text with %fields, read when the rule is loaded, filled in per finding.

As libsinsp's formatter: `%12proc.name` fills or cuts a value to 12 characters; a star at the start
(print the line though a field has no value) is what all rules have. `%%` is a percent sign.

Values come from workloads and are not to be trusted: control characters, terminal escapes and
bidirectional overrides are shown as escapes, and every value is bounded.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.language.ast import FieldRef, Transform
from hullwatch.detect.language.grammar import TRANSFORMERS, parse
from hullwatch.detect.row import Env, Row
from hullwatch.detect.source import Source, source_of

__all__ = ["MISSING", "Output", "escape", "read_output", "shown"]

MISSING = "<NA>"
MAX_VALUE = 4096
MAX_OUTPUT = 64 * 1024

_FIELD = re.compile(
    r"%(\d{1,4})?([a-zA-Z][a-zA-Z0-9_]*(?:\.[a-zA-Z][a-zA-Z0-9_]*)+)(\[[^\]\s]{1,128}\])?"
)
_CALL = re.compile(rf"%(?=(?:{'|'.join(TRANSFORMERS)})\()")
_BAD = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))},
    **{
        code: f"\\u{code:04x}"
        for code in (
            *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF),
            *range(0x202A, 0x202F),
            *range(0x2066, 0x206A),
        )
    },
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    ord("\r"): "\\r",
}


def escape(text: str) -> str:
    """text safe to show in a terminal or a page's text: one line, nothing invisible."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_BAD)


def shown(value: Any) -> str:
    """A field's value as outputs print it, escaped and bounded."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        value = ",".join(str(one) for one in value)
    text = str(value)
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}...({len(text) - MAX_VALUE} more)"
    return escape(text)


class OfStep(NamedTuple):
    """A field of an earlier step of a sequence: %read.fd.name."""

    step: str
    source: Source


class Wide(NamedTuple):
    """A source whose value takes just so many characters."""

    source: Source
    width: int


class Output(NamedTuple):
    """Text and sources in turn."""

    pieces: tuple[str | Source | Wide | OfStep, ...]

    def of_step(self, step: str) -> tuple[Source, ...]:
        """What it prints of one step."""
        named = (one for one in self.pieces if isinstance(one, OfStep) and one.step == step)
        return tuple({one.source.label: one.source for one in named}.values())

    def fill(
        self, row: Row, env: Env, steps: dict[str, dict[str, str]] | None = None
    ) -> tuple[str, dict[str, str]]:
        """The line, and every field's value by name. steps: the fields of earlier steps."""
        line: list[str] = []
        fields: dict[str, str] = {}
        for piece in self.pieces:
            if isinstance(piece, str):
                line.append(piece)
                continue
            if isinstance(piece, OfStep):
                label = piece.source.label
                kept = (steps or {}).get(piece.step, {}).get(label, MISSING)
                fields[f"{piece.step}.{label}"] = kept
                line.append(kept)
                continue
            source, width = piece if isinstance(piece, Wide) else (piece, 0)
            value = fields.get(source.label)
            if value is None:
                value = fields[source.label] = shown(source.read_row(row, env))
            line.append(f"{value[:width]:{width}}" if width else value)
        return "".join(line)[:MAX_OUTPUT], fields


def read_output(text: str, place: Place, steps: tuple[str, ...] = ()) -> Output:
    """Raises RuleError for a field that is not known. steps: ids that a field may begin with."""
    # Before the container plugin, Falco filled this in from its command line.
    text = text.replace(
        "%container.info", "container_id=%container.id container_name=%container.name"
    )
    text = text.removeprefix("*")
    pieces: list[str | Source | Wide | OfStep] = []
    at = 0
    while at < len(text):
        found = _next(text, at)
        if found is None:
            pieces.append(escape(text[at:].replace("%%", "%")))
            break
        start, end, what, width = found
        if start > at:
            pieces.append(escape(text[at:start].replace("%%", "%")))
        step = ""
        if isinstance(what, FieldRef) and what.name.partition(".")[0] in steps:
            step, _, name = what.name.partition(".")
            what = FieldRef(name, what.arg)
        try:
            source = source_of(_transform(what) if isinstance(what, str) else what)
            shaped = Wide(source, width) if width else source
            pieces.append(OfStep(step, source) if step else shaped)
        except RuleError as problem:
            raise RuleError(f"in the output: {problem.message}", place, mend=problem.mend) from None
        at = end
    return Output(tuple(pieces))


def _next(text: str, start: int) -> tuple[int, int, FieldRef | str, int] | None:
    """The next field from start: its span, the field or the text of a transformer, its width."""
    while (at := text.find("%", start)) >= 0:
        if field := _FIELD.match(text, at):
            name = FieldRef(field[2], field[3][1:-1] if field[3] else None)
            return at, field.end(), name, int(field[1] or 0)
        if _CALL.match(text, at):
            end = _closing(text, at)
            return at, end, text[at + 1 : end], 0
        start = at + (2 if text.startswith("%%", at) else 1)
    return None


def _closing(text: str, at: int) -> int:
    depth = 0
    for index in range(at, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0 and text[index] == ")":
            return index + 1
    return len(text)


def _transform(text: str) -> Transform:
    check = parse(f"{text} exists")
    left = getattr(check, "left", None)
    if not isinstance(left, Transform):
        raise RuleError(f"'{text}' is no transformer")
    return left
