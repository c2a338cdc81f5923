"""From the rules back into the kernel: what no rule can match is counted there, not sent.

Asked once per distinct (container, action, object), or per program where the answer depends on it.
Classes with two objects (rename, link, symlink) are always sent: a rule may be about either. So is
`listen`: which process is behind a port has to be known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hullwatch.context.enriched import Enriched
from hullwatch.detect.engine import Engine
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import BY_NAME, CLASSES, Grade, classes_mask
from hullwatch.sensor.verdicts import Verdicts, image_scope
from hullwatch.sensor.wire import ACTION_UPPER, ACTION_WRITE, Class, Mark, Verdict
from hullwatch.store.state import CountRow

__all__ = ["Feedback"]

_ALWAYS_SENT = {BY_NAME[name].cls for name in ("rename", "link", "symlink", "listen")}
_ASKED = classes_mask(
    cls for cls, row in CLASSES.items() if row.grade is Grade.BULK and cls not in _ALWAYS_SENT
)
_NUMBER = {"count": Verdict.COUNT, "report": Verdict.REPORT, "byproc": Verdict.BYPROC}
_MAX_KNOWN = 1 << 15
_WRITE_FLAGS = 3  # O_ACCMODE


class Feedback:
    """Reads enriched batches after the rules have seen them, and writes verdicts."""

    def __init__(self, engine: Engine, verdicts: Verdicts) -> None:
        self._engine = engine
        self._verdicts = verdicts
        # (scope, object, action) as one number -> the answer and the container it is about: there
        # may be many, so small and shared objects. Oldest first out.
        self._known: dict[int, tuple[int, int]] = {}
        self._answers: dict[tuple[int, int], tuple[int, int]] = {}
        self._dictionary: Dictionary | None = None
        self._generation = engine.baselines.generation
        self.asked = 0

    def void_all(self) -> None:
        """The rules have changed, or what is normal has."""
        self._known.clear()
        self._verdicts.void_all()

    def answer(self, enriched: Enriched) -> None:
        """Write the verdicts that the events of this batch call for."""
        events, tables = enriched.batch.events, enriched.tables
        if self._generation != self._engine.baselines.generation:
            self._generation = self._engine.baselines.generation
            self.void_all()
        if tables is None or not len(events):
            return
        rows = np.flatnonzero(_ASKED[events["cls"]])
        if not len(rows):
            return
        self._dictionary = tables.dictionary
        events = events[rows]
        action = events["cls"].astype(np.uint64)
        writes = (events["cls"] == int(Class.OPEN)) & ((events["flags"] & _WRITE_FLAGS) != 0)
        action[writes] |= np.uint64(ACTION_WRITE)
        action[(events["marks"] & int(Mark.UPPER)) != 0] |= np.uint64(ACTION_UPPER)
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
        given: set[int] = set()
        for _ in range(len(self._known) - _MAX_KNOWN):
            del self._known[next(iter(self._known))]
        chosen = rows[first]
        for cgroup, obj, asked, workload, image in zip(
            events["cgroup"][first].tolist(),
            events["obj"][first].tolist(),
            action[first].tolist(),
            enriched.workload[chosen].tolist(),
            enriched.image[chosen].tolist(),
            strict=True,
        ):
            self._answer_one(enriched, cgroup, obj, asked, workload, image, given)

    def _answer_one(
        self,
        enriched: Enriched,
        cgroup: int,
        obj: int,
        action: int,
        workload: int,
        image: int,
        given: set[int],
    ) -> None:
        """given: keys that were answered for this batch, whatever the program."""
        tables = enriched.tables
        assert tables is not None
        if tables.workloads.workload(workload).state == "pending":
            return
        cls, write, upper = action & 0xFF, bool(action & ACTION_WRITE), bool(action & ACTION_UPPER)
        key = _key(cgroup, obj, action)
        known = self._known.get(key)
        if known is None:
            self.asked += 1
            word = self._engine.verdict(cls, write, obj, workload, tables, upper=upper)
            known = self._keep(key, _NUMBER[word], cgroup)
            if known[0] == Verdict.REPORT:
                self._verdicts.put(cgroup, obj, action, known[0])
        if known[0] == Verdict.REPORT:
            return
        # The kernel may have evicted a counted verdict: that it sent the event says so.
        if key not in given:
            given.add(key)
            self._verdicts.put(cgroup, obj, action, known[0])
        if known[0] != Verdict.BYPROC:
            return
        found = tables.processes.image(image)
        if not found.known or found.ended:  # an ended one will not ask again
            return
        scope = image_scope(found.key, found.exec_id)
        key = _key(scope, obj, action)
        answer = self._known.get(key)
        if answer is None:
            self.asked += 1
            word = self._engine.verdict_for_image(
                cls, write, obj, image, workload, tables, upper=upper
            )
            answer = self._keep(key, _NUMBER[word], cgroup)
        self._verdicts.put(scope, obj, action, answer[0])

    def _keep(self, key: int, verdict: int, cgroup: int) -> tuple[int, int]:
        answer = (verdict, cgroup)
        if len(self._answers) >= _MAX_KNOWN:
            self._answers.clear()
        answer = self._known[key] = self._answers.setdefault(answer, answer)
        return answer

    def counts(self) -> Iterator[CountRow]:
        """What the kernel counted since the last call, in words.

        Call it more often than the dictionary can begin two epochs, or the words are gone.
        """
        for counted in self._verdicts.counted():
            known = self._known.get(_key(counted.scope, counted.obj, counted.action))
            # Repeats that the kernel counts by itself have no question behind them; small scopes
            # are cgroup ids, large ones program images.
            fallback = counted.scope if counted.scope < 1 << 40 else 0
            cgroup = known[1] if known else fallback
            text = self._dictionary.text(counted.obj) if self._dictionary else ""
            yield CountRow(cgroup, CLASSES[counted.action & 0xFF].name, text, counted.count)


def _key(scope: int, obj: int, action: int) -> int:
    return scope << 42 | obj << 10 | action
