"""`hullwatch record FILE`: keep everything the sensor sees, to be replayed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode, sensor_error
from hullwatch.cli.show import say, size

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("record")(record)


def record(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", readable=False, help="The capture to write.")
    ],
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", "-s", metavar="SECONDS", min=0, help="End after so long; 0: on Ctrl-C."
        ),
    ] = 0,
    tier: Annotated[
        str | None,
        typer.Option("--tier", metavar="TIER", help="Force a tier (lsm, tracepoint)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write every event of this host to FILE; `hullwatch replay FILE` runs rules over it.

    The file holds command lines and paths, never the content of files or variables.
    """
    from hullwatch import privileges

    if file.exists() and not force:
        raise CommandError(f"{file}: exists; give another name, or --force", ExitCode.USAGE)
    rights = privileges.begin(file if file.exists() else file.parent)
    # From here on, as importing them makes threads.
    from hullwatch.agent.secrets.labels import path_patterns
    from hullwatch.context.enrich import Context
    from hullwatch.context.resolver import Resolver
    from hullwatch.sensor import snapshot
    from hullwatch.sensor.capture import CaptureWriter
    from hullwatch.sensor.labels import LABELS
    from hullwatch.sensor.libbpf import BpfError
    from hullwatch.sensor.patterns import compiled
    from hullwatch.sensor.programs import SensorError
    from hullwatch.sensor.sensor import Sensor
    from hullwatch.sensor.tier import Tier

    try:
        sensor = rights.call(lambda: Sensor(record=True, policy=False, tier=Tier.parse(tier)))
    except ValueError as error:
        raise CommandError(f"--tier: {error}", ExitCode.USAGE) from error
    except (SensorError, BpfError) as error:
        raise sensor_error(error) from error
    # All that there are: which of them matter, the replay's rules say.
    sensor.labels.give_paths(compiled(path_patterns(LABELS)))
    sensor.labels.give_untrusted(True)
    resolver = Resolver()
    context = Context(resolver, hold=False)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    try:
        writer = CaptureWriter(file, sensor.facts)
    except OSError as error:
        sensor.close()
        raise CommandError(f"{file}: {error.strerror}", ExitCode.CONTENT) from error
    losses = 0
    began = time.monotonic()
    say(f"recording to {file}; Ctrl-C ends")
    try:
        batches = rights.call(lambda: snapshot.begin(sensor))
        rights.end()
        for problem in rights.problems:
            say(f"privileges: {problem}")
        # The resolver is told of processes before it is asked: it cannot look them up itself.
        for batch in batches:
            resolver.began(batch.procs)
        resolver.scan()
        ending = False
        while True:
            for batch in batches:
                context.enrich(batch)
                losses += sum(loss.count for loss in batch.losses)
                writer.write(batch, context.workload_news)
            if ending and not len(batches[-1].events):
                break
            ending = bool(stopped) or bool(seconds and time.monotonic() - began >= seconds)
            if ending:
                sensor.detach()
            else:
                sensor.wait(0.1)
            batches = [sensor.drain(final=ending)]
    finally:
        sensor.close()
        resolver.close()
        writer.close()
    say(
        f"{writer.events} events in {time.monotonic() - began:.1f} s, "
        f"{size(file.stat().st_size)}, {losses} lost; next: hullwatch replay {file}"
    )
