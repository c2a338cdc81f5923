"""Sigma the plain way: pySigma's parsed tree over one event, a dict of Sigma's own field names.

Knows nothing of our language, its field table or its operators: what the specification says, with
Python's `re` and `ipaddress`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
)
from sigma.rule import SigmaRule
from sigma.types import (
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SpecialChars,
)

__all__ = ["Event", "Plain", "matches", "read"]

Event = dict[str, Any]
_FLAGS = {"i": re.I, "m": re.M, "s": re.S}


class Plain(NamedTuple):
    """A rule: title, log source's category, and the tree of its condition."""

    title: str
    category: str
    tree: Any


def read(folder: Path) -> list[Plain]:
    return [one for path in sorted(folder.rglob("*.yml")) for one in parse(path.read_text())]


def parse(text: str) -> Iterator[Plain]:
    for document in yaml.safe_load_all(text):
        rule = SigmaRule.from_dict(document)
        (condition,) = rule.detection.parsed_condition
        yield Plain(rule.title, str(rule.logsource.category), condition.parsed)


def matches(tree: Any, event: Event) -> bool:
    match tree:
        case ConditionAND():
            return all(matches(one, event) for one in tree.args)
        case ConditionOR():
            return any(matches(one, event) for one in tree.args)
        case ConditionNOT():
            return not matches(tree.args[0], event)
        case ConditionFieldEqualsValueExpression():
            return fits(event.get(tree.field), tree.value, event)
    raise AssertionError(tree)


def fits(given: Any, value: Any, event: Event) -> bool:
    """Whether the field's value (None: the event has none) is what the rule asks for."""
    match value:
        case SigmaNull():
            return given is None
        case SigmaExists():
            return (given is not None) == value.exists
        case SigmaExpansion():
            return any(fits(given, one, event) for one in value.values)
        case SigmaString() if not value.s:
            return given in (None, "")
    if given is None:
        return False
    match value:
        case SigmaRegularExpression():
            flags = re.ASCII
            for flag in value.flags:
                flags |= _FLAGS[value.sigma_to_re_flag[flag]]
            return re.search(value.regexp.to_plain(regex=True), str(given), flags) is not None
        case SigmaCIDRExpression():
            ip = ipaddress.ip_address(given)
            return ip.version == value.network.version and ip in value.network
        case SigmaCompareExpression():
            limit = value.number.number
            return bool(
                {"LT": given < limit, "LTE": given <= limit, "GT": given > limit}.get(
                    value.op.name, given >= limit
                )
            )
        case SigmaNumber():
            return str(given) == str(value.number)
        case SigmaBool():
            return str(given).lower() == str(value.boolean).lower()
        case SigmaFieldReference():
            other = event.get(value.field)
            if other is None:
                return False
            text, part = str(given).lower(), str(other).lower()
            if value.starts_with and value.ends_with:
                return part in text
            if value.starts_with:
                return text.startswith(part)
            return text.endswith(part) if value.ends_with else text == part
        case SigmaCasedString():
            return re.fullmatch(pattern(value, fold=False), str(given), re.S) is not None
        case SigmaString():
            return re.fullmatch(pattern(value, fold=True), str(given).lower(), re.S) is not None
    raise AssertionError(value)


def pattern(value: SigmaString, *, fold: bool) -> str:
    out = []
    for part in value.s:
        if isinstance(part, str):
            out.append(re.escape(part.lower() if fold else part))
        else:
            out.append(".*" if part is SpecialChars.WILDCARD_MULTI else ".")
    return "".join(out)
