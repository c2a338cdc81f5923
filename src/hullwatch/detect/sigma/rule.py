"""One Sigma rule as an item of our language."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sigma.exceptions import SigmaError
from sigma.rule import SigmaDetectionItem, SigmaLevel, SigmaRule, SigmaStatus
from sigma.rule.base import SigmaRuleBase

from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.language.ast import show
from hullwatch.detect.sigma.condition import category_of, condition_of
from hullwatch.detect.sigma.documents import Document

__all__ = ["OFF", "described", "parsed", "rule_item"]

PRIORITIES = {
    SigmaLevel.INFORMATIONAL: "INFORMATIONAL",
    SigmaLevel.LOW: "NOTICE",
    SigmaLevel.MEDIUM: "WARNING",
    SigmaLevel.HIGH: "ERROR",
    SigmaLevel.CRITICAL: "CRITICAL",
    None: "WARNING",
}
OFF = (SigmaStatus.DEPRECATED, SigmaStatus.UNSUPPORTED)
_TECHNIQUE = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)")


def parsed(kind: type[Any], document: Document) -> Any:
    """pySigma's rule or correlation; raises RuleError with the place that its error has not."""
    try:
        found = kind.from_dict(document.plain, collect_errors=True)
        errors = found.errors
    except SigmaError as problem:
        errors = [problem]
    if errors:
        raise RuleError(_first_line(errors[0]), _blamed(document, errors[0])) from None
    return found


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or ["?"])[0][:500]


def _blamed(document: Document, problem: Exception) -> Place:
    """The key that pySigma cannot read, by asking about each; else the one that it names."""
    for key, place, value in document.keys("detection"):
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(one, dict | list) for one in value)
        ):
            continue
        try:
            SigmaDetectionItem.from_mapping(key, value)
        except SigmaError:
            return place
    words = re.findall(r"[\w-]+", str(problem).lower())
    named = (place for key, place, _ in document.keys("correlation") if key in words)
    top = (document.place_of(word) for word in words if word in document.plain)
    return next(named, None) or next(top, None) or document.place


def rule_item(rule: SigmaRule, document: Document, *, reports: bool) -> dict[str, Any]:
    """`- rule: ...`; raises RuleError. reports: not just a part of a correlation."""
    category = category_of(rule, document)
    condition = condition_of(rule, document)
    return {
        "rule": rule.title,
        "desc": described(rule),
        "condition": show(condition),
        "output": output_of(rule, category.shows),
        "priority": PRIORITIES[rule.level],
        "tags": tags_of(rule),
        "enabled": reports and rule.status not in OFF,
    }


def described(rule: SigmaRuleBase) -> str:
    return " ".join((rule.description or rule.title).split()) or rule.title


def output_of(rule: SigmaRuleBase, shows: str) -> str:
    """The Detection Rule License wants the author named where a match is told."""
    whose = ", ".join(filter(None, (f"Sigma {rule.id or ''}".strip(), _by(rule.author))))
    # A percent sign would begin a field.
    head, tail = rule.title.replace("%", ""), whose.replace("%", "")
    return " ".join(f"{head} ({shows} rule={tail})".split())


def _by(author: str | None) -> str:
    return f"by {author}" if author else ""


def tags_of(rule: SigmaRuleBase) -> list[str]:
    """Sigma's own, and ATT&CK techniques as the pack writes them."""
    tags = [str(tag) for tag in rule.tags]
    return list(dict.fromkeys((*tags, *_techniques(tags))))


def _techniques(tags: Iterable[str]) -> Iterable[str]:
    for tag in tags:
        if found := _TECHNIQUE.fullmatch(tag):
            yield found[1].upper()
