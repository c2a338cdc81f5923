"""What a set of policies means, said by Cedar itself: two passes over the policies as written.

Without failures: pass A has the permits and forbids, pass B the challenges. Whoever no permit's
head names may do anything that no forbid names, so pass A then gets a permit for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cedarpy

from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Effect, Question
from hullwatch.decide.schema import CONTEXT, ENTITIES, conform, derived, kind_of

ALL = "permit (principal, action, resource);"


def plain_cedar(policies: Iterable[Policy], question: Question, approved: bool = False) -> Effect:
    """AssertionError where Cedar cannot evaluate a policy."""
    asked = [one for one in policies if question.action in one.actions]
    who = question.principal
    listed = any(one.does is Effect.ALLOW and one.principal.fits(who.kind, who.id) for one in asked)
    first = [one.text for one in asked if one.does is not Effect.CHALLENGE]
    if not _allowed([*first, *([] if listed else [ALL])], question):
        return Effect.BLOCK
    second = [one.text for one in asked if one.does is Effect.CHALLENGE]
    return Effect.ALLOW if approved or _allowed([*second, ALL], question) else Effect.CHALLENGE


def _allowed(texts: list[str], question: Question) -> bool:
    context = dict(question.context)
    if "kind" not in context and (kind := kind_of(str(context.get("image", "")))):
        context["kind"] = kind
    found = cedarpy.is_authorized(
        {
            "principal": {"type": question.principal.kind, "id": question.principal.id},
            "action": {"type": "Action", "id": question.action},
            "resource": {"type": question.resource.kind, "id": question.resource.id},
            "context": {name: _value(CONTEXT[name].type, value) for name, value in context.items()},
        },
        "\n".join(texts),
        [
            {
                "uid": {"type": entity.kind, "id": entity.id},
                "attrs": {
                    name: _value(ENTITIES[entity.kind][name].type, value)
                    for name, value in (derived(entity.kind, entity.id) | entity.attributes).items()
                    if conform(ENTITIES[entity.kind][name], value) is not None
                },
                "parents": [],
            }
            for entity in (question.principal, question.resource)
        ],
    )
    assert not found.diagnostics.errors, found.diagnostics.errors
    return found.allowed


def _value(kind: str, value: Any) -> Any:
    if kind == "ipaddr":
        return {"__extn": {"fn": "ip", "arg": str(value).removeprefix("::ffff:")}}
    return list(value) if isinstance(value, tuple) else value
