"""What the agent made of the day, asked of its store after it has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from day.accepted import Accepted, reason_for
from day.workloads import Ran
from hullwatch.store.query import Reader

__all__ = ["RuleSets", "Seen", "look"]


@dataclass(frozen=True)
class RuleSets:
    """paths: name of a set → its file or folder. of: name of a rule → name of its set."""

    paths: dict[str, Path]
    of: dict[str, str]


@dataclass
class Seen:
    """One workload. events: stored and counted; distinct: by class, program and object.
    findings: by rule set, each {rule, priority, container, object, count, output, why}; why is None
    where nobody has said that it is right."""

    ran: Ran
    seconds: float
    events: int = 0
    distinct: int = 0
    findings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def look(
    store: Path,
    day: Sequence[tuple[Ran, float]],
    sets: RuleSets,
    accepted: list[Accepted],
) -> tuple[list[Seen], list[dict[str, Any]]]:
    """Each workload, and the losses: {stage, class, count, ours}, ours if one of its containers had
    them or nobody knows whose they were."""
    seen = [Seen(ran, seconds, findings={name: [] for name in sets.paths}) for ran, seconds in day]
    owner = {identity: one for one in seen for identity in one.ran.containers}
    with Reader(store) as reader:

        def rows(sql: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = reader.query(sql).table.to_pylist()
            return found

        for row in rows(
            "SELECT container_id, count(*) AS n, count(DISTINCT (class, exe, object)) AS kinds"
            " FROM events GROUP BY 1"
        ):
            if one := owner.get(row["container_id"]):
                one.events += row["n"]
                one.distinct += row["kinds"]
        whose = {}
        for row in rows("SELECT boot, cgroup, container_id FROM workloads"):
            whose[row["boot"], row["cgroup"]] = row["container_id"]
        for row in rows("SELECT boot, cgroup, sum(count) AS n FROM counts GROUP BY 1, 2"):
            if one := owner.get(whose.get((row["boot"], row["cgroup"]), "")):
                one.events += int(row["n"])
        for row in rows("SELECT count, body FROM findings ORDER BY time"):
            finding = json.loads(row["body"])
            if one := owner.get(finding["container_full_id"]):
                kept = {name: finding[name] for name in ("rule", "priority", "object", "output")}
                kept |= {"container": finding["container_name"], "count": row["count"]}
                kept["why"] = reason_for(accepted, finding, one.ran.workload.name)
                one.findings[sets.of[finding["rule"]]].append(kept)
        losses = rows(
            "SELECT boot, cgroup, stage, class, sum(count) AS n FROM losses GROUP BY ALL ORDER BY n"
        )
    return seen, [
        {
            "stage": row["stage"],
            "class": row["class"],
            "count": int(row["n"]),
            "ours": not row["cgroup"] or whose.get((row["boot"], row["cgroup"])) in owner,
        }
        for row in losses
    ]
