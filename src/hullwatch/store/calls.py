"""Calls in SQLite: what the agent was told of them, and what ambiguous spans stand for."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.context.call import Call
from hullwatch.store.story import FILE_CLASSES, is_secret
from hullwatch.store.tables import signed

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["CallRow", "names", "put", "rows"]

_PUT = """INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
    ON CONFLICT (id) DO UPDATE SET
        name = excluded.name, server = excluded.server, client = excluded.client,
        ended = excluded.ended, status = excluded.status, error = excluded.error,
        request_bytes = excluded.request_bytes, response_bytes = excluded.response_bytes,
        body = CASE WHEN excluded.body = '{}' THEN body ELSE excluded.body END"""


def put(
    link: sqlite3.Connection,
    boot: int,
    calls: Iterable[Call],
    sets: Mapping[int, tuple[int, ...]],
) -> None:
    """Insert, or bring up to date what is there; sqlite3.Error."""
    link.executemany(
        _PUT,
        (
            (
                *(call.id, call.kind, call.source, call.name, call.server, call.client),
                *(
                    call.parent,
                    call.pid,
                    signed(call.cgroup),
                    call.begin,
                    call.end or None,
                    call.status,
                    call.error,
                ),
                *(call.request_bytes, call.response_bytes, boot),
                msgspec.json.encode(call.attributes).decode(),
            )
            for call in calls
        ),
    )
    now = time.time_ns()
    link.executemany(
        "INSERT OR IGNORE INTO call_sets VALUES (?,?,?)",
        ((signed(span), call, now) for span, members in sets.items() for call in members),
    )


class CallRow(msgspec.Struct):
    """A call and what it did. certain: of what is counted, events that no other call may have
    caused; ambiguous: those that one of several did. Counts are of distinct things."""

    id: int
    kind: str
    source: str
    name: str
    server: str
    client: str
    parent: int
    pid: int
    cgroup: int
    begun: datetime
    ended: datetime | None
    status: str
    error: str
    request_bytes: int
    response_bytes: int
    attributes: dict[str, Any]
    containers: list[str] = []
    processes: int = 0
    files: int = 0
    secrets: list[str] = []
    destinations: list[str] = []
    bytes_out: int = 0
    certain: int = 0
    ambiguous: int = 0
    findings: list[str] = []


_COLUMNS = ", ".join(CallRow.__struct_fields__[:15])
_OBJECTS = 200_000


def rows(reader: Reader, where: str, limit: int) -> tuple[list[CallRow], bool]:
    """The newest calls that `where` (SQL over calls) selects, oldest first, with what each did;
    whether there are more. QueryError."""
    answer = reader.query(
        f"SELECT {_COLUMNS}, body, container FROM called WHERE {where} ORDER BY begun DESC",
        limit=limit,
    )
    made = {}
    for row in answer.table.to_pylist():
        body, container = row.pop("body") or "{}", row.pop("container")
        containers = [container] if container else []
        made[row["id"]] = CallRow(
            **row, attributes=msgspec.json.decode(body), containers=containers
        )
    if made:
        _deeds(reader, made)
        _found(reader, made)
    return list(reversed(made.values())), answer.truncated


def _deeds(reader: Reader, calls: dict[int, CallRow]) -> None:
    done = reader.query(
        "SELECT call, ambiguous, class, object, dest_name, container, boot, proc,"
        " count(*) AS n, count(*) FILTER (ret < 0) AS failed,"
        " sum(CASE WHEN class IN ('flow', 'send') THEN num ELSE 0 END)::BIGINT AS sent"
        " FROM call_events"
        " WHERE list_contains($1::UBIGINT[], call) AND class NOT IN ('call', 'signal')"
        " GROUP BY ALL ORDER BY min(mono)",
        list(calls),
        limit=_OBJECTS,
    )
    files: dict[int, set[str]] = defaultdict(set)
    processes: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for row in done.table.to_pylist():
        call, kind, name = calls[row["call"]], row["class"], row["object"] or ""
        if row["ambiguous"]:
            call.ambiguous += row["n"]
        else:
            call.certain += row["n"]
        if row["container"] and row["container"] not in call.containers:
            call.containers = [*call.containers, row["container"]]
        if kind in ("exec", "fork"):
            processes[call.id].add((row["boot"], row["proc"]))
        elif kind in FILE_CLASSES and row["failed"] < row["n"]:
            files[call.id].add(name)
            if is_secret(name) and name not in call.secrets:
                call.secrets = [*call.secrets, name]
        elif kind in ("connect", "send"):
            end = f"{row['dest_name']} ({name})" if row["dest_name"] else name
            if end not in call.destinations:
                call.destinations = [*call.destinations, end]
        call.bytes_out += row["sent"] or 0
    for ident, call in calls.items():
        call.files, call.processes = len(files[ident]), len(processes[ident])


def _found(reader: Reader, calls: dict[int, CallRow]) -> None:
    found = reader.query(
        "SELECT c.call, f.rule FROM findings f JOIN call_findings c ON c.finding = f.id"
        " WHERE list_contains($1::UBIGINT[], c.call) AND f.suppressed_by IS NULL"
        " GROUP BY ALL ORDER BY min(f.time)",
        list(calls),
    )
    for ident, rule in zip(*found.table.columns, strict=True):
        calls[ident.as_py()].findings = [*calls[ident.as_py()].findings, rule.as_py()]


def names(link: sqlite3.Connection, span: int) -> list[str]:
    """The calls that a span may stand for, in words; [] if none is known."""
    found = link.execute(
        "SELECT id, server, name FROM calls WHERE id = ?1"
        " OR id IN (SELECT call FROM call_sets WHERE span = ?1) ORDER BY begun",
        (signed(span),),
    )
    return [f"{server + ': ' if server else ''}{name} ({id_:016x})" for id_, server, name in found]
