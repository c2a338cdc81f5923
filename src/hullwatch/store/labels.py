"""How labels went: who got one of what, who gave it on, and the way that it came."""

from __future__ import annotations

import socket
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.sensor.labels import names_of
from hullwatch.sensor.wire import LabelWay

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["Step", "steps"]

ROWS = 20_000
_LONGEST = 16  # steps of a way: then it is cut
_STEPS = """
SELECT time, boot, cgroup, proc, pid, coalesce(exe, name) AS program, object, num, num2, flags,
    CASE WHEN container_state = 'host' THEN ''
    ELSE coalesce(nullif(container, ''), nullif(pod, ''), nullif(container_id[:12], ''),
        'cgroup ' || cgroup) END AS workload
FROM events WHERE class = 'label' AND ({where}) ORDER BY time
"""


class Step(msgspec.Struct):
    """A label came to a process (took) or went from it (gave). workload: its name; "": the host.
    object: a path, an address, or `inode:N` of what has no name. came_by: of `took`, the steps
    before it, as far as they are known, the origin first."""

    time: datetime
    workload: str
    pid: int
    program: str
    way: str
    labels: list[str]
    object: str
    came_by: list[str] = []


def steps(reader: Reader, where: str = "TRUE") -> list[Step]:
    """All that events tell which `where` (SQL over events) selects, by time. QueryError."""
    answer = reader.query(_STEPS.format(where=where), limit=ROWS)
    if answer.truncated:
        reader.warnings.append(f"only the first {ROWS} steps are told; a shorter time shows all")
    rows: list[dict[str, Any]] = answer.table.to_pylist()
    found: list[Step] = []
    ways: dict[tuple[str, object], list[str]] = {}  # of a process or thing: how its label came
    for row in rows:
        way = LabelWay(int(row["flags"]) & 0xFFFF)
        program = f"{(row['program'] or '?').rpartition('/')[2]}[{row['pid']}]"
        thing = row["object"] or f"inode:{row['num2']}"
        # Another name of a file is the same inode; a socket's ends have different ones.
        place = ("thing", row["num2"] if row["num2"] and not row["flags"] >> 16 else thing)
        remote = row["flags"] >> 16 in (socket.AF_INET, socket.AF_INET6)  # what came back is new
        process = ("process", (row["boot"], row["proc"]))
        labels = list(names_of(int(row["num"])))
        if way == LabelWay.TOOK:
            before = [] if remote else ways.get(place, [])[-_LONGEST:]
            ways.setdefault(process, [*before, thing, program])
        else:
            before = []
            ways.setdefault(place, ways.get(process, [program]))
        found.append(
            Step(
                row["time"],
                row["workload"],
                row["pid"],
                program,
                way.name.lower(),
                labels,
                thing,
                before,
            )
        )
    return found
