"""`hullwatch decisions`: what policy was asked, what it said, who answered; and the proof of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json, Limit, Since
from hullwatch.cli.show import iso, print_json, safe, say, short_time
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from hullwatch.decide.log import Entry, Log

__all__ = ["HeadFile", "LogFolder", "open_log", "register"]

LogFolder = Annotated[
    Path | None,
    typer.Option(
        "--log",
        metavar="DIR",
        envvar="HULLWATCH_DECISIONS",
        help="The decision log's folder: /var/lib/hullwatch for root, else"
        " ~/.local/state/hullwatch.",
    ),
]
HeadFile = Annotated[
    Path | None,
    typer.Option(
        "--head",
        metavar="FILE",
        envvar="HULLWATCH_DECISIONS_HEAD",
        help="Where it is kept how far the log has come: best where others may not write.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command("decisions")(decisions)


def decisions(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[list | verify]", help="Nothing: list.")
    ] = None,
    log: LogFolder = None,
    head: HeadFile = None,
    since: Since = None,
    effect: Annotated[
        str, typer.Option("--effect", metavar="EFFECT", help="allow, challenge or block.")
    ] = "",
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="verdict, held, approved, denied, expired, policies and so on.",
        ),
    ] = "",
    policy: Annotated[
        str, typer.Option("--policy", metavar="ID", help="Those that this policy decided.")
    ] = "",
    principal: Annotated[
        str, typer.Option("--principal", metavar="NAME", help="`Kind:id`, or a part of it.")
    ] = "",
    noted: Annotated[
        str,
        typer.Option(
            "--noted", metavar="HEAD", help="verify: a head that was written down elsewhere."
        ),
    ] = "",
    limit: Limit = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    json: Json = False,
) -> None:
    """List decisions, newest last. `verify` proves that none was removed, changed or reordered.

    Exit code 1: verify found that one was, and names the first.
    """
    wish = (words or ["list"])[0]
    if wish not in ("list", "verify") or len(words or ()) > 1:
        raise CommandError("decisions: say `list`, `verify`, or nothing: list", ExitCode.USAGE)
    begin = parse_time(since, "--since") or 0
    with open_log(log, head) as opened:
        if wish == "verify":
            _verify(opened, noted, json)
            return

        def wanted(entry: Entry) -> bool:
            return (
                (not effect or (effect == entry.effect and entry.kind != "policies"))
                and (not policy or policy in entry.policies)
                and principal in entry.principal
            )

        kinds = (kind,) if kind else ()
        rows = [one for one in opened.entries(begin, kinds) if wanted(one)]
        last = rows[-1].number if rows else 0
        for entry in rows[-limit:]:
            _print(entry, json)
        if len(rows) > limit:
            say(f"{len(rows) - limit} older ones left out; --limit shows more")
        if not rows and not follow and not json:
            say("no such decisions")
        while follow:
            time.sleep(0.5)
            for entry in opened.entries(begin, kinds, after=last):
                last = entry.number
                if wanted(entry):
                    _print(entry, json)


@contextmanager
def open_log(folder: Path | None, head: Path | None = None, write: bool = False) -> Iterator[Log]:
    """CommandError where it cannot be used."""
    from hullwatch.decide.log import Log, LogError, directory

    try:
        opened = Log(folder or directory(), head, write=write)
        try:
            yield opened
        finally:
            opened.close()
    except LogError as error:
        raise CommandError(str(error), ExitCode.STORE) from None


def _verify(log: Log, noted: str, as_json: bool) -> None:
    from hullwatch.decide.log import Head

    try:
        checked = log.verify(Head.of(noted) if noted else None)
    except ValueError as error:
        raise CommandError(f"--noted {noted}: {error}", ExitCode.USAGE) from None
    if as_json:
        print_json(
            {
                "ok": checked.ok,
                "entries": checked.entries,
                "first_bad": checked.bad or None,
                "what": checked.what,
                "head": str(checked.head),
            }
        )
    elif checked.ok:
        print(f"{checked.entries} entries, none removed, changed or out of order")
        print(f"head {checked.head}")
    if not checked.ok:
        where = f"entry {checked.bad}: " if checked.bad else ""
        raise CommandError(f"{log.path}: {where}{checked.what}")


def _print(entry: Entry, as_json: bool) -> None:
    if as_json:
        print_json(_row(entry))
        return
    said = entry.kind if entry.kind == "policies" else f"{entry.kind}: {entry.effect}"
    if entry.wanted is not entry.effect and entry.kind == "verdict":
        said += f" (observed: {entry.wanted})"
    parts = [
        f"{entry.number:>6}  {short_time(entry.time, True)}  {said:<20}",
        f"{entry.action} {safe(entry.resource)}",
        f"by {safe(entry.principal)}" if entry.principal else "",
        safe(", ".join(entry.policies)),
        f"x{entry.count}" if entry.count else "",
        f"{safe(entry.by)}: {safe(entry.why)}" if entry.by else safe(entry.why or entry.reason),
        f"[{entry.held}]" if entry.held else "",
    ]
    print("  ".join(filter(None, parts)))


def _row(entry: Entry) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = {
        name: getattr(entry, name) for name in entry.__struct_fields__ if name != "owner"
    }
    times = {name: iso(row[name]) if row[name] else "" for name in ("time", "deadline", "expires")}
    return dict(msgspec.to_builtins(row)) | times
