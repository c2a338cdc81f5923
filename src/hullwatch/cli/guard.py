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
    none of them speaks of cost nothing. Prints what is stopped or held, and what is not covered.
    Where `hullwatch up` asks about opens already, of the set in force only exec is asked about
    here.

    Example: hullwatch guard interpreter --policy code-interpreter
    """
    from hullwatch.context.resolver import Resolver
    from hullwatch.decide.log import directory
    from hullwatch.permits.doorkeeper import Doorkeeper, facts_of
    from hullwatch.sensor.fanotify import Group

    told = told.checked(True)
    found = _set(policy, store)
    actions = _left_to_ask(found, bool(policy), store)
    try:
        Group().close()
    except OSError as error:
        raise CommandError(f"guard: {error.strerror}; run as root", ExitCode.SENSOR) from None
    wanted = _wanted(containers or [])
    resolver = Resolver()
    keeper = Doorkeeper(log or directory(), head, elsewhere=told.opened())
    screen = _Screen(json)
    watched: dict[str, object] = {}
    over: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: over.append(number))
    try:
        keeper.policies(found.policies, actions)
        looked = 0.0
        while keeper.alive and not over:
            if time.monotonic() - looked >= _LOOKED:
                looked = time.monotonic()
                resolver.scan()
            for one in resolver.poll():
                if not one.is_container or not one.container_id or not wanted(one):
                    continue
                name, facts = one.name or one.container_id, facts_of(one)
                if watched.get(one.container_id) != (name, facts):
                    watched[one.container_id] = name, facts
                    keeper.watch(one.container_id, name, one.cgroup_path, facts)
            select.select([keeper.fd], [], [], 0.2)
            for message in keeper.take():
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


def _left_to_ask(found: Set, others: bool, store: Path) -> tuple[str, ...]:
    """All actions, but for those that the agent asks about by the same set. others: other policies
    were given, which are asked besides."""
    from hullwatch.control import ControlError, ask
    from hullwatch.opened import OPENS
    from hullwatch.permits.messages import ACTIONS

    try:
        status = ask(store / CONTROL)
    except ControlError:
        return ACTIONS
    if (status.get("opens") or {}).get("state") != "asks":
        return ACTIONS
    agent = f"the agent, pid {status.get('pid')}, asks about opens already"
    if others:
        say(f"{agent}: what either forbids is refused, and what both challenge is asked twice")
        return ACTIONS
    left = tuple(one for one in ACTIONS if one not in OPENS)
    policies = found.engine().policies.values()
    if all({*left}.isdisjoint(one.actions) for one in policies):
        raise CommandError(f"guard: {agent}, and the set in force says nothing of {left[0]}")
    say(f"{agent}: here only {', '.join(left)}")
    return left


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
