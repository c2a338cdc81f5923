"""Which policies stopped what a story tells: its events say what was done, the decision log why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hullwatch.store.story import Process, Stop, Story

__all__ = ["with_policies"]


def with_policies(story: Story, store: Path) -> Story:
    """The same story, its stops with policies and reasons. Where the log has none, or cannot be
    read by whoever asks, a stop goes without."""
    from hullwatch.decide.log import Log, LogError

    stops = {(_micros(one), one.action): one for one in _stops(story.processes)}
    if not stops:
        return story
    try:
        log = Log(store, write=False)
        try:
            since = min(micros for micros, _ in stops) * 1000
            # What was held and then denied is a stop from when it was asked.
            entries = log.entries(since, ("verdict", "held"))
        finally:
            log.close()
    except LogError:
        return story
    for entry in entries:
        one = stops.get((entry.time // 1000, entry.action))
        if one is not None:
            one.policies, one.reason = list(entry.policies), entry.reason
    return story


def _micros(one: Stop) -> int:
    """As the store rounds: unix µs."""
    seconds = int(one.first.replace(microsecond=0).timestamp())
    return seconds * 10**6 + one.first.microsecond


def _stops(processes: list[Process]) -> Iterator[Stop]:
    # Without recursion: a process chain may be deeper than Python's stack.
    stack = list(processes)
    while stack:
        process = stack.pop()
        yield from process.stopped
        stack.extend(process.children)
