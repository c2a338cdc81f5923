"""The rule fields: tables by family, and how a name in a rule finds its row.

To add a field: one row in the family's table, one test. See `field.Field`.
"""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.detect.errors import RuleError, did_you_mean
from hullwatch.detect.fields import (
    args,
    baseline,
    call,
    event,
    file,
    label,
    network,
    plugin,
    policy,
    process,
    workload,
)
from hullwatch.detect.fields.field import Field, Type, Where
from hullwatch.detect.fields.unavailable import why_unavailable
from hullwatch.detect.language.ast import FieldRef

__all__ = ["Bound", "Field", "TABLE", "Type", "Where", "resolve"]

TABLE: dict[str, Field] = {
    row.name: row
    for family in (
        *(event, args, file, network, process, workload, baseline, call, label, plugin, policy),
    )
    for row in family.FIELDS
}
MAX_INDEX = 64


class Bound(NamedTuple):
    """A field with its argument. any: the getter returns several values, one match is enough."""

    field: Field
    arg: str | int | None
    any: bool

    @property
    def label(self) -> str:
        return self.field.name if self.arg is None else f"{self.field.name}[{self.arg}]"


def resolve(ref: FieldRef) -> Bound:
    """The field that a rule names; raises RuleError that says what is known instead."""
    found = TABLE.get(ref.name)
    if found is not None:
        return _with_argument(found, ref)
    for prefix, raw in (("evt.arg", False), ("evt.rawarg", True)):
        if ref.name == prefix or ref.name.startswith(prefix + "."):
            return _argument(ref, prefix, raw)
    if (reason := why_unavailable(ref.name)) is not None:
        raise RuleError(f"field '{ref.name}' is not available: {reason}", ref.place)
    head, _, tail = ref.name.rpartition(".")
    if head in TABLE and TABLE[head].arg == "key":
        return Bound(TABLE[head], tail, False)
    raise RuleError(f"unknown field '{ref.name}'", ref.place, mend=did_you_mean(ref.name, TABLE))


def _with_argument(found: Field, ref: FieldRef) -> Bound:
    if ref.name == "proc.env" and ref.arg is not None:
        raise RuleError(
            "values of environment variables are never recorded",
            ref.place,
            mend=f"use 'proc.env contains {ref.arg}' for its name",
        )
    if not found.arg:
        if ref.arg is not None:
            raise RuleError(f"field '{ref.name}' takes no argument", ref.place)
        return Bound(found, None, found.many)
    if ref.arg is None:
        if found.arg == "index?":
            return Bound(found, None, True)
        raise RuleError(f"field '{ref.name}' needs an argument: {ref.name}[...]", ref.place)
    if found.arg == "key":
        return Bound(found, ref.arg, False)
    if not ref.arg.isdigit() or int(ref.arg) > MAX_INDEX:
        raise RuleError(f"'{ref.arg}' is not a number from 0 to {MAX_INDEX}", ref.place)
    return Bound(found, int(ref.arg), False)


def _argument(ref: FieldRef, prefix: str, raw: bool) -> Bound:
    name = ref.arg if ref.name == prefix else ref.name.removeprefix(prefix + ".")
    if name is None or (ref.arg is not None and ref.name != prefix):
        raise RuleError(
            f"'{ref}' does not name one argument", ref.place, mend=f"write {prefix}.NAME"
        )
    if name.isdigit():
        raise RuleError(
            "arguments are known by name, not by position", ref.place, mend=f"write {prefix}.NAME"
        )
    found = args.argument(name, raw)
    if found is None:
        raise RuleError(
            f"argument '{ref}' is not recorded",
            ref.place,
            mend=did_you_mean(name, args.argument_names()),
        )
    return Bound(found, None, False)
