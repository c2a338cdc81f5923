"""What a reader learns from SQLite: which pieces of history there are, and whose they are."""

from __future__ import annotations

import difflib
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from hullwatch.store.errors import ContainerUnknown, StoreError, StoreMissing
from hullwatch.store.finding import finding_row
from hullwatch.store.reserve import read_reserve
from hullwatch.store.schema import TIME
from hullwatch.store.segments import Segment, listing, wanted
from hullwatch.store.state import connect
from hullwatch.store.tables import MIGRATIONS, unsigned
from hullwatch.store.tail import read_tail
from hullwatch.store.views import SideTable

__all__ = ["Catalog", "Scope"]

_ATTEMPTS = 5


class Scope(NamedTuple):
    """A container by whatever name it was asked for: its cgroups by boot, and its ids."""

    cgroups: frozenset[tuple[int, int]]
    containers: frozenset[str]


class Catalog:
    """Read-only. Open with StoreMissing or StoreError."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        path = self.root / "state.db"
        try:
            if not path.exists():
                raise StoreMissing(
                    self.root, "no store here", "start `hullwatch up`, or give --store DIR"
                )
            self.link = connect(path)
            version = self.link.execute("PRAGMA user_version").fetchone()[0]
        except PermissionError as error:
            raise StoreError(self.root, "permission denied", "run as root") from error
        except sqlite3.Error as error:
            raise StoreError(path, str(error), "is it a store? is it readable?") from error
        if version == 0 or version > len(MIGRATIONS):
            raise StoreError(
                path,
                f"schema {version}, this Hullwatch reads 1 to {len(MIGRATIONS)}",
                "use the version that made it",
            )

    def close(self) -> None:
        self.link.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.link.execute(sql, values).fetchall()

    def segments(
        self,
        since: int | None = None,
        until: int | None = None,
        cgroups: frozenset[int] | None = None,
    ) -> list[Segment]:
        return wanted(listing(self.link), since, until, cgroups)

    def pick(
        self, since: int | None, until: int | None, cgroups: frozenset[int] | None
    ) -> tuple[list[Segment], list[pa.RecordBatch], list[str]]:
        """Parquet segments, the batches of the tails, and what of these cannot be read.

        All of one moment: a tail may turn into Parquet while we look; then we look again.
        """
        for _ in range(_ATTEMPTS):
            chosen = self.segments(since, until, cgroups)
            batches: list[pa.RecordBatch] = []
            warnings: list[str] = []
            gone = False
            for segment in chosen:
                if segment.kind != "tail":
                    continue
                path = segment.path(self.root)
                try:
                    found, scan = read_tail(path)
                except FileNotFoundError:
                    gone = True
                    warnings.append(f"{path}: file is missing; its events cannot be shown")
                    continue
                batches += found
                if missing := segment.rows - scan.rows if segment.state == "sealed" else 0:
                    warnings.append(
                        f"{path}: damaged: {missing} of {segment.rows} events unreadable"
                    )
            if not gone:
                break
        return [segment for segment in chosen if segment.kind == "parquet"], batches, warnings

    def side_table(self, table: SideTable) -> pa.Table:
        """An SQLite table as Arrow, ids unsigned, times as timestamps."""
        there = {name for _, name, *_ in self.rows(f"PRAGMA table_info({table.source})")}
        # A store that no agent of this version has opened lacks newer columns, and tables.
        names = ", ".join(
            f'"{name}"' if name in there else f'NULL AS "{name}"' for name, _ in table.columns
        )
        rows = self.rows(f"SELECT {names} FROM {table.source}") if there else []
        if table.name == "findings":
            rows += self._reserved([name for name, _ in table.columns], {row[0] for row in rows})
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(table.columns)
        return pa.table(
            {
                name: _column(list(values), kind)
                for (name, kind), values in zip(table.columns, columns, strict=True)
            }
        )

    def _reserved(self, names: list[str], known: set[str]) -> list[tuple[Any, ...]]:
        """Findings that wait in the reserve because SQLite could not take them."""
        found: dict[str, tuple[Any, ...]] = {}
        for data in read_reserve(self.root / "reserve"):
            body = msgspec.json.decode(data)
            if body.get("id") in known:
                continue
            row = finding_row(body, None)
            found[body["id"]] = tuple(row[name] for name in names)
        return list(found.values())

    def scope(self, text: str) -> Scope:
        """A container by id (or its beginning), name, pod or namespace/pod; ContainerUnknown."""
        rows = self.rows(
            """SELECT boot, cgroup, container_id FROM workloads
            WHERE name = ?1 OR pod = ?1 OR namespace || '/' || pod = ?1
               OR (length(?1) >= 4 AND substr(container_id, 1, length(?1)) = ?1)
               OR container_id = ?1 OR CAST(cgroup AS TEXT) = ?1""",
            text,
        )
        if not rows:
            raise ContainerUnknown(f"container {text!r}", "not known here", self._hint(text))
        return Scope(
            frozenset((boot, unsigned(cgroup)) for boot, cgroup, _ in rows),
            frozenset(ident for _, _, ident in rows if ident),
        )

    def _hint(self, text: str) -> str:
        names = [
            name
            for (name,) in self.rows(
                "SELECT DISTINCT coalesce(name, substr(container_id, 1, 12)) FROM workloads"
                " WHERE container_id != '' ORDER BY updated DESC LIMIT 500"
            )
            if name
        ]
        close = difflib.get_close_matches(text, names, 3) or names[:5]
        return "known: " + ", ".join(close) if close else "no container has been seen yet"


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == TIME:
        return pa.array([v // 1000 if v is not None else None for v in values], pa.int64()).view(
            TIME
        )
    if kind == pa.uint64():
        return pa.array([unsigned(v) if v is not None else None for v in values], kind)
    if kind == pa.bool_():
        return pa.array([bool(v) if v is not None else None for v in values], kind)
    return pa.array(values, kind)
