"""What is told of opens and execs: entries of the decision log, those that stopped or held one to
the agent, too; problems, once each; counts, when they change.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from hullwatch.decide.log import Entry
from hullwatch.decide.question import Effect, Entity, Question
from hullwatch.permits import threads
from hullwatch.permits.asked import Asked, Ruled
from hullwatch.permits.held import Holding
from hullwatch.permits.messages import Channel, Counts, Problem, Told

__all__ = ["TIER", "Actor", "Telling", "entry_of"]

TIER = "fanotify"
MAX_FOLDED = 4096  # entries whose repeats are counted
MAX_PROBLEMS = 1024
AGAIN = 1.0  # s after which the same is told again


class Actor(NamedTuple):
    """Who asks, as the agent is told of it."""

    container: str
    process: int
    labels: int = 0
    call: int = 0


class _Repeated(msgspec.Struct):
    """Of an entry. until: monotonic s, when it is told anew. count: not told since."""

    until: float
    count: int = 0


def entry_of(thread: int, workload: str, asked: Asked, ruled: Ruled) -> Entry:
    """workload: whose thread it is."""
    thing, program = ruled.thing, threads.program(thread) or ""
    who = f"uid:{threads.uid(thread)} container:{asked.container} {program}"
    question = Question(principal=Entity("Workload", workload), action=ruled.action, resource=thing)
    reached = "" if thing.id == asked.names[0] else f"; reached as {asked.names[0]}"
    entry = Entry.of(question, ruled.decision, TIER, time.time_ns())
    return msgspec.structs.replace(entry, reason=entry.reason + reached, identity=who.strip())


class Telling:
    """holding: has the log."""

    def __init__(self, channel: Channel, holding: Holding) -> None:
        self._channel, self._holding = channel, holding
        self._folded: OrderedDict[Entry, _Repeated] = OrderedDict()
        self._plain: dict[tuple[str, str], int] = {}
        self._problems: set[str] = set()
        self._said: Counts | None = None

    def log(self, entry: Entry, actor: Actor) -> None:
        """What says the same as one a moment before is counted."""
        key, now = msgspec.structs.replace(entry, time=0, took=0), time.monotonic()
        repeated = self._folded.setdefault(key, _Repeated(0.0))
        if now < repeated.until:
            repeated.count += 1
            return
        repeated.until = now + AGAIN
        if len(self._folded) > MAX_FOLDED:
            oldest, told = self._folded.popitem(last=False)
            self._note_count(oldest, told.count)
        self._holding.note(entry)
        self._channel.send(Told(entry, *actor))

    def _note_count(self, entry: Entry, count: int) -> None:
        if count:
            kind = "allows" if entry.effect is Effect.ALLOW else entry.kind
            self._holding.note(
                msgspec.structs.replace(entry, kind=kind, time=time.time_ns(), count=count)
            )

    def plain(self, container: str, action: str) -> None:
        """It was allowed, and no policy speaks of it."""
        key = container, action
        self._plain[key] = self._plain.get(key, 0) + 1

    def write_counts(self, name_of: Callable[[str], str], version: str) -> None:
        """Repeats, and what no policy speaks of. name_of: a container; version: of the set."""
        for entry, told in self._folded.items():
            self._note_count(entry, told.count)
        self._folded.clear()
        for (container, action), count in self._plain.items():
            self._note_count(
                Entry(
                    principal=f"Workload:{name_of(container)}",
                    action=action,
                    reason="no policy speaks of it",
                    version=version,
                    tier=TIER,
                ),
                count,
            )
        self._plain.clear()

    def problem(self, text: str, *, gap: bool = False) -> None:
        """Once."""
        if text not in self._problems and len(self._problems) < MAX_PROBLEMS:
            self._problems.add(text)
            self._channel.send(Problem(text, gap))

    def counts(self, now: Counts) -> None:
        if now != self._said:
            self._said = now
            self._channel.send(now)
