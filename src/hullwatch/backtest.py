"""Rules over stored history: what `hullwatch backtest` runs.

The path is the live one: rows of the store become batches of the sensor again (store/history.py),
and context and detect are those of `hullwatch up`. Beside what was found it says what could not be:
what was counted instead of kept, lost, or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.context.workload import Workload
from hullwatch.detect.engine import Engine
from hullwatch.detect.row import Object
from hullwatch.detect.ruleset import Rule, RuleSet
from hullwatch.detect.sequence.sequences import Saved
from hullwatch.replay import Replay
from hullwatch.sensor.dictionary import decode_address
from hullwatch.sensor.events import BY_NAME
from hullwatch.store import baselines, counted, restore
from hullwatch.store.history import History, Run
from hullwatch.tally import Brief, Line, Tally

__all__ = ["Backtest", "Counted", "Report", "Session"]

_MAX_COUNTED = 200  # (rule, class, workload) that are named
_OTHERS = "(others)"  # what the store folds the rest of an hour's objects into


class Session(msgspec.Struct, frozen=True):
    """A run of the agent whose history was read; mode: detect (what its rules might want) or
    record (everything). first, last: unix ns of what was read."""

    session: int
    mode: str
    tier: str
    same_rules: bool
    events: int
    first: int
    last: int


class Counted(msgspec.Struct, frozen=True):
    """Events that were counted, not kept, and that a rule may have met. objects: the most."""

    rule: str
    cls: str
    workload: str
    count: int
    objects: tuple[str, ...]


class Report(msgspec.Struct, kw_only=True):
    """What was read and what was not. partial: processes known only in part, stored by an earlier
    version up to `partial_until`; strangers: whose beginning is no longer stored; unknown: of which
    nothing is. repeats: events counted in the kernel as being like one that was sent."""

    events: int = 0
    first: int = 0
    last: int = 0
    rules: int = 0
    matches: int = 0
    findings: int = 0
    left_out: int = 0
    sessions: list[Session] = []
    partial: int = 0
    partial_until: int = 0
    strangers: int = 0
    unknown: int = 0
    gone: list[str] = []
    losses: dict[str, int] = {}
    repeats: int = 0
    counted: list[Counted] = []
    counted_whole: bool = True


class Backtest:
    """rules: one set or two, for which `tallies` are made side by side in one pass.

    Open with StoreMissing or StoreError. since, until: unix ns. cgroups: (boot, cgroup) that are
    of interest, None for all.
    """

    def __init__(
        self,
        store: Path,
        rules: Sequence[RuleSet],
        since: int | None = None,
        until: int | None = None,
        cgroups: frozenset[tuple[int, int]] | None = None,
        samples: int = 3,
    ) -> None:
        self.history = History(store, since, until, cgroups)
        self.rules = list(rules)
        self.tallies = [Tally(samples) for _ in rules]
        # How far sequences had come when a run ended: it survives a restart, as it does live.
        self._under_way: list[dict[tuple[str, str], Saved]] = [{} for _ in rules]
        self._boot = 0
        self.report = Report(rules=len(rules[0].hashes))
        self._span, self._cgroups = (since, until), cgroups
        self._hashes: list[dict[str, str]] = []
        self.runs = self.history.runs()

    def close(self) -> None:
        self.history.close()

    def run(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Report:
        """Read it all; progress(rows read, about how many there are) is called often."""
        of, done = sum(run.of for run in self.runs), 0
        for run in self.runs:
            for _ in self._one(run):
                progress(done + run.rows, max(of, done + run.rows))
            done += run.rows
        progress(done, done)
        self._say_holes()
        report, tally = self.report, self.tallies[0]
        report.matches, report.findings = tally.matches, tally.findings
        report.left_out = tally.left_out
        return report

    def _one(self, run: Run) -> Iterator[None]:
        engines = [Engine(rules) for rules in self.rules]
        for engine, kept in zip(engines, self._under_way, strict=True):
            same = run.about.boot == self._boot
            engine.sequences.restore(one for one in kept.values() if same or not one.of_boot)
            self._know(engine)
        self._boot = run.about.boot
        replay = Replay(run, self.rules[0])
        for enriched in replay.enriched():
            for engine, tally in zip(engines, self.tallies, strict=True):
                found = engine.process(enriched)
                if found:
                    tally.add(self._wanted(found, run.about.boot))
            yield
        for engine, kept in zip(engines, self._under_way, strict=True):
            for saved in engine.sequences.changes():
                kept[saved.rule, saved.key] = saved
                if not saved.body:
                    del kept[saved.rule, saved.key]
        self._describe(run, replay)

    def _know(self, engine: Engine) -> None:
        """What images normally do: entries keep the time of their first event, so that what was
        new at the time is new again."""
        catalog = self.history.catalog
        if not catalog.rows("SELECT 1 FROM sqlite_master WHERE name = 'baselines'"):
            return  # a store from before there were any
        for row in baselines.profiles(catalog.link):
            engine.baselines.load(row, baselines.entries_of(catalog.link, row.image))

    def _wanted(self, findings: Sequence[Any], boot: int) -> Sequence[Any]:
        if self._cgroups is None:
            return findings
        return [one for one in findings if (boot, one.cgroup) in self._cgroups]

    def _describe(self, run: Run, replay: Replay) -> None:
        report, about = self.report, run.about
        report.events += run.events
        report.partial += run.partial
        report.partial_until = max(report.partial_until, run.partial_until)
        report.strangers += run.strangers
        report.unknown += replay.unknown
        report.gone += run.gone
        if not run.events:
            return
        report.first = min(report.first or run.first, run.first)
        report.last = max(report.last, run.last)
        same = about.rules == self.rules[0].digest
        report.sessions.append(
            Session(about.session, about.mode, about.tier, same, run.events, run.first, run.last)
        )
        if about.mode != "record":
            self._hashes.append(counted.rule_hashes(self.history.catalog, about.rules))

    def stored(self, samples: int = 3) -> Tally:
        """What was found when it happened, in the same span, by rules of any set."""
        tally, decode = Tally(samples), msgspec.json.Decoder(Brief).decode
        rows = self.history.catalog.rows(
            "SELECT body, count, boot FROM findings WHERE first >= ? AND first <= ? ORDER BY first",
            self._span[0] or self.report.first,
            self._span[1] or self.report.last,
        )
        for body, count, boot in rows:
            tally.add(self._wanted([msgspec.structs.replace(decode(body), count=count)], boot))
        return tally

    # -- what may have been missed ---------------------------------------------------------

    def _owners(self, engine: Engine) -> list[Rule]:
        """Of each of the engine's rules, the one to name: a step's sequence."""
        sequences = {
            step.rule: rule
            for rule in self.rules[0].rules
            if rule.sequence is not None
            for step in rule.sequence.steps
        }
        return [sequences.get(rule.name, rule) for rule in engine.rules]

    def _say_holes(self) -> None:
        report = self.report
        found = counted.holes(self.history.catalog, *self._span)
        report.losses = {f"{stage} {cls}": count for (stage, cls), count in found.losses.items()}
        report.counted_whole = found.whole
        engine = Engine(self.rules[0])
        # A rule that was loaded just as it is now cannot have met what the kernel counted for it.
        then = [hashes.items() for hashes in self._hashes]
        told = self._owners(engine)
        fresh = [any((one.name, one.hash) not in known for known in then) for one in told]
        workloads: dict[tuple[int, int], Workload] = {}
        finders = {run.about.boot: run.resolver for run in self.runs}
        totals: dict[tuple[str, str, str], tuple[int, list[str]]] = {}
        for row in found.counted:
            cls = BY_NAME.get(row.cls)
            whose = row.boot, row.cgroup
            if cls is None or row.boot not in finders:
                continue
            if self._cgroups is not None and whose not in self._cgroups:
                continue
            if not row.object:
                report.repeats += row.count
                continue
            if not any(fresh):
                continue
            if whose not in workloads:
                workloads[whose] = finders[row.boot].lookup(row.cgroup)
            obj = None if row.object == _OTHERS else _object(row.object, row.cls)
            for at in engine.verdicts.which(cls.cls, obj, workloads[whose]):
                if not fresh[at]:
                    continue
                name = workloads[whose].name or workloads[whose].container_id or "host"
                key = told[at].name, row.cls, name
                count, objects = totals.get(key, (0, []))
                totals[key] = count + row.count, objects
                if len(objects) < 3:
                    objects.append(row.object)
        report.counted = sorted(
            (Counted(*key, count, tuple(objects)) for key, (count, objects) in totals.items()),
            key=lambda one: (one.rule, -one.count),
        )[:_MAX_COUNTED]

    def compared(self, other: Tally) -> tuple[list[Line], list[Line]]:
        """(only with the first rules, only there)."""
        return self.tallies[0].only_here(other), other.only_here(self.tallies[0])


_ADDRESSES = frozenset(
    name for name, row in BY_NAME.items() if row.obj in ("server end", "local end")
)


def _object(text: str, cls: str) -> Object:
    """A counted object as rules see it; the text is all that was kept."""
    if cls in _ADDRESSES:
        address = decode_address(restore.address_data(text, 0))
        return Object(str(address), address, restore.ADDR)
    return Object(text)
