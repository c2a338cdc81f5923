"""`hullwatch call ID`: one call as a tree: what it started, and what these processes did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.calls import plain, took
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.ruled import with_policies
from hullwatch.cli.show import console, iso, print_json, safe, say, short_time, size
from hullwatch.cli.tree import as_tree

if TYPE_CHECKING:
    from rich.console import Console

    from hullwatch.agent.content import Item
    from hullwatch.store.calls import CallRow
    from hullwatch.store.query import Reader
    from hullwatch.store.story import Story

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("call")(call)


def call(
    ident: Annotated[
        str, typer.Argument(metavar="ID", help="As `hullwatch calls` shows it, or its beginning.")
    ],
    store: Store = DEFAULT_STORE,
    all_files: Annotated[bool, typer.Option("--files", help="Name every file.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write it as a picture, too.")
    ] = None,
    content: Annotated[
        bool,
        typer.Option(
            "--content", help="With what was said in it, redacted, if `up --content` kept it."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Draw one call: what it started, and what these processes did. Exit code 1: no such call."""
    from hullwatch.store.calls import events_of, rows
    from hullwatch.store.content import read
    from hullwatch.store.query import Reader
    from hullwatch.store.story import flat, tell

    if not re.fullmatch("[0-9a-fA-F]{1,16}", ident):
        raise CommandError(f"call {ident}: an id is 1 to 16 hexadecimal digits", ExitCode.USAGE)
    with Reader(store) as reader:
        found, _ = rows(reader, f"printf('%016x', id) LIKE '{ident.lower()}%'", 2)
        if len(found) != 1:
            what = "no such call" if not found else "several begin so; give more digits"
            raise CommandError(f"call {ident}: {what}", ExitCode.NO)
        (one,) = found
        if one.source == "otlp":
            of = f"SELECT boot, mono, tid, class FROM ({events_of([one])})"
            where = f"(boot, mono, tid, class) IN ({of})"
        else:
            where = f"span IN (SELECT span FROM spans WHERE call = {one.id})"
        where += " AND class NOT IN ('call', 'signal')"
        story = with_policies(tell(reader, where, call=one.id), store)
        shared = _shared(reader, one)
        warnings = (*reader.warnings, *story.cut)
    said = read(store, one.id) if content else None
    for warning in warnings:
        say(warning)
    if said == []:
        say("no content of it is kept: see `hullwatch content list`")
    if svg is not None:
        _picture(svg, story, one, shared, all_files, said)
    if json:
        more = {} if said is None else {"content": [_said(item) for item in said]}
        print_json({"call": plain(one), "shared_with": shared} | flat(story) | more)
    else:
        _draw(console(), story, one, shared, all_files, said)


def _said(item: Item) -> dict[str, Any]:
    return {
        "time": iso(item.time),
        "name": item.name,
        "text": item.text,
        "size": item.size,
        "cut": item.cut,
    }


def _shared(reader: Reader, one: CallRow) -> list[dict[str, Any]]:
    """Calls that some of this may be of instead."""
    found = reader.query(
        "SELECT DISTINCT c.id, c.server, c.name FROM spans s JOIN spans o USING (span)"
        " JOIN calls c ON c.id = o.call WHERE s.call = $1::UBIGINT AND o.call != s.call"
        " ORDER BY c.id",
        one.id,
        limit=64,
    ).table.to_pylist()
    return [row | {"id": f"{row['id']:016x}"} for row in found]


def _draw(
    to: Console,
    story: Story,
    one: CallRow,
    shared: list[dict[str, Any]],
    all_files: bool,
    said: list[Item] | None = None,
) -> None:
    what = f"{safe(one.server)}: {safe(one.name)}" if one.server else safe(one.name)
    title = f"{one.kind} call {what}  {one.id:016x}  {short_time(one.begun)}  {took(one)}"
    to.print(as_tree(story, f"{title}  {one.status}  {safe(one.error)}".rstrip(), all_files))
    facts = [f"told by the {one.source}", f"{size(one.request_bytes)} asked"]
    facts += [f"{size(one.response_bytes)} answered"]
    facts += [f"{safe(name)} {safe(value)}" for name, value in sorted(one.attributes.items())]
    to.print(", ".join(facts), style="dim")
    if shared:
        names = ", ".join(f"{safe(row['name'])} ({row['id']})" for row in shared)
        text = f"{one.ambiguous} events are of this call or of one that ran beside it: {names}"
        to.print(text, style="yellow")
    for item in said or ():
        cut = f", not all of {size(item.size)}" if item.cut else ""
        to.print(f"{item.name}{cut}", style="bold")
        to.print(safe(item.text))


def _picture(
    path: Path,
    story: Story,
    one: CallRow,
    shared: list[dict[str, Any]],
    all_files: bool,
    said: list[Item] | None = None,
) -> None:
    """Rich draws it; its fonts from the web are left out, a picture should not call home."""
    import io

    from rich.console import Console
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME

    paper = Console(
        record=True, file=io.StringIO(), width=140, markup=False, emoji=False, highlight=False
    )
    _draw(paper, story, one, shared, all_files, said)
    drawn = paper.export_svg(title=f"call {one.id:016x}", theme=DEFAULT_TERMINAL_THEME)
    path.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S), encoding="utf-8")
    say(f"wrote {path}")
