"""Secrets that workloads hold or touched: kinds and places, by whom, in which call, and to where
the same ones talked next. What a secret is, no event holds."""

from __future__ import annotations

import errno
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.agent.secrets.environment import classify_env
from hullwatch.agent.secrets.paths import LIKELY, classify_path
from hullwatch.agent.secrets.services import METADATA_SERVICES
from hullwatch.context.call import AMBIGUOUS
from hullwatch.store.calls import in_words
from hullwatch.store.story import FILE_CLASSES

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["Next", "Seen", "seen"]

ROWS = 50_000
_ACTS = tuple(name for name in FILE_CLASSES if name not in ("mkdir", "rmdir"))
_DONE = f"(ret >= 0 OR ret = -{errno.EINPROGRESS})"
_SERVICES = ", ".join(f"'{address}'" for address in METADATA_SERVICES)
_NO_METADATA = ("53", "123")  # clouds answer DNS and NTP at the same addresses
_WORKLOAD = """CASE WHEN container_state = 'host' THEN ''
    ELSE coalesce(nullif(container_id, ''), 'cgroup ' || cgroup) END AS workload_id,
    CASE WHEN container_state = 'host' THEN ''
    ELSE coalesce(nullif(container, ''), nullif(pod, ''), nullif(container_id[:12], ''),
        'cgroup ' || cgroup) END AS workload"""

# An address is `ip:port` or `[ip]:port`.
_TOUCHED = f"""
SELECT *, CASE WHEN class = 'connect' THEN 'service' ELSE 'file' END AS how FROM events
WHERE ({{where}}) AND (
    (class IN {_ACTS} AND ret >= 0 AND regexp_full_match(object, $1, 's')
        AND NOT list_contains(mark_names, 'dir'))
    OR (class = 'connect' AND {_DONE}
        AND regexp_extract(object, ':([0-9]+)$', 1) NOT IN {_NO_METADATA}
        AND trim(regexp_replace(object, ':[0-9]+$', ''), '[]') IN ({_SERVICES})))
"""
_TOUCHES = f"""
SELECT {_WORKLOAD}, boot, cgroup, span, how, object, coalesce(exe, name) AS program,
    count(*) AS times, min(time) AS first, max(time) AS last
FROM ({_TOUCHED}) GROUP BY ALL ORDER BY first
"""
_HELD = f"""
SELECT {_WORKLOAD}, env_names, coalesce(exe, name) AS program,
    count(*) AS times, min(time) AS first, max(time) AS last
FROM events WHERE ({{where}}) AND class IN ('exec', 'task') AND env_names != '' GROUP BY ALL
"""
# Who came next: the same call, the same process, or one beside it: its parent, its children, its
# siblings. Of a call's, only what that call did is certain, of others' what that process did.
# Touches no further apart than $2 are one, from the first to the last: every event in between has
# one within $2 before it.
_BESIDE = "e.cgroup = t.cgroup AND "
_LINKS = (
    f"{_BESIDE} e.proc = t.proc",
    "e.span = t.span",
    f"{_BESIDE} e.parent = t.proc",
    f"{_BESIDE} e.proc = t.parent",
    f"{_BESIDE} e.parent = t.parent",
)
_PAIRS = " UNION ALL ".join(
    f"""SELECT t.boot, t.cgroup, t.object AS secret, e.object AS address, e.mono, e.tid, e.class,
        e.dest_name, e.num, t.span IS NOT DISTINCT FROM e.span
            AND CASE WHEN t.span IS NULL THEN e.proc = t.proc
                ELSE t.span < {AMBIGUOUS}::UBIGINT END AS same,
        (e.mono - CASE WHEN e.mono > t.latest THEN t.latest ELSE t.mono END) / 1e9 AS after
    FROM t JOIN ends e ON e.boot = t.boot AND {link}
        AND e.mono > t.mono AND e.mono <= t.latest + $2::BIGINT"""
    for link in _LINKS
)
_NEXT = f"""
WITH t AS (
    SELECT boot, cgroup, proc, any_value(parent) AS parent, span, object, min(mono) AS mono,
        max(mono) AS latest
    FROM ({_TOUCHED}) GROUP BY boot, cgroup, proc, span, object, mono // $2::BIGINT
), ends AS (
    SELECT * FROM events WHERE class IN ('connect', 'send', 'flow') AND {_DONE}
        AND regexp_matches(object, '^([0-9.]+|[[][^/]+[]]):[0-9]+$')
), pairs AS (
    SELECT boot, cgroup, secret, address, mono, tid, class, max(dest_name) AS name,
        max(num) AS num, bool_or(same) AS same, min(after) AS after
    FROM ({_PAIRS}) WHERE address != secret GROUP BY ALL
)
SELECT boot, cgroup, secret, address, max(name) AS name, bool_or(same) AS same,
    min(after) AS after,
    sum(CASE WHEN class = 'connect' THEN 0 ELSE num END)::BIGINT AS bytes_out
FROM pairs GROUP BY ALL ORDER BY after
"""


class Next(msgspec.Struct):
    """A destination after a secret was touched. same: the same call's, or of no call the same
    process'; else one's beside it. after: seconds since a touch. bytes_out: of datagrams, and of
    connections that ended in that time, whole."""

    address: str
    name: str | None
    same: bool
    after: float
    bytes_out: int


class Seen(msgspec.Struct):
    """A secret that a workload (its name; "": the host) holds or touched. kind: of a place, see
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
                _add(found, kind, "environment", name, row)
    rows = _ask(reader, _TOUCHES.format(where=where), LIKELY)
    calls = in_words(reader, {row["span"] for row in rows} - {None})
    touched: dict[tuple[int, int, str], Seen] = {}
    for row in rows:
        kind = "cloud_metadata" if row["how"] == "service" else classify_path(row["object"])
        if kind is None:
            continue
        one = _add(found, kind, row["how"], row["object"], row)
        one.calls = _with(one.calls, *calls.get(row["span"], ()))
        touched[row["boot"], row["cgroup"], row["object"]] = one
    if touched:
        for row in _ask(reader, _NEXT.format(where=where), LIKELY, int(within * 1e9)):
            if touch := touched.get((row["boot"], row["cgroup"], row["secret"])):
                _follow(touch, row)
    return sorted(found.values(), key=lambda one: (one.workload, one.first, one.where))


def _ask(reader: Reader, sql: str, *values: Any) -> list[dict[str, Any]]:
    answer = reader.query(sql, *values, limit=ROWS)
    if answer.truncated:
        text = f"only the first {ROWS} touches or destinations are told; a shorter time shows all"
        if text not in reader.warnings:
            reader.warnings.append(text)
    rows: list[dict[str, Any]] = answer.table.to_pylist()
    return rows


def _add(found: dict[Key, Seen], kind: str, how: str, where: str, row: dict[str, Any]) -> Seen:
    key = (row["workload_id"], how, where)
    one = found.get(key)
    if one is None:
        one = found[key] = Seen(row["workload"], kind, how, where, 0, row["first"], row["last"])
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
