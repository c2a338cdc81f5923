"""Code that workloads loaded at run time: of which package, by whom, in which call, where it came
from, and whether the image's baseline holds it. Grouped: an import opens hundreds of files."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.agent.plugins import LIKELY, kind_of, loads, package_of
from hullwatch.store.behaviour import IMAGE
from hullwatch.store.calls import in_words
from hullwatch.store.known import Known

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["Loaded", "Written", "loaded"]

ROWS = 100_000
_PATHS = 10  # that are named of a group
_UPPER, _LOWER = "list_contains(mark_names, 'upper')", "list_contains(mark_names, 'lower')"
# Python puts compiled code beside its source, and gives it its name when it is whole.
_SOURCE = r"regexp_replace(path, '__pycache__/([^/]+?)\.[^/.]+(\.opt-[0-9])?\.pyc$', '\1.py')"
_INSTALLER = (
    r"(^|[ /])(pip[0-9.]*|uv|npm|npm-cli\.js|pnpm(\.cjs)?|yarn(\.js)?|bun|poetry|conda|mamba)"
    r"( -[^ ]*)* (pip )?(install|i|ci|add|sync|update|download|wheel)( |$)"
    r"|-m (pip|compileall|ensurepip)( |$)"
)

# Of every file, program and layer one row; what was written is joined to the last load.
_LOADS = f"""
WITH mine AS (SELECT * FROM events WHERE container_state != 'host'),
loads AS (
    SELECT coalesce(nullif(container_id, ''), 'cgroup ' || cgroup) AS workload_id,
        coalesce(nullif(container, ''), nullif(pod, ''), nullif(container_id[:12], ''),
            'cgroup ' || cgroup) AS workload,
        {IMAGE.replace("name", "container")} AS image_key, image, boot, cgroup,
        object AS path,
        class = 'mmap' AS mapped, coalesce(exe, name) AS program, name,
        regexp_matches(cmdline, $2) AS installing, {_UPPER} AS upper, {_LOWER} AS lower,
        count(*) AS times, min(time) AS first, max(time) AS last, max(mono) AS mono,
        list(DISTINCT span) FILTER (span IS NOT NULL) AS spans
    FROM mine WHERE ({{where}}) AND (
        (class = 'mmap' AND object != '')
        OR (class = 'open' AND ret >= 0 AND flags & 3 = 0 AND NOT list_contains(mark_names, 'dir')
            AND regexp_full_match(object, $1, 's')))
    GROUP BY ALL
), writes AS (
    SELECT boot, cgroup, CASE WHEN class = 'open' THEN object ELSE object2 END AS path, mono, time,
        coalesce(exe, name) AS program, name, span, class = 'rename' AS renamed
    FROM mine WHERE ret >= 0 AND ((class = 'open' AND flags & 3 != 0)
        OR class IN ('rename', 'link', 'symlink'))
), sources AS (SELECT boot, cgroup, path, mono FROM writes WHERE path LIKE '%.py')
SELECT l.*, w.time AS written, w.program AS writer, w.name AS writer_name, w.span AS write_span,
    w.renamed, s.mono AS source
FROM (SELECT *, {_SOURCE} AS source_path FROM loads) l
ASOF LEFT JOIN writes w ON w.boot = l.boot AND w.cgroup = l.cgroup AND w.path = l.path
    AND w.mono <= l.mono
ASOF LEFT JOIN sources s ON s.boot = l.boot AND s.cgroup = l.cgroup AND s.path = l.source_path
    AND s.mono <= l.mono
ORDER BY l.first
"""
_LAYERED = f"""
SELECT DISTINCT boot, cgroup FROM events WHERE class IN ('open', 'mmap') AND ({_UPPER} OR {_LOWER})
"""
_SCRATCH = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/")
_MEMORY = re.compile(r"/?(memfd:|SYSV|dev/zero)")
_VERSION = """
SELECT DISTINCT boot, cgroup, regexp_extract(object, '.*/([^/]+-[0-9][^/]*[.]dist-info)/', 1) AS of
FROM events WHERE class = 'open' AND ret >= 0 AND object LIKE '%.dist-info/%'
"""


class Written(msgspec.Struct):
    """That one of the files was written in the container before it was loaded; call: in words."""

    path: str
    by: str
    call: str | None
    time: datetime


class Loaded(msgspec.Struct):
    """Files of one kind and package (or folder) that a workload loaded.

    version: '' where no path told. files: how many; paths: some of them, those not of the image
    first. origins: image (as it was built), container (written or changed since), volume, scratch,
    memory, unknown, the most frequent first. new: the image's baseline does not hold some of it;
    None: it says nothing.
    installing: only package managers opened it, at their work."""

    workload: str
    image: str
    kind: str
    package: str
    version: str
    folder: str
    files: int
    paths: list[str]
    first: datetime
    last: datetime
    programs: list[str] = []
    calls: list[str] = []
    """In words; `~` before those of which one, and it is not known which, did it."""
    origins: list[str] = []
    written: list[Written] = []
    new: bool | None = None
    installing: bool = False

    @property
    def outside(self) -> bool:
        """Not what the image brought, or not what its baseline knows."""
        brought = {"image", "unknown"} >= set(self.origins) and not self.written
        return not self.installing and (bool(self.new) or not brought)


def loaded(reader: Reader, where: str = "TRUE") -> list[Loaded]:
    """All that containers loaded in the events that `where` (SQL over events) selects, by workload
    and first time. What they wrote is looked for in all events there are. QueryError."""
    answer = reader.query(_LOADS.format(where=where), LIKELY, _INSTALLER, limit=ROWS)
    if answer.truncated:
        reader.warnings.append(f"only the first {ROWS} files are told; a shorter time shows all")
    every = answer.table.to_pylist()
    rows = [row for row in every if _is_load(row)]
    # What is mapped was opened before, and that is what the baseline knows.
    opened: dict[tuple[str, str], datetime] = {}
    for row in every:
        if not row["mapped"]:
            file = (row["workload_id"], row["path"])
            opened[file] = min(opened.get(file, row["first"]), row["first"])
    layered = {(row["boot"], row["cgroup"]) for row in _ask(reader, _LAYERED)}
    versions = _versions(reader)
    known = Known(reader.catalog.link)
    spans = {row["write_span"] for row in rows}.union(*(row["spans"] or () for row in rows))
    calls = in_words(reader, spans - {None})
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kind = kind_of(row["path"], row["mapped"]) or ""
        package = package_of(row["path"])
        row["origin"] = _origin(row, (row["boot"], row["cgroup"]) in layered)
        named = _plain(package.name)
        row["version"] = package.version or versions.get((row["boot"], row["cgroup"], named), "")
        begun = opened.get((row["workload_id"], row["path"]))
        row["new"] = known.new(row["image_key"] or "", row["path"], _ns(begun) if begun else 0)
        key = (row["workload_id"], kind, named or package.folder)
        groups.setdefault(key, []).append(row | {"package": package})
    found = [_grouped(key[1], rows, calls) for key, rows in groups.items()]
    return sorted(found, key=lambda one: (one.workload, one.first, one.kind, one.folder))


def _ask(reader: Reader, sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reader.query(sql, *values, limit=ROWS).table.to_pylist()
    return rows


def _is_load(row: dict[str, Any]) -> bool:
    kind = kind_of(row["path"], row["mapped"])
    if kind is None or (kind == "shared_object" and not row["mapped"]):
        return False
    return row["mapped"] or loads(kind, row["program"] or "", row["name"] or "")


def _origin(row: dict[str, Any], layered: bool) -> str:
    path = row["path"]
    if _MEMORY.match(path):
        return "memory"
    if row["lower"]:
        return "image"
    if path.startswith(_SCRATCH):
        return "scratch"
    if not row["upper"]:
        return "volume" if layered else "unknown"
    # What Python compiled of a source that nobody wrote here is the image's own.
    compiled = "/__pycache__/" in path and row["source"] is None
    return "image" if compiled and row["renamed"] in (True, None) else "container"


def _grouped(kind: str, rows: list[dict[str, Any]], calls: dict[int, list[str]]) -> Loaded:
    package = rows[0]["package"]
    ordered = sorted(rows, key=lambda row: row["origin"] == "image")  # what is foreign first
    paths = list(dict.fromkeys(row["path"] for row in ordered))
    origins = Counter(row["origin"] for row in rows)
    one = Loaded(
        rows[0]["workload"],
        rows[0]["image"] or rows[0]["image_key"] or "",
        kind,
        package.name,
        next((row["version"] for row in rows if row["version"]), ""),
        package.folder,
        len(paths),
        paths[:_PATHS],
        min(row["first"] for row in rows),
        max(row["last"] for row in rows),
        programs=list(dict.fromkeys(row["program"] or "?" for row in rows)),
        origins=[origin for origin, _ in origins.most_common()],
        installing=all(row["installing"] for row in rows),
    )
    spans = dict.fromkeys(span for row in rows for span in row["spans"] or ())
    one.calls = list(dict.fromkeys(text for span in spans for text in calls.get(span, ())))
    one.written = _written(rows, calls)
    news = {row["new"] for row in rows}
    one.new = True if True in news else False if False in news else None
    return one


def _written(rows: list[dict[str, Any]], calls: dict[int, list[str]]) -> list[Written]:
    """One for each writer and call."""
    found: dict[tuple[str, str | None], Written] = {}
    for row in rows:
        if row["written"] is None or row["origin"] == "image":
            continue
        call = ", ".join(calls.get(row["write_span"], ())) or None
        key = (row["writer_name"] or row["writer"] or "?", call)
        found.setdefault(key, Written(row["path"], key[0], call, row["written"]))
    return list(found.values())


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1000


def _plain(name: str) -> str:
    """As package indexes compare names (PEP 503), and a module is mostly called."""
    return re.sub(r"[-_.]+", "_", name).lower() if not name.startswith("@") else name


def _versions(reader: Reader) -> dict[tuple[int, int, str], str]:
    found = {}
    for row in _ask(reader, _VERSION):
        package = package_of(f"/{row['of']}/")
        found[row["boot"], row["cgroup"], _plain(package.name)] = package.version
    return found
