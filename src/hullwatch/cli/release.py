"""`hullwatch policy release`: let go of what an agent that was killed goes on holding."""

from __future__ import annotations

from typing import Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json
from hullwatch.cli.show import print_json, say

__all__ = ["release"]


def release(json: Json = False) -> None:
    """Let go of what an agent that was killed still holds in the kernel.

    What fails closed stays forbidden when an agent is killed, until the next one takes over. Where
    none is to follow, this ends it; what a running agent holds is left alone. Exit code 1: there
    was nothing.
    """
    from hullwatch.sensor import pins

    found: list[dict[str, Any]] = []
    for one in pins.left():
        row = {"agent": one.pid, "programs": one.programs, "released": not one.alive}
        try:
            if not one.alive:
                pins.release(one.path)
        except OSError as error:
            raise CommandError(
                f"{one.path}: {error.strerror}; run it as root", ExitCode.SENSOR
            ) from None
        found.append(row)
    for row in found:
        if json:
            print_json(row)
        elif row["released"]:
            print(f"agent {row['agent']}, which is gone: {row['programs']} programs let go")
        else:
            say(f"agent {row['agent']} runs and goes on holding {row['programs']} programs")
    if not any(row["released"] for row in found):
        if not found:
            say("nothing is held")
        raise typer.Exit(ExitCode.NO)
