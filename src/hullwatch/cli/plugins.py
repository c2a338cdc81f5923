"""`hullwatch plugins`: code that workloads loaded at run time, whence, and in which call."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.events import scope_sql
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Since, Store, Until
from hullwatch.cli.show import console, print_json, safe, say, short_time
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from hullwatch.store.plugins import Loaded

__all__ = ["register"]

_FEW = 3  # names of a list in a table


def register(app: typer.Typer) -> None:
    app.command("plugins")(plugins)


def plugins(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="Of this kind only: python_module, pickle ..."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also what the image brought and its baseline holds.")
    ] = False,
    json: Json = False,
) -> None:
    """List code that containers loaded at run time and that is not simply their image's: modules,
    start-up hooks, entry points, native code, WASM, pickles, skills.

    One row a workload, kind and package: who loaded it, in which tool call, and where it came from.
    image: as it was built; container: written or changed since, by whom and in which call where
    that was seen; volume: mounted; scratch: /tmp and the like; memory: no file. new: the baseline
    of the image does not hold it (`hullwatch baseline`).

    A .py that Python opens is taken for loaded, as is a pickle: what is inside is not looked at.

    Example: hullwatch plugins --container agent --since 1h
    """
    from hullwatch.agent.plugins import KINDS
    from hullwatch.store.plugins import loaded
    from hullwatch.store.query import Reader

    if kind is not None and kind not in KINDS:
        raise CommandError(f"--kind {kind}: one of {', '.join(KINDS)}", ExitCode.USAGE)
    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    where = ["TRUE"]
    for sign, moment in ((">=", begin), ("<=", end)):
        if moment is not None:
            where.append(f"time {sign} make_timestamptz({moment // 1000}::BIGINT)")
    # Who wrote it may have done so before.
    with Reader(store, None, end, container) as reader:
        if reader.scope is not None:
            where.append(scope_sql(reader.scope))
        found = loaded(reader, " AND ".join(where))
        warnings = tuple(reader.warnings)
    for warning in warnings:
        say(warning)
    found = [one for one in found if kind in (None, one.kind)]
    shown = [one for one in found if every or one.outside]
    if json:
        import msgspec

        for one in shown:
            value = msgspec.to_builtins(one, builtin_types=(datetime,))
            print_json(value | {"outside": one.outside})
        return
    for workload, rows in groupby(shown, lambda one: (one.workload, one.image)):
        print(f"{safe(workload[0])}  {safe(workload[1])}".rstrip())
        _table(list(rows))
    if hidden := len(found) - len(shown):
        say(f"{hidden} more that the image brought, or that were only installed: --all lists them")
    elif not found:
        say("none: no container that was watched loaded code of a known kind")


def _table(rows: list[Loaded]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in "kind,package,files,first,by,call,from,new".split(","):
        table.add_column(head, overflow="fold", no_wrap=head in ("first", "files"))
    for one in rows:
        table.add_row(
            one.kind,
            _what(one),
            str(one.files),
            short_time(one.first, True)[5:],
            _few(program.rpartition("/")[2] for program in one.programs),
            _few(one.calls),
            _origin(one),
            {True: "new", False: "known", None: ""}[one.new],
            style="yellow" if one.outside else "",
        )
    console().print(table, soft_wrap=False)


def _what(one: Loaded) -> str:
    """The package, else the file, else the folder."""
    if one.package:
        return safe(f"{one.package} {one.version}".rstrip())
    return safe(one.paths[0] if one.files == 1 else f"{one.folder.rstrip('/')}/*")


def _origin(one: Loaded) -> str:
    written = (
        f"written by {wrote.by}{f' in {wrote.call}' if wrote.call else ''}"
        f" {short_time(wrote.time, True)[5:]}"
        for wrote in one.written
    )
    return "; ".join(filter(None, (", ".join(one.origins), _few(written))))


def _few(names: Iterable[str]) -> str:
    listed = [safe(name) for name in names]
    return ", ".join(listed[:_FEW]) + (f" +{len(listed) - _FEW}" if len(listed) > _FEW else "")
