"""`sequence:` items: rules over time, as read from a file.

- sequence: Token read, then a destination of its own
  desc: ...
  by: [tree]                     # what joins the steps; see sequence/keys.py
  within: 5m                     # from the first step to the last
  ordered: true                  # false: the steps in any order
  steps:
    - id: read                   # a name for outputs: %read.fd.name
      condition: hw_read and fd.name endswith /token
    - rule: Some other rule      # its condition, exceptions included
      count: 10                  # so often within the time
      distinct: fd.name          # so many different values of this field instead
  output: "... %read.fd.name ... %fd.name"      # fields without a step are the last event's
  priority: CRITICAL
  tags: [...]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hullwatch.detect.errors import Place, RuleError, did_you_mean
from hullwatch.detect.language.document import Value
from hullwatch.detect.language.items import (
    SequenceItem,
    Text,
    flag_of,
    priority_of,
    tags_of,
    text_of,
)

__all__ = ["ByDef", "SequenceDef", "StepDef", "define_sequence", "duration"]

MAX_STEPS = 8
MAX_BY = 4
MAX_COUNT = 10_000
MAX_WITHIN = 31 * 86_400_000_000_000  # ns

_ID = re.compile(r"[a-z][a-z0-9_]{0,31}")
# An id must not read like the beginning of a field in an output.
_FIELD_CLASSES = frozenset(
    ("evt", "proc", "thread", "user", "group", "container", "k8s", "fd", "fs", "hw", "image")
)
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


@dataclass(frozen=True, slots=True)
class StepDef:
    """condition or rule is given. count: so many events, or different values of `distinct`."""

    id: str
    place: Place
    condition: Text | None
    rule: str
    count: int
    distinct: str
    distinct_place: Place


@dataclass(frozen=True, slots=True)
class ByDef:
    """A word or field for all steps (`every`), or a field for each step that is named."""

    every: str
    by_step: dict[str, str]
    place: Place


@dataclass(slots=True)
class SequenceDef:
    """within: ns."""

    name: str
    place: Place
    desc: str
    by: tuple[ByDef, ...]
    within: int
    ordered: bool
    steps: tuple[StepDef, ...]
    output: str
    output_place: Place
    priority: str
    tags: tuple[str, ...] = ()
    enabled: bool = True


def define_sequence(item: SequenceItem) -> SequenceDef:
    """Raises RuleError with the place of what is missing or wrong."""
    given = item.given
    whole = Value(given, item.place, "map")
    for key in ("desc", "within", "output", "priority"):
        text_of(whole, key)
    steps = _steps(whole)
    return SequenceDef(
        item.name,
        item.place,
        str(given["desc"].data).strip(),
        _by(whole, steps),
        _within(given["within"]),
        "ordered" not in given or flag_of(given["ordered"], "ordered"),
        steps,
        str(given["output"].data).strip(),
        given["output"].place,
        priority_of(given["priority"]),
        tags_of(given["tags"]) if "tags" in given else (),
        "enabled" not in given or flag_of(given["enabled"], "enabled"),
    )


def duration(text: str, place: Place) -> int:
    """ns of '90s', '5m', '2h'."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise RuleError(f"'{text[:40]}' is not a duration", place, mend="write 30s, 5m or 2h")
    given = int(found[1]) * _UNITS[found[2]]
    if given > MAX_WITHIN:
        raise RuleError("a duration may be up to 31d", place)
    return given


def _within(value: Value) -> int:
    given = duration(str(value.data), value.place)
    if not given:
        raise RuleError("'within' must be more than nothing", value.place)
    return given


def _steps(whole: Value) -> tuple[StepDef, ...]:
    assert isinstance(whole.data, dict)
    given = whole.data.get("steps")
    if given is None or not isinstance(given.data, list) or not given.data:
        raise RuleError(
            "'steps' must be a sequence of steps", given.place if given else whole.place
        )
    if len(given.data) > MAX_STEPS:
        raise RuleError(f"more than {MAX_STEPS} steps", given.place)
    found: list[StepDef] = []
    for number, one in enumerate(given.data, 1):
        step = _step(one, number)
        if any(step.id == other.id for other in found):
            raise RuleError(f"step '{step.id}' is given twice", one.place)
        found.append(step)
    only = given.data[0].data
    if len(found) == 1 and isinstance(only, dict) and "count" not in only:
        raise RuleError(
            "one step without a count is a rule", found[0].place, mend="give 'count' or more steps"
        )
    return tuple(found)


_STEP_KEYS = {"id", "condition", "rule", "count", "distinct"}


def _step(value: Value, number: int) -> StepDef:
    data = value.data
    if not isinstance(data, dict):
        raise RuleError("a step must be a mapping such as '- condition: ...'", value.place)
    for key in data:
        if key not in _STEP_KEYS:
            raise RuleError(
                f"unknown key '{key}' of a step",
                value.key_places[key],
                mend=did_you_mean(key, _STEP_KEYS),
            )
    if ("condition" in data) == ("rule" in data):
        raise RuleError("a step needs either 'condition' or 'rule'", value.place)
    ident = text_of(value, "id") if "id" in data else f"step{number}"
    if not _ID.fullmatch(ident) or ident in _FIELD_CLASSES:
        raise RuleError(
            f"'{ident[:40]}' cannot be a step's id",
            data["id"].place,
            mend="use a-z, 0-9 and _, and not the beginning of a field",
        )
    condition = None
    if "condition" in data:
        text_of(value, "condition")
        condition = Text((data["condition"],))
    count = _count(data["count"]) if "count" in data else 1
    distinct = text_of(value, "distinct").strip() if "distinct" in data else ""
    if distinct and "count" not in data:
        raise RuleError("'distinct' needs a 'count'", data["distinct"].place)
    return StepDef(
        ident,
        value.place,
        condition,
        text_of(value, "rule") if "rule" in data else "",
        count,
        distinct,
        data["distinct"].place if distinct else value.place,
    )


def _count(value: Value) -> int:
    text = str(value.data)
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_COUNT:
        raise RuleError(f"'count' must be a number from 1 to {MAX_COUNT}", value.place)
    return int(text)


def _by(whole: Value, steps: tuple[StepDef, ...]) -> tuple[ByDef, ...]:
    assert isinstance(whole.data, dict)
    given = whole.data.get("by")
    if given is None:
        raise RuleError(
            "'by' is missing: what joins the steps?",
            whole.place,
            mend="for example by: [container]",
        )
    items = given.data if isinstance(given.data, list) else [given]
    if not 1 <= len(items) <= MAX_BY:
        raise RuleError(f"'by' takes 1 to {MAX_BY} items", given.place)
    return tuple(_by_item(one, steps) for one in items)


def _by_item(value: Value, steps: tuple[StepDef, ...]) -> ByDef:
    if isinstance(value.data, str) and value.data.strip():
        return ByDef(value.data.strip(), {}, value.place)
    if not isinstance(value.data, dict):
        raise RuleError("'by' takes words, fields, or a field for each step", value.place)
    ids = [step.id for step in steps]
    for key in value.data:
        if key not in ids:
            raise RuleError(
                f"there is no step '{key}'", value.key_places[key], mend=did_you_mean(key, ids)
            )
    missing = [ident for ident in ids if ident not in value.data]
    if missing:
        raise RuleError(f"no field for step '{missing[0]}'", value.place)
    return ByDef("", {key: text_of(value, key).strip() for key in value.data}, value.place)
