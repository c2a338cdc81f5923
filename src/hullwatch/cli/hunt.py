"""`hullwatch hunt "SQL"`: any question to the store, read-only."""

from __future__ import annotations

import csv
import re
import sys
from decimal import Decimal
from typing import Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Since, Store, Until
from hullwatch.cli.show import print_json, print_table, rows_of, say, text_of
from hullwatch.cli.when import parse_time

__all__ = ["register"]

_MEMORY = re.compile(r"0*[1-9]\d*(\.\d+)?\s*([KMGT]i?)?B", re.I)


def register(app: typer.Typer) -> None:
    app.command("hunt")(hunt)


def hunt(
    sql: Annotated[
        str | None,
        typer.Argument(metavar="[SQL]", help="One SELECT over the tables of --schema."),
    ] = None,
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    schema: Annotated[bool, typer.Option("--schema", help="List tables and columns.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="At most so many rows.")
    ] = 1000,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    json: Json = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a query may take.")] = 60.0,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory a query may use: 500MB, 4GB.")
    ] = "1GB",
) -> None:
    """Ask the store in SQL (DuckDB's dialect).

    --since, --until and --container only leave out pieces of history that cannot matter: they
    make a hunt faster; your WHERE still decides. Example:

    hullwatch hunt "SELECT container, object, count(*) n FROM events WHERE class = 'connect'
    GROUP BY ALL ORDER BY n DESC" --since 1d
    """
    from hullwatch.store.query import Reader

    if sql is None and not schema:
        raise CommandError("hunt: no SQL given; --schema lists what there is", ExitCode.USAGE)
    if json and as_csv:
        raise CommandError("hunt: --json or --csv, not both", ExitCode.USAGE)
    if not _MEMORY.fullmatch(memory.strip()):
        raise CommandError(f"--memory {memory}: give a size such as 500MB or 4GB", ExitCode.USAGE)
    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    with Reader(store, begin, end, container, memory, timeout) as reader:
        if schema or sql is None:
            _print_schema(reader.tables(), json)
            return
        answer = reader.hunt(sql, limit)
    for warning in answer.warnings:
        say(warning)
    rows = rows_of(answer.table)
    if json:
        for row in rows:
            print_json(row)
    elif as_csv:
        out = csv.writer(sys.stdout)
        out.writerow(answer.table.column_names)
        for row in rows:
            out.writerow([_csv(value) for value in row.values()])
    else:
        print_table(answer.table.column_names, rows)
    if answer.truncated:
        say(f"more rows left out: the first {limit} are shown; --limit shows more")


def _csv(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, int | float | Decimal):
        return value
    # A spreadsheet runs what begins like a formula.
    text = text_of(value)
    return f"'{text}" if text[:1] in "=+-@" and not _number(text) else text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _print_schema(tables: dict[str, list[tuple[str, str]]], as_json: bool) -> None:
    from hullwatch.store.schema import BY_NAME

    if as_json:
        print_json({name: dict(columns) for name, columns in tables.items()})
        return
    for name, columns in tables.items():
        print(name)
        for column, kind in columns:
            doc = BY_NAME[column].doc if name == "events" and column in BY_NAME else ""
            print(f"  {column:<16} {kind:<26} {doc}".rstrip())
        print()
