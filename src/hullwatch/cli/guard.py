"""`hullwatch guard`: policies for files and programs where the kernel has no BPF LSM."""

from __future__ import annotations

import asyncio
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hullwatch.cli.asking import NOBODY, Asking, asks
from hullwatch.cli.decisions import HeadFile, LogFolder
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import chosen, refusing
from hullwatch.cli.show import print_json, safe, say

if TYPE_CHECKING:
    from hullwatch.context.workload import Workload
    from hullwatch.decide.applied import Set
    from hullwatch.decide.log import Entry
    from hullwatch.permits.messages import Counts, Message

__all__ = ["register"]

_LOOKED = 1.0  # s between two looks for new containers


def register(app: typer.Typer) -> None:
    app.command("guard")(guard)


@asks
def guard(
    containers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONTAINER]...",
            help="Ids (or their beginnings) or names. Default: all there are and those to come.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="PATH",
            help="A .cedar file, a folder of them, or the name of a set that ships; may be"
            " repeated. Default: the set in force (`hullwatch policy apply`).",
        ),
    ] = None,
    log: LogFolder = None,
    head: HeadFile = None,
    store: Store = DEFAULT_STORE,
    told: Asking = NOBODY,
    json: Json = False,
) -> None:
    """Ask policies before containers open files or run programs, until Ctrl-C.

    What a policy forbids ends with EPERM; what it challenges waits for `hullwatch approvals`, or
    for the link that `--approval-webhook` tells of.
    Policies of open-read, open-write, use-secret, load-plugin and exec are asked; containers that
    none of them speaks of cost nothing. What images normally do is read from the store. Prints
    what is stopped or held, and what is not covered.
    Where `hullwatch up` asks already, the set in force is left to it.

    Example: hullwatch guard interpreter --policy code-interpreter
    """
    from hullwatch.cli.normal import Normal
    from hullwatch.context.resolver import Resolver
    from hullwatch.decide.log import directory
    from hullwatch.permits.doorkeeper import Doorkeeper, facts_of
    from hullwatch.permits.messages import Release
    from hullwatch.sensor.fanotify import Group

    told = told.checked(True)
    found = _set(policy, store)
    _leave_to_the_agent(bool(policy), store)
    try:
        Group().close()
    except OSError as error:
        raise CommandError(f"guard: {error.strerror}; run as root", ExitCode.SENSOR) from None
    wanted = _wanted(containers or [])
    resolver = Resolver()
    keeper = Doorkeeper(log or directory(), head, elsewhere=told.opened())
    screen = _Screen(json)
    seen: dict[str, Workload] = {}
    watched: dict[str, object] = {}
    over: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: over.append(number))
    try:
        keeper.policies(found.policies)
        normal = Normal.asked_by(found.engine(), store, keeper)
        looked = 0.0
        while keeper.alive and not over:
            if time.monotonic() - looked >= _LOOKED:
                looked = time.monotonic()
                resolver.scan()
                if normal is not None and (problem := normal.look()):
                    say(safe(problem))
            for one in resolver.poll():
                if not one.is_container or not one.container_id or not wanted(one):
                    continue
                seen[one.container_id] = one
            for ident, one in seen.items():
                name, facts = one.name or ident, facts_of(one)
                image = normal.tell(one, facts) if normal is not None else ""
                if watched.get(ident) != (name, facts, image):
                    watched[ident] = name, facts, image
                    keeper.watch(ident, name, one.cgroup_path, facts, image)
            select.select([keeper.fd], [], [], 0.2)
            for message in keeper.take():
                if isinstance(message, Release):
                    seen.pop(message.container, None)
                screen.show(message)
        if not over:
            raise CommandError("guard: its process ended; nothing is asked about any more")
    finally:
        keeper.close()
        resolver.close()


def _set(given: list[str] | None, store: Path) -> Set:
    from hullwatch.decide.applied import Applied, Set

    with refusing():
        if given:
            found = Set.read(chosen(given))
        else:
            applied = Applied(store)
            entry = applied.current()
            if entry is None:
                raise CommandError(
                    "guard: no set is in force; give --policy, or `hullwatch policy apply`",
                    ExitCode.CONTENT,
                )
            found = applied.set(entry.version)
        engine = found.engine()
    if not engine.policies:
        raise CommandError("guard: there is no policy in it", ExitCode.CONTENT)
    for problem in engine.overdue():
        say(str(problem))
    return found


def _leave_to_the_agent(others: bool, store: Path) -> None:
    """The set in force, where it asks about that. others: other policies were given, which are
    asked besides."""
    from hullwatch.control import ControlError, ask

    try:
        status = ask(store / CONTROL)
    except ControlError:
        return
    if (status.get("opens") or {}).get("state") != "asks":
        return
    agent = f"the agent, pid {status.get('pid')}, asks about opens and execs already"
    if not others:
        raise CommandError(f"guard: {agent}, by the set in force; give other policies: --policy")
    say(f"{agent}: what either forbids is refused, and what both challenge is asked twice")


def _wanted(given: list[str]) -> Callable[[Workload], bool]:
    def fits(one: Workload) -> bool:
        ident = one.container_id or ""
        return not given or any(name == one.name or ident.startswith(name) for name in given)

    return fits


class _Screen:
    """What was said is not said again."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._guarded: dict[str, str] = {}
        self._lost: dict[str, int] = {}

    def show(self, message: Message) -> None:
        from hullwatch.agent.link import tell
        from hullwatch.permits.messages import Counts, Flood, Problem, Told

        if isinstance(message, Flood):
            asyncio.run(tell(message.signal))
        if self._as_json:
            import msgspec

            print_json({"what": type(message).__name__.lower(), **msgspec.to_builtins(message)})
            return
        match message:
            case Told(entry):
                _print(entry)
            case Flood(signal):
                say(f"approvals: {safe(signal.subject)}: {signal.detail}")
            case Problem(text, gap):
                say(safe(f"gap: {text}" if gap else text))
            case Counts():
                self._changes(message)
            case _:
                pass

    def _changes(self, now: Counts) -> None:
        from hullwatch.permits.messages import LOSSES

        for ident, asked in now.guarded.items() if now.version else ():
            if self._guarded.get(ident) != asked:
                say(f"{safe(ident[:12])}: {asked} asked about")
        self._guarded = now.guarded if now.version else {}
        for name, text in LOSSES.items():
            lost = now.counts.get(name, 0)
            if lost > self._lost.get(name, 0):
                say(f"{lost} {text}")
            self._lost[name] = lost


def _print(entry: Entry) -> None:
    said = f"{entry.kind}: {entry.effect}"
    if entry.effect is not entry.wanted and entry.kind == "verdict":
        said += f" (observed: {entry.wanted})"
    parts = (
        f"{said:<20}",
        f"{entry.action} {safe(entry.resource)}",
        f"by {safe(entry.principal)}",
        safe(", ".join(entry.policies)),
        safe(entry.why or entry.reason),
        f"hullwatch approvals show {entry.held}" if entry.kind == "held" else "",
    )
    print("  ".join(filter(None, parts)), flush=True)
