"""`hullwatch events`: what was stored, newest last, or as it happens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.line import event_line
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Limit, Since, Store, Until
from hullwatch.cli.show import print_json, rows_of, say
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    import pyarrow as pa

    from hullwatch.store.catalog import Catalog
    from hullwatch.store.query import Answer, Reader

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("events")(events)


def events(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="Event class; may be repeated."),
    ] = None,
    pid: Annotated[
        int | None, typer.Option("--pid", metavar="PID", help="Process id, as the host sees it.")
    ] = None,
    limit: Limit = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    json: Json = False,
) -> None:
    """Show stored events, the newest last."""
    _check_classes(class_ or [])
    if follow and (since or until):
        raise CommandError(
            "events: --follow shows what happens from now on; leave out --since and --until",
            ExitCode.USAGE,
        )
    if follow:
        _follow(store, container, class_ or [], pid, json)
        return
    from hullwatch.store.query import Reader

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    with Reader(store, begin, end, container) as reader:
        where = ["TRUE"]
        values: list[Any] = []
        for name, value in (("time >=", begin), ("time <=", end)):
            if value is not None:
                where.append(f"{name} make_timestamptz(${len(values) + 1}::BIGINT)")
                values.append(value // 1000)
        if class_:
            where.append(f"list_contains(${len(values) + 1}, class)")
            values.append(class_)
        if pid is not None:
            where.append(f"pid = ${len(values) + 1}")
            values.append(pid)
        if reader.scope:
            where.append(scope_sql(reader.scope))
        answer = _newest(reader, " AND ".join(where), values, limit)
    for warning in answer.warnings:
        say(warning)
    rows = rows_of(answer.table)
    for row in reversed(rows):
        _print(row, json)
    if not rows and not json:
        say("no such events are stored; what no rule can match is only counted (up --record)")
    if answer.truncated:
        say(f"older events left out: the newest {limit} are shown; --limit shows more")


def _newest(reader: Reader, where: str, values: list[Any], limit: int) -> Answer:
    """The newest rows. Found by their narrow keys: to sort whole rows would take much memory."""
    keys = reader.query(
        f"SELECT boot, mono FROM stored_events WHERE {where}"
        f" ORDER BY boot DESC, mono DESC LIMIT {limit + 1}",
        *values,
    ).table
    if keys.num_rows:
        last = keys.slice(keys.num_rows - 1).to_pylist()[0]
        boot, mono = len(values) + 1, len(values) + 2
        where += f" AND (boot > ${boot} OR boot = ${boot} AND mono >= ${mono})"
        values = [*values, last["boot"], last["mono"]]
    return reader.query(
        f"SELECT * FROM events WHERE {where} ORDER BY boot DESC, mono DESC", *values, limit=limit
    )


def scope_sql(scope: Any) -> str:
    """A container's rows: by id where it was known, by cgroup where it was still pending."""
    pairs = ", ".join(f"({boot}, {cgroup})" for boot, cgroup in sorted(scope.cgroups))
    ids = ", ".join("'" + ident.replace("'", "''") + "'" for ident in sorted(scope.containers))
    by_id = f" OR container_id IN ({ids})" if ids else ""
    return f"((boot, cgroup) IN ({pairs}){by_id})"


def _check_classes(names: list[str]) -> None:
    from hullwatch.sensor.events import BY_NAME

    for name in names:
        if name not in BY_NAME:
            raise CommandError(
                f"--class {name}: no such class; one of {', '.join(sorted(BY_NAME))}",
                ExitCode.USAGE,
            )


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        print(event_line(row), flush=True)


def _follow(
    store: Path, container: str | None, classes: list[str], pid: int | None, as_json: bool
) -> None:
    from hullwatch.sensor.labels import names_of
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.follow import follow_events

    with Catalog(store) as catalog:
        if container:
            catalog.scope(container)
        names = _Names(catalog)
        for batch in follow_events(store):
            if batch is None:
                continue
            for row in rows_of(_filtered(batch, classes, pid)):
                row |= names.of(row["boot"], row["cgroup"])
                row["label_names"] = list(names_of(row.get("labels") or 0))
                if container and not names.matches(row, container):
                    continue
                _print(row, as_json)


def _filtered(batch: pa.RecordBatch, classes: list[str], pid: int | None) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    if classes:
        names = batch.column("class").cast(pa.string())
        batch = batch.filter(pc.is_in(names, value_set=pa.array(classes)))
    if pid is not None:
        batch = batch.filter(pc.equal(batch.column("pid"), pid))
    return batch


class _Names:
    """A workload's names by cgroup, read again while they are still being resolved."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[int, int], dict[str, Any]] = {}

    def of(self, boot: int, cgroup: int) -> dict[str, Any]:
        found = self._known.get((boot, cgroup))
        if found is None:
            from hullwatch.store.tables import signed

            rows = self._catalog.rows(
                "SELECT state, container_id, name, image, pod, namespace, role FROM workloads"
                " WHERE boot=? AND cgroup=?",
                boot,
                signed(cgroup),
            )
            if not rows:
                return {}
            state, ident, name, image, pod, namespace, role = rows[0]
            found = {
                "container": name,
                "image": image,
                "pod": pod,
                "namespace": namespace,
                "role": role,
                **({"container_id": ident} if ident is not None else {}),
            }
            if state != "pending":
                self._known[(boot, cgroup)] = found
        return found

    @staticmethod
    def matches(row: dict[str, Any], text: str) -> bool:
        ident = row.get("container_id") or ""
        names = (row.get("container"), row.get("pod"), f"{row.get('namespace')}/{row.get('pod')}")
        return text in names or (len(text) >= 4 and ident.startswith(text))
