"""From the rules back into the kernel: what no rule can match is counted there, not sent.

Asked once per distinct (container, action, object), or per program where the answer depends on it.
Classes with two objects (rename, link, symlink) are always sent: a rule may be about either.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hullwatch.context.enriched import Enriched
from hullwatch.detect.engine import Engine
from hullwatch.sensor.dictionary import Dictionary
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
_MAX_KNOWN = 1 << 15
_WRITE_FLAGS = 3  # O_ACCMODE
_DESTINED = classes_mask((Class.CONNECT, Class.SEND))
_NAMING = classes_mask((Class.DNS, Class.TLS))


class _Destinations:
    """Verdicts that were given for the name that an address had: it may get another one."""

    def __init__(self) -> None:
        # (cgroup, address) -> its name, and the (scope, object, action) that were answered for it
        self._held: dict[tuple[int, str], tuple[str, set[tuple[int, int, int]]]] = {}

    def add(self, cgroup: int, address: str, name: str, asked: tuple[int, int, int]) -> bool:
        """False: there are too many."""
        held = self._held.get((cgroup, address))
        if held is None or held[0] != name:
            if len(self._held) >= _MAX_KNOWN:
                return False
            held = self._held[cgroup, address] = (name, held[1] if held else set())
        held[1].add(asked)
        return True

    def renamed(self, cgroup: int, address: str, name: str) -> set[tuple[int, int, int]]:
        """What was answered for another name than this one, and is not true any more."""
        held = self._held.get((cgroup, address))
        if held is None or held[0] == name:
            return set()
        del self._held[cgroup, address]
        return held[1]

    def clear(self) -> None:
        self._held.clear()


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
        self._destinations = _Destinations()
        self._generation = engine.baselines.generation
        self.asked = 0

    def void_all(self) -> None:
        """The rules have changed, or what is normal has."""
        self._known.clear()
        self._destinations.clear()
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
        naming = events[_NAMING[events["cls"]]]
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
        given: set[int] = set()
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
                given,
                enriched.names.get(int(row), ""),
            )
        if len(naming):
            self._rename(naming, tables.dictionary)

    def _rename(self, events: np.ndarray, dictionary: Dictionary) -> None:
        """An address that has another name now is another destination to a baseline."""
        for event in events:
            cgroup, name = int(event["cgroup"]), dictionary.text(int(event["obj"]))
            if event["cls"] == Class.TLS:
                addresses = [str(dictionary.address(int(event["obj2"])).ip)]
            else:
                addresses = dictionary.text(int(event["obj2"])).split(" ")
            for address in addresses:
                for scope, obj, action in self._destinations.renamed(cgroup, address, name):
                    self._known.pop(_key(scope, obj, action), None)
                    self._verdicts.put(scope, obj, action, Verdict.REPORT)

    def _answer_one(
        self,
        enriched: Enriched,
        cgroup: int,
        obj: int,
        action: int,
        workload: int,
        image: int,
        given: set[int],
        name: str,
    ) -> None:
        """given: keys that were answered for this batch, whatever the program. name: the
        destination's."""
        tables = enriched.tables
        assert tables is not None
        if tables.workloads.workload(workload).state == "pending":
            return
        cls, write = action & 0xFF, bool(action & ACTION_WRITE)
        key = _key(cgroup, obj, action)
        known = self._known.get(key)
        if known is None:
            self.asked += 1
            self._destined(cgroup, cls, name, (cgroup, obj, action))
            word = self._engine.verdict(cls, write, obj, workload, tables, None, name)
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
            self._destined(cgroup, cls, name, (scope, obj, action))
            word = self._engine.verdict_for_image(
                cls, write, obj, image, workload, tables, None, name
            )
            answer = self._keep(key, _NUMBER[word], cgroup)
        self._verdicts.put(scope, obj, action, answer[0])

    def _destined(self, cgroup: int, cls: int, name: str, asked: tuple[int, int, int]) -> None:
        """Remember that an answer depends on a name, where any rule asks for baselines."""
        if not _DESTINED[cls] or not self._engine.parts.plans[cls].quiet or not self._dictionary:
            return
        ip = str(self._dictionary.address(asked[1]).ip)
        if not self._destinations.add(cgroup, ip, name, asked):
            self.void_all()
            self._destinations.add(cgroup, ip, name, asked)

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
    return scope << 41 | obj << 9 | action
