"""What an image has done, by the events and counts that the store still has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hullwatch.detect.baseline.kinds import BY_NAME, KINDS, SECOND, kind_of_action
from hullwatch.detect.baseline.objects import (
    dns_object,
    end_object,
    listen_object,
    path_object,
)
from hullwatch.detect.baseline.values import EntryRow
from hullwatch.sensor.dictionary import address_of
from hullwatch.sensor.events import BY_NAME as CLASS_OF
from hullwatch.sensor.events import CLASSES
from hullwatch.store.query import Reader

__all__ = ["History", "IMAGE", "read_history"]

IMAGE = "coalesce(nullif(image_digest, ''), nullif(image, ''), nullif(name, ''))"
"""SQL over `workloads` for what `image_key` gives."""
_STEPS = 20  # questions at most: so often there is progress to show
_CONTAINERS = f"SELECT boot, cgroup FROM workloads WHERE state = 'resolved' AND {IMAGE} = ?"
_CLASSES = ", ".join(f"'{CLASSES[cls].name}'" for kind in KINDS for cls in kind.classes)
_PAIRS = ", ".join(f"'{CLASSES[cls].name}'" for cls in SECOND)
_UNSURE = """coalesce(list_contains(e.mark_names, 'held')
    OR (e.class IN ('connect', 'send') AND list_contains(e.mark_names, 'attempt'))
    OR (e.class = 'open' AND e.flags & 2097152 != 0), false)"""  # O_PATH: nothing is opened
# A counted object has had an event, maybe before the time that is asked for: the event says
# whether it succeeded, and whether it was written to.
_SQL = f"""
WITH mine AS (SELECT unnest(?::INT[]) AS boot, unnest(?::UBIGINT[]) AS cgroup),
counted AS (
    SELECT c.boot, c.cgroup, c.class, c.object, sum(c.count) AS n, max(c.last) AS last
    FROM counts c JOIN mine USING (boot, cgroup)
    WHERE c.last >= make_timestamptz(?) AND c.class IN ({_CLASSES}) GROUP BY ALL
),
done AS (
    SELECT e.boot, e.cgroup, e.class, coalesce(e.class = 'open' AND e.flags & 3 != 0, false) AS w,
        CASE WHEN e.class IN ({_PAIRS}) THEN e.object2 ELSE e.object END AS object,
        e.dest_name, e.container_id, {_UNSURE} AS unsure, min(e.time) AS first, max(e.time) AS last,
        count(*) FILTER (WHERE e.time >= make_timestamptz(?)) AS n
    FROM events e JOIN mine m ON m.boot = e.boot AND m.cgroup = e.cgroup
    WHERE e.class IN ({_CLASSES}) AND (coalesce(e.ret, 0) >= 0
        OR list_contains(e.mark_names, 'attempt') OR (e.class = 'connect' AND e.ret = -115))
    GROUP BY ALL
)
SELECT d.class, d.w, d.object, d.dest_name, d.container_id, d.unsure, epoch_us(d.first) AS first,
    epoch_us(greatest(d.last, c.last)) AS last,
    d.n + coalesce(c.n, 0) // count(*) OVER (PARTITION BY d.boot, d.cgroup, d.class, d.object) AS n
FROM done d LEFT JOIN counted c
    ON c.boot = d.boot AND c.cgroup = d.cgroup AND c.class = d.class AND c.object = d.object
WHERE d.n > 0 OR c.n IS NOT NULL
UNION ALL
SELECT '', false, NULL, NULL, NULL, NULL, NULL, NULL, count(*) FROM counted c
WHERE NOT EXISTS (SELECT 1 FROM done d WHERE d.boot = c.boot AND d.cgroup = c.cgroup
    AND d.class = c.class AND d.object = c.object)
"""


class History(NamedTuple):
    """rows: one for each container and thing. unclear: counted objects of which no event is left,
    so that nothing says whether they were read or written, or failed; warnings: of the store."""

    rows: list[EntryRow]
    containers: int
    unclear: int
    warnings: tuple[str, ...]


def read_history(
    root: Path, image: str, since: int, progress: Callable[[int, int], None]
) -> History:
    """since: unix ns. progress(done, of all) is called as containers are read."""
    rows: list[EntryRow] = []
    unclear = 0
    with Reader(root, timeout=600) as reader:
        found = reader.query(_CONTAINERS, image).table.to_pylist()
        size = max(-(-len(found) // _STEPS), 1)
        for start in range(0, len(found), size):
            some = found[start : start + size]
            values = ([one["boot"] for one in some], [one["cgroup"] for one in some])
            moment = since // 1000
            answer = reader.query(_SQL, *values, moment, moment).table.to_pylist()
            for row in answer:
                if not row["class"]:
                    unclear += int(row["n"])
                elif (made := _entry(image, row)) is not None:
                    rows.append(made)
            progress(start + len(some), len(found))
        return History(rows, len(found), unclear, tuple(reader.warnings))


def _entry(image: str, row: dict[str, Any]) -> EntryRow | None:
    kind = kind_of_action(int(CLASS_OF[row["class"]].cls), row["w"])
    text = row["object"] or ""
    if kind is None or not text:
        return None
    if kind is BY_NAME["connect"]:
        name = end_object(address_of(text), row["dest_name"])
    elif kind is BY_NAME["listen"]:
        name = listen_object(address_of(text))
    else:
        name = dns_object(text) if kind is BY_NAME["dns"] else path_object(text)
    if not name:
        return None
    container = (row["container_id"] or "")[:12]
    # Stored times are whole µs, cut: as ns the first is not before the event itself, so that the
    # event is still the first of its kind.
    first = int(row["first"]) * 1000 + 999
    last = int(row["last"]) * 1000
    return EntryRow(
        *(image, kind.name, name, first, max(first, last), int(row["n"])),
        (container,) if container else (),
        0 if row["unsure"] else None,
    )
