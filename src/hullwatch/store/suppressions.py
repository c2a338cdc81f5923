"""Suppressions in SQLite: the command line writes them, a running agent sees it within a second."""

from __future__ import annotations

import sqlite3
from typing import Any

from hullwatch.detect.suppress import Suppression
from hullwatch.store.state import State

__all__ = ["add", "read", "remove"]

_FIELDS = Suppression.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)


def read(link: sqlite3.Connection, since: int = 0) -> list[Suppression]:
    """All that were not removed or expired before `since` (unix ns), oldest first."""
    rows: list[tuple[Any, ...]] = link.execute(
        f"SELECT {_COLUMNS} FROM suppressions WHERE (removed = 0 OR removed >= ?1)"
        " AND expires >= ?1 ORDER BY created, id",
        (since,),
    ).fetchall()
    return [Suppression(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


def add(state: State, one: Suppression) -> None:
    with state.transaction() as link:
        marks = ", ".join(f":{name}" for name in _FIELDS)
        values = {name: getattr(one, name) for name in _FIELDS}
        link.execute(f"INSERT INTO suppressions ({_COLUMNS}) VALUES ({marks})", values)
        state.notice("suppressed", f"{one.id} by {one.owner}: {one.rule}: {one.reason}")


def remove(state: State, ident: str, moment: int) -> None:
    """Takes it back; findings go on naming it, so its row stays."""
    with state.transaction() as link:
        link.execute("UPDATE suppressions SET removed = ? WHERE id = ?", (moment, ident))
        state.notice("unsuppressed", f"{ident} was removed: what it kept quiet is told again")
