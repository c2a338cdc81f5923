"""What a store's baselines have, for policies that are asked without an agent."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from hullwatch.cli.profiles import read_all
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.question import Value
from hullwatch.permits.doorkeeper import Doorkeeper
from hullwatch.permits.messages import ACTIONS
from hullwatch.store.errors import StoreError

__all__ = ["Normal"]

_LOOKED = 5.0  # s between two looks at the store


class Normal:
    """store: of an agent, which learns; it may be away, or come later."""

    def __init__(self, store: Path, keeper: Doorkeeper) -> None:
        from hullwatch.detect.baseline.baselines import Baselines  # whose numpy takes its time

        self._store, self._keeper = store, keeper
        self._baselines = Baselines()
        self._held: dict[str, object] = {}  # by image, as it was read
        self._told: dict[str, int] = {}  # by image, edition
        self._due = 0.0
        self._problem = ""

    @classmethod
    def asked_by(cls, engine: Engine, store: Path, keeper: Doorkeeper) -> Normal | None:
        """None: no policy reads what baselines have."""
        reads = frozenset[str]().union(*(engine.reads(action) for action in ACTIONS))
        return None if reads.isdisjoint(("first_seen", "baseline")) else cls(store, keeper)

    def look(self) -> str:
        """As often as you like. Why nothing can be read, once; then what was read counts."""
        if time.monotonic() < self._due:
            return ""
        self._due = time.monotonic() + _LOOKED
        try:
            found = read_all(self._store)
        except (StoreError, sqlite3.Error) as error:
            before, self._problem = self._problem, str(error)
            return "" if before else f"baselines are not known, or not what is new: {error}"
        self._problem = ""
        for profile, entries in found:
            last = max((one.first for one in entries), default=0)
            held = profile, len(entries), last, sum(one.tried for one in entries)
            if self._held.get(profile.image) != held:
                self._held[profile.image] = held
                self._baselines.load(profile, entries)
        return ""

    def tell(self, workload: Workload, facts: dict[str, Value]) -> str:
        """Adds the state to what is known of a container, tells the doorkeeper the rest, and gives
        the key of its image."""
        known = self._baselines.known(workload)
        assert known is not None  # no edition was named
        facts["baseline"] = known.state
        new = known.image and self._told.get(known.image) != known.edition
        if new and self._keeper.normal(known):
            self._told[known.image] = known.edition
        return known.image
