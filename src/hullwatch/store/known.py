"""Whether an image's baseline holds a file that one of its containers read: what hw.drift and
hw.first_seen say of the event, asked of the store."""

from __future__ import annotations

import sqlite3

from hullwatch.detect.baseline.kinds import BY_NAME
from hullwatch.detect.baseline.objects import ANY, group_of, path_object
from hullwatch.detect.baseline.profile import Profile
from hullwatch.store.baselines import entries_of, profiles

__all__ = ["Known"]

_READ = BY_NAME["read"]
_US = 1_000  # ns: of stored times


class Known:
    """Profiles as they are stored when they are first asked for."""

    def __init__(self, link: sqlite3.Connection) -> None:
        self._link = link
        self._entries: dict[str, dict[str, int]] = {}
        try:
            held = profiles(link)
        except sqlite3.OperationalError:
            held = []  # a store that was made before there were baselines
        self._profiles = {row.image: Profile(*row[:5], frozenset(row.accepted)) for row in held}

    def new(self, image: str, path: str, moment: int) -> bool | None:
        """Outside the locked profile; where none is locked, read then (unix ns, whole µs) and
        never before; 0: when is not known. None: nothing is known of the image or of this, or it
        was being learnt."""
        profile = self._profiles.get(image)
        name = path_object(path)
        first = self._first(image, name) if profile is not None else None
        if profile is None or first is None:
            return None
        if profile.locked is not None:
            return profile.drifts(_READ, name, first)
        if first // _US * _US < moment:
            return False
        return True if moment > profile.first + profile.learning else None

    def _first(self, image: str, name: str) -> int | None:
        """When it was first read, or what it was folded into."""
        held = self._entries.get(image)
        if held is None:
            held = self._entries[image] = {
                row.name: row.first
                for row in entries_of(self._link, image)
                if row.kind == _READ.name
            }
        return held.get(name, held.get(group_of(_READ.name, name), held.get(ANY)))
