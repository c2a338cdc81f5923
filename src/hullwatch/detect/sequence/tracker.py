"""One sequence's state: how far it has come, under each key.

A step *happens* at the moments at which its event occurs; with a count, at each event at which
so many (or so many different values) lie within the time. An ordered sequence remembers, for each
number of steps done, the run with the latest beginning, as every later step can go on from it; one
in any order the latest moment of each step. So a key's state does not grow with its events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from hullwatch.detect.finding import Seen
from hullwatch.detect.row import Env, Row
from hullwatch.detect.sequence.compiled import Sequence, Step
from hullwatch.detect.sequence.keys import Joined, Key, Value, value_of

__all__ = ["Fired", "State", "Tracker"]

_SeenAt = Callable[[int], Seen]  # of a time, unix ns


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Steps done so far. start, at: unix ns of the first and the last of them."""

    start: int
    at: int
    seen: tuple[Seen, ...]


class State(msgspec.Struct, array_like=True):
    """Of one key. runs: steps done (ordered), or step's number (any order), to the run.
    times, values: of counted steps. last: unix ns of the last event."""

    last: int = 0
    runs: dict[int, Run] = {}
    times: dict[int, list[int]] = {}
    values: dict[int, dict[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Fired:
    """count: moments at which the sequence was complete; the first of them, and the last."""

    count: int
    first: int
    last: int
    seen: tuple[Seen, ...]


class Tracker:
    """states: oldest touched first. dirty: keys changed or dropped since `changes`."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.states: OrderedDict[Key, State] = OrderedDict()
        self.dirty: set[Key] = set()

    def take(
        self, number: int, row: Row, seen: _SeenAt, times: np.ndarray, env: Env
    ) -> Fired | None:
        """Events of one step that no other event of this sequence lies between.

        times: int64 unix ns, ascending; row: the first of them; seen: tells of it, if need be.
        """
        step = self.sequence.steps[number]
        keys = step.keys.of(row, env)
        if keys is None:
            return None
        moments = times
        if step.count > 1:
            value = value_of(step.distinct, row, env) if step.distinct else None
            if step.distinct and value is None:
                return None
            moments = self._counted(number, step, keys.count, times, value)
            if not moments.size:
                return None
        if len(self.sequence.steps) == 1:
            first = int(moments[0])
            return Fired(moments.size, first, int(moments[-1]), (seen(first),))
        if self.sequence.ordered:
            return self._next(number, keys, moments, seen)
        return self._any_order(number, keys, moments, seen)

    # Counted steps

    def _counted(
        self, number: int, step: Step, key: Key, times: np.ndarray, value: Value | None
    ) -> np.ndarray:
        """The moments at which the count was reached."""
        state = self._touch(key, int(times[-1]))
        if step.distinct is not None:
            return self._distinct(state.values.setdefault(number, {}), step.count, times, value)
        kept = state.times.setdefault(number, [])
        whole = np.concatenate([np.array(kept, np.int64), times])
        # An event completes a count if the one that is count - 1 before it is near enough.
        before = whole.size - times.size
        first = max(step.count - 1 - before, 0)
        ends = whole[before + first :]
        begins = whole[before + first - step.count + 1 :][: ends.size]
        kept[:] = whole[-(step.count - 1) :].tolist()
        return ends[ends - begins <= self.sequence.within]

    def _distinct(
        self, values: dict[str, int], count: int, times: np.ndarray, value: Value | None
    ) -> np.ndarray:
        # The `count` latest values suffice: there are so many within the time if these are.
        text = str(value)
        values.pop(text, None)
        others = sorted(values.values(), reverse=True) if len(values) >= count - 1 else []
        values[text] = int(times[-1])
        while len(values) > count:
            del values[min(values, key=values.__getitem__)]
        if len(others) < count - 1:
            return times[:0]
        return times[times - others[count - 2] <= self.sequence.within]

    # Several steps

    def _next(self, number: int, keys: Joined, moments: np.ndarray, seen: _SeenAt) -> Fired | None:
        if number == 0:
            at = int(moments[-1])
            self._leave(keys.leave(), 1, Run(at, at, (seen(at),)))
            return None
        found = self._latest(keys.ask(), number)
        if found is None:
            return None
        # Later than the step before it: one event is not two steps.
        moments = moments[(moments > found.at) & (moments - found.start <= self.sequence.within)]
        if not moments.size:
            return None
        first, last = int(moments[0]), int(moments[-1])
        steps = (*found.seen, seen(first))
        if number == len(self.sequence.steps) - 1:
            return Fired(moments.size, first, last, steps)
        self._leave(keys.leave(), number + 1, Run(found.start, first, steps))
        return None

    def _any_order(
        self, number: int, keys: Joined, moments: np.ndarray, seen: _SeenAt
    ) -> Fired | None:
        at = int(moments[-1])
        self._leave(keys.leave(), number, Run(at, at, (seen(at),)))
        asked = keys.ask()
        others = [self._latest(asked, n) for n in range(len(self.sequence.steps)) if n != number]
        present = [run for run in others if run is not None]
        if len(present) < len(others):
            return None
        moments = moments[moments - min(run.at for run in present) <= self.sequence.within]
        if not moments.size:
            return None
        first = int(moments[0])
        steps = [run.seen[0] for run in present] + [seen(first)]
        steps.sort(key=lambda one: one.time)
        return Fired(moments.size, first, int(moments[-1]), tuple(steps))

    def _latest(self, keys: tuple[Key, ...], number: int) -> Run | None:
        found: Run | None = None
        for key in keys:
            state = self.states.get(key)
            run = state.runs.get(number) if state is not None else None
            if run is not None and (found is None or run.start > found.start):
                found = run
        return found

    def _leave(self, keys: tuple[Key, ...], number: int, run: Run) -> None:
        for key in keys:
            state = self._touch(key, run.at)
            known = state.runs.get(number)
            if known is None or run.start >= known.start:
                state.runs[number] = run

    # Bounds

    def _touch(self, key: Key, at: int) -> State:
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = State(0, {}, {}, {})
        else:
            self.states.move_to_end(key)
        state.last = max(state.last, at)
        self.dirty.add(key)
        return state

    def expire(self, now: int) -> None:
        """Drop what can no longer lead anywhere. now: unix ns."""
        while self.states:
            key, state = next(iter(self.states.items()))
            if now - state.last <= self.sequence.within:
                return
            self.drop(key)

    def drop(self, key: Key) -> None:
        del self.states[key]
        self.dirty.add(key)

    def changes(self) -> Iterator[tuple[Key, State | None]]:
        """Keys that changed since the last call; None: gone."""
        dirty, self.dirty = self.dirty, set()
        for key in dirty:
            yield key, self.states.get(key)

    def restore(self, key: Key, state: State) -> None:
        self.states[key] = state
