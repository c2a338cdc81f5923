"""Secrets that workloads hold or touched: kinds and places, by whom, in which call, and to where
the same ones talked next. What a secret is, no event holds."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.agent.secrets.environment import classify_env
from hullwatch.agent.secrets.paths import LIKELY, classify_path
from hullwatch.agent.secrets.services import METADATA_SERVICES
from hullwatch.context.call import AMBIGUOUS
from hullwatch.store.story import FILE_CLASSES

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["Next", "Seen", "seen"]

ROWS = 50_000
_REACHED = f"(ret >= 0 OR ret = -{errno.EINPROGRESS})"
_SERVICES = ", ".join(f"'{address}'" for address in METADATA_SERVICES)

# An address is `ip:port` or `[ip]:port`.
_TOUCHED = f"""
SELECT *, CASE WHEN class = 'connect' THEN 'service' ELSE 'file' END AS how FROM events
WHERE ({{where}}) AND (
    (class IN {FILE_CLASSES} AND ret >= 0 AND regexp_full_match(object, $1, 's'))
    OR (class = 'connect' AND {_REACHED}
        AND trim(regexp_replace(object, ':[0-9]+$', ''), '[]') IN ({_SERVICES})))
"""
_TOUCHES = f"""
SELECT coalesce(container, '') AS workload, boot, cgroup, proc, span, how, object,
    any_value(coalesce(exe, name)) AS program, count(*) AS times,
    min(time) AS first, max(time) AS last
FROM ({_TOUCHED}) GROUP BY ALL ORDER BY first
"""
_HELD = """
SELECT coalesce(container, '') AS workload, env_names, any_value(coalesce(exe, name)) AS program,
    count(*) AS times, min(time) AS first, max(time) AS last
FROM events WHERE ({where}) AND class IN ('exec', 'task') AND env_names != '' GROUP BY ALL
"""
# Who came next: the same call, the same process, or one beside it: its parent, its children, its
# siblings. Of a call's, only what that call did is certain, of others' what that process did.
_NEXT = f"""
WITH t AS (
    SELECT boot, cgroup, proc, any_value(parent) AS parent, span, object, min(mono) AS mono
    FROM ({_TOUCHED}) GROUP BY ALL
)
SELECT t.boot, t.proc, t.span, t.object AS secret, e.object AS address,
    max(e.dest_name) AS name,
    bool_or(CASE WHEN t.span IS NULL THEN e.span IS NULL AND e.proc = t.proc
        ELSE e.span = t.span AND t.span < {AMBIGUOUS}::UBIGINT END) AS same,
    min(e.mono - t.mono) / 1e9 AS after,
    sum(CASE WHEN e.class IN ('flow', 'send') THEN e.num ELSE 0 END)::BIGINT AS bytes_out
FROM t JOIN events e ON e.boot = t.boot AND e.cgroup = t.cgroup
    AND e.mono > t.mono AND e.mono <= t.mono + $2::BIGINT
    AND (e.proc = t.proc OR e.span = t.span OR e.parent = t.proc OR e.proc = t.parent
        OR e.parent = t.parent)
WHERE e.class IN ('connect', 'send', 'flow') AND e.object != t.object
    AND (e.ret >= 0 OR e.ret = -{errno.EINPROGRESS})
GROUP BY ALL ORDER BY after
"""


class Next(msgspec.Struct):
    """A destination after a secret was touched. same: the same call's, or of no call the same
    process'; else one's beside it. after: seconds. bytes_out: sent to it in that time."""

    address: str
    name: str | None
    same: bool
    after: float
    bytes_out: int


class Seen(msgspec.Struct):
    """A secret that a workload ("": the host) holds or touched. kind: see `secrets kinds` and
    docs/secrets.md. how: file, environment (where: the variable), service (of metadata)."""

    workload: str
    kind: str
    how: str
    where: str
    times: int
    first: datetime
    last: datetime
    programs: list[str] = []
    calls: list[str] = []
    """In words; `~` before those of which one, and it is not known which, did it."""
    then: list[Next] = []


Key = tuple[str, str, str]


def seen(reader: Reader, where: str = "TRUE", within: float = 60) -> list[Seen]:
    """All that events tell which `where` (SQL over events) selects, by workload and first time.

    within: seconds after a touch in which a destination counts as next. QueryError."""
    found: dict[Key, Seen] = {}
    for row in _ask(reader, _HELD.format(where=where)):
        for name in row["env_names"].split():
            if kind := classify_env(name):
                _add(found, row["workload"], kind, "environment", name, row)
    rows = _ask(reader, _TOUCHES.format(where=where), LIKELY)
    calls = _calls(reader, {row["span"] for row in rows} - {None})
    touches: dict[tuple[int, int, int | None, str], list[Seen]] = defaultdict(list)
    for row in rows:
        kind = "cloud_metadata" if row["how"] == "service" else classify_path(row["object"])
        if kind is None:
            continue
        one = _add(found, row["workload"], kind, row["how"], row["object"], row)
        one.calls = _with(one.calls, *calls.get(row["span"], ()))
        touches[row["boot"], row["proc"], row["span"], row["object"]].append(one)
    if touches:
        for row in _ask(reader, _NEXT.format(where=where), LIKELY, int(within * 1e9)):
            for one in touches.get((row["boot"], row["proc"], row["span"], row["secret"]), ()):
                _follow(one, row)
    return sorted(found.values(), key=lambda one: (one.workload, one.first, one.where))


def _ask(reader: Reader, sql: str, *values: Any) -> list[dict[str, Any]]:
    answer = reader.query(sql, *values, limit=ROWS)
    if answer.truncated:
        text = f"only the first {ROWS} touches or destinations are told; a shorter time shows all"
        if text not in reader.warnings:
            reader.warnings.append(text)
    rows: list[dict[str, Any]] = answer.table.to_pylist()
    return rows


def _add(
    found: dict[Key, Seen], workload: str, kind: str, how: str, where: str, row: dict[str, Any]
) -> Seen:
    key = (workload, how, where)
    one = found.get(key)
    if one is None:
        one = found[key] = Seen(workload, kind, how, where, 0, row["first"], row["last"])
    one.times += row["times"]
    one.first, one.last = min(one.first, row["first"]), max(one.last, row["last"])
    one.programs = _with(one.programs, row["program"] or "?")
    return one


def _with(names: list[str], *more: str) -> list[str]:
    return names + [name for name in more if name not in names]


def _follow(one: Seen, row: dict[str, Any]) -> None:
    for known in one.then:
        if known.address == row["address"]:
            known.same |= row["same"]
            known.after = min(known.after, row["after"])
            known.bytes_out += row["bytes_out"]
            return
    one.then = [
        *one.then,
        Next(row["address"], row["name"], row["same"], row["after"], row["bytes_out"]),
    ]


def _calls(reader: Reader, spans: Iterable[int]) -> dict[int, list[str]]:
    """Spans in words."""
    named = defaultdict(list)
    for row in _ask(
        reader,
        "SELECT s.span, s.ambiguous, c.id, c.name, c.server FROM spans s JOIN calls c"
        " ON c.id = s.call WHERE list_contains($1::UBIGINT[], s.span) ORDER BY c.begun",
        list(spans),
    ):
        server = f"{row['server']}: " if row["server"] else ""
        mark = "~" if row["ambiguous"] else ""
        named[row["span"]].append(f"{mark}{server}{row['name']} ({row['id']:016x})")
    return named
