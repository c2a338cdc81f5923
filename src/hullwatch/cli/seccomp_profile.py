"""`hullwatch seccomp-profile`: what a config.json needs for a container to be held."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Store
from hullwatch.cli.policies import asked_set
from hullwatch.cli.run import Policy

__all__ = ["DEFAULT_SOCKET", "register"]

DEFAULT_SOCKET = Path("/run/hullwatch/seccomp.sock")


def register(app: typer.Typer) -> None:
    app.command("seccomp-profile")(seccomp_profile)


def seccomp_profile(
    policy: Policy,
    listen: Annotated[
        Path, typer.Option("--listen", metavar="SOCKET", help="Of `hullwatch seccomp-agent`.")
    ] = DEFAULT_SOCKET,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="It is Workload::NAME to policies. Default: the container's own name.",
        ),
    ] = "",
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="CONFIG",
            help="Print this config.json with the section in it, after what its own section says.",
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Annotated[bool, typer.Option("--json", help="It is JSON in any case.")] = False,
) -> None:
    """Print `linux.seccomp` for an OCI config.json: which calls runc lets the agent decide on.

    Only calls that the policies speak of are asked about. With containerd: the file's place is the
    profile of a pod (`localhostProfile`) or of `nerdctl --security-opt seccomp=FILE`.
    """
    from hullwatch.cli.show import print_json
    from hullwatch.holding import spoken_of
    from hullwatch.sensor.seccomp.filter import profile, rules

    engine, _ = asked_set(policy, store)
    actions = spoken_of(engine, name or None)
    if not actions:
        said = "--policy: no policy speaks of what a workload executes, opens or connects to"
        raise CommandError(said, ExitCode.CONTENT)
    # The first exec is how the agent knows that the runtime has done its part.
    section = profile(rules(actions | {"exec"}), os.path.abspath(listen), name)
    print_json(section if into is None else _placed(into, section))


def _placed(path: Path, section: dict[str, object]) -> dict[str, object]:
    import json

    try:
        config = json.loads(path.read_bytes())
        linux = config.setdefault("linux", {})
        if "seccomp" in linux:
            said = f"--into {path}: has a linux.seccomp already; join the two by hand"
            raise CommandError(said, ExitCode.CONTENT)
        linux["seccomp"] = section
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CommandError(f"--into {path}: {error}", ExitCode.CONTENT) from None
    return dict(config)
