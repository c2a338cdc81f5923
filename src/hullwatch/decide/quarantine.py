"""A container set apart: by whom, why, how, and what was seen in it when it was."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["How", "Quarantine"]


class How(StrEnum):
    """In the order of choice: what one does, the next does too."""

    NETWORK = "network"
    """Cut off from every network; it goes on, and can be looked at."""
    FREEZE = "freeze"
    """Nothing in it runs; memory stays as it is."""
    KILL = "kill"
    """Whatever runs in it is ended, each time it comes back."""


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Times: Unix ns; 0: not yet. state: "" (not seen by the agent), "in force", "gone" (nothing
    of the container is there), "lifted", or "failed: why". seen: processes that were in it when it
    was first applied, JSON."""

    id: str
    container_id: str
    container: str
    how: How
    owner: str
    reason: str
    created: int
    lifted: int = 0
    applied: int = 0
    state: str = ""
    seen: str = "[]"
