"""benign.toml: the findings of the day that are right, each with its reason."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Accepted", "read", "reason_for"]


@dataclass(frozen=True)
class Accepted:
    """rule: its name. workload: of the day. object: a glob of it. why: for people."""

    rule: str
    workload: str
    object: str
    why: str


def read(path: Path) -> list[Accepted]:
    """SystemExit names an entry that lacks something."""
    accepted = []
    for number, entry in enumerate(tomllib.loads(path.read_text()).get("accepted", ()), 1):
        lacking = [
            key for key in ("rule", "workload", "why") if not str(entry.get(key, "")).strip()
        ]
        if lacking:
            raise SystemExit(f"{path}: entry {number} has no {' and no '.join(lacking)}")
        accepted.append(
            Accepted(entry["rule"], entry["workload"], entry.get("object", "*"), entry["why"])
        )
    return accepted


def reason_for(accepted: list[Accepted], finding: dict[str, Any], workload: str) -> str | None:
    """Why this finding is right; None if nobody has said so."""
    for one in accepted:
        if (
            one.rule == finding["rule"]
            and one.workload == workload
            and fnmatch.fnmatchcase(finding["object"], one.object)
        ):
            return one.why
    return None
