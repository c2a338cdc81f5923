"""The names a hunt can use, in SQL. Columns are listed by `hullwatch hunt --schema`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from hullwatch.store.schema import LABEL_NAMES, MARK_NAMES, PROC_MARK_NAMES, TIME

__all__ = ["SIDE_TABLES", "VIEWS", "SideTable", "raw_events", "view_sql"]


class SideTable(NamedTuple):
    """An SQLite table as hunts see it. A `timestamp` column is stored as unix ns."""

    name: str
    source: str
    columns: tuple[tuple[str, pa.DataType], ...]


_TEXT, _BIG, _ID, _INT = pa.string(), pa.int64(), pa.uint64(), pa.int32()

SIDE_TABLES: tuple[SideTable, ...] = (
    SideTable(
        "findings",
        "findings",
        (
            ("id", _TEXT),
            ("time", TIME),
            ("first", TIME),
            ("last", TIME),
            ("count", _BIG),
            ("rule", _TEXT),
            ("priority", _TEXT),
            ("severity", _INT),
            ("output", _TEXT),
            ("tags", _TEXT),
            ("event", _TEXT),
            ("object", _TEXT),
            ("pid", _BIG),
            ("proc", _ID),
            ("cgroup", _ID),
            ("container_id", _TEXT),
            ("container", _TEXT),
            ("image", _TEXT),
            ("pod", _TEXT),
            ("namespace", _TEXT),
            ("span", _ID),
            ("boot", _INT),
            ("suppressed_by", _TEXT),
            ("spans", _TEXT),
            ("body", _TEXT),
        ),
    ),
    SideTable(
        "suppressions",
        "suppressions",
        (
            ("id", _TEXT),
            ("rule", _TEXT),
            ("condition", _TEXT),
            ("owner", _TEXT),
            ("reason", _TEXT),
            ("created", TIME),
            ("expires", TIME),
            ("removed", TIME),
        ),
    ),
    SideTable(
        "quarantines",
        "quarantines",
        (
            ("id", _TEXT),
            ("container_id", _TEXT),
            ("container", _TEXT),
            ("how", _TEXT),
            ("owner", _TEXT),
            ("reason", _TEXT),
            ("created", TIME),
            ("lifted", TIME),
            ("applied", TIME),
            ("state", _TEXT),
        ),
    ),
    SideTable(
        "calls",
        "calls",
        (
            ("id", _ID),
            ("kind", _TEXT),
            ("source", _TEXT),
            ("name", _TEXT),
            ("server", _TEXT),
            ("client", _TEXT),
            ("parent", _ID),
            ("pid", _BIG),
            ("cgroup", _ID),
            ("begun", TIME),
            ("ended", TIME),
            ("status", _TEXT),
            ("error", _TEXT),
            ("request_bytes", _BIG),
            ("response_bytes", _BIG),
            ("boot", _INT),
            ("body", _TEXT),
        ),
    ),
    SideTable("call_sets", "call_sets", (("span", _ID), ("calls", _TEXT), ("seen", TIME))),
    SideTable(
        "workloads",
        "workloads",
        (
            ("boot", _INT),
            ("cgroup", _ID),
            ("state", _TEXT),
            ("container_id", _TEXT),
            ("runtime", _TEXT),
            ("name", _TEXT),
            ("image", _TEXT),
            ("image_repository", _TEXT),
            ("image_tag", _TEXT),
            ("image_digest", _TEXT),
            ("pod", _TEXT),
            ("namespace", _TEXT),
            ("pod_uid", _TEXT),
            ("role", _TEXT),
            ("role_source", _TEXT),
            ("privileged", pa.bool_()),
            ("start_time", TIME),
            ("cgroup_path", _TEXT),
            ("first_seen", TIME),
            ("updated", TIME),
            ("body", _TEXT),
        ),
    ),
    SideTable(
        "losses",
        "losses",
        (
            ("bucket", TIME),
            ("boot", _INT),
            ("stage", _TEXT),
            ("class", _TEXT),
            ("cgroup", _ID),
            ("count", _BIG),
            ("first", TIME),
            ("last", TIME),
        ),
    ),
    SideTable(
        "counts",
        "counts",
        (
            ("bucket", TIME),
            ("boot", _INT),
            ("cgroup", _ID),
            ("class", _TEXT),
            ("object", _TEXT),
            ("count", _BIG),
            ("first", TIME),
            ("last", TIME),
        ),
    ),
    SideTable(
        "notices",
        "notices",
        (("id", _BIG), ("time", TIME), ("mono", _BIG), ("kind", _TEXT), ("text", _TEXT)),
    ),
    SideTable(
        "sessions",
        "sessions",
        (
            ("session", _INT),
            ("boot", _INT),
            ("pid", _INT),
            ("started", TIME),
            ("tier", _TEXT),
            ("kernel", _TEXT),
            ("mode", _TEXT),
            ("rules", _TEXT),
            ("version", _TEXT),
            ("seen", TIME),
            ("ended", TIME),
            ("how", _TEXT),
        ),
    ),
)


def _names_of(column: str, names: Sequence[str]) -> str:
    """SQL for the names of the bits that are set."""
    listed = ", ".join(f"'{name}'" for name in names)
    return f"list_filter([{listed}], lambda m, i: ({column} >> (i - 1)) & 1 = 1)"


# In order: a later one may use an earlier one.
VIEWS: tuple[tuple[str, str], ...] = (
    (
        "events",
        f"""SELECT e.* REPLACE (coalesce(e.container_id, w.container_id) AS container_id),
            w.name AS container, w.image, w.image_digest, w.pod, w.namespace, w.role,
            coalesce(w.state, 'pending') AS container_state,
            {_names_of("e.labels", LABEL_NAMES)} AS label_names,
            {_names_of("e.marks", MARK_NAMES)} AS mark_names,
            {_names_of("e.proc_marks", PROC_MARK_NAMES)} AS proc_mark_names
        FROM stored_events e LEFT JOIN workloads w ON w.boot = e.boot AND w.cgroup = e.cgroup""",
    ),
    (
        "processes",
        """SELECT e.time AS started, x.time AS ended, (x.flags >> 8) & 255 AS exit_code,
            x.flags & 127 AS signal, e.class = 'task' AS was_running, e.pid, e.ppid, e.proc,
            e.parent, e.num2 AS exec_id, e.name, e.exe, e.cmdline, e.object2 AS argv, e.cwd,
            e.env_names, e.script, e.proc_mark_names,
            e.uid, e.euid, e.container_id, e.container, e.image, e.pod,
            e.namespace, e.role, e.cgroup, e.span, e.boot, e.mono
        FROM events e LEFT JOIN (
            SELECT boot, proc, max(time) AS time, arg_max(flags, mono) AS flags
            FROM stored_events WHERE class = 'exit' GROUP BY boot, proc
        ) x ON x.boot = e.boot AND x.proc = e.proc
        WHERE e.class IN ('exec', 'task')""",
    ),
    (
        "spans",
        """SELECT id AS span, id AS call, false AS ambiguous FROM calls
        UNION ALL SELECT span, unnest(string_split(calls, ' '))::UBIGINT, true FROM call_sets""",
    ),
    (
        "called",
        """SELECT c.*, w.container_id, w.name AS container, w.image, w.pod, w.namespace
        FROM calls c LEFT JOIN workloads w ON w.boot = c.boot AND w.cgroup = c.cgroup""",
    ),
    (
        "call_events",
        "SELECT s.call, s.ambiguous, e.* FROM events e JOIN spans s USING (span)",
    ),
    # Of calls that only OTLP told of, when they were over: what their process, its children, or
    # where it is not known their container did in that time and for no other call, less what a call
    # within did. Clocks were read at different moments: a millisecond is allowed for it, where no
    # other call ran.
    (
        "calls_by_time",
        """SELECT * EXCLUDE (inside) FROM (SELECT c.id AS call,
            e.time BETWEEN c.begun AND c.ended AS inside, EXISTS (
                SELECT 1 FROM calls o WHERE o.source = 'otlp' AND o.id != c.id AND o.parent != c.id
                    AND o.id != c.parent AND o.cgroup = c.cgroup AND o.pid = c.pid
                    AND e.time BETWEEN o.begun AND o.ended) AS ambiguous, e.*
        FROM events e JOIN (SELECT * FROM calls WHERE source = 'otlp') c
            ON e.span IS NULL AND e.boot = c.boot AND e.cgroup = c.cgroup
            AND e.time BETWEEN c.begun - INTERVAL 1 MILLISECOND
                AND c.ended + INTERVAL 1 MILLISECOND
            AND (c.pid = 0 OR e.pid = c.pid OR e.ppid = c.pid)
        WHERE NOT EXISTS (SELECT 1 FROM calls k WHERE k.parent = c.id AND k.source = 'otlp'
            AND e.time BETWEEN k.begun AND k.ended)) WHERE inside OR NOT ambiguous""",
    ),
    (
        "call_findings",
        """SELECT DISTINCT f.id AS finding, s.call, false AS by_time FROM (
            SELECT id, unnest(string_split(spans, ' '))::UBIGINT AS span FROM findings
            WHERE spans IS NOT NULL) f JOIN spans s USING (span)
        UNION ALL SELECT DISTINCT f.id, t.call, true FROM findings f JOIN calls_by_time t
            ON t.boot = f.boot AND t.proc = f.proc AND t.time = f.time""",
    ),
)


def raw_events(files: Sequence[str]) -> str:
    """SQL of `stored_events`: Parquet files and the registered table `tail_events`."""
    if not files:
        return "SELECT * FROM tail_events"
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in files)
    return (
        f"SELECT * FROM read_parquet([{names}], union_by_name=true)"
        " UNION ALL BY NAME SELECT * FROM tail_events"
    )


def view_sql(name: str, body: str) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS {body}"
