"""Calls in SQLite: what the agent was told of them, and what ambiguous spans stand for."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.agent.secrets.paths import classify_path
from hullwatch.context.call import Call
from hullwatch.store.story import FILE_CLASSES
from hullwatch.store.tables import signed

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["CallRow", "events_of", "in_words", "names", "put", "rows"]

_PUT = """INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
    ON CONFLICT (id) DO UPDATE SET
        name = excluded.name, server = excluded.server, client = excluded.client,
        ended = excluded.ended, status = excluded.status, error = excluded.error,
        request_bytes = excluded.request_bytes, response_bytes = excluded.response_bytes,
        body = CASE WHEN excluded.body = '{}' THEN body ELSE excluded.body END
    WHERE calls.pid = excluded.pid AND calls.boot = excluded.boot"""
MAX_SETS = 16_384


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
                *(_whole(call.parent), call.pid, signed(call.cgroup), _whole(call.begin)),
                *(_whole(call.end) or None, call.status, call.error),
                *(_whole(call.request_bytes), _whole(call.response_bytes), boot),
                msgspec.json.encode(call.attributes).decode(),
            )
            for call in calls
        ),
    )
    now = time.time_ns()
    link.executemany(
        "INSERT OR IGNORE INTO call_sets VALUES (?,?,?)",
        ((signed(span), " ".join(map(str, members)), now) for span, members in sets.items()),
    )
    if sets:
        link.execute(
            "DELETE FROM call_sets WHERE seen < (SELECT seen FROM call_sets"
            " ORDER BY seen DESC LIMIT 1 OFFSET ?)",
            (MAX_SETS,),
        )


def _whole(number: int) -> int:
    """As SQLite can hold it."""
    return min(max(number, 0), (1 << 63) - 1)


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


def events_of(calls: Iterable[CallRow]) -> str:
    """SQL of these calls' events: call, ambiguous, and all columns of events."""
    idents = {one.id: one.source for one in calls}
    ids = ", ".join(map(str, idents)) or "0"
    sql = f"SELECT * FROM call_events WHERE call IN ({ids})"
    if told := ", ".join(str(ident) for ident, source in idents.items() if source == "otlp"):
        sql += f" UNION ALL BY NAME SELECT * FROM calls_by_time WHERE call IN ({told})"
    return sql


def _deeds(reader: Reader, calls: dict[int, CallRow]) -> None:
    done = reader.query(
        "SELECT call, ambiguous, class, object, dest_name, container, boot,"
        " CASE WHEN class = 'fork' THEN num ELSE proc END AS proc,"
        " count(*) AS n, count(*) FILTER (ret < 0) AS failed,"
        " sum(CASE WHEN class IN ('flow', 'send') THEN num ELSE 0 END)::BIGINT AS sent"
        f" FROM ({events_of(calls.values())}) WHERE class NOT IN ('call', 'signal')"
        " GROUP BY ALL ORDER BY min(mono)",
        limit=_OBJECTS,
    )
    if done.truncated:
        reader.warnings.append(f"only the first {_OBJECTS} doings of these calls are counted")
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
            if classify_path(name) is not None and name not in call.secrets:
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
    row = link.execute("SELECT calls FROM call_sets WHERE span = ?", (signed(span),)).fetchone()
    idents = row[0].split(" ") if row else [str(signed(span))]
    found = link.execute(
        "SELECT id, server, name FROM calls WHERE id IN"
        f" ({', '.join('?' * len(idents))}) ORDER BY begun",
        [int(ident) for ident in idents],
    )
    return [_words(server, name, ident) for ident, server, name in found]


def _words(server: str, name: str, ident: int) -> str:
    return f"{server + ': ' if server else ''}{name} ({ident:016x})"


def by_time(reader: Reader, finding: str) -> list[str]:
    """The calls of OTLP in whose time a finding's first event was, in words: candidates."""
    found = reader.query(
        "SELECT c.id, c.server, c.name FROM call_findings f JOIN calls c ON c.id = f.call"
        " WHERE f.finding = $1 AND f.by_time ORDER BY c.begun",
        finding,
        limit=64,
    ).table.to_pylist()
    return [_words(row["server"], row["name"], row["id"]) for row in found]


def in_words(reader: Reader, spans: Iterable[int]) -> dict[int, list[str]]:
    """Each span's calls as `server: name (id)`; `~` before those of several that ran at once."""
    named = defaultdict(list)
    for row in reader.query(
        "SELECT s.span, s.ambiguous, c.id, c.name, c.server FROM spans s JOIN calls c"
        " ON c.id = s.call WHERE list_contains($1::UBIGINT[], s.span) ORDER BY c.begun",
        list(spans),
    ).table.to_pylist():
        mark = "~" if row["ambiguous"] else ""
        named[row["span"]].append(mark + _words(row["server"], row["name"], row["id"]))
    return named
