"""Which rules agents have loaded, since when, and which of them cannot match here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from hullwatch.store.state import State

__all__ = ["LoadedRule", "put", "silent"]


class LoadedRule(NamedTuple):
    """never: why it cannot match on this tier; '' if it can."""

    name: str
    hash: str
    never: str = ""


def put(state: State, rules: Iterable[LoadedRule], moment: int) -> None:
    """An agent runs these from now on. A rule that means something else now begins anew."""
    with state.transaction() as link:
        link.executemany(
            """INSERT INTO rules VALUES (?1, ?2, ?4, ?4, ?3) ON CONFLICT (name) DO UPDATE SET
                since = CASE WHEN hash = excluded.hash THEN since ELSE excluded.since END,
                hash = excluded.hash, loaded = excluded.loaded, never = excluded.never""",
            [(*rule, moment) for rule in rules],
        )


def silent(link: sqlite3.Connection, since: int) -> tuple[int, int]:
    """(rules loaded since before then that have not fired after it, rules that cannot match)
    of those that the last agent ran."""
    rows = link.execute(
        """SELECT r.never != '', r.since <= ?1 AND NOT EXISTS (
            SELECT 1 FROM findings f WHERE f.rule = r.name AND f.last >= ?1)
        FROM rules r WHERE r.loaded = (SELECT max(loaded) FROM rules)""",
        (since,),
    ).fetchall()
    return sum(quiet and not never for never, quiet in rows), sum(never for never, _ in rows)
