"""Findings: what a rule saw, said so that a person can act on it. How repeats fold: fold.py."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from hullwatch.context.call import Call
from hullwatch.context.workload import Workload
from hullwatch.detect.fields.process import ancestors
from hullwatch.detect.fields.workload import container_id
from hullwatch.detect.output import escape
from hullwatch.detect.row import Env, Row
from hullwatch.detect.ruleset import Rule
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.labels import names_of

__all__ = ["Evidence", "Finding", "Match", "Process", "SEVERITY", "Seen"]
__all__ += ["evidence_of", "make_finding"]

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
_MAX_COMMAND = 256
_MAX_CALLS = 8


class Process(msgspec.Struct, frozen=True):
    """One process of the chain. Texts are escaped."""

    pid: int
    name: str
    exepath: str
    cmdline: str


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of a sequence that happened. time: unix ns. fields: those of this step that the
    output prints. Texts are escaped."""

    step: str
    time: int
    event: str
    object: str
    pid: int
    process: str
    fields: dict[str, str] = {}


class Evidence(msgspec.Struct, frozen=True):
    """One object and the command that met it: how often, first and last. Texts are escaped."""

    object: str
    command: str
    count: int
    first: int
    last: int


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on one behaviour of one workload. Times are unix ns; texts are escaped.

    id stays the same while repeats fold into it: a finding of a known id replaces the one kept,
    with a higher count and a later `last`; output, object and processes are those of the first
    event. proc: the process key (kernel/wire.h), 0 if unknown.
    fold: what it folds by, as a hash; shape: that of its objects. evidence: the first distinct
    ones; distinct: how many there are, at least. shapes: more than 0 where the rule became so loud
    that new shapes are no findings of their own: how many there are in here, at least.
    suppressed_by: id of the suppression that keeps it quiet.
    span: of the first event, 0: in no call; spans: the first different ones. call: that of the
    first event in words, several where it may be of any.
    why: what was counted, where a rule asks.
    labels: where what the processes knew came from, of all that folded in; a sequence's last step.
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
    steps: tuple[Seen, ...] = ()
    fold: str = ""
    shape: str = ""
    evidence: tuple[Evidence, ...] = ()
    distinct: int = 1
    shapes: int = 0
    suppressed_by: str = ""
    why: str = ""
    spans: tuple[int, ...] = ()
    call: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """`count` events of one process and object that meet a rule; row is the first of them.

    times: of each event, int64 CLOCK_BOOTTIME ns, for a step of a sequence only. steps: for a
    sequence, what happened, up to and with the event that completed it (row).
    """

    rule: Rule
    row: Row
    count: int
    last: int  # CLOCK_BOOTTIME ns
    times: np.ndarray | None = None
    steps: tuple[Seen, ...] = ()
    suppressed_by: str = ""


def evidence_of(match: Match) -> tuple[str, str]:
    """(object, command), escaped and bounded: what makes evidence distinct."""
    row = match.row
    command = row.image.cmdline if row.image else ""
    return escape(row.obj.text) if row.obj else "", escape(command[:_MAX_COMMAND])


def make_finding(match: Match, env: Env, ident: str, fold: str, shape: str) -> Finding:
    """The finding of a first match. ident: its id; fold, shape: see Finding."""
    rule, row = match.rule, match.row
    output, fields = rule.output.fill(row, env, {one.step: one.fields for one in match.steps})
    time = row.ts + env.wall_offset
    workload: Workload = row.workload
    chain = () if row.image is None else (row.image, *ancestors(row.image))[:_MAX_CHAIN]
    last = max(match.last + env.wall_offset, time)
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
        steps=match.steps,
        fold=fold,
        shape=escape(shape),
        evidence=(Evidence(*evidence_of(match), match.count, time, last),),
        suppressed_by=match.suppressed_by,
        why=escape(_why(match, env)),
        spans=(row.span,) if row.span else (),
        call=escape(" or ".join(_named(call) for call in row.calls[:_MAX_CALLS])),
        labels=names_of(row.event.labels),
    )


def _named(call: Call) -> str:
    return f"{call.server}: {call.name}" if call.server else call.name


def _why(match: Match, env: Env) -> str:
    bounds = [bound for source in match.rule.sources.values() for bound in source.bounds]
    said = [bound.field.why(match.row, env, bound.arg) for bound in bounds if bound.field.why]
    return "; ".join(dict.fromkeys(text for text in said if text))
