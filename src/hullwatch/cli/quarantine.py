"""`hullwatch quarantine`: set a container apart, and let it go again."""

from __future__ import annotations

import json as json_module
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode, the_one
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Json, Store
from hullwatch.cli.show import iso, print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.decide.quarantine import Quarantine

__all__ = ["register"]

_MAX_TEXT = 500
_WAIT = 10.0  # s, for the agent, which looks each second

Ident = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]
Owner = Annotated[str, typer.Option("--owner", metavar="WHO", help="Who answers for it.")]


def register(app: typer.Typer) -> None:
    quarantine = typer.Typer(
        help="Set a container apart: cut it off from the network, freeze it or kill it. What was"
        " seen of it stays in the store.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    quarantine.command("add")(add)
    quarantine.command("list")(list_)
    quarantine.command("show")(show)
    quarantine.command("lift")(lift)
    app.add_typer(quarantine, name="quarantine")


def add(
    container: Annotated[
        str,
        typer.Argument(metavar="CONTAINER", help="Its id (or the beginning), name or [NS/]POD."),
    ],
    owner: Owner,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")],
    how: Annotated[
        str,
        typer.Option(
            "--how",
            metavar="HOW",
            help="network: no packet leaves or reaches it; freeze: nothing in it runs, either;"
            " kill: whatever runs in it is ended.",
        ),
    ] = "network",
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Set a container apart; the agent follows within a second, also after it was restarted.

    `network` and `freeze` can be undone: `hullwatch quarantine lift`. Exit code 1: the agent could
    not do it; 4: no agent runs here to do it.
    """
    from hullwatch.decide.quarantine import How, Quarantine
    from hullwatch.store import quarantines

    for name, text in (("--owner", owner), ("--reason", reason)):
        if not text.strip() or len(text) > _MAX_TEXT:
            raise CommandError(
                f"{name}: give one, of at most {_MAX_TEXT} characters", ExitCode.USAGE
            )
    try:
        way = How(how)
    except ValueError:
        raise CommandError(f"--how {how}: is network, freeze or kill", ExitCode.USAGE) from None
    ident, name = _container(store, container)
    one = Quarantine(
        id=secrets.token_hex(4),
        container_id=ident,
        container=name,
        how=way,
        owner=owner.strip(),
        reason=" ".join(reason.split()),
        created=time.time_ns(),
    )
    _need_agent(store)
    _write(store, lambda state: quarantines.add(state, one))
    done = _wait(store, one.id, lambda found: bool(found.state))
    if json:
        print_json(_row(done))
    else:
        print(f"{done.id}  {safe(done.container)}: {done.state or 'the agent has not seen it yet'}")
        if done.state == "in force":
            print(f"next\n  hullwatch quarantine show {done.id}  # what ran in it")
            print(f"  hullwatch tree {ident[:12]}  # what it did")
            print(f"  hullwatch quarantine lift {done.id} --owner WHO")
    if done.state != "in force":
        raise typer.Exit(ExitCode.NO)


def list_(
    store: Store = DEFAULT_STORE,
    all_: Annotated[bool, typer.Option("--all", help="Those that were lifted, too.")] = False,
    json: Json = False,
) -> None:
    """List who is set apart: how, by whom and since when."""
    rows = [_row(one) for one in _all(store) if all_ or one.state != "lifted"]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(["id", "container", "how", "state", "owner", "created", "reason"], rows)
    else:
        say("nobody is in quarantine")


def show(ident: Ident, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Show one quarantine: why, and which processes were in the container. Exit code 1: none."""
    one = _find(store, ident)
    row = _row(one)
    seen = json_module.loads(one.seen)
    if json:
        print_json(row | {"processes": seen})
        return
    for name, value in row.items():
        if value not in ("", None):
            print(f"{name.replace('_', ' '):<14}{safe(str(value))}")
    if seen:
        rows = [each | {"cmdline": safe(each["cmdline"] or each["exe"])} for each in seen]
        print_table(["pid", "uid", "cmdline"], rows)


def lift(ident: Ident, owner: Owner, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Let a container go: its network is back, and it runs on. Exit code 1: no such quarantine."""
    from hullwatch.store import quarantines

    one = _find(store, ident)
    if one.lifted:
        raise CommandError(f"quarantine {one.id}: lifted already")
    _need_agent(store)
    _write(store, lambda state: quarantines.lift(state, one, time.time_ns(), owner.strip()))
    done = _wait(store, one.id, lambda found: found.state not in ("in force", "gone"))
    if json:
        print_json(_row(done))
    else:
        print(f"{done.id}  {safe(done.container)}: {done.state}")
    if done.state != "lifted":
        raise typer.Exit(ExitCode.NO)


# --- the table ----------------------------------------------------------------------------


def _container(store: Path, text: str) -> tuple[str, str]:
    """(full id, name) of the one container that is meant."""
    from hullwatch.store.catalog import Catalog

    with Catalog(store) as catalog:
        scope = catalog.scope(text)
        found = sorted(scope.containers - {""})
        if len(found) != 1:
            many = ", ".join(one[:12] for one in found[:5]) or "none"
            raise CommandError(f"container {text!r}: name one, by its id; found: {many}")
        names = catalog.rows(
            "SELECT name FROM workloads WHERE container_id = ? AND name != ''"
            " ORDER BY updated DESC LIMIT 1",
            found[0],
        )
    return found[0], str(names[0][0]) if names else found[0][:12]


def _need_agent(store: Path) -> None:
    from hullwatch.control import ask

    ask(store / CONTROL)  # ControlError is exit code 4


def _write(store: Path, work: Callable[[Any], None]) -> None:
    from hullwatch.cli.suppress import writing

    with writing(store) as state:
        work(state)


def _wait(store: Path, ident: str, done: Callable[[Quarantine], bool]) -> Quarantine:
    """As the agent left it, or as it is after a while."""
    until = time.monotonic() + _WAIT
    while True:
        one = next(each for each in _all(store) if each.id == ident)
        if done(one) or time.monotonic() > until:
            return one
        time.sleep(0.1)


def _all(store: Path) -> list[Quarantine]:
    from hullwatch.store import quarantines
    from hullwatch.store.catalog import Catalog

    with Catalog(store) as catalog:
        if not catalog.rows("SELECT 1 FROM sqlite_master WHERE name = 'quarantines'"):
            return []  # written by an older version only
        return quarantines.read(catalog.link)


def _find(store: Path, ident: str) -> Quarantine:
    listed = "hullwatch quarantine list"
    return the_one(_all(store), ident, "quarantine", listed, lambda one: one.id)


def _row(one: Quarantine) -> dict[str, Any]:
    return {
        "id": one.id,
        "container": one.container,
        "container_id": one.container_id,
        "how": str(one.how),
        "state": one.state or "not seen by the agent yet",
        "owner": one.owner,
        "reason": one.reason,
        "created": iso(one.created),
        "applied": iso(one.applied) if one.applied else "",
        "lifted": iso(one.lifted) if one.lifted else "",
    }
