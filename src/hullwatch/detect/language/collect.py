"""Items of all files, in order, to definitions: what was appended, replaced, switched off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from hullwatch.detect.errors import Place, RuleError, Warning_, did_you_mean
from hullwatch.detect.language.document import Value, read_documents
from hullwatch.detect.language.items import (
    ExceptionItem,
    Item,
    ListItem,
    MacroItem,
    RuleItem,
    SequenceItem,
    Text,
    exceptions_of,
    flag_of,
    priority_of,
    read_item,
    tags_of,
    text_of,
)
from hullwatch.detect.language.sequences import SequenceDef, define_sequence
from hullwatch.detect.language.version import check_engine, check_plugins

__all__ = ["Collection", "ListDef", "MacroDef", "RuleDef"]


@dataclass(slots=True)
class ListDef:
    name: str
    place: Place
    items: list[tuple[str, Place]]


@dataclass(slots=True)
class MacroDef:
    name: str
    place: Place
    condition: Text


@dataclass(slots=True)
class RuleDef:
    """A rule as collected. condition is not parsed yet."""

    name: str
    place: Place
    condition: Text
    output: str
    output_place: Place
    desc: str
    priority: str
    source: str = "syscall"
    tags: tuple[str, ...] = ()
    enabled: bool = True
    warn_evttypes: bool = True
    skip_unknown: bool = False
    exceptions: list[ExceptionItem] = field(default_factory=list)


@dataclass(slots=True)
class Collection:
    """Definitions by name, in the order of first sight; what went wrong on the way."""

    lists: dict[str, ListDef] = field(default_factory=dict)
    macros: dict[str, MacroDef] = field(default_factory=dict)
    rules: dict[str, RuleDef] = field(default_factory=dict)
    sequences: dict[str, SequenceDef] = field(default_factory=dict)
    errors: list[RuleError] = field(default_factory=list)
    warnings: list[Warning_] = field(default_factory=list)

    def read(self, text: str, path: str) -> None:
        """Add a file's items. A broken item is an error; the others still count."""
        try:
            documents = list(read_documents(text, path))
            for document in documents:
                if document.is_null:
                    continue
                if not isinstance(document.data, list):
                    raise RuleError("a rule file must be a sequence of items", document.place)
                self._check_versions(document)
        except RuleError as problem:
            self.errors.append(problem)
            return
        for document in documents:
            for value in document.data if isinstance(document.data, list) else ():
                if not value.is_null and not _is_requirement(value):
                    self.take(value)

    def take(self, value: Value) -> None:
        """Add one item; what is wrong with it is in `errors`."""
        try:
            item = read_item(value, self.warnings)
            if item is not None:
                self._add(item)
        except RuleError as problem:
            self.errors.append(problem)

    def names(self, kind: str) -> Iterable[str]:
        """The names of a kind of item ('rule', ...) that are taken."""
        found: dict[str, object] = getattr(self, f"{kind}s", {})
        return found

    def _check_versions(self, document: Value) -> None:
        for value in document.data:
            data = value.data if isinstance(value, Value) else None
            if not isinstance(data, dict):
                continue
            if "required_engine_version" in data:
                check_engine(data["required_engine_version"])
            if "required_plugin_versions" in data:
                try:
                    check_plugins(data["required_plugin_versions"])
                except RuleError as problem:
                    self.errors.append(problem)

    def _add(self, item: Item) -> None:
        match item:
            case ListItem(name, place, items, append):
                if append:
                    known(self.lists, name, "list", place).items += items
                else:
                    self.lists[name] = ListDef(name, place, list(items))
            case MacroItem(name, place, condition, append):
                if append:
                    macro = known(self.macros, name, "macro", place)
                    macro.condition = macro.condition + condition
                else:
                    self.macros[name] = MacroDef(name, place, condition)
            case RuleItem():
                self._add_rule(item)
            case SequenceItem():
                self._add_sequence(item)

    def _add_rule(self, item: RuleItem) -> None:
        given = item.given
        try:
            if item.how:
                self._change(known(self.rules, item.name, "rule", item.place), item)
            elif not {"condition", "output", "desc", "priority"} & set(given):
                # Falco: such an item only switches an earlier rule on or off.
                rule = known(self.rules, item.name, "rule", item.place)
                if "enabled" not in given:
                    raise RuleError("'condition' is missing", item.place)
                rule.enabled = flag_of(given["enabled"], "enabled")
            else:
                # A definition that is broken must not leave an older one of its name in force.
                self.rules.pop(item.name, None)
                self.rules[item.name] = _define(item)
        except RuleError as problem:
            raise problem.of(f"rule {item.name!r}") from None

    def _add_sequence(self, item: SequenceItem) -> None:
        try:
            if set(item.given) == {"sequence", "enabled"}:
                known(self.sequences, item.name, "sequence", item.place).enabled = flag_of(
                    item.given["enabled"], "enabled"
                )
            else:
                self.sequences.pop(item.name, None)
                self.sequences[item.name] = define_sequence(item)
        except RuleError as problem:
            raise problem.of(f"sequence {item.name!r}") from None

    def _change(self, rule: RuleDef, item: RuleItem) -> None:
        for key, how in item.how.items():
            value = item.given[key]
            append = how == "append"
            match key:
                case "condition":
                    text_of(_as_mapping(item), key)
                    new = Text((value,))
                    rule.condition = rule.condition + new if append else new
                case "output":
                    text = text_of(_as_mapping(item), key)
                    rule.output = f"{rule.output} {text.strip()}" if append else text.strip()
                    rule.output_place = rule.output_place if append else value.place
                case "desc":
                    text = text_of(_as_mapping(item), key).strip()
                    rule.desc = f"{rule.desc} {text}" if append else text
                case "tags":
                    tags = tags_of(value)
                    rule.tags = tuple(dict.fromkeys((*rule.tags, *tags))) if append else tags
                case "priority":
                    rule.priority = priority_of(value)
                case "enabled":
                    rule.enabled = flag_of(value, key)
                case "warn_evttypes":
                    rule.warn_evttypes = flag_of(value, key)
                case "skip-if-unknown-filter":
                    rule.skip_unknown = flag_of(value, key)
                case "exceptions":
                    new_ones = exceptions_of(value)
                    if append:
                        _append_exceptions(rule, new_ones)
                    else:
                        rule.exceptions = [_checked(one) for one in new_ones]


_T = TypeVar("_T")


def known(table: dict[str, _T], name: str, kind: str, place: Place) -> _T:
    """The earlier definition that an item changes."""
    if name not in table:
        raise RuleError(
            f"there is no earlier {kind} of this name to change",
            place,
            mend=did_you_mean(name, table),
        )
    return table[name]


def _is_requirement(value: Value) -> bool:
    return isinstance(value.data, dict) and (
        "required_engine_version" in value.data or "required_plugin_versions" in value.data
    )


def _as_mapping(item: RuleItem) -> Value:
    return Value(item.given, item.place, "map")


def _define(item: RuleItem) -> RuleDef:
    given, whole = item.given, _as_mapping(item)
    for key in ("condition", "output", "desc", "priority"):
        text_of(whole, key)
    rule = RuleDef(
        item.name,
        item.place,
        Text((given["condition"],)),
        str(given["output"].data).strip(),
        given["output"].place,
        str(given["desc"].data).strip(),
        priority_of(given["priority"]),
    )
    if "source" in given:
        rule.source = text_of(whole, "source")
        if rule.source != "syscall":
            raise RuleError(
                f"source '{rule.source}' is not supported",
                given["source"].place,
                mend="only 'syscall' is",
            )
    if "tags" in given:
        rule.tags = tags_of(given["tags"])
    if "enabled" in given:
        rule.enabled = flag_of(given["enabled"], "enabled")
    if "warn_evttypes" in given:
        rule.warn_evttypes = flag_of(given["warn_evttypes"], "warn_evttypes")
    if "skip-if-unknown-filter" in given:
        rule.skip_unknown = flag_of(given["skip-if-unknown-filter"], "skip-if-unknown-filter")
    if "exceptions" in given:
        rule.exceptions = [_checked(one) for one in exceptions_of(given["exceptions"])]
    return rule


def _append_exceptions(rule: RuleDef, new_ones: list[ExceptionItem]) -> None:
    for one in new_ones:
        earlier = next((old for old in rule.exceptions if old.name == one.name), None)
        if earlier is None:
            if not one.values:
                raise RuleError(f"exception '{one.name}' needs values", one.place)
            rule.exceptions.append(_checked(one))
            continue
        for key, given in (("fields", one.fields), ("comps", one.comps)):
            if given is not None:
                raise RuleError(
                    f"'{key}' of exception '{one.name}' cannot be given again, only values",
                    one.place,
                )
        earlier.values += one.values


def _checked(one: ExceptionItem) -> ExceptionItem:
    """With its comparisons filled in (Falco: '=' each for a list of fields, 'in' for one)."""
    if one.fields is None:
        raise RuleError(f"exception '{one.name}' needs 'fields'", one.place)
    if isinstance(one.fields, list):
        if one.comps is None:
            one.comps = ["="] * len(one.fields)
        if not isinstance(one.comps, list) or len(one.comps) != len(one.fields):
            raise RuleError(f"exception '{one.name}' needs as many comps as fields", one.place)
        if not all(isinstance(each, str) for each in (*one.fields, *one.comps)):
            raise RuleError(f"fields and comps of exception '{one.name}' must be text", one.place)
        return one
    if one.comps is None:
        one.comps = "in"
    words = one.comps.split() if isinstance(one.comps, str) else []
    if words not in (["in"], ["pmatch"], ["intersects"]) and words[1:] not in (
        *(["oneof"], ["anyof"], ["allof"]),
    ):
        raise RuleError(
            f"exception '{one.name}' of one field needs a comparison with a list",
            one.place,
            mend="use in, pmatch or intersects",
        )
    return one
