"""What the kernel counted instead of sending it, and what was lost: where history has holes."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import msgspec

from hullwatch.store.catalog import Catalog
from hullwatch.store.tables import unsigned

__all__ = ["CountedRow", "Holes", "holes", "rule_hashes"]

_MAX_ROWS = 200_000
"""Distinct (container, class, object), the largest counts first."""
_ALWAYS = 1 << 62


class CountedRow(NamedTuple):
    boot: int
    cgroup: int
    cls: str
    object: str
    count: int  # type: ignore[assignment]


class Holes(NamedTuple):
    """counted: by container, class and object; whole: were these all. losses: (stage, class) to
    how many."""

    counted: list[CountedRow]
    whole: bool
    losses: dict[tuple[str, str], int]


def holes(catalog: Catalog, since: int | None, until: int | None) -> Holes:
    """Of the minutes (losses) and hours (counts) that touch the span; unix ns."""
    span = since or 0, until or _ALWAYS
    rows = catalog.rows(
        "SELECT boot, cgroup, class, object, sum(count) FROM counts"
        " WHERE last >= ? AND first <= ? GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT ?",
        *span,
        _MAX_ROWS + 1,
    )
    losses = catalog.rows(
        "SELECT stage, class, sum(count) FROM losses WHERE last >= ? AND first <= ?"
        " GROUP BY 1, 2 ORDER BY 3 DESC",
        *span,
    )
    return Holes(
        [CountedRow(boot, unsigned(cgroup), *rest) for boot, cgroup, *rest in rows[:_MAX_ROWS]],
        len(rows) <= _MAX_ROWS,
        {(stage, cls): count for stage, cls, count in losses},
    )


def rule_hashes(catalog: Catalog, digest: str) -> dict[str, str]:
    """Rule to hash of what it meant, of a set that an agent ran with; empty if not kept."""
    rows = catalog.rows("SELECT value FROM meta WHERE key = ?", f"rules:{digest}")
    with contextlib.suppress(msgspec.DecodeError, IndexError):
        return msgspec.json.decode(rows[0][0], type=dict[str, str])
    return {}
