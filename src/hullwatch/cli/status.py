"""`hullwatch status`: does the agent run, what does it keep up with, what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from hullwatch.cli.errors import ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Json, Store
from hullwatch.cli.show import iso, print_json, safe, short_time, size

__all__ = ["content_of", "noise_of", "register", "report"]

_SILENT_DAYS = 30


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Show what the agent does and what the store holds. Exit code 4: no agent is running."""
    found = report(store)
    if json:
        print_json(found)
    else:
        _print(found)
    if found["agent"] is None:
        raise typer.Exit(ExitCode.AGENT)


def report(store: Path) -> dict[str, Any]:
    """agent (None: not reachable, `why` says so), store, losses, notices, sessions."""
    from hullwatch.control import ControlError, ask
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.lock import holder

    agent, why = None, ""
    try:
        agent = ask(store / CONTROL)
    except ControlError as error:
        why = str(error)
    with Catalog(store) as catalog:
        noise = noise_of(catalog)
        segments = catalog.segments()
        oldest = [segment.min_time for segment in segments if segment.min_time is not None]
        return {
            "agent": agent,
            "why": why,
            "writer_pid": holder(store),
            "store": {
                "path": str(store),
                "segments": len(segments),
                "events": sum(_rows(segment, store) for segment in segments),
                "bytes": sum(_bytes(segment.path(store)) for segment in segments),
                "state_bytes": _bytes(store / "state.db") + _bytes(store / "state.db-wal"),
                "oldest": iso(min(oldest)) if oldest else None,
                "quarantined": catalog.rows(
                    "SELECT count(*) FROM segments WHERE state='quarantined'"
                )[0][0],
                "findings": catalog.rows("SELECT count(*) FROM findings")[0][0]
                - noise.get("suppressed_findings", 0),
            },
            "noise": noise,
            "losses": [
                {"stage": stage, "class": cls, "count": count, "last": iso(last)}
                for stage, cls, count, last in catalog.rows(
                    "SELECT stage, class, sum(count), max(last) FROM losses"
                    " GROUP BY stage, class ORDER BY 3 DESC"
                )
            ],
            "notices": [
                {"time": iso(moment), "kind": kind, "text": text}
                for moment, kind, text in catalog.rows(
                    "SELECT time, kind, text FROM notices ORDER BY id DESC LIMIT 10"
                )
            ],
            "sessions": [
                dict(zip(("session", "started", "tier", "mode", "kernel", "how"), row, strict=True))
                | {"started": iso(row[1])}
                for row in catalog.rows(
                    "SELECT session, started, tier, mode, kernel, how FROM sessions"
                    " ORDER BY session DESC LIMIT 5"
                )
            ],
        }


def noise_of(catalog: Any) -> dict[str, Any]:
    """Suppressions and silent rules; {} in a store that no agent of this version has opened."""
    from hullwatch.store.loaded import silent
    from hullwatch.store.suppressions import read

    if not catalog.rows("SELECT 1 FROM sqlite_master WHERE name = 'suppressions'"):
        return {}
    now = time.time_ns()
    every = [one for one in read(catalog.link) if not one.removed]
    findings, events = catalog.rows(
        "SELECT count(*), coalesce(sum(count), 0) FROM findings WHERE suppressed_by IS NOT NULL"
    )[0]
    quiet, never = silent(catalog.link, now - _SILENT_DAYS * 86_400 * 10**9)
    return {
        "suppressions": sum(one.in_force(now) for one in every),
        "expired": sum(not one.in_force(now) for one in every),
        "suppressed_findings": findings,
        "suppressed_events": events,
        "silent_rules": quiet,
        "rules_that_cannot_match": never,
    }


def _rows(segment: Any, store: Path) -> int:
    """The manifest learns of a tail's rows when it is closed; until then it is read."""
    from hullwatch.store.tail import scan_tail

    if segment.state != "open":
        return int(segment.rows)
    try:
        return scan_tail(segment.path(store)).rows
    except OSError:
        return 0


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _print(found: dict[str, Any]) -> None:
    for name, value in (*_agent(found), *_kept(found)):
        print(f"{name:<10}{value}")


def _agent(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The running agent, line by line: a heading (empty: goes on) and text, escaped."""
    agent = found["agent"]
    if agent is None:
        yield "agent", f"not reachable: {safe(found['why'])}"
        return
    get = agent.get
    state = "running" if get("watching", True) else "starting"
    since = f" for {_duration(time.time() - get('started'))}" if get("started") else ""
    yield "agent", f"{state}{since}, pid {safe(get('pid'))}, version {safe(get('version'))}"
    mode = {
        "detect": "detect mode: keeps what rules may want, counts the rest",
        "record": "record mode: keeps every event",
    }.get(str(get("mode")), safe(get("mode")))
    yield "watching", f"tier {safe(get('tier'))}, kernel {safe(get('kernel'))}; {mode}"
    if get("tier_reason"):
        yield "", f"{safe(get('tier_reason'))}; `hullwatch doctor` says what that means"
    if get("privileges"):
        yield "rights", _rights(get("privileges"))
    refused = get("rules_refused")
    more = f", {refused} refused: `hullwatch rules check` says why" if refused else ""
    yield "rules", f"{safe(get('rules'))} run{more}"
    sequences = get("sequences") or {}
    if sequences.get("sequences"):
        lost = sequences.get("evicted", 0)
        more = f"; {lost} given up for want of room" if lost else ""
        kept = f"{sequences.get('keys', 0)} states kept{more}"
        yield "", f"{sequences['sequences']} of them over time, {kept}"
    yield from _folds(agent)
    yield from _policies(get("policy") or {})
    processes, workloads = get("processes") or {}, get("workloads") or {}
    yield (
        "knows",
        f"{_count(processes.get('living', 0), 'process', 'es')},"
        f" {_count(workloads.get('state_resolved', 0), 'container')},"
        f" {_count(get('strings', 0), 'path')} and other names",
    )
    pending = workloads.get("state_pending", 0)
    if pending or get("held"):
        yield (
            "",
            f"{_count(pending, 'container')} not known yet, {get('held', 0)} events wait for that",
        )
    if get("held_gave_up"):
        yield "", f"{get('held_gave_up')} events did not wait longer and are stored as pending"
    yield (
        "load",
        f"{get('events', 0)} events read, {get('events_per_second', 0):.0f} a second now;"
        f" {100 * get('cpu_share', 0):.1f} % of one CPU since the start,"
        f" {size(get('rss_bytes', 0))} of memory",
    )
    yield from _policy(get("policy") or {})
    yield from _opens(get("opens") or {})
    yield from _baselines(get("baselines") or {})
    yield from _calls(get("calls") or {}, get("otlp") or {})
    yield from _tap(get("tap") or {})
    yield from content_of(agent)
    fills = {name: fill for name, fill in (get("rings") or {}).items() if fill >= 0.1}
    if fills:
        listed = ", ".join(f"{safe(name)} {100 * fill:.0f} %" for name, fill in fills.items())
        yield "", f"rings filling: {listed}"
    governor = get("governor") or {}
    if governor.get("level"):
        what = {1: "repeats are counted", 2: "repeats and names never seen are counted"}
        yield (
            "governor",
            f"level {governor['level']}: {what.get(governor['level'], 'more is counted')}, to stay"
            f" within {100 * governor.get('cpu_allowed', 0):.1f} % of one CPU",
        )
    stalled = (get("store") or {}).get("stalled")
    if stalled:
        stats = agent["store"]
        yield "STALLED", f"the store cannot be written: {safe(stalled)}"
        yield (
            "",
            f"{stats.get('lost', 0)} events counted as lost,"
            f" {stats.get('findings_reserved', 0) + stats.get('findings_waiting', 0)} findings kept"
            " aside until it can",
        )
    for stage, count in (get("faults") or {}).items():
        yield "FAULT", f"{count} in {safe(stage)}: the notices below say what"


def _policies(policy: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the kernel holds containers to, and what it does not."""
    if not policy:
        return
    problem = safe(policy.get("problem") or "")
    if not policy.get("generation"):
        yield "policies", f"none in force in the kernel: {problem or 'they are being read'}"
    else:
        yield (
            "policies",
            f"{policy.get('policies', 0)} in force in the kernel, set"
            f" {safe(policy.get('version', ''))[:12]}, for"
            f" {_count(policy.get('guarded', 0), 'container')}",
        )
        if unheld := policy.get("unheld"):
            yield "", f"not asked there: {', '.join(map(safe, unheld))}; the notices said why"
        if problem:
            yield "POLICY", problem
    if policy.get("thread") in ("hangs", "ended"):
        yield (
            "POLICY",
            f"the thread that keeps them {policy['thread']}: what fails closed stays in force,"
            " containers that come are not held to any; start the agent anew",
        )
    for name, what in _LOST_OF_POLICIES.items():
        if policy.get(name):
            yield "POLICY", f"{policy[name]} {what}"


_LOST_OF_POLICIES = {
    "unguarded": "containers that there was no room for are held to none",
    "names_lost": "answers of resolvers that there was no room for",
    "contacts_lost": "destinations of baselines that there is no room for, which count as new",
    "verdicts_lost": "verdicts that were not logged",
}


def _folds(agent: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is not as a reader of findings would expect."""
    folds, suppressions = agent.get("folds") or {}, agent.get("suppressions") or {}
    if folds.get("overflowed"):
        yield (
            "",
            f"{folds['overflowed']} events went into findings of many shapes:"
            " `hullwatch findings top` says which rules are loud",
        )
    if folds.get("evicted"):
        yield "", f"{folds['evicted']} findings were closed for want of room; repeats are told anew"
    if suppressions.get("refused"):
        yield "", f"{_count(suppressions['refused'], 'suppression')} cannot be used: see notices"


def _baselines(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not said.get("images"):
        return
    yield (
        "baselines",
        f"{_count(said['images'], 'image')}, {said['locked']} locked,"
        f" {said['entries']} things they are known to do",
    )
    lost = [
        f"{said[name]} {text}"
        for name, text in (
            ("images_evicted", "images forgotten to make room"),
            ("images_refused", "containers without one: too many images are locked"),
            ("names_without_room", "names beyond what is kept of an image"),
        )
        if said.get(name)
    ]
    if lost:
        yield "", "; ".join(lost)


def _calls(told: dict[str, Any], otlp: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Who tells of tool calls, and what was not taken."""
    if told:
        yield (
            "calls",
            f"{_count(told.get('peers', 0), 'gateway or workload', '')} tell of them,"
            f" {told.get('running', 0)} run, {told.get('taken_calls', 0)} so far,"
            f" {_count(told.get('taken_signals', 0), 'signal')}",
        )
    wrong = {name: count for name, count in told.items() if name.startswith(("refused", "no_room"))}
    if any(wrong.values()):
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in wrong.items())
        yield "", f"not taken: {safe(listed)}"
    for way, counts in otlp.items():
        listed = ", ".join(f"{name} {value}" for name, value in counts.items() if value)
        yield "otlp", f"{safe(way)}: {safe(listed) or 'nothing yet'}"


_UNHELD = 5  # named; --json has all


def _policy(held: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What of the policies in force the kernel holds containers to (docs/enforce.md)."""
    if held.get("generation"):
        yield (
            "policy",
            f"set {safe(held['version'][:12])} holds {_count(held['guarded'], 'container')}:"
            f" {held['policies']} {'policy' if held['policies'] == 1 else 'policies'},"
            f" {_count(held['answers'], 'answer')} filled in {held['filled_seconds']:.2f} s",
        )
    elif held:
        yield "policy", "none is held in the kernel: `hullwatch policy apply`"
    if held.get("problem") and held.get("generation"):
        yield "", f"a newer set is not in force: {safe(held['problem'])}"
    unheld = held.get("unheld") or {}
    for ident, why in list(unheld.items())[:_UNHELD]:
        yield "", f"{safe(ident)} is not asked in the kernel: {safe(why)}"
    if len(unheld) > _UNHELD:
        yield "", f"nor are {len(unheld) - _UNHELD} more (--json names them)"
    if held.get("verdicts_lost"):
        yield "", f"{_count(held['verdicts_lost'], 'verdict')} could not be logged"


def _opens(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the kernel's programs cannot stop an open (docs/files.md)."""
    from hullwatch.permits.messages import LOSSES

    state = asked.get("state")
    kernel = "open-read" in asked.get("kernel", ())  # it holds opens, too
    which = "what the kernel cannot ask of opens and execs is" if kernel else "opens are"
    if state == "off":
        yield "", f"{which} not asked about: {safe(asked.get('why', ''))}"
    if state == "ended":
        yield "POLICY", f"{which} not asked about any more: start the agent anew"
    if state != "asks":
        return
    beside = " besides" if kernel else ""
    yield (
        "",
        f"opens or execs of {_count(asked['guarded'], 'container')} wait for an answer{beside},"
        " through fanotify:"
        f" {asked.get('blocked', 0)} refused, {asked.get('held', 0)} held for a person,"
        f" {asked.get('observed', 0)} only observed, {asked.get('allowed', 0)} allowed;"
        f" {size(asked['rss_bytes'])} of memory",
    )
    if asked["restarts"]:
        yield (
            "POLICY",
            f"who answers was started anew {_count(asked['restarts'], 'time')}; until then opens"
            " went on",
        )
    for name, gaps in asked["gaps"].items():
        yield "POLICY", f"not watched in {safe(name)}: {safe(', '.join(gaps))}"
    for name, what in LOSSES.items():
        if asked.get(name):
            yield "POLICY", f"{asked[name]} {what}"


def _tap(heard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is read out of pipes, sockets and TLS."""
    if not heard:
        return
    yield (
        "tap",
        f"{_count(heard.get('streams', 0), 'connection')} listened to;"
        f" {_count(heard.get('heard_tool', 0), 'tool call')},"
        f" {_count(heard.get('heard_model', 0), 'model call')} so far",
    )
    opaque = {
        name.removeprefix("opaque_"): count
        for name, count in heard.items()
        if name.startswith("opaque_")
    }
    if opaque:
        yield "", "not readable: " + ", ".join(f"{safe(why)} ({n})" for why, n in opaque.items())


def content_of(agent: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Whose content is kept, and what was left out; as `_agent`."""
    said = agent.get("content") or {}
    if not said.get("workloads"):
        left = f"; of before, {size(said['bytes'])}" if said.get("bytes") else ""
        yield "content", f"kept of no workload{left}"
        return
    yield "content", f"KEPT, without secrets, of {', '.join(map(safe, said['workloads']))}"
    yield (
        "",
        f"{_count(said['kept'], 'item')} so far, {size(said['bytes'])} of"
        f" {size(said['max_bytes'])}, for {_duration(said['keep'])}; an item has"
        f" {size(said['limit'])} at most",
    )
    if said["dropped"]:
        listed = ", ".join(f"{count} {safe(why)}" for why, count in said["dropped"].items())
        yield "", f"left out: {listed}"


def _rights(said: dict[str, Any]) -> str:
    held = ", ".join(map(safe, said["held"])) or "none of root's"
    sealed = "can gain no others" if said["no_new_privs"] else "could gain others"
    wrong = "".join(f"; {safe(problem)}" for problem in said["problems"])
    return f"{held}; {sealed}{wrong}"


def _kept(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The store, with or without an agent."""
    kept = found["store"]
    since = f" since {kept['oldest'][:19].replace('T', ' ')} UTC" if kept["oldest"] else ""
    yield "store", f"{safe(kept['path'])}, {size(kept['bytes'] + kept['state_bytes'])}"
    yield (
        "",
        f"{kept['events']} events{since} in {_count(kept['segments'], 'segment')};"
        f" {_count(kept['findings'], 'finding')}",
    )
    if kept["quarantined"]:
        yield "", f"{_count(kept['quarantined'], 'damaged segment')} in quarantine/"
    noise = found["noise"]
    if noise.get("suppressions") or noise.get("expired") or noise.get("suppressed_findings"):
        expired = f", {noise['expired']} expired" if noise["expired"] else ""
        yield (
            "quiet",
            f"{_count(noise['suppressions'], 'suppression')} in force{expired};"
            f" {_count(noise['suppressed_findings'], 'finding')} of"
            f" {_count(noise['suppressed_events'], 'event')} kept quiet: `hullwatch suppress list`",
        )
    if noise.get("silent_rules") or noise.get("rules_that_cannot_match"):
        yield (
            "rules",
            f"{noise['silent_rules']} have not fired for {_SILENT_DAYS} days,"
            f" {noise['rules_that_cannot_match']} cannot match here: `hullwatch rules health`",
        )
    if not found["losses"]:
        yield "losses", "none"
    for at, loss in enumerate(found["losses"]):
        yield (
            "" if at else "losses",
            f"{loss['count']} x {safe(loss['class'])} at {safe(loss['stage'])},"
            f" last {short_time_text(loss['last'])} UTC",
        )
    for at, notice in enumerate(found["notices"]):
        yield (
            "" if at else "notices",
            f"{short_time_text(notice['time'])} {safe(notice['kind'])}: {safe(notice['text'])}",
        )


def _count(number: int, what: str, more: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else more}"


def _duration(seconds: float) -> str:
    """In its two largest units."""
    left, parts = max(int(seconds), 0), list[str]()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def short_time_text(text: str) -> str:
    return text[:19].replace("T", " ") if text else short_time(None)
