"""Questions to the store, answered by DuckDB over Parquet, tails and SQLite, read-only.

Any process may ask while the agent writes. User SQL sees the views and nothing else of the
machine: no files, no extensions, no settings, bounded memory and time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from hullwatch.store.catalog import Catalog, Scope
from hullwatch.store.errors import QueryError
from hullwatch.store.schema import SCHEMA
from hullwatch.store.segments import Segment, quarantine, sound
from hullwatch.store.state import State
from hullwatch.store.views import SIDE_TABLES, VIEWS, raw_events, view_sql

__all__ = ["Answer", "Reader"]

_ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}

_ASKERS_FAULT = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.OutOfMemoryException,
)


class Answer(NamedTuple):
    """rows, whether there were more than asked for, and what the reader must know about them."""

    table: pa.Table
    truncated: bool
    warnings: tuple[str, ...]


class Reader:
    """One look at the store: it sees what was there when it was opened.

    since, until (unix ns) and container leave out segments that cannot hold such rows; rows
    themselves are still the query's to filter. memory: DuckDB's limit. timeout: seconds a query.
    """

    def __init__(
        self,
        root: Path | str,
        since: int | None = None,
        until: int | None = None,
        container: str | None = None,
        memory: str = "1GB",
        timeout: float = 60.0,
    ) -> None:
        self.root = Path(root)
        self.timeout = timeout
        self.memory = memory
        self.warnings: list[str] = []
        self._bad_seqs: set[int] = set()
        self.catalog = Catalog(self.root)
        self.scope: Scope | None = self.catalog.scope(container) if container else None
        self._where = (since, until)
        self._open()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.db.close()
        self.catalog.close()

    def _open(self) -> None:
        cgroups = frozenset(cgroup for _, cgroup in self.scope.cgroups) if self.scope else None
        since, until = self._where
        for _ in range(3):
            segments, batches, unreadable = self.catalog.pick(since, until, cgroups)
            if not self._set_aside(segments, deep=False):
                break
        self.warnings += [text for text in unreadable if text not in self.warnings]
        bad = self._bad_seqs
        segments = [segment for segment in segments if segment.seq not in bad]
        self._segments = segments
        self.db = duckdb.connect(
            config={
                "python_enable_replacements": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "memory_limit": self.memory,
                "temp_directory": "",
                "threads": "2",
            }
        )
        db = self.db
        db.execute("SET TimeZone='UTC'")
        db.register("tail_events", pa.Table.from_batches(batches, schema=SCHEMA))
        for side in SIDE_TABLES:
            db.register(side.name, self.catalog.side_table(side))
        files = [str(segment.path(self.root).resolve()) for segment in segments]
        db.execute("SET allowed_paths=$1", [files])
        db.execute("SET enable_external_access=false")
        db.execute("SET lock_configuration=true")
        db.execute(view_sql("stored_events", raw_events(files)))
        for name, body in VIEWS:
            db.execute(view_sql(name, body))

    def _set_aside(self, segments: Sequence[Segment], deep: bool) -> bool:
        """Quarantine what is broken; True if any was. Only warns where we may not write."""
        found = False
        for segment in segments:
            if segment.seq in self._bad_seqs:
                continue
            reason = sound(self.root, segment, deep)
            if not reason or (now := self._current(segment)) is None or now.file != segment.file:
                continue  # fine, or retention or compaction was faster than we
            found = True
            self._bad_seqs.add(segment.seq)
            place = "left where it is: no permission to move it"
            with contextlib.suppress(Exception):
                state = State(self.root / "state.db")
                try:
                    with state.transaction() as link:
                        quarantine(link, self.root, segment, reason)
                    place = "moved to quarantine/"
                finally:
                    state.close()
            self.warnings.append(
                f"{segment.path(self.root)}: {reason}; skipped with its {segment.rows} events,"
                f" {place}"
            )
        return found

    def _current(self, segment: Segment) -> Segment | None:
        return next((one for one in self.catalog.segments() if one.seq == segment.seq), None)

    # --- asking ---------------------------------------------------------------------------

    def query(self, sql: str, *values: Any, limit: int | None = None) -> Answer:
        """Our own SQL, with values. QueryError on anything that goes wrong."""
        for _ in range(3):
            try:
                return self._run(sql, values, limit)
            except duckdb.Error as error:
                if isinstance(error, _ASKERS_FAULT) and self._all_there():
                    raise _friendly(error) from None
                # A segment may be broken inside: find it, skip it, ask again.
                if not self._set_aside(self._segments, deep=True) and self._all_there():
                    raise _friendly(error) from None
                self.db.close()
                self._open()
        raise QueryError("hunt", "segments keep changing or breaking", "ask again")

    def _all_there(self) -> bool:
        return all(segment.path(self.root).exists() for segment in self._segments)

    def hunt(self, sql: str, limit: int | None = 1000) -> Answer:
        """SQL from outside: one SELECT (or EXPLAIN, DESCRIBE, SHOW, SUMMARIZE)."""
        try:
            statements = duckdb.extract_statements(sql)
        except duckdb.Error as error:
            raise _friendly(error) from None
        if len(statements) != 1:
            raise QueryError("hunt", f"{len(statements)} statements", "give exactly one SELECT")
        if statements[0].type not in _ALLOWED:
            kind = str(statements[0].type).rpartition(".")[2]
            raise QueryError("hunt", f"{kind} is not allowed", "the store is read-only: use SELECT")
        return self.query(sql, limit=limit)

    def _run(self, sql: str, values: tuple[Any, ...], limit: int | None) -> Answer:
        expired = threading.Event()

        def interrupt() -> None:
            expired.set()
            self.db.interrupt()

        timer = threading.Timer(self.timeout, interrupt)
        timer.start()
        try:
            relation = self.db.sql(sql, params=list(values)) if values else self.db.sql(sql)
            if relation is None:
                return Answer(pa.table({}), False, tuple(self.warnings))
            if limit is not None:
                relation = relation.limit(limit + 1)
            table = relation.to_arrow_table()
        except duckdb.InterruptException:
            if not expired.is_set():
                raise KeyboardInterrupt from None
            raise QueryError(
                "hunt",
                f"took longer than {self.timeout:g} s",
                "narrow it with --since or --container, or raise --timeout",
            ) from None
        finally:
            timer.cancel()
        truncated = limit is not None and table.num_rows > limit
        return Answer(
            table.slice(0, limit) if truncated else table, truncated, tuple(self.warnings)
        )

    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Every table a hunt can use: column names and SQL types."""
        found: dict[str, list[tuple[str, str]]] = {}
        for name in [*(name for name, _ in VIEWS), *(side.name for side in SIDE_TABLES)]:
            described = self.db.sql(f"DESCRIBE {name}").fetchall()
            found[name] = [(row[0], row[1]) for row in described]
        return found


def _friendly(error: duckdb.Error) -> QueryError:
    text = str(error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError(
            "hunt",
            "needs more memory than it may use",
            "narrow it with --since or --container; a hunt may aggregate, or raise --memory",
        )
    if isinstance(error, duckdb.PermissionException):
        return QueryError("hunt", "files cannot be read from a hunt", "use the tables of --schema")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Caret lines point into text that one line cannot show.
    kept = [line for line in lines if set(line) != {"^"}]
    mend = "`hullwatch hunt --schema` lists tables and columns"
    return QueryError("hunt", " ".join(kept), mend)
