"""Repeats fold into one finding: by rule, workload, program and the shape of what was touched.
What policy stopped is one for each workload.

Nothing is dropped: a fold has the count, first and last time, the highest severity and the distinct
evidence of all that went into it. Where one rule finds ever new shapes in one workload, these go
into one more finding of that rule and workload, so that no other is hidden by it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from hullwatch.detect.distinct import Distinct
from hullwatch.detect.finding import SEVERITY, Evidence, Finding, Match, evidence_of, make_finding
from hullwatch.detect.row import Env, Object
from hullwatch.detect.shape import shape
from hullwatch.sensor.labels import bits_of, names_of
from hullwatch.sensor.wire import Class

__all__ = ["Folder"]

SECOND = 1_000_000_000
IDLE = 3600 * SECOND  # a repeat after that is a finding of its own
MAX_FOLDS = 4_096
MAX_EVIDENCE = 20  # distinct ones kept in a finding; the rest is counted
MAX_SPANS = 32
LOUD = 20  # new findings of one rule in one workload within WINDOW; then shapes share one
WINDOW = 600 * SECOND
MAX_RATES = 4_096
# The second object is another file, not the caller's text for the first.
_TWO_OBJECTS = frozenset(map(int, (Class.RENAME, Class.LINK, Class.SYMLINK)))

_RANK = {name: -at for at, name in enumerate(SEVERITY)}  # EMERGENCY is the first of them

_Key = tuple[object, ...]


class Folder:
    """Folds matches into findings. Bounded: what was not met for longest is closed first.

    evicted: folds closed for want of room (a repeat is then told anew). overflowed: events that
    went into a finding of many shapes.
    """

    def __init__(self, limit: int = MAX_FOLDS, idle: int = IDLE, loud: int = LOUD) -> None:
        self.limit, self.idle, self.loud = limit, idle, loud
        self.open: OrderedDict[str, _Fold] = OrderedDict()
        self.evicted = 0
        self.overflowed = 0
        self._rates: OrderedDict[_Key, tuple[int, int]] = OrderedDict()

    def fold(self, matches: Iterable[Match], env: Env) -> list[Finding]:
        """New findings, and known ones with their new counts; one for each fold."""
        touched: dict[str, _Fold] = {}
        for match in matches:
            now = match.row.ts + env.wall_offset
            found = self._fold_of(match, env, now)
            touched[found.finding.id] = found
        while len(self.open) > self.limit:
            self.open.popitem(last=False)
            self.evicted += 1
        return [fold.value() for fold in touched.values()]

    def resume(self, findings: Iterable[Finding]) -> None:
        """Go on with findings of an earlier run, in order of their last time."""
        for finding in findings:
            if finding.fold:
                self.open[finding.fold] = _Fold(finding)
                self.open.move_to_end(finding.fold)
                if not finding.shapes:
                    self._opens(
                        (finding.rule, _workload_of(finding), finding.suppressed_by), finding.first
                    )
        while len(self.open) > self.limit:
            self.open.popitem(last=False)

    def _fold_of(self, match: Match, env: Env, now: int) -> _Fold:
        key, what = _key(match)
        found = self._known(_hash(key), now)
        if found is None:
            rate = (match.rule.name, key[1], match.suppressed_by)
            if self._opens(rate, now):
                return self._begin(match, env, key, what)
            self.overflowed += match.count
            key = (*rate, "many shapes")
            found = self._known(_hash(key), now)
            if found is None:
                found = self._begin(match, env, key, "*")
                found.shapes.add(what)
                return found
            found.shapes.add(what)
        found.add(match, env)
        return found

    def _known(self, fold: str, now: int) -> _Fold | None:
        found = self.open.get(fold)
        if found is None or now - found.last > self.idle:
            return None
        self.open.move_to_end(fold)
        return found

    def _begin(self, match: Match, env: Env, key: _Key, what: str) -> _Fold:
        fold = _hash(key)
        ident = _hash((*key, match.row.ts + env.wall_offset))
        made = self.open[fold] = _Fold(make_finding(match, env, ident, fold, what))
        self.open.move_to_end(fold)
        return made

    def _opens(self, rate: _Key, now: int) -> bool:
        """Whether one more finding may be begun there; it is counted then."""
        begun, count = self._rates.get(rate, (now, 0))
        if not begun - WINDOW < now < begun + WINDOW:
            begun, count = now, 0
        may = count < self.loud
        self._rates[rate] = (begun, count + may)
        self._rates.move_to_end(rate)
        while len(self._rates) > MAX_RATES:
            self._rates.popitem(last=False)
        return may


class _Fold:
    """A finding that is still growing."""

    __slots__ = (
        *("finding", "count", "first", "last"),
        *("evidence", "more", "floor", "shapes", "spans", "labels"),
    )

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.count, self.first, self.last = finding.count, finding.first, finding.last
        self.evidence: dict[tuple[str, str], list[int]] = {
            (one.object, one.command): [one.count, one.first, one.last] for one in finding.evidence
        }
        self.more = Distinct()  # evidence beyond what is kept
        self.floor = finding.distinct
        self.shapes = Distinct()
        self.spans = dict.fromkeys(finding.spans)
        self.labels = bits_of(finding.labels)

    def add(self, match: Match, env: Env) -> None:
        first = match.row.ts + env.wall_offset
        last = max(match.last + env.wall_offset, first)
        self.count += match.count
        self.first, self.last = min(self.first, first), max(self.last, last)
        if match.row.span and len(self.spans) < MAX_SPANS:
            self.spans[match.row.span] = None
        self.labels |= match.row.event.labels
        what = evidence_of(match)
        known = self.evidence.get(what)
        if known is not None:
            known[0] += match.count
            known[1], known[2] = min(known[1], first), max(known[2], last)
        elif len(self.evidence) < MAX_EVIDENCE:
            self.evidence[what] = [match.count, first, last]
        else:
            self.more.add(what)
        if _RANK[match.rule.priority] > _RANK[self.finding.priority]:
            self.finding = msgspec.structs.replace(
                self.finding,
                priority=match.rule.priority,
                severity=SEVERITY[match.rule.priority],
            )

    def value(self) -> Finding:
        return msgspec.structs.replace(
            self.finding,
            count=self.count,
            first=self.first,
            last=self.last,
            evidence=tuple(Evidence(*what, *seen) for what, seen in self.evidence.items()),
            distinct=max(self.floor, len(self.evidence) + len(self.more)),
            shapes=max(self.finding.shapes, len(self.shapes)),
            spans=tuple(self.spans),
            labels=names_of(self.labels),
        )


def _key(match: Match) -> tuple[_Key, str]:
    """What a match folds by, and the shape in it."""
    row = match.row
    workload = row.workload.container_id or str(row.workload.cgroup)
    if row.event.cls == Class.POLICY and not match.steps:
        # One by one they are in the log of decisions.
        return (match.rule.name, workload, "policy", "", match.suppressed_by), ""
    what = _shape_of(row.obj) if not match.steps else ""  # a story is one, whatever ended it
    if row.event.cls in _TWO_OBJECTS and row.obj2 is not None and not match.steps:
        what += f" -> {_shape_of(row.obj2)}"
    program = row.image.exepath if row.image else ""
    return (match.rule.name, workload, program, what, match.suppressed_by), what


def _shape_of(obj: Object | None) -> str:
    if obj is None:
        return ""
    if obj.address is not None and obj.address.ip is not None:
        return obj.text
    return shape(obj.text)


def _workload_of(finding: Finding) -> str:
    return finding.container_full_id or str(finding.cgroup)


def _hash(key: _Key) -> str:
    """The same in every run."""
    return hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
