"""Holds the agent to a CPU budget: a pure decision, stepped once a second by whoever runs it.

Levels, as kernel/wire.h has them (hw_settings.governed):
    0  everything that is wanted is sent
    1  what one program image does to one object is sent once a second, and counted in between
    2  events whose string was never seen before are counted as well
Vital events (processes, privileges, namespaces, denials) pass at every level.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Governor", "GovernorChange"]

_HIGHEST = 2
_SMOOTH = 0.5  # weight of the newest step: a burst of one second is let through
_RELAX = 0.6  # a level is left below this part of the budget: above it, it would be back at once
_UP_STEPS, _DOWN_STEPS = 2, 5
_MAX_DOWN_STEPS = 80
_HELD_STEPS = 30  # a level that lasted this long was no flutter
_MIN_RATE = 200.0  # bulk events a second below which turning them into counts saves nothing


class GovernorChange(NamedTuple):
    """The level changed: at = steps' wall time in s since the start, reason in words."""

    at: float
    old: int
    new: int
    reason: str


class Governor:
    """budget: share of the whole machine, 0.02 = 2 % of all cores; cores: how many there are.
    highest: the level not to go beyond. At 2 a rule may miss a file that nobody opened before, so
    whoever can make load could hide there: only for those who prefer that to the cost.

    A level is raised after two steps above the budget, lowered after five well below it. Where
    lowering is soon followed by raising again, the next time waits longer, so that a load that is
    there to stay does not make the level swing.
    """

    def __init__(self, budget: float = 0.02, cores: int = 1, highest: int = _HIGHEST) -> None:
        if not 0 < budget <= 1 or cores < 1:
            raise ValueError(f"governor: budget {budget} of {cores} cores: want 0 < budget <= 1")
        self._highest = min(highest, _HIGHEST)
        self.allowed = budget * cores
        self.level = 0
        self.share = 0.0
        """Smoothed: CPU seconds used a second of wall time."""
        self._at = 0.0
        self._over = self._under = 0
        self._patience = _DOWN_STEPS
        self._since_down = _HELD_STEPS
        self._changes: list[GovernorChange] = []

    def step(self, cpu_seconds_used: float, wall_seconds: float, bulk_rate: float) -> int:
        """One interval: CPU time used in it, its length, bulk events a second. The level to set."""
        if wall_seconds <= 0:
            return self.level
        self._at += wall_seconds
        self._since_down += 1
        used = max(cpu_seconds_used, 0.0) / wall_seconds
        self.share += _SMOOTH * (used - self.share)
        if self.share > self.allowed and used > self.allowed:
            self._over, self._under = self._over + 1, 0
        elif self.share < self.allowed * _RELAX:
            self._over, self._under = 0, self._under + 1
        else:
            self._over = self._under = 0
        if self._over >= _UP_STEPS and self.level < self._highest:
            # Work that bulk events do not cause is not mended by sending fewer of them.
            if bulk_rate >= _MIN_RATE:
                self._raise(bulk_rate)
        elif self._under >= self._patience and self.level > 0:
            self._lower()
        return self.level

    def changes(self) -> list[GovernorChange]:
        """Those since the last call, oldest first."""
        taken, self._changes = self._changes, []
        return taken

    def _raise(self, bulk_rate: float) -> None:
        if self._since_down < _HELD_STEPS:
            self._patience = min(self._patience * 2, _MAX_DOWN_STEPS)
        else:
            self._patience = _DOWN_STEPS
        self._set(
            self.level + 1,
            f"{self.share:.1%} of a core used, {self.allowed:.1%} allowed, "
            f"at {bulk_rate:.0f} bulk events a second",
        )

    def _lower(self) -> None:
        self._since_down = 0
        self._set(
            self.level - 1, f"{self.share:.1%} of a core used, {self.allowed:.1%} allowed again"
        )

    def _set(self, level: int, reason: str) -> None:
        self._changes.append(GovernorChange(round(self._at, 3), self.level, level, reason))
        self.level = level
        self._over = self._under = 0
