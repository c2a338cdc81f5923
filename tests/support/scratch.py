"""Where the fixtures keep their things. Images are kept in build/images between runs."""

from __future__ import annotations

import os
from pathlib import Path

from hullwatch.demo import scratch as made
from hullwatch.demo.scratch import (
    MountError,
    is_dead,
    mount,
    poll,
    remove_tree,
    session_name,
    unmount_below,
)

__all__ = [
    "CACHE",
    "MountError",
    "dead_sessions",
    "is_dead",
    "mount",
    "poll",
    "remove_tree",
    "scratch",
    "session",
    "session_name",
    "unmount_below",
]

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "build" / "images"


def scratch() -> Path:
    """The folder of all run-time state."""
    path = Path(os.environ.get("HULLWATCH_TEST_DIR", "/run/hullwatch-test"))
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def session() -> Path:
    """The folder of what this process makes."""
    return made.session_below(scratch())


def dead_sessions() -> list[Path]:
    """Folders of processes that are gone and did not clean up."""
    return made.dead_sessions(scratch())
