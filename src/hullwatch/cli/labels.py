"""`hullwatch labels`: who has read what should not leave, and where it went from there."""

from __future__ import annotations

from typing import Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.events import scope_sql
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Since, Store, Until
from hullwatch.cli.show import print_json, print_table, safe, say, short_time
from hullwatch.cli.when import parse_time

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("labels")(labels)


def labels(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="NAME", help="This one only: secret, private, untrusted."),
    ] = None,
    json: Json = False,
) -> None:
    """List how labels went: which process got one, of which file, pipe, socket or address, since
    when and by which way, and what it gave it to."""
    import msgspec

    from hullwatch.sensor.labels import bits_of
    from hullwatch.store.labels import steps
    from hullwatch.store.query import Reader

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    if label is not None:
        try:
            bits_of([label])
        except ValueError as problem:
            raise CommandError(f"--label: {problem}", ExitCode.USAGE) from None
    where = ["TRUE"]
    for sign, moment in ((">=", begin), ("<=", end)):
        if moment is not None:
            where.append(f"time {sign} make_timestamptz({moment // 1000}::BIGINT)")
    with Reader(store, begin, end, container) as reader:
        if reader.scope is not None:
            where.append(scope_sql(reader.scope))
        found = steps(reader, " AND ".join(where))
        warnings = tuple(reader.warnings)
    for warning in warnings:
        say(warning)
    found = [one for one in found if label is None or label in one.labels]
    if json:
        for one in found:
            print_json(msgspec.to_builtins(one, builtin_types=(type(one.time),)))
    elif found:
        rows = [
            {
                "time": short_time(one.time, True),
                "workload": safe(one.workload or "the host"),
                "process": safe(one.program),
                "label": ", ".join(one.labels),
                "way": "took of" if one.way == "took" else "gave to",
                "what": safe(one.object),
                "came by": safe(" > ".join(one.came_by)),
            }
            for one in found
        ]
        print_table(["time", "workload", "process", "label", "way", "what", "came by"], rows)
    else:
        say("none: nothing that was watched got a label")
