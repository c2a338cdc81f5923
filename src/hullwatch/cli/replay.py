"""`hullwatch replay FILE`: a capture through the real stages, rules included."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json, Rules
from hullwatch.cli.show import print_json, say
from hullwatch.cli.up import load_rules, show_finding

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", readable=False, help="A capture made by `hullwatch record`."
        ),
    ],
    rules: Rules = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            readable=False,
            help="Also store what is replayed here, for hunts and trees.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run rules over a capture, by the same stages as live: context, detect, and store if asked."""
    from hullwatch.replay import Capture, Replay
    from hullwatch.sensor.capture import CaptureError

    os.umask(0o077)  # a store is for its user only, as that of `hullwatch up`
    try:
        run = Replay(Capture(file), load_rules(rules), store)
    except CaptureError as error:
        raise CommandError(str(error), ExitCode.CONTENT) from error
    began = time.perf_counter()
    found: dict[str, Any] = {}
    for findings in run:
        for finding in findings:
            if finding.id not in found and not json:
                show_finding(finding)
            found[finding.id] = finding
    took = time.perf_counter() - began
    if json:
        for finding in found.values():
            print_json(finding)
        return
    rate = f"{run.events / took:,.0f} events/s" if took else ""
    say(f"{run.events} events, {len(found)} findings, {run.lost} lost when recorded; {rate}")
    if run.torn:
        say(f"the capture ends in the middle of a batch: {run.torn}")
    if store is not None:
        say(f"next: hullwatch hunt --store {store} 'SELECT class, count(*) FROM events GROUP BY 1'")
