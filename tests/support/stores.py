"""Stores for tests: a writer without a compaction process, and a clock that only we move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hullwatch.store.compact import compact
from hullwatch.store.retention import Limits
from hullwatch.store.state import Session
from hullwatch.store.writer import Settings, Writer
from support.enriched import CONTAINER, WALL, Builder

SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def writer(root: Path, clock: Clock | None = None, **settings: Any) -> Writer:
    wanted = {"compaction": False, "reserve_bytes": 64 << 10, "headroom": 0} | settings
    return Writer(
        root, Session(tier="tracepoint", mode="record"), Settings(**wanted), clock or Clock()
    )


def opens(builder: Builder, count: int = 10, name: str = "f") -> Any:
    process = builder.process(100)
    for at in range(count):
        builder.event("open", process, f"/data/{name}{at}")
    return builder.build()


def finding(ident: str = "f1", **fields: Any) -> dict[str, Any]:
    return {
        "id": ident,
        "time": WALL,
        "rule": "Read of a secret",
        "priority": "Critical",
        "output": "a secret was read",
        "tags": ["T1552"],
        "container_id": CONTAINER[:12],
        "container_full_id": CONTAINER,
        "processes": [{"pid": 100, "name": "cat", "exepath": "/bin/cat", "cmdline": "cat x"}],
        "count": 1,
        "first": WALL,
        "last": WALL,
    } | fields


def settle(root: Path, session: int | None = None, **limits: int) -> int:
    """Run compaction here and now."""
    return compact(root, Limits(**limits), session)
