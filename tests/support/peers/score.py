"""How right a sensor is about which call did what: its answers beside the truth of a drive.

Two steps. `identify`: which of the calls that the sensor saw is which of ours. `score`: of each
event that must belong to one of our calls, does the sensor say so?

An event is judged if its object bears a call's token (arguments of a process, a path, a port that
only one call was given), or if it was done by a process that a call is known to have started. All
else, such as the libraries that a server loads, is left out. An event of the time before the first
call belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from support.peers.truth import Truth, tokens_in

__all__ = ["KINDS", "Attribution", "Count", "Identity", "Kind", "Score", "SeenCall"]
__all__ += ["identify", "score", "table"]

Kind = Literal["process", "file", "destination"]
KINDS: tuple[Kind, ...] = ("process", "file", "destination")


class SeenCall(NamedTuple):
    """A call as the sensor has it. begin, end: unix ns, 0: not known. rpc_id: its JSON-RPC id."""

    id: int
    name: str
    rpc_id: str = ""
    begin: int = 0
    end: int = 0


class Attribution(NamedTuple):
    """An event, and the calls to which the sensor gives it: none, one, or those that it may be.

    object: of a process its command line, of a file its path, of a destination HOST:PORT."""

    kind: Kind
    object: str
    pid: int
    calls: tuple[int, ...]
    time: int = 0


class Identity(NamedTuple):
    """of: sensor's id → token. missed: tokens of calls that it did not see. extra: ids of calls
    that nobody made, or that cannot be told apart."""

    of: dict[int, str]
    missed: tuple[str, ...]
    extra: tuple[int, ...]


class Count(msgspec.Struct, frozen=True):
    """Events: right names its call alone; ambiguous names it among others, which is neither right
    nor wrong; wrong names others only; none names no call.
    Objects that had to be seen: expected; found, in an event that was right; unseen, in none."""

    right: int = 0
    ambiguous: int = 0
    wrong: int = 0
    none: int = 0
    expected: int = 0
    found: int = 0
    unseen: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, n) + getattr(other, n) for n in self.__struct_fields__))

    @property
    def events(self) -> int:
        return self.right + self.ambiguous + self.wrong + self.none

    @property
    def precision(self) -> float:
        """Of the events that were given to one call or to wrong ones; 1.0 if there is none."""
        given = self.right + self.wrong
        return self.right / given if given else 1.0

    @property
    def recall(self) -> float:
        return self.found / self.expected if self.expected else 1.0

    @property
    def ambiguity(self) -> float:
        """The share of ambiguous answers among all events."""
        return self.ambiguous / self.events if self.events else 0.0


Score = dict[Kind, Count]


def _may_be(truth: Truth, seen: SeenCall) -> bool:
    """Same tool, at the same time, and no other id on the wire."""
    if truth.tool != seen.name or (seen.rpc_id and truth.rpc_id != seen.rpc_id):
        return False
    begin, end = seen.begin or truth.begin, seen.end or truth.end
    return begin <= truth.end and end >= truth.begin


def identify(truths: Sequence[Truth], seen: Iterable[SeenCall]) -> Identity:
    """A pair is made where only one is possible, most telling first; two are never guessed at."""
    of: dict[int, str] = {}
    left = {truth.token: truth for truth in truths}
    extra = []
    for one in sorted(seen, key=lambda call: not call.rpc_id):
        matches = [truth.token for truth in left.values() if _may_be(truth, one)]
        if len(matches) == 1:
            of[one.id] = matches[0]
            del left[matches[0]]
        else:
            extra.append(one.id)
    return Identity(of, tuple(left), tuple(extra))


def _program(command: str) -> str:
    return command.split(" ", 1)[0].rpartition("/")[2]


class _Owners:
    """Whose an event is, and which expected object it shows."""

    def __init__(self, truths: Sequence[Truth]) -> None:
        self._tokens = {truth.token for truth in truths}
        self._objects: dict[tuple[Kind, str], str] = {}
        self._pids = {pid: truth.token for truth in truths for pid in truth.pids}
        self.expected: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
        for truth in truths:
            named = {
                "file": [file.path for file in truth.files],
                "destination": [str(destination) for destination in truth.destinations],
            }
            self.expected["process"] |= {(truth.token, one.program) for one in truth.processes}
            for kind in KINDS[1:]:
                self._objects |= {(kind, name): truth.token for name in named[kind]}
                self.expected[kind] |= {(truth.token, name) for name in named[kind]}

    def of(self, event: Attribution) -> str | None:
        if (owner := self._objects.get((event.kind, event.object))) is not None:
            return owner
        named = tokens_in(event.object) & self._tokens
        return named.pop() if len(named) == 1 else self._pids.get(event.pid)


def score(
    truths: Sequence[Truth], attributions: Iterable[Attribution], of: Mapping[int, str]
) -> Score:
    """A count for each kind. of: from `identify`."""
    owners = _Owners(truths)
    first = min((truth.begin for truth in truths), default=0)
    tallies: dict[Kind, dict[str, int]] = {
        kind: dict.fromkeys(("right", "ambiguous", "wrong", "none"), 0) for kind in KINDS
    }
    shown: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    found: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    for event in attributions:
        if 0 < event.time < first:
            tallies[event.kind]["wrong"] += bool(event.calls)
            continue
        owner = owners.of(event)
        if owner is None:
            continue
        answer = _answer(owner, event.calls, of)
        tallies[event.kind][answer] += 1
        what = _program(event.object) if event.kind == "process" else event.object
        shown[event.kind].add((owner, what))
        if answer == "right":
            found[event.kind].add((owner, what))
    return {
        kind: Count(
            **tallies[kind],
            expected=len(wanted),
            found=len(wanted & found[kind]),
            unseen=len(wanted - shown[kind]),
        )
        for kind, wanted in owners.expected.items()
    }


def _answer(owner: str, calls: tuple[int, ...], of: Mapping[int, str]) -> str:
    if not calls:
        return "none"
    named = {of.get(call) for call in calls}
    if owner not in named:
        return "wrong"
    return "right" if len(named) == 1 else "ambiguous"


def table(scores: Mapping[str, Score]) -> str:
    """For people: a line for each run and kind."""
    head = f"{'':28} {'kind':12} {'events':>7} {'precision':>9} {'recall':>7} {'ambiguous':>9}"
    lines = [f"{head} {'wrong':>6} {'none':>6} {'unseen':>6}"]
    for name, kinds in scores.items():
        for kind, count in kinds.items():
            if count.events or count.expected:
                figures = f"{count.precision:9.3f} {count.recall:7.3f} {count.ambiguity:9.3f}"
                rest = f"{count.wrong:6} {count.none:6} {count.unseen:6}"
                lines.append(f"{name:28} {kind:12} {count.events:7} {figures} {rest}")
    return "\n".join(lines)
