"""Quarantines in SQLite: the command line writes them, a running agent follows within a second."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from hullwatch.decide.quarantine import How, Quarantine
from hullwatch.store.state import State

__all__ = ["add", "keep", "lift", "read"]

_FIELDS = Quarantine.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)


def read(link: sqlite3.Connection, only_open: bool = False) -> list[Quarantine]:
    """All, oldest first; only_open: those for which something is to be done."""
    rows: list[tuple[Any, ...]] = link.execute(
        f"SELECT {_COLUMNS} FROM quarantines WHERE NOT ? OR state != 'lifted' ORDER BY created, id",
        (only_open,),
    ).fetchall()
    named = (dict(zip(_FIELDS, row, strict=True)) for row in rows)
    return [Quarantine(**row | {"how": How(row["how"])}) for row in named]


def add(state: State, one: Quarantine) -> None:
    with state.transaction() as link:
        marks = ", ".join(f":{name}" for name in _FIELDS)
        link.execute(
            f"INSERT INTO quarantines ({_COLUMNS}) VALUES ({marks})", msgspec.structs.asdict(one)
        )
        state.notice(
            "quarantined", f"{one.container} ({one.how}), {one.id} by {one.owner}: {one.reason}"
        )


def keep(state: State, one: Quarantine) -> None:
    """What the agent did about it. That it was lifted meanwhile stays so."""
    with state.transaction() as link:
        link.execute(
            "UPDATE quarantines SET applied = ?, state = ?, seen = ? WHERE id = ?",
            (one.applied, one.state, one.seen, one.id),
        )


def lift(state: State, one: Quarantine, moment: int, owner: str) -> None:
    with state.transaction() as link:
        link.execute("UPDATE quarantines SET lifted = ? WHERE id = ?", (moment, one.id))
        state.notice("quarantine lifted", f"{one.container}, {one.id}, by {owner}")
