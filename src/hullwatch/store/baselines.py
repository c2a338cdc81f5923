"""Baselines in SQLite: the agent adds what it learns, the command line judges and may add, too.

Both may write at any time: of an entry the first time only gets earlier, the last later, the count
higher, the containers more, so neither undoes the other's work. A person's decision raises the
row's `revision`; the agent sees that and reads the image anew.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping

import msgspec

from hullwatch.detect.baseline.profile import CONTAINERS, LEARNING
from hullwatch.detect.baseline.values import Changes, EntryRow, ProfileRow

__all__ = ["entries_of", "forget", "judge", "news", "profiles", "put"]

_PROFILE = "image, name, first, learning, locked, accepted, revision"


def profiles(link: sqlite3.Connection) -> list[ProfileRow]:
    """All images, by name."""
    rows = link.execute(f"SELECT {_PROFILE} FROM baselines ORDER BY name, image")
    return [
        ProfileRow(image, name, first, learning, locked, _patterns(accepted), revision)
        for image, name, first, learning, locked, accepted, revision in rows
    ]


def entries_of(link: sqlite3.Connection, image: str) -> list[EntryRow]:
    """What an image has done, in the order in which it was first seen."""
    ids = _containers(link, image)
    rows = link.execute(
        "SELECT image, kind, name, first, last, count, containers, sure FROM baseline_entries"
        " WHERE image = ? ORDER BY first, kind, name",
        (image,),
    )
    return [
        EntryRow(of, kind, name, first, last, count, _ids(ids, int(containers, 16)), sure)
        for of, kind, name, first, last, count, containers, sure in rows
    ]


def put(link: sqlite3.Connection, changes: Changes) -> None:
    """Add what was learnt; within the caller's transaction."""
    link.executemany("DELETE FROM baselines WHERE image = ?", [(x,) for x in changes.dropped])
    link.executemany(
        "DELETE FROM baseline_entries WHERE image = ?", [(x,) for x in changes.dropped]
    )
    link.executemany(
        "DELETE FROM baseline_entries WHERE image = ? AND kind = ? AND name = ?", changes.gone
    )
    link.executemany(
        """INSERT INTO baselines (image, name, first, learning, revision) VALUES (?,?,?,?,0)
        ON CONFLICT (image) DO UPDATE SET name = excluded.name,
            first = CASE WHEN first = 0 THEN excluded.first ELSE min(first, excluded.first) END""",
        [(one.image, one.name, one.first, one.learning) for one in changes.profiles],
    )
    by_image: dict[str, list[EntryRow]] = {}
    for entry in changes.entries:
        by_image.setdefault(entry.image, []).append(entry)
    for image, entries in by_image.items():
        _put_entries(link, image, entries)


def _put_entries(link: sqlite3.Connection, image: str, entries: list[EntryRow]) -> None:
    # A store may have been begun anew while the agent runs.
    link.execute(
        "INSERT OR IGNORE INTO baselines (image, name, first, learning) VALUES (?,?,?,?)",
        (image, image, min(entry.first for entry in entries), LEARNING),
    )
    ids = _containers(link, image)
    known = {ident: at for at, ident in enumerate(ids)}
    for entry in entries:
        for ident in entry.containers:
            if ident not in known and len(known) < CONTAINERS:
                known[ident] = len(known)
    if len(known) > len(ids):
        link.execute(
            "UPDATE baselines SET containers = ? WHERE image = ?",
            (msgspec.json.encode(list(known)).decode(), image),
        )
    for entry in entries:
        held = link.execute(
            "SELECT containers FROM baseline_entries WHERE image = ? AND kind = ? AND name = ?",
            entry[:3],
        ).fetchone()
        bits = int(held[0], 16) if held else 0
        for ident in entry.containers:
            bits |= 1 << known[ident] if ident in known else 0
        link.execute(
            """INSERT INTO baseline_entries VALUES (?,?,?,?,?,?,?,?)
            ON CONFLICT (image, kind, name) DO UPDATE SET first = min(first, excluded.first),
                last = max(last, excluded.last), count = max(count, excluded.count),
                containers = excluded.containers, sure = CASE
                    WHEN excluded.sure = 0 THEN sure WHEN sure = 0 THEN excluded.sure
                    ELSE min(coalesce(sure, first), excluded.sure) END""",
            (*entry[:6], f"{bits:x}", entry.first if entry.sure is None else entry.sure),
        )


def judge(
    link: sqlite3.Connection,
    image: str,
    locked: int | None,
    accepted: Iterable[tuple[str, str]],
    learning: int = LEARNING,
) -> None:
    """A person's decision about an image; the running agent follows it within a second."""
    link.execute(
        "UPDATE baselines SET locked = ?, accepted = ?, learning = ?, revision = revision + 1"
        " WHERE image = ?",
        (locked, msgspec.json.encode(sorted(accepted)).decode(), learning, image),
    )


def forget(link: sqlite3.Connection, image: str) -> None:
    """All that was learnt goes, and the lock with it; learning begins anew."""
    link.execute("DELETE FROM baseline_entries WHERE image = ?", (image,))
    link.execute(
        "UPDATE baselines SET first = 0, locked = NULL, accepted = '[]', containers = '[]',"
        " revision = revision + 1, forgotten = ? WHERE image = ?",
        (time.time_ns(), image),
    )


def news(link: sqlite3.Connection, known: Mapping[str, int]) -> list[ProfileRow]:
    """Images that somebody has decided about since: known has the revisions that were read."""
    return [row for row in profiles(link) if row.revision != known.get(row.image, 0)]


def _ids(ids: list[str], bits: int) -> tuple[str, ...]:
    return tuple(one for at, one in enumerate(ids) if bits >> at & 1)


def _containers(link: sqlite3.Connection, image: str) -> list[str]:
    row = link.execute("SELECT containers FROM baselines WHERE image = ?", (image,)).fetchone()
    return msgspec.json.decode(row[0], type=list[str]) if row else []


def _patterns(text: str) -> tuple[tuple[str, str], ...]:
    return msgspec.json.decode(text, type=tuple[tuple[str, str], ...])
