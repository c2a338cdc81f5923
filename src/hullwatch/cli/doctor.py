"""`hullwatch doctor`: what can be seen here, what cannot, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Json, Store
from hullwatch.cli.show import print_json, say

if TYPE_CHECKING:
    from hullwatch.sensor.tier import Tier

__all__ = ["examine", "register"]


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    store: Store = DEFAULT_STORE,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look only; do not load the programs and try them.")
    ] = False,
    json: Json = False,
) -> None:
    """Say which tier runs, prove that events arrive, name the blind spots and how to mend them.

    Exit code 1: something that should be seen is not. Exit code 7: no sensor can run here.
    """
    found = examine(store, quick)
    if json:
        print_json(found)
    else:
        _print(found)
    if found["tier"] == "none":
        raise typer.Exit(ExitCode.SENSOR)
    if any(not check["seen"] for check in found["checks"]):
        raise typer.Exit(ExitCode.NO)


def examine(store: Path, quick: bool) -> dict[str, Any]:
    """Everything doctor knows, as one value."""
    from hullwatch.control import ControlError, ask
    from hullwatch.coverage.blindspots import blind_spots
    from hullwatch.coverage.selfcheck import check
    from hullwatch.sensor.libbpf import BpfError
    from hullwatch.sensor.programs import SensorError
    from hullwatch.sensor.tier import Tier, read_facts

    facts = read_facts()
    checks: list[dict[str, Any]] = []
    skipped: tuple[str, ...] = ()
    problem = ""
    if facts.tier != Tier.NONE and not quick:
        try:
            report = check()
            facts, skipped = report.facts, report.skipped
            checks = [made._asdict() for made in report.checks]
        except (SensorError, BpfError) as error:
            problem = str(error)
    try:
        agent: dict[str, Any] | None = ask(store / CONTROL)
    except ControlError:
        agent = None
    tier = Tier.NONE.value if problem else facts.tier.value
    if agent is not None and not checks:
        tier = agent["tier"]
    return {
        "tier": tier,
        "tried": bool(checks) or agent is not None,
        "reason": problem or facts.reason,
        "mend": facts.mend,
        "kernel": facts.release,
        "machine": facts.machine,
        "btf": facts.btf,
        "bpf_lsm": facts.bpf_lsm,
        "cgroup2": facts.cgroup2,
        "programs_left_out": list(skipped),
        "checks": checks,
        "blind_spots": [
            {"what": spot.what, "instead": spot.instead, "mend": spot.mend}
            for spot in blind_spots(Tier(tier))
        ],
        "agent": agent
        and {
            key: agent.get(key)
            for key in (
                *("pid", "mode", "tier", "losses", "faults", "privileges", "tap", "tls"),
                "content",
            )
        },
        "labels": _labels_of(agent, Tier(tier)),
        "policy": _policy_of(agent, Tier(tier)),
        "noise": _noise(store),
        "store": str(store),
    }


def _labels_of(agent: dict[str, Any] | None, tier: Tier) -> dict[str, Any]:
    """given: which the agent gives, None: nobody knows. not_followed: on this tier."""
    from hullwatch.coverage.blindspots import blind_spots

    known = (agent or {}).get("labels") or {}
    return {
        "given": known.get("given"),
        "host": known.get("host"),
        "processes": known.get("processes"),
        "files_dropped": known.get("files_dropped"),
        "spread": known.get("spread"),
        "fault": bool(((agent or {}).get("faults") or {}).get("labels")),
        "not_followed": [spot.what for spot in blind_spots(tier) if spot.what.startswith("labels")],
    }


def _policy_of(agent: dict[str, Any] | None, tier: Tier) -> dict[str, Any]:
    """points: where policy is asked here, and for what. held: what an agent left that is gone.
    not_prevented: ways around it, on this tier, with what to do about each."""
    from hullwatch.coverage.promises import PROMISES
    from hullwatch.sensor.pins import left
    from hullwatch.sensor.tier import Tier

    points = {
        "cgroup hooks": "connect, send, listen, raw sockets",
        **(
            {"BPF LSM": "programs, files, ptrace, mount, bpf, modules, other sockets"}
            if tier is Tier.LSM
            else {"exec": "a forbidden program is killed before its first instruction"}
        ),
        "fanotify": _opens_of(agent, tier),
        "seccomp notify": "one command or container that waits for answers: `hullwatch run`",
        "gateway": "tool calls, and what servers ask of the model: `hullwatch mcp --policy`",
        "quarantine": "network cut, freeze, kill: by hand, or by a policy's @quarantine",
    }
    if tier is Tier.NONE:
        for name in ("cgroup hooks", "exec", "fanotify"):
            points.pop(name, None)
    return {
        "in_force": (agent or {}).get("policy") or {},
        "points": points,
        "left_by_dead_agents": [
            {"agent": one.pid, "programs": one.programs} for one in left() if not one.alive
        ],
        "prevented": sum(one.kept(tier) for one in PROMISES),
        "not_prevented": [
            {"what": one.attempt, "mend": one.mend} for one in PROMISES if not one.kept(tier)
        ],
    }


def _opens_of(agent: dict[str, Any] | None, tier: Tier) -> str:
    from hullwatch.sensor.tier import Tier

    said = (
        "of opens and programs what BPF LSM cannot: challenges, by which program and user, code"
        " that is loaded"
        if tier is Tier.LSM
        else "files; of programs challenges, and by which program and user"
    )
    said += ", by the agent (docs/files.md)"
    opens = (agent or {}).get("opens") or {}
    if opens.get("state") == "off":
        return f"{said}; not asked about by this agent: {opens['why']}"
    if opens.get("state") == "ended":
        return f"{said}; not asked about any more: start the agent anew"
    return said


def _policy(found: dict[str, Any]) -> Iterator[str]:
    from rich.markup import escape

    state = found["in_force"]
    if state.get("generation"):
        yield (
            f"{state['policies']} in force in the kernel, for {state['guarded']} containers;"
            f" {len(state['unheld'])} that it cannot ask"
        )
    else:
        yield "none in force in the kernel (hullwatch policy apply)"
    if problem := state.get("problem"):
        yield f"[yellow]{escape(problem)}[/]"
    for one in found["left_by_dead_agents"]:
        yield (
            f"[yellow]agent {one['agent']} is gone, and what it held goes on holding: start one,"
            " or `hullwatch policy release`[/]"
        )
    for name, what in found["points"].items():
        yield f"{name}: {escape(what)}"


def _labels(found: dict[str, Any]) -> Iterator[str]:
    """Whether labels are on, and what is not followed."""
    given = found["given"]
    if found["fault"]:
        yield "[red]a fault: `hullwatch status` has it[/]"
    if given is None:
        yield "not known: no agent runs"
    elif not given:
        yield "off (started with --labels none)"
    else:
        whose = "containers and of the host" if found["host"] else "containers"
        yield f"on: {', '.join(given)}; {found['processes']} processes of {whose} carry some"
    if found["files_dropped"]:
        yield f"[yellow]{found['files_dropped']} labelled files were let go of[/]"
    if found["spread"]:
        yield f"[yellow]{found['spread']} containers are held to labels as a whole[/]"
    for spot in found["not_followed"] if given else ():
        yield f"not followed: {spot}"


def _tls(agent: dict[str, Any]) -> Iterator[str]:
    """Whose TLS is read, and who speaks it in a way that cannot be; escaped."""
    from rich.markup import escape

    tls = agent.get("tls") or {}
    if not tls:
        if agent:
            yield "not read (started with --no-tap)"
        return
    if not tls["alive"]:
        yield "[red]the process that hooks libraries has ended: new ones are not read[/]"
    yield (
        f"of {tls['read']} processes can be read: {tls.get('files', 0)} files hooked,"
        f" {tls.get('probes', 0)} probes"
    )
    for one in tls["opaque"]:
        yield f"[yellow]opaque[/]: {escape(one['exe'])} (pid {one['pid']}): {escape(one['why'])}"
    for why, count in (tls.get("failures") or {}).items():
        yield f"{escape(why)}: {count} files"


def _noise(store: Path) -> dict[str, Any]:
    """As in `hullwatch status`; {} without a store that can be read."""
    from hullwatch.cli.status import noise_of
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.errors import StoreError

    try:
        with Catalog(store) as catalog:
            return noise_of(catalog)
    except StoreError:
        return {}


def _print(found: dict[str, Any]) -> None:
    from rich.markup import escape

    from hullwatch.cli.show import console
    from hullwatch.cli.status import content_of

    out = partial(console().print, markup=True)
    colour = "red" if found["tier"] == "none" else "green"
    tried = "" if found["tried"] else " (not tried)"
    out(f"[bold]tier[/]      [{colour}]{found['tier']}[/]{tried}  kernel {found['kernel']}")
    if found["reason"]:
        out(f"          {escape(found['reason'].splitlines()[0])}")
    if found["mend"]:
        out(f"          mend: {escape(found['mend'])}")
    out(f"[bold]cgroup v2[/] {found['cgroup2'] or 'not mounted'}")
    agent = found["agent"]
    if agent:
        out(f"[bold]agent[/]     pid {agent['pid']}, {agent['mode']} mode, tier {agent['tier']}")
        rights = agent["privileges"] or {}
        for name in rights.get("held", ()):
            out(f"          keeps {name}: {escape(rights['why'].get(name, 'not wanted'))}")
        for problem in rights.get("problems", ()):
            out(f"          [red]{escape(problem)}[/]")
    else:
        out(f"[bold]agent[/]     not running for {escape(found['store'])} (start: hullwatch up)")
    for line in _tls(agent or {}):
        out(f"[bold]tls[/]       {line}")
    for line in _labels(found["labels"]):
        out(f"[bold]labels[/]    {line}")
    for line in _policy(found["policy"]):
        out(f"[bold]policy[/]    {line}")
    for _, line in content_of(agent) if agent else ():
        out(f"[bold]content[/]   {escape(line)}")
    noise = found["noise"]
    if noise.get("silent_rules") or noise.get("rules_that_cannot_match"):
        out(
            f"[bold]rules[/]     {noise['silent_rules']} have not fired for 30 days,"
            f" {noise['rules_that_cannot_match']} cannot match here: hullwatch rules health"
        )
    if found["checks"]:
        out("[bold]seen just now[/]")
        for made in found["checks"]:
            mark = "[green]yes[/]" if made["seen"] else "[red]NO [/]"
            out(f"  {mark} {made['name']}")
    out("[bold]cannot be seen[/]")
    for spot in found["blind_spots"]:
        out(f"  - {escape(spot['what'])}")
        out(f"    [dim]instead: {escape(spot['instead'])}[/]")
        out(f"    [dim]mend: {escape(spot['mend'])}[/]")
    policy = found["policy"]
    out(
        f"[bold]ways around policies[/] {policy['prevented']} of"
        f" {policy['prevented'] + len(policy['not_prevented'])} tried ones are prevented here;"
        " these are not"
    )
    for spot in policy["not_prevented"]:
        out(f"  - {escape(spot['what'])}")
        out(f"    [dim]mend: {escape(spot['mend'])}[/]")
    if found["tier"] == "none":
        say("no sensor can run here")
