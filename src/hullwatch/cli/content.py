"""`hullwatch content`: of which workloads redacted content is kept, how much, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.show import iso, print_json, print_table, say, size

if TYPE_CHECKING:
    from hullwatch.store.content import Held

__all__ = ["register"]

_SECOND = 10**9


def register(app: typer.Typer) -> None:
    content = typer.Typer(
        help="Redacted content of calls, kept for workloads that `up --content` names;"
        " `hullwatch call ID --content` shows it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    content.command("list")(list_)
    content.command("purge")(purge)
    app.add_typer(content, name="content")


def list_(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List workloads of which content is kept: how much, and when the last of it goes."""
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.content import held

    with Catalog(store):  # says what is wrong with a store
        rows = [_row(one) for one in held(store)]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        for row in rows:
            row |= {"container": row["container"][:12], "bytes": size(row["bytes"])}
        print_table(["container", "workload", "image", "items", "bytes", "since", "until"], rows)
    else:
        say("no content is kept; `hullwatch up --content NAME` keeps that of a workload")


def purge(
    container: Annotated[
        str,
        typer.Argument(
            metavar="[CONTAINER]", help="Of it: id, its beginning, or name.", show_default=False
        ),
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Of all workloads.")] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Remove what is kept. An agent that runs goes on keeping. Exit code 1: there is none."""
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.content import held
    from hullwatch.store.content import purge as remove

    if bool(container) == all_:
        raise CommandError("content purge: give a CONTAINER, or --all", ExitCode.USAGE)
    with Catalog(store):
        if all_:
            gone, files = ["all"], remove(store)
        else:
            gone = [one.container for one in held(store) if _named(one, container)]
            files = sum(remove(store, one) for one in gone)
    if not gone:
        raise CommandError(
            f"content purge: nothing is kept of {container}; `hullwatch content list` has what is"
        )
    if json:
        print_json({"containers": gone, "files": files})
    else:
        print(f"removed: {files} files")


def _named(one: Held, text: str) -> bool:
    return text == one.workload or (len(text) >= 4 and one.container.startswith(text))


def _row(one: Held) -> dict[str, Any]:
    import msgspec

    times = {"since": iso(one.since * _SECOND), "until": iso(one.until * _SECOND)}
    return msgspec.structs.asdict(one) | times
