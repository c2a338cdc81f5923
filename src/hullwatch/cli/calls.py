"""`hullwatch calls`: tool and model calls, and what each of them did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Limit, Since, Store, Until
from hullwatch.cli.show import console, print_json, safe, say, short_time, size
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from hullwatch.store.calls import CallRow

__all__ = ["plain", "register", "took"]


def register(app: typer.Typer) -> None:
    app.command("calls")(calls)


def calls(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="TOOL", help="Of this tool or model.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="NAME", help="Of this MCP server or provider.")
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="Those that run now.")] = False,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List tool and model calls, the newest last, with what each did: processes, files, secrets,
    destinations, bytes out, findings."""
    from hullwatch.store.calls import rows
    from hullwatch.store.query import Reader

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    where = ["TRUE"]
    for sign, moment in ((">=", begin), ("<=", end)):
        if moment is not None:
            where.append(f"begun {sign} make_timestamptz({moment // 1000}::BIGINT)")
    for column, value in (("name", name), ("server", server)):
        if value is not None:
            where.append(f"{column} = '{_quoted(value)}'")
    if running:
        where.append("ended IS NULL")
    with Reader(store, begin, end, container) as reader:
        if reader.scope is not None:
            cgroups = ", ".join(str(cgroup) for _, cgroup in sorted(reader.scope.cgroups)) or "0"
            where.append(f"cgroup IN ({cgroups})")
        found, more = rows(reader, " AND ".join(where), limit)
        warnings = tuple(reader.warnings)
    for warning in warnings:
        say(warning)
    if json:
        for one in found:
            print_json(plain(one))
    elif found:
        _table(found)
    else:
        say("no such calls; who tells of them: the gateway (`hullwatch mcp`), frameworks, OTLP")
    if more:
        say(f"older calls left out: the newest {limit} are shown; --limit shows more")


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def plain(one: CallRow) -> dict[str, Any]:
    import msgspec

    row = msgspec.structs.asdict(one)
    return row | {"id": f"{one.id:016x}", "parent": f"{one.parent:016x}" if one.parent else None}


def took(one: CallRow) -> str:
    if one.ended is None:
        return "runs"
    seconds = (one.ended - one.begun).total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _table(found: list[CallRow]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in "begun id call took status procs files secrets to out findings".split():
        table.add_column(head, overflow="fold", no_wrap=head in ("begun", "id", "took"))
    for one in found:
        what = f"{safe(one.server)}: {safe(one.name)}" if one.server else safe(one.name)
        style = "red" if one.findings else "yellow" if one.secrets or one.status == "error" else ""
        counts = (f"~{n}" if one.ambiguous else str(n) for n in (one.processes, one.files))
        table.add_row(
            short_time(one.begun, True)[5:],
            f"{one.id:016x}",
            what,
            took(one),
            one.status or "",
            *counts,
            str(len(one.secrets)),
            ", ".join(safe(end) for end in one.destinations[:2])
            + (f" +{len(one.destinations) - 2}" if len(one.destinations) > 2 else ""),
            size(one.bytes_out) if one.bytes_out else "",
            str(len(one.findings)) if one.findings else "",
            style=style,
        )
    console().print(table, soft_wrap=False)
    if any(one.ambiguous for one in found):
        say("~: some of it may be of another call that ran at the same time in the same process")
