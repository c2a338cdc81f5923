"""The items of a rule file as values: lists, macros, rules, exceptions, and changes to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hullwatch.detect.errors import NOWHERE, Place, RuleError, Warning_, did_you_mean
from hullwatch.detect.language.document import Value

__all__ = [
    "PRIORITIES",
    "Entry",
    "ExceptionItem",
    "Item",
    "ListItem",
    "MacroItem",
    "RuleItem",
    "SequenceItem",
    "Text",
]
__all__ += ["read_item"]

PRIORITIES = (
    *("EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFORMATIONAL", "DEBUG"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """A condition that may have been put together from several places (append)."""

    parts: tuple[Value, ...]

    def __str__(self) -> str:
        return " ".join(str(part.data) for part in self.parts)

    def __add__(self, other: Text) -> Text:
        return Text(self.parts + other.parts)

    def locate(self, offset: int) -> Place:
        for part in self.parts:
            size = len(str(part.data))
            if offset <= size:
                return part.locate(offset)
            offset -= size + 1
        return self.parts[-1].locate(len(str(self.parts[-1].data))) if self.parts else NOWHERE


Entry = str | list["Entry"]


@dataclass(slots=True)
class ExceptionItem:
    """fields and comps are both a text or both lists; values has one entry a value."""

    name: str
    place: Place
    fields: Entry | None = None
    comps: Entry | None = None
    values: list[tuple[Entry, Place]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ListItem:
    name: str
    place: Place
    items: tuple[tuple[str, Place], ...]
    append: bool = False


@dataclass(frozen=True, slots=True)
class MacroItem:
    name: str
    place: Place
    condition: Text
    append: bool = False


@dataclass(frozen=True, slots=True)
class RuleItem:
    """given: the keys that the file gives, with their values; how: key -> append | replace."""

    name: str
    place: Place
    given: dict[str, Value]
    how: dict[str, str]


@dataclass(frozen=True, slots=True)
class SequenceItem:
    """A rule over time: see sequences.py."""

    name: str
    place: Place
    given: dict[str, Value]


Item = ListItem | MacroItem | RuleItem | SequenceItem

_KEYS = {
    "list": {"list", "items", "append", "override"},
    "macro": {"macro", "condition", "append", "override", "desc"},
    "rule": {
        *("rule", "condition", "output", "desc", "priority", "source", "enabled", "tags"),
        *("exceptions", "warn_evttypes", "skip-if-unknown-filter", "append", "override"),
        *("capture", "capture_duration"),
    },
    "sequence": {
        *("sequence", "desc", "by", "within", "ordered", "steps", "output", "priority", "tags"),
        "enabled",
    },
}
_APPENDABLE = {
    "list": {"items"},
    "macro": {"condition"},
    "rule": {"condition", "output", "desc", "tags", "exceptions"},
}
_REPLACEABLE = {
    "list": {"items"},
    "macro": {"condition"},
    "rule": _APPENDABLE["rule"]
    | {"priority", "enabled", "warn_evttypes", "skip-if-unknown-filter"},
}
_NO_EFFECT = ("capture", "capture_duration")


def read_item(value: Value, warnings: list[Warning_]) -> Item | None:
    """One list, macro or rule; None (and a warning) for an item of no known kind."""
    if not isinstance(value.data, dict):
        raise RuleError("each item must be a mapping such as '- rule: ...'", value.place)
    kind = next((kind for kind in _KEYS if kind in value.data), None)
    if kind is None:
        keys = ", ".join(list(value.data)[:4]) or "nothing"
        warnings.append(Warning_(value.place, "", f"unknown item with {keys}: ignored"))
        return None
    name = text_of(value, kind)
    item = f"{kind} {name!r}"
    for key, place in value.key_places.items():
        if key not in _KEYS[kind]:
            hint = did_you_mean(key, _KEYS[kind])
            said = f"unknown key '{key}' is ignored" + (f" ({hint})" if hint else "")
            warnings.append(Warning_(place, item, said))
        elif key in _NO_EFFECT:
            warnings.append(Warning_(place, item, f"'{key}' has no effect here"))
    if kind == "sequence":
        return SequenceItem(name, value.place, value.data)
    try:
        how = _overrides(value, kind)
        if _flag(value, "append"):
            if how:
                raise RuleError("'append' and 'override' cannot be used together", value.place)
            if kind == "rule":
                how = {key: "append" for key in ("condition", "exceptions") if key in value.data}
                if not how:
                    raise RuleError(
                        "an appended rule needs 'condition' or 'exceptions'", value.place
                    )
            else:
                how = dict.fromkeys(_APPENDABLE[kind], "append")
            warnings.append(
                Warning_(value.key_places["append"], item, "'append' is deprecated: use 'override'")
            )
        return _read(kind, name, value, how)
    except RuleError as problem:
        raise problem.of(item) from None


def _read(kind: str, name: str, value: Value, how: dict[str, str]) -> Item:
    data = value.data
    assert isinstance(data, dict)
    append = "append" in how.values()
    if kind == "list":
        items = data.get("items")
        if items is None or not isinstance(items.data, list):
            raise RuleError("'items' must be a sequence", items.place if items else value.place)
        return ListItem(name, value.place, tuple(_scalars(items)), append)
    if kind == "macro":
        text_of(value, "condition")
        return MacroItem(name, value.place, Text((data["condition"],)), append)
    if how and "append" not in data:
        missing = sorted(set(how) - set(data))
        if missing:
            raise RuleError(f"'override' names '{missing[0]}', which is not given", value.place)
        for key in _REPLACEABLE["rule"] & set(data):
            if key not in how:
                raise RuleError(
                    f"'{key}' is given without an entry under 'override'",
                    value.key_places[key],
                    mend=f"add '{key}: append' or '{key}: replace' under override",
                )
    return RuleItem(name, value.place, data, how)


def _overrides(value: Value, kind: str) -> dict[str, str]:
    assert isinstance(value.data, dict)
    given = value.data.get("override")
    if given is None:
        return {}
    if not isinstance(given.data, dict):
        raise RuleError("'override' must be a mapping such as 'condition: append'", given.place)
    found: dict[str, str] = {}
    for key, how in given.data.items():
        place = given.key_places[key]
        allowed = [
            word
            for word, keys in (("append", _APPENDABLE), ("replace", _REPLACEABLE))
            if key in keys[kind]
        ]
        if not allowed:
            raise RuleError(f"'{key}' of a {kind} cannot be overridden", place)
        if how.data not in allowed:
            raise RuleError(
                f"'{key}' cannot be overridden by '{how.data}'",
                how.place,
                mend=f"use {' or '.join(allowed)}",
            )
        found[key] = str(how.data)
    return found


def text_of(value: Value, key: str) -> str:
    """The non-empty scalar under `key` of a mapping."""
    assert isinstance(value.data, dict)
    found = value.data.get(key)
    if found is None:
        raise RuleError(f"'{key}' is missing", value.place)
    if found.is_null or not isinstance(found.data, str) or not found.data.strip():
        raise RuleError(f"'{key}' must be a non-empty text", found.place)
    return found.data


def _flag(value: Value, key: str) -> bool:
    assert isinstance(value.data, dict)
    return key in value.data and flag_of(value.data[key], key)


def flag_of(value: Value, key: str) -> bool:
    if not isinstance(value.data, str) or value.data.lower() not in ("true", "false", "yes", "no"):
        raise RuleError(f"'{key}' must be true or false", value.place)
    return value.data.lower() in ("true", "yes")


def _scalars(value: Value) -> Iterator[tuple[str, Place]]:
    for item in value.data:
        if not isinstance(item, Value) or not isinstance(item.data, str):
            raise RuleError("each value must be plain text", getattr(item, "place", value.place))
        yield item.data, item.place


def tags_of(value: Value) -> tuple[str, ...]:
    if not isinstance(value.data, list):
        raise RuleError("'tags' must be a sequence", value.place)
    return tuple(dict.fromkeys(text for text, _ in _scalars(value)))


def priority_of(value: Value) -> str:
    """Falco's priority in capitals; 'INFO' is 'INFORMATIONAL' as in falco_common.cpp."""
    said = str(value.data).strip().upper()
    if said == "INFO":
        said = "INFORMATIONAL"
    if said not in PRIORITIES:
        hint = did_you_mean(said, PRIORITIES)
        raise RuleError(
            f"'{value.data}' is not a priority",
            value.place,
            mend=hint or f"one of {', '.join(PRIORITIES)}",
        )
    return said


def exceptions_of(value: Value) -> list[ExceptionItem]:
    if value.is_null:
        return []
    if not isinstance(value.data, list):
        raise RuleError("'exceptions' must be a sequence", value.place)
    found: dict[str, ExceptionItem] = {}
    for given in value.data:
        if not isinstance(given.data, dict):
            raise RuleError("an exception must be a mapping with a name", given.place)
        name = text_of(given, "name")
        if name in found:
            raise RuleError(f"exception '{name}' is given twice", given.place)
        item = ExceptionItem(name, given.place)
        if "fields" in given.data:
            item.fields = _entry(given.data["fields"])
        if "comps" in given.data:
            item.comps = _entry(given.data["comps"])
        values = given.data.get("values")
        if values is not None and not values.is_null:
            if not isinstance(values.data, list):
                raise RuleError("the values of an exception must be a sequence", values.place)
            item.values = [(_entry(one), one.place) for one in values.data]
        found[name] = item
    return list(found.values())


def _entry(value: Value) -> Entry:
    if isinstance(value.data, dict):
        raise RuleError("expected text or a sequence", value.place)
    if isinstance(value.data, list):
        return [_entry(item) for item in value.data]
    if not value.data:
        raise RuleError("an empty value", value.place)
    return value.data
