"""Findings added up by rule and workload, with samples: what a back-test says of a rule."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

__all__ = ["Brief", "Line", "Tally", "workload_name"]

_MAX_LINES = 65_536  # rules times workloads
_MAX_OPEN = 65_536  # findings that may still grow; the engine's own limit is lower
_MAX_IDS = 4_096  # a line: kept to compare with another rule set


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a finding (detect/finding.py), live or stored. Times: unix ns."""

    id: str
    rule: str
    priority: str = ""
    output: str = ""
    container_id: str = ""
    container_full_id: str = ""
    container_name: str = ""
    image: str = ""
    cgroup: int = 0
    count: int = 1
    first: int = 0
    last: int = 0


class Sample(msgspec.Struct, frozen=True):
    time: int
    output: str


class Line(msgspec.Struct, kw_only=True):
    """One rule in one workload. matches: events; findings: what these fold into."""

    rule: str
    priority: str
    workload: str
    container_id: str
    image: str
    matches: int = 0
    findings: int = 0
    first: int = 0
    last: int = 0
    samples: list[Sample] = []


def workload_name(brief: Brief) -> str:
    """'host', the container's name, or what there is of its id."""
    if brief.container_id == "host":
        return "host"
    return brief.container_name or brief.container_id or f"cgroup {brief.cgroup}"


class Tally:
    """samples: how many findings a line shows, the first of them."""

    def __init__(self, samples: int = 3) -> None:
        self._samples = samples
        self._lines: dict[tuple[str, str], Line] = {}
        self._open: OrderedDict[str, int] = OrderedDict()  # finding -> its count so far
        self._ids: dict[tuple[str, str], dict[str, Sample]] = {}
        self.left_out = 0
        self.findings = self.matches = 0

    def add(self, findings: Iterable[Brief]) -> None:
        """In order; a finding of a known id has grown."""
        for brief in findings:
            before = self._open.pop(brief.id, 0)
            self._open[brief.id] = brief.count
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            key = brief.rule, brief.container_full_id or str(brief.cgroup)
            line = self._lines.get(key)
            if line is None:
                if len(self._lines) >= _MAX_LINES:
                    self.left_out += brief.count - before
                    continue
                line = self._lines[key] = Line(
                    rule=brief.rule,
                    priority=brief.priority,
                    workload=workload_name(brief),
                    container_id=brief.container_full_id,
                    image=brief.image,
                    first=brief.first,
                )
                self._ids[key] = {}
            line.matches += brief.count - before
            line.first = min(line.first, brief.first)
            line.last = max(line.last, brief.last)
            self.matches += brief.count - before
            if before:
                continue
            self.findings += 1
            line.findings += 1
            sample = Sample(brief.first, brief.output)
            if len(line.samples) < self._samples:
                line.samples.append(sample)
            if len(ids := self._ids[key]) < _MAX_IDS:
                ids[brief.id] = sample

    def lines(self) -> list[Line]:
        """Rules by how often they met, workloads within each the same way."""
        by_rule: dict[str, int] = {}
        for line in self._lines.values():
            by_rule[line.rule] = by_rule.get(line.rule, 0) + line.matches
        return sorted(
            self._lines.values(),
            key=lambda one: (-by_rule[one.rule], one.rule, -one.matches, one.workload),
        )

    def only_here(self, other: Tally) -> list[Line]:
        """Lines whose findings (all or some) the other has not: with counts of these findings and
        samples of them. matches: the difference, as far as it is more here."""
        found = []
        for key, line in self._lines.items():
            theirs = other._lines.get(key)
            new = {
                ident: sample
                for ident, sample in self._ids[key].items()
                if ident not in other._ids.get(key, {})
            }
            more = line.matches - (theirs.matches if theirs else 0)
            fewer = line.findings - (theirs.findings if theirs else 0)
            if not new and more <= 0:
                continue
            found.append(
                msgspec.structs.replace(
                    line,
                    matches=max(more, 0),
                    findings=max(len(new), fewer),
                    samples=list(new.values())[: self._samples],
                )
            )
        return sorted(found, key=lambda one: (one.rule, -one.findings, one.workload))
