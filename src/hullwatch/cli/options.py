"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CONTROL",
    "Container",
    "DEFAULT_STORE",
    "Json",
    "Limit",
    "Progress",
    "Rules",
    "Since",
    "Store",
    "Until",
]

DEFAULT_STORE = Path("/var/lib/hullwatch")
CONTROL = "control.sock"

Store = Annotated[
    Path,
    typer.Option(
        "--store",
        envvar="HULLWATCH_STORE",
        help="Directory of the store.",
        metavar="DIR",
        readable=False,  # who may not read it learns so from the store, with the mend
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, one value a line.")]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="From then on: 30s, 10m, 2h, 7d ago, or ISO 8601."
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", help="Up to then; as --since.")
]
Container = Annotated[
    str | None,
    typer.Option(
        "--container", metavar="NAME", help="Container id (or its beginning), name or [NS/]POD."
    ),
]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Say how far it is. Default: on a terminal."),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, the newest.")]
Rules = Annotated[
    list[Path] | None,
    typer.Option(
        "--rules",
        "-r",
        metavar="PATH",
        readable=False,
        help="Rule file or folder; may be repeated. Default: the pack, then /etc/hullwatch/rules.",
    ),
]
