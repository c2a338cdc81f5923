"""Profiles for `hullwatch baseline`: found in the store by what people call an image."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.show import iso

if TYPE_CHECKING:
    from hullwatch.detect.baseline.values import EntryRow, ProfileRow

__all__ = ["Found", "changing", "entry_value", "find", "find_seen", "profile_value", "read_all"]


class Found(NamedTuple):
    profile: ProfileRow
    entries: list[EntryRow]


def read_all(store: Path) -> list[Found]:
    from hullwatch.store.baselines import entries_of, profiles
    from hullwatch.store.catalog import Catalog

    with Catalog(store) as catalog:
        try:
            return [
                Found(row, entries_of(catalog.link, row.image)) for row in profiles(catalog.link)
            ]
        except sqlite3.OperationalError:
            return []  # a store that was made before there were baselines


def find(store: Path, text: str) -> Found:
    """The one profile that is meant; CommandError says which there are."""
    return _one(text, read_all(store), "hullwatch baseline list")


def find_seen(store: Path, text: str) -> Found:
    """The same, or an empty one for an image that containers have run."""
    from hullwatch.detect.baseline.profile import LEARNING
    from hullwatch.detect.baseline.values import ProfileRow
    from hullwatch.store.behaviour import IMAGE
    from hullwatch.store.catalog import Catalog

    held = read_all(store)
    with Catalog(store) as catalog:
        seen = catalog.rows(
            f"SELECT DISTINCT {IMAGE}, coalesce(nullif(image, ''), name) FROM workloads"
            f" WHERE state = 'resolved' AND {IMAGE} IS NOT NULL"
        )
    known = {found.profile.image for found in held}
    for key, name in seen:
        if key not in known:
            known.add(key)
            held.append(Found(ProfileRow(key, name or key, 0, LEARNING, None, (), 0), []))
    return _one(text, held, "hullwatch hunt 'SELECT DISTINCT image FROM workloads'")


def _one(text: str, held: list[Found], listing: str) -> Found:
    for fits in (
        lambda row: text in (row.image, row.image.partition(":")[2]),
        lambda row: text == row.name,
        lambda row: len(text) >= 4 and row.image.partition(":")[2].startswith(text),
        lambda row: text in row.image or text in row.name,
    ):
        close = [found for found in held if fits(found.profile)]
        if len(close) == 1:
            return close[0]
        if close:
            names = ", ".join(f"{one.profile.name} {_key(one.profile)}" for one in close[:5])
            raise CommandError(f"baseline: {text!r} may be: {names}; give the digest's beginning")
    raise CommandError(f"baseline: no image {text!r} here; `{listing}` names them")


def _key(profile: ProfileRow) -> str:
    """A digest by its first 12 digits."""
    kind, colon, digest = profile.image.partition(":")
    return digest[:12] if colon and kind.startswith("sha") else profile.image


@contextlib.contextmanager
def changing(store: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on the store, beside an agent that may be writing."""
    from hullwatch.store.state import State

    try:
        state = State(store / "state.db")
    except sqlite3.Error as error:
        raise CommandError(f"{store}/state.db: {error}; run as root", ExitCode.STORE) from None
    try:
        with state.transaction() as link:
            yield link
    except sqlite3.Error as error:
        raise CommandError(f"{store}/state.db: {error}; try again", ExitCode.STORE) from None
    finally:
        state.close()


def profile_value(found: Found) -> dict[str, Any]:
    from hullwatch.detect.baseline.policy import outside

    profile, entries = found
    locked = profile.locked is not None
    return {
        "image": profile.image,
        "name": profile.name or profile.image,
        "key": _key(profile),
        "state": "locked" if locked else "learning",
        "locked": iso(profile.locked) or None,
        "first": iso(profile.first) if profile.first else None,
        "first_ns": profile.first,
        "learning_seconds": profile.learning / 1e9,
        "accepted": [list(one) for one in profile.accepted],
        "entries": len(entries),
        "kinds": dict(Counter(row.kind for row in entries)),
        "containers": len({ident for row in entries for ident in row.containers}),
        "drift": len(outside(profile, entries, entries)) if locked else 0,
    }


def entry_value(found: Found, row: EntryRow) -> dict[str, Any]:
    return {
        "image": found.profile.image,
        "kind": row.kind,
        "name": row.name,
        "count": row.count,
        "containers": list(row.containers),
        "first": iso(row.first),
        "last": iso(row.last),
        "tried": row.tried,
        "accepted": [row.kind, row.name] in [list(one) for one in found.profile.accepted],
    }
