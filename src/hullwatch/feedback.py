"""From the rules back into the kernel: what no rule can match is counted there, not sent.

Asked once per distinct (container, action, object), or per program where the answer depends on it.
Classes with two objects (rename, link, symlink) are always sent: a rule may be about either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hullwatch.context.enriched import Enriched
from hullwatch.detect.engine import Engine
from hullwatch.sensor.events import BY_NAME, CLASSES, Grade, classes_mask
from hullwatch.sensor.verdicts import Verdicts, image_scope
from hullwatch.sensor.wire import ACTION_WRITE, Class, Verdict
from hullwatch.store.state import CountRow

__all__ = ["Feedback"]

_PAIRS = {BY_NAME[name].cls for name in ("rename", "link", "symlink")}
_ASKED = classes_mask(
    cls for cls, row in CLASSES.items() if row.grade is Grade.BULK and cls not in _PAIRS
)
_NUMBER = {"count": Verdict.COUNT, "report": Verdict.REPORT, "byproc": Verdict.BYPROC}
_MAX_KNOWN = 1 << 16
_WRITE_FLAGS = 3  # O_ACCMODE


class _Known(NamedTuple):
    """An answer given, and the container and object it was given about."""

    verdict: int
    cgroup: int
    text: str


class Feedback:
    """Reads enriched batches after the rules have seen them, and writes verdicts."""

    def __init__(self, engine: Engine, verdicts: Verdicts) -> None:
        self._engine = engine
        self._verdicts = verdicts
        # (scope, object, action) -> the answer and, as dictionary ids do not outlive their epoch,
        # what it stands for in words. Oldest first out.
        self._known: dict[tuple[int, int, int], _Known] = {}
        self.asked = 0

    def void_all(self) -> None:
        """The rules have changed."""
        self._known.clear()
        self._verdicts.void_all()

    def answer(self, enriched: Enriched) -> None:
        """Write the verdicts that the events of this batch call for."""
        events, tables = enriched.batch.events, enriched.tables
        if tables is None or not len(events):
            return
        rows = np.flatnonzero(_ASKED[events["cls"]])
        if not len(rows):
            return
        events = events[rows]
        action = events["cls"].astype(np.uint64)
        writes = (events["cls"] == int(Class.OPEN)) & ((events["flags"] & _WRITE_FLAGS) != 0)
        action[writes] |= np.uint64(ACTION_WRITE)
        key = np.empty(len(rows), [("cgroup", "u8"), ("low", "u8"), ("image", "u8")])
        key["cgroup"] = events["cgroup"]
        key["low"] = events["obj"].astype(np.uint64) << np.uint64(32) | action
        key["image"] = enriched.image[rows]
        # A keyed sum stands for the triple: sorting one column is much cheaper than three.
        mixed = (
            key["cgroup"] * np.uint64(0x9E3779B97F4A7C15)
            ^ key["low"] * np.uint64(0xC2B2AE3D27D4EB4F)
            ^ key["image"] * np.uint64(0x165667B19E3779F9)
        )
        _, first = np.unique(mixed, return_index=True)
        for _ in range(len(self._known) - _MAX_KNOWN):
            del self._known[next(iter(self._known))]
        for i in first.tolist():
            row = rows[i]
            self._answer_one(
                enriched,
                int(events["cgroup"][i]),
                int(events["obj"][i]),
                int(action[i]),
                int(enriched.workload[row]),
                int(enriched.image[row]),
            )

    def _answer_one(
        self, enriched: Enriched, cgroup: int, obj: int, action: int, workload: int, image: int
    ) -> None:
        tables = enriched.tables
        assert tables is not None
        if tables.workloads.workload(workload).state == "pending":
            return
        cls, write = action & 0xFF, bool(action & ACTION_WRITE)
        text = tables.dictionary.text(obj)
        known = self._known.get((cgroup, obj, action))
        if known is None:
            self.asked += 1
            word = self._engine.verdict(cls, write, obj, workload, tables)
            known = self._known[cgroup, obj, action] = _Known(_NUMBER[word], cgroup, text)
            if known.verdict == Verdict.REPORT:
                self._verdicts.put(cgroup, obj, action, known.verdict)
        if known.verdict == Verdict.REPORT:
            return
        # The kernel may have evicted a counted verdict: that it sent the event says so.
        self._verdicts.put(cgroup, obj, action, known.verdict)
        if known.verdict != Verdict.BYPROC:
            return
        found = tables.processes.image(image)
        if not found.known:
            return
        scope = image_scope(found.key, found.exec_id)
        answer = self._known.get((scope, obj, action))
        if answer is None:
            self.asked += 1
            word = self._engine.verdict_for_image(cls, write, obj, image, workload, tables)
            answer = self._known[scope, obj, action] = _Known(_NUMBER[word], cgroup, text)
        self._verdicts.put(scope, obj, action, answer.verdict)

    def counts(self) -> Iterator[CountRow]:
        """What the kernel counted since the last call, in words."""
        for counted in self._verdicts.counted():
            known = self._known.get((counted.scope, counted.obj, counted.action))
            # Repeats that the kernel counts by itself have no question behind them; small scopes
            # are cgroup ids, large ones program images.
            fallback = counted.scope if counted.scope < 1 << 40 else 0
            cgroup, text = (known.cgroup, known.text) if known else (fallback, "")
            name = CLASSES[counted.action & 0xFF].name
            yield CountRow(cgroup, name, text, counted.count)
