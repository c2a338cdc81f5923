"""Losses said aloud: what was lost, of whom, in one line, not more often than people can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from hullwatch.sensor.batch import Loss
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.wire import Stage

__all__ = ["LossAlarm"]

_T = TypeVar("_T")
_ON_PURPOSE = Stage.GOVERNED.name.lower()
_PAUSE = 10.0  # s between two lines
_NAMED = 3  # containers and classes named in a line; the others are a sum


class LossAlarm:
    """`add` losses as they come, `due` gives the next line. whose: cgroup id to words."""

    def __init__(self, whose: Callable[[int], str]) -> None:
        self._whose = whose
        self._lost: Counter[tuple[str, int, int]] = Counter()
        self._next = 0.0

    def add(self, losses: Iterable[Loss]) -> None:
        for loss in losses:
            if loss.stage != _ON_PURPOSE:  # the governor says so itself
                self._lost[loss.stage, loss.cls, loss.cgroup] += loss.count

    def due(self, now: float, *, force: bool = False) -> str | None:
        """What was lost since the last line, at most once in _PAUSE s of `now`; None: nothing."""
        if not self._lost or (now < self._next and not force):
            return None
        self._next = now + _PAUSE
        lost, self._lost = self._lost, Counter()
        stages, classes, whose = Counter[str](), Counter[str](), Counter[int]()
        for (stage, cls, cgroup), count in lost.items():
            stages[stage] += count
            classes[CLASSES[cls].name if cls in CLASSES else ""] += count
            whose[cgroup] += count
        del classes[""]
        text = ", ".join(f"{count} at {stage}" for stage, count in stages.most_common())
        if classes:
            text += f" ({_named(classes, str)})"
        return f"{text}, of {_named(whose, self._whose)}"


def _named(counts: Counter[_T], name: Callable[[_T], str]) -> str:
    most = counts.most_common(_NAMED)
    rest = sum(counts.values()) - sum(count for _, count in most)
    more = [f"others {rest}"] if rest else []
    return ", ".join([f"{name(what)} {count}" for what, count in most] + more)
