"""The day as tables and as JSON."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from day.recall import Recall
from day.seen import RuleSets, Seen
from hullwatch.cli.show import safe

__all__ = ["as_json", "tables"]

_SAMPLE = 150  # characters of an output


def as_json(
    seen: list[Seen],
    sets: RuleSets,
    losses: list[dict[str, Any]],
    used: dict[str, Any],
    attacks: Recall | None,
    wrong: list[str],
) -> dict[str, Any]:
    """All that the tables show."""
    return {
        "workloads": [
            {
                "name": one.ran.workload.name,
                "status": one.ran.status,
                "seconds": round(one.seconds, 1),
                "events": one.events,
                "distinct": one.distinct,
                "findings": one.findings,
            }
            for one in seen
        ],
        "rules": {name: _count(sets, name) for name in sets.paths},
        "losses": losses,
        "agent": used,
        "attacks": attacks and attacks._asdict(),
        "wrong": wrong,
    }


def tables(
    seen: list[Seen],
    sets: RuleSets,
    losses: list[dict[str, Any]],
    used: dict[str, Any],
    attacks: Recall | None,
    wrong: list[str],
    own: str,
) -> None:
    """Print them: the workloads, each rule set's findings, the agent, the attacks, the verdict."""
    names = list(sets.paths)
    print(f"\n{'workload':14} {'seconds':>7} {'events':>9} {'distinct':>8}  findings: ", end="")
    print(", ".join(f"{name} ({_count(sets, name)} rules)" for name in names))
    for one in seen:
        found = "  ".join(f"{len(one.findings[name]):>{len(name)}}" for name in names)
        print(
            f"{one.ran.workload.name:14} {one.seconds:7.1f} {one.events:9,} {one.distinct:8,}"
            f"{'':12}{found}"
        )
    total = "  ".join(
        f"{sum(len(one.findings[name]) for one in seen):>{len(name)}}" for name in names
    )
    print(
        f"{'total':14} {sum(one.seconds for one in seen):7.1f} {sum(one.events for one in seen):9,}"
        f" {sum(one.distinct for one in seen):8,}{'':12}{total}"
    )
    for name in names:
        _findings(name, seen, judged=name == own)
    print(
        f"\nagent: {used['cpu_share'] * 100:.1f} % of one core over {used['seconds']:.0f} s,"
        f" {used['rss_mib']:.0f} MiB, {used['events']:,} events read, {used['rules']} rules"
        f" ({used['rules_refused']} refused), governor level {used['governor']}"
    )
    for text in used["notices"]:
        print(f"  notice: {safe(text)}")
    for loss in losses:
        whose = "the day's" if loss["ours"] else "of others on this host"
        print(f"  lost: {loss['count']:,} {loss['class']} in {loss['stage']}, {whose}")
    ours = sum(loss["count"] for loss in losses if loss["ours"])
    count = sum(len(one.findings[own]) for one in seen)
    right = sum(bool(finding["why"]) for one in seen for finding in one.findings[own])
    print(
        f"\nprecision: {count} findings of the {own} in the day, {right} of them justified;", end=""
    )
    print(f" {ours} events lost")
    if attacks is not None:
        print(
            f"recall:    {len(attacks.found)} of {len(attacks.found) + len(attacks.missed)}", end=""
        )
        print(f" attacks found, {len(attacks.skipped)} cannot be carried out here")
        for text in attacks.skipped:
            print(f"  skipped: {safe(text)}")
    for text in wrong:
        print(f"WRONG: {safe(text)}")


def _count(sets: RuleSets, name: str) -> int:
    return sum(owner == name for owner in sets.of.values())


def _findings(name: str, seen: list[Seen], *, judged: bool) -> None:
    """By rule; of our pack each one, of others' a sample for each rule and workload."""
    by_rule: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in seen:
        for finding in one.findings[name]:
            by_rule[finding["rule"], one.ran.workload.name].append(finding)
    print(f"\n== {name}: {sum(map(len, by_rule.values()))} findings")
    for (rule, workload), found in sorted(by_rule.items()):
        events = sum(finding["count"] for finding in found)
        print(f"  {safe(rule)} | {workload}: {len(found)} of {events:,} events")
        for finding in found if judged else found[:1]:
            print(f"      {safe(finding['output'])[:_SAMPLE]}")
            if judged:
                print(f"      {finding['why'] or 'FALSE POSITIVE'}")
