"""Baselines as the cases of rules give them:

baseline:
  exec: [/usr/bin/python3]           # kind: names, as `hullwatch baseline show` has them
  locked: true                       # from before the events; default: it is learning
  accepted: {exec: ["/opt/x/*"]}     # with the lock
  age: 86400                         # seconds since the image's first event
  fleet: [{exec: [/usr/bin/git]}]    # other images, the same way
"""

from __future__ import annotations

from typing import Any

from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.kinds import BY_NAME
from hullwatch.detect.baseline.profile import LEARNING
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.detect.errors import RuleError, did_you_mean

__all__ = ["fill"]

_KEYS = {*BY_NAME, "locked", "accepted", "age", "fleet"}
_DAY = 86_400.0


def fill(baselines: Baselines, image: str, given: Any, now: int) -> None:
    """Give an image what it has done before `now` (unix ns); raises RuleError."""
    if not isinstance(given, dict):
        raise RuleError("a baseline is a mapping such as {exec: [/bin/sh], locked: true}")
    for key in given:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise RuleError(f"unknown key '{key}' of a baseline. {hint}".strip())
    if not image:
        raise RuleError("a baseline needs a container with an image or a name")
    begun = now - int(float(given.get("age", _DAY)) * 1e9)
    entries = [
        EntryRow(image, kind, str(name), begun, begun, 1, ("earlier",))
        for kind in BY_NAME
        for name in given.get(kind, ())
    ]
    accepted = tuple(
        (kind, str(name)) for kind, names in (given.get("accepted") or {}).items() for name in names
    )
    locked = now - 1 if given.get("locked") else None
    row = ProfileRow(image, image, begun, LEARNING, locked, accepted, 0)
    baselines.load(row, entries)
    for number, other in enumerate(given.get("fleet") or ()):
        fill(baselines, f"other/image:{number}", other, now)
