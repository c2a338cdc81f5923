"""Events that a Sigma rule's selection would take and one of its filters excepts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from sigma.conditions import (
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
)

from support.sigma_events import choices, event_of
from support.sigma_plain import Event, Plain, matches

__all__ = ["excepted", "is_excepted"]

_MAX_TRIES = 4000
Leaves = list[ConditionFieldEqualsValueExpression]


def excepted(rule: Plain) -> Iterator[tuple[Event, Leaves]]:
    """For each filter of the rule such an event and the leaves of the selection that it meets; none
    for one whose values are too far apart to be put into one text."""
    for inner in _negated(rule.tree):
        pairs = itertools.product(choices(rule.tree), [one for one in choices(inner) if one])
        for chosen, filtered in itertools.islice(pairs, _MAX_TRIES):
            event = event_of(rule.category, chosen + filtered)
            if _is_acted(event) and is_excepted(rule, event, chosen):
                yield event, chosen
                break


def is_excepted(rule: Plain, event: Event, chosen: Leaves) -> bool:
    return all(matches(leaf, event) for leaf in chosen) and not matches(rule.tree, event)


def _is_acted(event: Event) -> bool:
    """Acts connect over IPv4; to 0.0.0.0 is to 127.0.0.1, and is told so."""
    address = str(event.get("DestinationIp", "."))
    return "." in address and address != "0.0.0.0"


def _negated(tree: Any) -> Iterator[Any]:
    if isinstance(tree, ConditionNOT):
        (inner,) = tree.args
        yield from inner.args if isinstance(inner, ConditionOR) else (inner,)
    elif not isinstance(tree, ConditionFieldEqualsValueExpression):
        for one in tree.args:
            yield from _negated(one)
