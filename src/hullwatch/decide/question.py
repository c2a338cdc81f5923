"""One question everywhere: may this workload, on behalf of this tool call, do this action to this
object, given where its information came from? And what is answered."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec

__all__ = [
    "ACTIONS",
    "PRINCIPALS",
    "RESOURCES",
    "Decision",
    "Effect",
    "Entity",
    "Fail",
    "Mode",
    "Question",
]

PRINCIPALS = ("Workload", "Agent", "Identity", "Person")
ACTIONS = (
    *("exec", "open-read", "open-write", "connect", "listen", "tool-call", "model-call"),
    *("use-secret", "load-plugin", "privilege"),
)
RESOURCES = ("Binary", "Path", "Host", "Address", "Tool", "Server", "Model", "Secret")

Value = bool | int | str | tuple[str, ...]


class Effect(StrEnum):
    """In the order of strength: of several policies the strongest counts."""

    ALLOW = "allow"
    CHALLENGE = "challenge"
    BLOCK = "block"


class Mode(StrEnum):
    """observe: it is told what would have been done, and the action goes on."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


class Fail(StrEnum):
    """When the decider cannot answer: open, the action goes on; closed, it does not."""

    OPEN = "open"
    CLOSED = "closed"


class Entity(msgspec.Struct, frozen=True):
    """kind: one of PRINCIPALS or RESOURCES. attributes: flat, of the schema's."""

    kind: str
    id: str
    attributes: dict[str, Value] = {}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """context: flat; names of the schema (labels, tool_call, image_digest, namespace, hour,
    first_seen, baseline, ...)."""

    principal: Entity
    action: str
    resource: Entity
    context: dict[str, Value] = {}

    def hash(self) -> str:
        """Of exactly this action, 32 hex digits: what an approval is bound to. Of the context only
        `arguments` counts, the hash of a call's."""
        said = (
            self.principal.kind,
            self.principal.id,
            self.action,
            self.resource.kind,
            self.resource.id,
            str(self.context.get("arguments", "")),
        )
        return blake2b(msgspec.json.encode(said), digest_size=16).hexdigest()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """effect: what is done. wanted: what the policies say, were all of them enforced. policies: ids
    of those that decided, strongest first. failed: ids of those that could not be evaluated, whose
    `fail` then counted. version: of the policy set. took: ns."""

    effect: Effect
    wanted: Effect
    policies: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    reason: str = ""
    version: str = ""
    took: int = 0
