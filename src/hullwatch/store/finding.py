"""A finding as a row: the columns hunts can use, and the whole value as its maker wrote it.

The store knows the names of a finding's fields (detect/finding.py) and nothing of its meaning;
a field it does not find is NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from hullwatch.store.tables import signed

__all__ = ["COLUMNS", "PRIORITIES", "container_of", "finding_row", "pid_of", "rank"]

# Falco's priorities, and the words people use for them, to one order.
PRIORITIES: dict[str, int] = {
    name: order
    for order, names in enumerate(
        (
            ("debug",),
            ("informational", "info", "low"),
            ("notice",),
            ("warning", "medium"),
            ("error", "high"),
            ("critical",),
            ("alert",),
            ("emergency",),
        )
    )
    for name in names
}
# The same order as OCSF severity_id: 1 informational ... 6 fatal.
_SEVERITY = (1, 1, 2, 3, 4, 5, 5, 6)

COLUMNS = (
    "id", "time", "first", "last", "count", "rule", "priority", "severity", "output", "tags",
    "event", "object", "pid", "proc", "cgroup", "container_id", "container", "image", "pod",
    "namespace", "span", "boot", "suppressed_by", "spans", "body",
)  # fmt: skip


def rank(priority: object) -> int:
    return PRIORITIES.get(str(priority or "").lower(), 0)


def pid_of(body: Mapping[str, Any]) -> int | None:
    """The process that did it: the first of the chain."""
    chain = body.get("processes") or ()
    first = chain[0] if chain and isinstance(chain[0], Mapping) else {}
    pid = body.get("pid", first.get("pid"))
    return pid if isinstance(pid, int) else None


def container_of(body: Mapping[str, Any]) -> str | None:
    """The full id; container_id alone may be the short one that rules print."""
    return body.get("container_full_id") or body.get("container_id") or None


def finding_row(body: Mapping[str, Any], boot: int | None) -> dict[str, Any]:
    """COLUMNS of one finding, as SQLite takes them."""
    moment = int(body.get("time") or 0)

    def number(name: str) -> int | None:
        value = body.get(name)
        return signed(value) if isinstance(value, int) and value else None

    return {
        "id": str(body["id"]),
        "time": moment,
        "first": int(body.get("first") or moment),
        "last": int(body.get("last") or moment),
        "count": int(body.get("count") or 1),
        "rule": str(body.get("rule") or ""),
        "priority": str(body.get("priority") or ""),
        "severity": body.get("severity") or _SEVERITY[rank(body.get("priority"))],
        "output": str(body.get("output") or ""),
        "tags": msgspec.json.encode(body.get("tags") or ()).decode(),
        "event": body.get("event"),
        "object": body.get("object"),
        "pid": pid_of(body),
        "proc": number("proc"),
        "cgroup": number("cgroup"),
        "container_id": container_of(body),
        "container": body.get("container_name") or None,
        "image": body.get("image") or None,
        "pod": body.get("pod") or None,
        "namespace": body.get("namespace") or None,
        "span": number("span"),
        "boot": boot,
        "suppressed_by": body.get("suppressed_by") or None,
        "spans": " ".join(str(span) for span in body.get("spans") or ()) or None,
        "body": msgspec.json.encode(body).decode(),
    }
