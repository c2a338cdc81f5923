"""What joins the steps of a sequence: words, and the fields of rules.

Most are one value of an event: events with the same value belong together. A process tree is
not: a process belongs to its ancestors, to its descendants and to its branch. So an event
*leaves* its state under some keys, and the next step *asks* under others; they are of one tree
where the two sets meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hullwatch.context.enriched import ProcessImage
from hullwatch.context.workload import Workload
from hullwatch.detect.errors import Place, RuleError, did_you_mean
from hullwatch.detect.fields import Where
from hullwatch.detect.fields.process import ancestors_within
from hullwatch.detect.language.ast import Literal
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.row import Env, Row
from hullwatch.detect.source import Source, source_of

__all__ = ["TREE", "WORDS", "Joined", "Key", "Keys", "Value", "Word"]
__all__ += ["field_source", "is_per_event", "value_of"]

TREE = "tree"
MAX_CHAIN = 16  # ancestors that are joined with
MAX_TEXT = 256  # characters of a value; a longer one is its hash

Value = str | int
Key = tuple[Value, ...]


class Word(NamedTuple):
    """get: None where the event has no such thing, and then takes no part. per_event: two events
    of one process, container and object may differ."""

    get: Callable[[Row], Value | None]
    doc: str
    per_event: bool = False


def _container(row: Row) -> str:
    return _workload_id(row.workload)


def _workload_id(workload: Workload) -> str:
    return workload.container_id or ("host" if workload.state == "host" else f"{workload.cgroup}")


def _image(row: Row) -> str | None:
    workload = row.workload
    return workload.image_digest or workload.image_id or workload.image


def _pod(row: Row) -> str | None:
    return row.workload.pod_uid or row.workload.sandbox_id


def _identity(row: Row) -> str | None:
    """Who acts, whichever replica: namespace and pod or container, image, user."""
    workload = row.workload
    if row.image is None:
        return None
    name = workload.name or "host"
    return f"{workload.namespace or ''}/{name}/{workload.image_repository or ''}/{row.image.euid}"


WORDS: dict[str, Word] = {
    "host": Word(lambda row: 0, "everything on this machine"),
    "container": Word(_container, "one container (the host is one too)"),
    "pod": Word(_pod, "one pod, sidecars included"),
    "image": Word(_image, "all containers of one image"),
    "process": Word(lambda row: row.image.key if row.image else None, "one process"),
    "identity": Word(_identity, "one workload's name, image and user, in any replica"),
    "tool_call": Word(lambda row: row.span or None, "one tool call", per_event=True),
}


@dataclass(frozen=True, slots=True)
class Joined:
    """count: the one key that events are counted under. chain: of a tree, the process and its
    ancestors."""

    key: Key
    count: Key
    chain: tuple[int, ...] = ()

    def leave(self) -> tuple[Key, ...]:
        """Where this event's state goes."""
        if not self.chain:
            return (self.key,)
        below = (self._at("below", one) for one in self.chain)
        return (self._at("own", self.chain[0]), self.count, *below)

    def ask(self) -> tuple[Key, ...]:
        """Where an earlier one's may be."""
        if not self.chain:
            return (self.key,)
        own = (self._at("own", one) for one in self.chain)
        return (*own, self.count, self._at("below", self.chain[0]))

    def _at(self, place: str, process: int) -> Key:
        return (*self.key, place, process)


class Keys:
    """The `by` of one step. values: a getter for each item but the tree."""

    def __init__(self, values: list[Source | Word], tree: bool) -> None:
        self._values = values
        self._tree = tree

    def of(self, row: Row, env: Env) -> Joined | None:
        """None: something is not known of the event, so it takes no part."""
        plain: list[Value] = []
        for one in self._values:
            value = one.get(row) if isinstance(one, Word) else value_of(one, row, env)
            if value is None:
                return None
            plain.append(value)
        key = tuple(plain)
        if not self._tree:
            return Joined(key, key)
        if row.image is None:
            return None
        chain = _chain(row.image)
        return Joined(key, (*key, "branch", chain[-2] if len(chain) > 1 else chain[-1]), chain)


def _chain(image: ProcessImage) -> tuple[int, ...]:
    """Keys of a process and its ancestors, up to the first process of the container (or of a
    service on the host)."""
    chain = [image.key]
    for one in ancestors_within(image):
        # A runtime's own stage is in the container's cgroup, too, but in the host's pid namespace.
        if one.workload != image.workload or one.pid <= 2 or len(chain) >= MAX_CHAIN:
            break
        chain.append(one.key)
    return tuple(chain)


def field_source(text: str, place: Place) -> Source:
    """A field with one value, as a rule names it; raises RuleError."""
    if text.isidentifier():  # all fields have a dot
        words = (*WORDS, TREE)
        hint = did_you_mean(text, words) or f"the words are {', '.join(words)}"
        raise RuleError(f"'{text[:80]}' is neither a field nor a word for one", place, mend=hint)
    try:
        left = getattr(parse(f"{text} exists"), "left", None)
        if left is None or isinstance(left, Literal):
            raise RuleError(f"'{text[:80]}' is no field", place)
        source = source_of(left)
    except RuleError as problem:
        raise RuleError(problem.message, place, mend=problem.mend) from None
    if source.any or any(bound.field.parts for bound in source.bounds):
        raise RuleError(f"'{text}' has many values", place, mend="give a field with one value")
    return source


def value_of(source: Source, row: Row, env: Env) -> Value | None:
    value: Any = source.read_row(row, env)
    if value is None or isinstance(value, int):
        return value
    text = str(value)
    if len(text) > MAX_TEXT:
        return "#" + hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return text


def is_per_event(source: Source, classes: tuple[int, ...]) -> bool:
    """Whether two events of one process, container and object may differ in it."""
    shared = (Where.IMAGE, Where.OBJ, Where.WORKLOAD, None)
    return any(source.where(cls) not in shared for cls in classes)
