"""Findings: what a rule saw, said so that a person can act on it. Repeats fold into one."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from hullwatch.context.workload import Workload
from hullwatch.detect.fields.process import ancestors
from hullwatch.detect.fields.workload import container_id
from hullwatch.detect.output import escape
from hullwatch.detect.row import Env, Row
from hullwatch.detect.ruleset import Rule
from hullwatch.sensor.events import CLASSES

__all__ = ["Finding", "Folder", "Match", "Process", "SEVERITY"]

# OCSF severity_id: 1 informational ... 6 fatal.
SEVERITY = {
    "EMERGENCY": 6,
    "ALERT": 5,
    "CRITICAL": 5,
    "ERROR": 4,
    "WARNING": 3,
    "NOTICE": 2,
    "INFORMATIONAL": 1,
    "DEBUG": 1,
}
_MAX_CHAIN = 32
_HOUR = 3_600_000_000_000


class Process(msgspec.Struct, frozen=True):
    """One process of the chain. Texts are escaped."""

    pid: int
    name: str
    exepath: str
    cmdline: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on one behaviour of one workload. Times are unix ns; texts are escaped.

    id stays the same while repeats fold into it: a finding of a known id replaces the one kept,
    with a higher count and a later `last`; output and evidence are those of the first event.
    proc: the process key (kernel/wire.h), 0 if unknown. why: what was counted, where a rule asks.
    """

    id: str
    time: int
    rule: str
    priority: str
    severity: int
    source: str
    rule_hash: str
    tags: tuple[str, ...]
    output: str
    fields: dict[str, str]
    event: str
    object: str
    object2: str
    processes: tuple[Process, ...]
    proc: int
    uid: int
    container_id: str
    container_full_id: str
    container_name: str
    image: str
    image_digest: str
    pod: str
    namespace: str
    cgroup: int
    state: str
    span: int
    count: int = 1
    first: int = 0
    last: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """`count` events of one process and object that meet a rule; row is the first of them."""

    rule: Rule
    row: Row
    count: int
    last: int  # CLOCK_BOOTTIME ns


class Folder:
    """Folds matches by rule, workload, executable and object; bounded, oldest out first."""

    def __init__(self, limit: int = 4_096, idle: int = _HOUR) -> None:
        self.limit = limit
        self.idle = idle
        self.open: OrderedDict[tuple[object, ...], Finding] = OrderedDict()

    def fold(self, matches: list[Match], env: Env) -> list[Finding]:
        """New findings, and known ones with their new counts; one for each fold."""
        touched: dict[tuple[object, ...], Finding] = {}
        for match in matches:
            key = _key(match)
            last = match.last + env.wall_offset
            known = self.open.get(key)
            if known is not None and match.row.ts + env.wall_offset - known.last <= self.idle:
                found = msgspec.structs.replace(
                    known, count=known.count + match.count, last=max(known.last, last)
                )
                self.open.move_to_end(key)
            else:
                found = make_finding(match, env, last)
            self.open[key] = touched[key] = found
        while len(self.open) > self.limit:
            self.open.popitem(last=False)
        return list(touched.values())


def _key(match: Match) -> tuple[object, ...]:
    row = match.row
    return (
        match.rule.name,
        row.workload.container_id or row.workload.cgroup,
        row.image.exepath if row.image else "",
        row.obj.text if row.obj else "",
    )


def make_finding(match: Match, env: Env, last: int) -> Finding:
    rule, row = match.rule, match.row
    output, fields = rule.output.fill(row, env)
    time = row.ts + env.wall_offset
    workload: Workload = row.workload
    chain = () if row.image is None else (row.image, *ancestors(row.image))[:_MAX_CHAIN]
    ident = hashlib.blake2b(repr((_key(match), time)).encode(), digest_size=8).hexdigest()
    return Finding(
        id=ident,
        time=time,
        rule=rule.name,
        priority=rule.priority,
        severity=SEVERITY[rule.priority],
        source=str(rule.place),
        rule_hash=rule.hash,
        tags=rule.tags,
        output=output,
        fields=fields,
        event=CLASSES[row.event.cls].name,
        object=escape(row.obj.text) if row.obj else "",
        object2=escape(row.obj2.text) if row.obj2 else "",
        processes=tuple(
            Process(one.pid, escape(one.name), escape(one.exepath), escape(one.cmdline[:4096]))
            for one in chain
        ),
        proc=row.image.key if row.image else 0,
        uid=row.image.euid if row.image else -1,
        container_id=container_id(workload),
        container_full_id=workload.container_id or "",
        container_name=escape(workload.name or ""),
        image=escape(workload.image or ""),
        image_digest=workload.image_digest or "",
        pod=escape(workload.pod or ""),
        namespace=escape(workload.namespace or ""),
        cgroup=workload.cgroup,
        state=workload.state,
        span=row.span,
        count=match.count,
        first=time,
        last=last,
        why=escape(_why(match, env)),
    )


def _why(match: Match, env: Env) -> str:
    bounds = [bound for source in match.rule.sources.values() for bound in source.bounds]
    said = [bound.field.why(match.row, env, bound.arg) for bound in bounds if bound.field.why]
    return "; ".join(dict.fromkeys(text for text in said if text))
