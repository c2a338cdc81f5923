"""`hullwatch approvals`: actions that wait for a person."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hullwatch.cli.decisions import HeadFile, LogFolder
from hullwatch.cli.errors import CommandError, ExitCode, the_one
from hullwatch.cli.options import Json
from hullwatch.cli.show import iso, print_json, print_table, safe, say

__all__ = ["register"]

Ident = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; it is logged.")]


def register(app: typer.Typer) -> None:
    approvals = typer.Typer(
        help="Actions that wait for a person. Who you are, the kernel says; who may answer, the"
        " policy.",
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    approvals.callback()(_first)
    approvals.command("list")(list_)
    approvals.command("show")(show)
    approvals.command("approve")(approve)
    approvals.command("deny")(deny)
    approvals.command("widen")(widen)
    approvals.command("revoke")(revoke)
    app.add_typer(approvals, name="approvals")


def _first(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_()


def list_(json: Json = False) -> None:
    """List what waits, as far as you may answer it."""
    rows = [_row(one) for _, one in _held()]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(["id", "seconds_left", "principal", "resource", "policies", "reason"], rows)
        say("`hullwatch approvals show ID` has the rest; then `approve ID` or `deny ID`")
    else:
        say("nothing waits for you")


def show(ident: Ident, json: Json = False) -> None:
    """Show one, with what was decided about the same principal before. Exit code 1: none such."""
    _, one = _find(ident)
    if json:
        print_json(_row(one))
        return
    row = _row(one)
    story = row.pop("story")
    for name, value in row.items():
        if value not in ("", [], (), None):
            said = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{name.replace('_', ' '):<13}{safe(said)}")
    print("story")
    for step in story:
        call = f"  call {step['tool_call']}" if step.get("tool_call") else ""
        times = f" x{step['count']}" if step.get("count") else ""
        print(
            f"  {iso(step['time'])[:19]}  {safe(step['kind'])}: {safe(step['effect'])}{times}"
            f"  {safe(step['action'])} {safe(step['resource'])}"
            f"  {safe(', '.join(step['policies']))}{safe(call)}"
        )
    print("next")
    print(f"  hullwatch approvals approve {row['id']} --why ...")
    print(f"  hullwatch approvals deny {row['id']} --why ...")
    print(f"  hullwatch approvals widen {row['id']} --scope tool --expires 1h --why ...")


def approve(ident: Ident, why: Why, json: Json = False) -> None:
    """Let exactly this one go on, once. Exit code 1: no such one, or it is not yours to answer."""
    _answer(ident, json, yes=True, why=why)


def deny(ident: Ident, why: Why, json: Json = False) -> None:
    """Refuse it: whoever asked gets an error with your reason."""
    _answer(ident, json, yes=False, why=why)


def widen(
    ident: Ident,
    why: Why,
    scope: Annotated[
        str,
        typer.Option(
            "--scope",
            metavar="WHAT",
            help="tool: every call of this tool by the same principal. server: of every tool of"
            " its server.",
        ),
    ],
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="How long: 30m, 8h; 30d at most.")
    ],
    json: Json = False,
) -> None:
    """Approve it and what is like it, for a time. It ends early when the policies change, or by
    `revoke`."""
    from hullwatch.cli.when import parse_duration

    if scope not in ("tool", "server"):
        raise CommandError(f"--scope {scope}: is tool or server", ExitCode.USAGE)
    seconds = parse_duration(expires, "--expires")
    _answer(ident, json, yes=True, why=why, scope=scope, seconds=seconds)


def revoke(
    ident: Ident,
    why: Why,
    log: LogFolder = None,
    head: HeadFile = None,
    json: Json = False,
) -> None:
    """End a widened approval; `hullwatch decisions --kind approved` lists them. For the log's
    owner. Exit code 1: none such in force."""
    import os

    import msgspec

    from hullwatch.cli.decisions import open_log
    from hullwatch.decide.approvals import Person

    with open_log(log, head, write=True) as opened:
        now = time.time_ns()
        close = [one for one in opened.widened(now) if one.held.startswith(ident)]
        if len(close) != 1:
            raise CommandError(f"approvals revoke {ident}: {_count(len(close))} in force")
        entry = msgspec.structs.replace(
            close[0],
            kind="revoked",
            time=now,
            by=Person.of(os.getuid(), os.getpid()).name,
            why=" ".join(why.split())[:500],
        )
        opened.append(entry)
    if json:
        print_json({"id": entry.held, "done": "revoked"})
    else:
        print(f"{entry.held} revoked")


# --- desks --------------------------------------------------------------------------------


def _held() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Of all gateways that let us in, the one that waits longest first."""
    from hullwatch.decide.desk import DeskError, ask, desks

    found: list[tuple[Path, dict[str, Any]]] = []
    for path in desks():
        try:
            found += [(path, one) for one in ask(path, ask="list")["held"]]
        except (OSError, DeskError, KeyError):
            continue  # of a gateway that has ended, or not for us
    yield from sorted(found, key=lambda one: one[1].get("time", 0))


def _find(ident: str) -> tuple[Path, dict[str, Any]]:
    listed = "hullwatch approvals"
    return the_one(_held(), ident, "approval", listed, lambda one: str(one[1].get("held")))


def _count(number: int) -> str:
    return "no such one" if not number else "several begin so"


def _answer(ident: str, json: bool, **said: Any) -> None:
    from hullwatch.decide.desk import DeskError, ask

    path, one = _find(ident)
    try:
        done = ask(path, ask="answer", held=one["held"], **said)["done"]
    except (DeskError, OSError) as error:
        raise CommandError(f"approvals {one['held']}: {error}") from None
    if json:
        print_json({"id": one["held"], "done": done})
    elif done == "agreed":
        print(f"{one['held']} agreed; somebody else has to approve it, too")
    else:
        print(f"{one['held']} {done}: {safe(one.get('resource', ''))}")


def _row(one: dict[str, Any]) -> dict[str, Any]:
    terms, context = one.get("terms", {}), one.get("context", {})
    left = max(0, one.get("deadline", 0) - time.time_ns()) // 10**9
    approvers = [" or ".join(group) for group in terms.get("approvers", [])]
    return {
        "id": one.get("held"),
        "since": iso(one.get("time")),
        "seconds_left": left,
        "otherwise": "goes on" if terms.get("fail") == "open" else "is refused",
        "principal": one.get("principal", ""),
        "identity": one.get("identity", ""),
        "action": one.get("action", ""),
        "resource": one.get("resource", ""),
        "arguments": context.get("said", ""),
        "definition": context.get("definition", ""),
        "secret_kinds": list(context.get("secret_kinds", [])),
        "policies": list(one.get("policies", [])),
        "reason": one.get("reason", ""),
        "version": one.get("version", ""),
        "tool_call": one.get("tool_call", ""),
        "question": one.get("question", ""),
        "approvers": approvers,
        "people": terms.get("people", 1),
        "agreed": list(one.get("agreed", [])),
        "story": list(one.get("story", [])),
    }
