"""Why something is outside a baseline, in one sentence of counts."""

from __future__ import annotations

from typing import Any

from hullwatch.detect.baseline.baselines import object_name
from hullwatch.detect.baseline.kinds import kind_of
from hullwatch.detect.row import Env, Row

__all__ = ["age", "fleet_why", "profile_why"]


def profile_why(row: Row, env: Env, arg: Any) -> str:
    """`image X has executed 12 programs in 9 days over 31 containers; /tmp/x was never one`."""
    kind, baselines = kind_of(row.event), env.baselines
    profile = baselines.of(row.workload) if baselines is not None else None
    if kind is None or profile is None or baselines is None:
        return ""
    wall = row.ts + env.wall_offset
    until = wall if profile.locked is None else min(profile.locked, wall)
    table = baselines.table
    known = containers = 0
    for name, at in profile.entries[kind.number].items():
        if table.first[at] <= until and (name != object_name(kind, row) or table.first[at] < wall):
            known += 1
            containers |= table.of(at).containers
    what = f"{known} {kind.things if known != 1 else kind.things.removesuffix('s')}"
    where = f"{containers.bit_count()} container{'s' if containers.bit_count() != 1 else ''}"
    verb = kind.verb if known else f"never {kind.verb}"
    since = age(max(until - profile.first, 0)) if profile.first else "no time"
    lock = "" if profile.locked is None else " until it was locked"
    if not known:
        return f"image {profile.name or profile.image} has {verb} anything in {since}{lock}"
    return (
        f"image {profile.name or profile.image} has {verb} {what} in {since} over {where}{lock};"
        f" {object_name(kind, row)} was never one of them"
    )


def fleet_why(row: Row, env: Env, arg: Any) -> str:
    """`2 of 14 images have ever contacted X`."""
    kind, baselines = kind_of(row.event), env.baselines
    found = baselines.fleet(row, row.ts + env.wall_offset) if baselines is not None else None
    if kind is None or baselines is None or found is None:
        return ""
    have = "image has" if found == 1 else "images have"
    return f"{found} of {len(baselines.profiles)} {have} ever {kind.verb} {object_name(kind, row)}"


def age(nanoseconds: int) -> str:
    """In its largest unit: 9 days, 3 hours, 12 minutes."""
    seconds = nanoseconds // 10**9
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (seconds >= length and unit == "day"):
            count = seconds // length
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
