"""`hullwatch secrets`: which kinds of secrets are known, and where in files some are."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json
from hullwatch.cli.show import print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.agent.secrets import Found

__all__ = ["register"]

MAX_FILE = 64 << 20  # bytes
_HEAD = 8192  # bytes; a zero byte among them: no text
_NOT_LOOKED_AT = {".git", ".hg", ".svn"}

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]...", readable=False, help="Files, folders, or - for stdin."),
]


def register(app: typer.Typer) -> None:
    secrets = typer.Typer(
        help="List the kinds of secrets that are known; find some in files. None is ever shown.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    secrets.command("kinds")(kinds)
    secrets.command("scan")(scan)
    app.add_typer(secrets, name="secrets")


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
