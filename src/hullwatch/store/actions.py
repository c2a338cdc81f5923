"""What containers did, grouped by what is asked about it: equal events are one row.

SQL for `Reader.query`. In all of it $1 and $2 are the boots and cgroups that are meant, pair by
pair, $3 and $4 the span of time in unix µs, the end not in it; DuckDB wants each to be there.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from hullwatch.context.call import AMBIGUOUS
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.wire import Class, Mark, ProcMark

__all__ = ["QUARTER", "counted", "done", "names", "strangers", "unproved"]

QUARTER = 15 * 60
"""s: the hour and the day, in whatever zone, are the same within it."""
_MOST_COUNTED = 200_000

_MINE = "mine AS (SELECT unnest($1::INT[]) AS boot, unnest($2::UBIGINT[]) AS cgroup)"
_SPAN = "time >= make_timestamptz($3) AND time < make_timestamptz($4)"
_DONE = f"""(class = 'mmap' OR coalesce(ret, 0) >= 0 OR marks & {int(Mark.ATTEMPT)} != 0
    OR (class = 'connect' AND ret = -{errno.EINPROGRESS}))"""
_UPPER = f"""CASE WHEN class = 'exec' THEN CASE WHEN proc_marks & {int(ProcMark.UPPER)} != 0 THEN
    true END WHEN marks & {int(Mark.UPPER)} != 0 THEN true
    WHEN marks & {int(Mark.LOWER)} != 0 THEN false END"""
_AFTER_EXEC = "coalesce(before.exe, above.exe)"


def _listed(classes: Collection[int]) -> str:
    return ", ".join(f"'{CLASSES[cls].name}'" for cls in sorted(classes))


def done(classes: Collection[int], words: Collection[str], by_program: Collection[int]) -> str:
    """What was done, and did not fail.

    words: attributes that are read of it; of the others a row holds NULL, so that fewer rows
    differ. by_program: classes in which the program that acts always counts. Of an exec, program
    is the one that it replaced, or that of the parent; of a TLS hello, object is the server's end,
    and said the name. first, last: unix µs; first_of: the first.
    """
    acts = f"class IN ({_listed(by_program)})" if by_program else "false"
    if "program" in words:
        acts = "true"
    exec_too = Class.EXEC in classes and "program" in words
    joins = ""
    if "parent" in words or exec_too:
        joins += _joined("above", "e.parent", "<=")
    if exec_too:
        joins += _joined("before", "e.proc", "<")
    program = f"CASE WHEN class = 'exec' THEN {_AFTER_EXEC} ELSE e.exe END" if exec_too else "e.exe"
    known = {
        "program": f"CASE WHEN {acts} THEN {program} END",
        "comm": f"CASE WHEN class != 'exec' AND ({acts}) THEN name END",
        "parent": "above.exe" if "parent" in words else "NULL",
        "command": "CASE WHEN class = 'exec' THEN object2 END" if "command" in words else "NULL",
        "uid": "euid" if "uid" in words else "NULL",
        "labels": "labels" if "labels" in words else "NULL",
        "upper": _UPPER if "upper" in words else "NULL::BOOL",
        "span": f"CASE WHEN span < {AMBIGUOUS}::UBIGINT THEN span END"
        if not {"tool_call", "server"}.isdisjoint(words)
        else "NULL",
        "quarter": f"epoch_us(time) // {QUARTER * 10**6}"
        if not {"hour", "weekday"}.isdisjoint(words)
        else "NULL",
        "dest": "dest_name" if "first_seen" in words else "NULL",
        "access": "CASE WHEN class = 'open' THEN flags & 3 END",
        "setuid": f"class = 'exec' AND proc_marks & {int(ProcMark.SETID)} != 0 AND uid != euid",
        "said": "CASE WHEN class = 'tls' THEN object END",
        "directory": f"class = 'open' AND marks & {int(Mark.DIR)} != 0",
    }
    columns = ",\n        ".join(f"{sql} AS {name}" for name, sql in known.items())
    return f"""
    WITH {_MINE}, images AS (SELECT boot, proc, mono, exe FROM stored_events
        WHERE class IN ('exec', 'task') AND time < make_timestamptz($4)),
    e AS (SELECT * FROM stored_events JOIN mine USING (boot, cgroup)
        WHERE {_SPAN} AND class IN ({_listed(classes)}) AND {_DONE}),
    told AS (SELECT e.boot, e.cgroup, e.class,
        coalesce(CASE WHEN class = 'tls' THEN e.object2 ELSE e.object END, '') AS object,
        {columns},
        e.time AS time, e.mono AS mono,
        {{'pid': e.pid, 'process': coalesce(e.cmdline, e.name), 'span': e.span}} AS one
        FROM e {joins})
    SELECT * EXCLUDE (time, mono, one), count(*) AS n, epoch_us(min(time)) AS first,
        epoch_us(max(time)) AS last, arg_min(one, mono) AS first_of
    FROM told GROUP BY ALL ORDER BY first"""


def _joined(name: str, whose: str, sign: str) -> str:
    """The program that a process ran at that time."""
    return f""" ASOF LEFT JOIN images {name} ON {name}.boot = e.boot AND {name}.proc = {whose}
        AND {name}.mono {sign} e.mono"""


_TOLD = f"""{_MINE}, e AS (SELECT * FROM stored_events JOIN mine USING (boot, cgroup)
        WHERE time < make_timestamptz($4) AND class IN ('dns', 'tls', 'connect', 'send')),
    dns AS (SELECT boot, cgroup, object AS name, unnest(string_split(object2, ' ')) AS address, time
        FROM e WHERE class = 'dns' AND flags & 1 = 1 AND object2 != ''),
    tls AS (SELECT boot, cgroup, object AS name FROM e WHERE class = 'tls' AND object != ''),
    ends AS (SELECT boot, cgroup, dest_name AS name, object AS address, time FROM e
        WHERE class IN ('connect', 'send') AND dest_name != '' AND {_DONE})"""
"""A destination's name may be what a TLS client said, which is for itself to choose."""


def names() -> str:
    """Names that DNS told containers for addresses, with when first (unix µs), even before the
    span. address: maybe with a port."""
    return f"""
    WITH {_TOLD}, told AS (SELECT * FROM dns
        UNION ALL SELECT * FROM ends ANTI JOIN tls USING (boot, cgroup, name))
    SELECT boot, cgroup, address, name, epoch_us(min(time)) AS first FROM told
    WHERE $3 IS NOT NULL GROUP BY ALL"""


def unproved() -> str:
    """Destinations, with how often, whose names are only what TLS clients said."""
    return f"""
    WITH {_TOLD} SELECT address, count(*) AS n FROM ends SEMI JOIN tls USING (boot, cgroup, name)
        ANTI JOIN dns USING (boot, cgroup, name) WHERE $3 IS NOT NULL GROUP BY ALL"""


def strangers(classes: Collection[int]) -> str:
    """How many events are of containers that are none of those that are meant."""
    return f"""
    WITH {_MINE} SELECT count(*) AS n FROM stored_events e ANTI JOIN mine USING (boot, cgroup)
    WHERE {_SPAN} AND class IN ({_listed(classes)}) AND container_id IS DISTINCT FROM ''"""


def counted(classes: Collection[int]) -> str:
    """What was counted instead of kept. kept: whether an event like it was, in that time."""
    return f"""
    WITH {_MINE}, c AS (SELECT boot, cgroup, class, object, sum(count)::BIGINT AS n
        FROM counts JOIN mine USING (boot, cgroup)
        WHERE last >= make_timestamptz($3) AND first < make_timestamptz($4)
            AND class IN ({_listed(classes)}) GROUP BY ALL)
    SELECT c.*, EXISTS (SELECT 1 FROM stored_events e WHERE e.boot = c.boot
        AND e.cgroup = c.cgroup AND e.class = c.class AND e.object = c.object AND {_SPAN}) AS kept
    FROM c ORDER BY n DESC LIMIT {_MOST_COUNTED}"""
