"""All sequences of a rule set: step matches in, matches of sequences out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from hullwatch.detect.finding import Match, Seen
from hullwatch.detect.output import escape, shown
from hullwatch.detect.row import Env
from hullwatch.detect.sequence.tracker import State, Tracker
from hullwatch.sensor.events import CLASSES

if TYPE_CHECKING:
    from hullwatch.detect.ruleset import Rule

__all__ = ["Saved", "Sequences"]

MAX_COST = 16_384
"""Keys over all sequences; one whose steps count to many costs more (about 1 KB a unit)."""
_COUNT_COST = 32
_MAX_FIELD = 512  # characters of a field that is kept for an output
_MAX_COMMAND = 256
_KEY = tuple[str | int, ...]


class Saved(NamedTuple):
    """One key's state as the store keeps it. expires: unix ns; body '': the key is gone.

    rule, hash: of the sequence; a state of another hash is of no use. boot: only for this boot.
    """

    rule: str
    key: str
    hash: str
    of_boot: bool
    expires: int
    body: str


class Sequences:
    """Not thread-safe. evicted: keys given up for want of room, whose sequences may be missed."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = [rule for rule in rules if rule.sequence is not None]
        self.trackers: dict[str, Tracker] = {}
        self._use: dict[str, tuple[Rule, Tracker, int]] = {}
        self._cost: dict[str, int] = {}
        self.evicted = 0
        for rule in self.rules:
            assert rule.sequence is not None
            tracker = self.trackers[rule.name] = Tracker(rule.sequence)
            most = max(step.count for step in rule.sequence.steps)
            self._cost[rule.name] = 1 + most // _COUNT_COST
            for number, step in enumerate(rule.sequence.steps):
                self._use[step.rule] = (rule, tracker, number)

    def advance(self, matches: list[Match], env: Env) -> list[Match]:
        """The matches without those of steps, and those of sequences that became complete.

        Steps are taken in the order of their events, however they were grouped.
        """
        steps = [match for match in matches if match.rule.step]
        if not steps:
            return matches
        found = [match for match in matches if not match.rule.step]
        for match, times in _in_order(steps, self._use):
            rule, tracker, number = self._use[match.rule.name]
            step = tracker.sequence.steps[number]
            seen = partial(_seen, step.id, step.shown, match, env)
            fired = tracker.take(number, match.row, seen, times + env.wall_offset, env)
            if fired is not None:
                last = fired.last - env.wall_offset
                found.append(Match(rule, match.row, fired.count, last, steps=fired.seen))
        now = int(max(match.last for match in steps)) + env.wall_offset
        for tracker in self.trackers.values():
            tracker.expire(now)
        self._bound()
        found.sort(key=lambda match: match.row.ts)
        return found

    def _bound(self) -> None:
        """The sequence with the most state gives up its oldest: a flood hides only itself."""
        costs = {name: len(one.states) * self._cost[name] for name, one in self.trackers.items()}
        excess = sum(costs.values()) - MAX_COST
        while excess > 0:
            name = max(costs, key=costs.__getitem__)
            tracker = self.trackers[name]
            tracker.drop(next(iter(tracker.states)))
            self.evicted += 1
            costs[name] -= self._cost[name]
            excess -= self._cost[name]

    # What survives a restart

    def changes(self) -> Iterator[Saved]:
        """States that changed since the last call."""
        for rule in self.rules:
            tracker = self.trackers[rule.name]
            sequence = tracker.sequence
            for key, state in tracker.changes():
                body = "" if state is None else msgspec.json.encode(state).decode()
                expires = 0 if state is None else state.last + sequence.within
                text = msgspec.json.encode(key).decode()
                yield Saved(rule.name, text, rule.hash, sequence.of_boot, expires, body)

    def unsaved(self, saved: Iterable[Saved]) -> None:
        """These could not be kept: give them again with the next changes."""
        for one in saved:
            tracker = self.trackers[one.rule]
            if len(tracker.dirty) < MAX_COST:
                tracker.dirty.add(msgspec.json.decode(one.key, type=_KEY))

    def restore(self, saved: Iterable[Saved]) -> int:
        """Take up states again, oldest first; returns how many. Broken ones are left out."""
        hashes = {rule.name: rule.hash for rule in self.rules}
        count = 0
        for one in sorted(saved, key=lambda one: one.expires):
            if hashes.get(one.rule) != one.hash:
                continue
            try:
                key = msgspec.json.decode(one.key, type=_KEY)
                state = msgspec.json.decode(one.body, type=State)
            except msgspec.DecodeError:
                continue
            self.trackers[one.rule].restore(key, state)
            count += 1
        self._bound()
        return count

    def stats(self) -> dict[str, int]:
        """keys: states kept. evicted: given up for want of room."""
        return {
            "sequences": len(self.rules),
            "keys": sum(len(one.states) for one in self.trackers.values()),
            "evicted": self.evicted,
        }


def _in_order(
    steps: list[Match], use: dict[str, tuple[Rule, Tracker, int]]
) -> Iterator[tuple[Match, np.ndarray]]:
    """(match, times) with no other match's event between the times. A later step comes first
    where one event is both: it can only follow an earlier one."""
    each = [match.times for match in steps if match.times is not None]
    times = np.concatenate(each)
    source = np.repeat(np.arange(len(steps)), [one.size for one in each])
    number = np.array([use[match.rule.name][2] for match in steps])[source]
    order = np.lexsort((source, -number, times))
    times, source = times[order], source[order]
    edges = np.flatnonzero(source[1:] != source[:-1]) + 1
    starts = [0, *edges.tolist()]
    for start, end in zip(starts, [*starts[1:], len(times)], strict=True):
        yield steps[int(source[start])], times[start:end]


def _seen(ident: str, fields: tuple, match: Match, env: Env, time: int) -> Seen:
    row = match.row
    return Seen(
        ident,
        time,
        CLASSES[row.event.cls].name,
        escape(row.obj.text[:_MAX_FIELD]) if row.obj else "",
        row.image.pid if row.image else 0,
        escape(row.image.cmdline[:_MAX_COMMAND]) if row.image else "",
        {one.label: shown(one.read_row(row, env))[:_MAX_FIELD] for one in fields},
    )
