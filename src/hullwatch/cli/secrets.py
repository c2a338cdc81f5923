"""`hullwatch secrets`: which kinds are known, where in files some are, and which of them workloads
hold and touch."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.events import scope_sql
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Since, Store, Until
from hullwatch.cli.show import console, print_json, print_table, safe, say, short_time, size
from hullwatch.cli.when import parse_duration, parse_time

if TYPE_CHECKING:
    from hullwatch.agent.secrets import Found
    from hullwatch.store.secrets import Seen

__all__ = ["register"]

MAX_FILE = 64 << 20  # bytes
_LONGEST = 7 * 86_400
_FEW = 3  # names of a list in a table
_HEAD = 8192  # bytes; a zero byte among them: no text
_NOT_LOOKED_AT = {".git", ".hg", ".svn"}

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]...", readable=False, help="Files, folders, or - for stdin."),
]


def register(app: typer.Typer) -> None:
    secrets = typer.Typer(
        help="What workloads hold and touch; which kinds are known; which are in files. No secret"
        " is ever shown.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    secrets.command("seen")(seen)
    secrets.command("kinds")(kinds)
    secrets.command("scan")(scan)
    app.add_typer(secrets, name="secrets")


def seen(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Of this kind only.")
    ] = None,
    within: Annotated[
        str, typer.Option("--within", metavar="TIME", help="What counts as next: 30s, 5m.")
    ] = "60s",
    json: Json = False,
) -> None:
    """List secrets that workloads hold or touched: kind and place, by which program, in which tool
    call, and to where the same ones talked next.

    `~` before a call: it or another that ran at the same time. `~` before a destination: not the
    same call or process, but one beside it. That something was sent there is known, not what.
    """
    from hullwatch.store.query import Reader
    from hullwatch.store.secrets import seen as seen_in

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    seconds = parse_duration(within, "--within")
    if not 0 < seconds <= _LONGEST:
        raise CommandError(f"--within {within}: more than nothing, at most 7d", ExitCode.USAGE)
    where = ["TRUE"]
    for sign, moment in ((">=", begin), ("<=", end)):
        if moment is not None:
            where.append(f"time {sign} make_timestamptz({moment // 1000}::BIGINT)")
    last = None if end is None else end + int(seconds * 1e9)  # what came next may be later
    with Reader(store, begin, last, container) as reader:
        if reader.scope is not None:
            where.append(scope_sql(reader.scope))
        found = seen_in(reader, " AND ".join(where), seconds)
        warnings = tuple(reader.warnings)
    for warning in warnings:
        say(warning)
    found = [one for one in found if kind in (None, one.kind)]
    if json:
        import msgspec

        for one in found:
            print_json(msgspec.to_builtins(one, builtin_types=(datetime,)))
    elif found:
        _table(found)
    else:
        say("none: no workload that was watched held or touched a secret of a known kind")


def _table(found: list[Seen]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in "workload,kind,where,times,last,by,call,then".split(","):
        table.add_column(head, overflow="fold", no_wrap=head == "last")
    for one in found:
        ends = (
            f"{'' if end.same else '~'}{safe(end.name or end.address)}"
            + (f" {size(end.bytes_out)}" if end.bytes_out else "")
            for end in sorted(one.then, key=lambda end: (not end.same, end.after))
        )
        table.add_row(
            safe(one.workload or "the host"),
            one.kind,
            ("$" if one.how == "environment" else "") + safe(one.where),
            str(one.times),
            short_time(one.last, True)[5:],
            _few(safe(program).rpartition("/")[2] for program in one.programs),
            _few(safe(call) for call in one.calls),
            _few(ends),
            style="yellow" if one.then else "",
        )
    console().print(table, soft_wrap=False)


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_FEW]) + (f" +{len(listed) - _FEW}" if len(listed) > _FEW else "")


def kinds(json: Json = False) -> None:
    """List the kinds: name, who issues it, what it looks like."""
    from hullwatch.agent.secrets import KINDS

    rows = [{"kind": kind.name, "provider": kind.provider, "shape": kind.example} for kind in KINDS]
    if json:
        for row in rows:
            print_json(row)
    else:
        print_table(["kind", "provider", "shape"], rows)
        say(f"{len(rows)} kinds; {{w36}} is 36 letters and digits, {{h32}} 32 of hexadecimal")


def scan(paths: Paths = None, json: Json = False) -> None:
    """Find secrets in files: file, line and kind, never the value. Default: this folder.

    Exit code 1: there are some.

    Example: git diff | hullwatch secrets scan -
    """
    count = looked_at = 0
    for name, data in _texts(paths or [Path()]):
        looked_at += 1
        for line, found in _lines(data):
            count += 1
            if json:
                print_json(
                    {"file": name, "line": line, "kind": found.kind}
                    | {"start": found.start, "end": found.end}
                )
            else:
                print(f"{safe(name)}:{line} {found.kind}")
    if not json:
        say(f"{count} found in {looked_at} files")
    if count:
        raise typer.Exit(ExitCode.NO)


def _lines(data: bytes) -> Iterator[tuple[int, Found]]:
    from hullwatch.agent.secrets import detect

    line, at = 1, 0
    for found in detect(data):
        line += data.count(b"\n", at, found.start)
        at = found.start
        yield line, found


def _texts(paths: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Name and content. What is not looked at is said, binary files together."""
    binary = 0
    for path in paths:
        if path == Path("-"):
            yield "-", sys.stdin.buffer.read(MAX_FILE)
            if sys.stdin.buffer.read(1):
                say(f"-: only the first {MAX_FILE >> 20} MiB were looked at")
            continue
        if not os.path.lexists(path):
            raise CommandError(f"{path}: no such file or directory", ExitCode.USAGE)
        for file in _files(path):
            try:
                data = _content(file)
            except OSError as error:
                say(f"{file}: {error.strerror}; not looked at")
                continue
            if b"\0" in data[:_HEAD]:
                binary += 1
            else:
                yield str(file), data
    if binary:
        say(f"{binary} binary files were not looked at")


def _files(path: Path) -> Iterator[Path]:
    """Below a folder no link is followed; a link that is named is."""
    if not path.is_dir():
        yield path
        return
    for folder, below, names in os.walk(path):
        below[:] = sorted(set(below) - _NOT_LOOKED_AT)
        for name in sorted(names):
            file = Path(folder, name)
            if not file.is_symlink():
                yield file


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "no regular file")
        if about.st_size > MAX_FILE:
            raise OSError(0, f"larger than {MAX_FILE >> 20} MiB")
        return file.read(MAX_FILE)
