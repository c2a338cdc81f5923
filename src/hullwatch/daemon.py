"""The stages joined into one process: what `hullwatch up` runs.

    sensor → context → detect → store, and from the rules back to the kernel (feedback)

A fault in one stage is counted, written down and shown, and the others go on.
"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from hullwatch import __version__
from hullwatch.agent.mcp.state import hasher
from hullwatch.agent.mentions import Mentions
from hullwatch.agent.report import Whose
from hullwatch.agent.secrets.canaries import Canaries
from hullwatch.alarm import LossAlarm
from hullwatch.context.enrich import Context
from hullwatch.context.enriched import Enriched
from hullwatch.context.processes import PID_MASK
from hullwatch.context.resolver import Resolver
from hullwatch.context.told import told_call, told_signal
from hullwatch.control import Control
from hullwatch.decide.ahead import ACTIONS as IN_KERNEL
from hullwatch.decide.applied import Applied
from hullwatch.decide.elsewhere import Elsewhere
from hullwatch.decide.following import Following
from hullwatch.decide.log import Log
from hullwatch.detect.engine import Engine
from hullwatch.detect.finding import Finding
from hullwatch.detect.fold import IDLE, MAX_FOLDS
from hullwatch.detect.reach import Sight, unreachable
from hullwatch.detect.row import row_of
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.sequence.sequences import Saved
from hullwatch.detect.suppress import Suppression
from hullwatch.feedback import Feedback
from hullwatch.guarding import Guarding, Named
from hullwatch.keeping import Keeping
from hullwatch.listening import Listening
from hullwatch.memory import give_back
from hullwatch.opens import Held, Keepers, Opens, Stop, handed, is_told
from hullwatch.otlp import Otlp
from hullwatch.pace import Pace
from hullwatch.permits.carried import Numbered
from hullwatch.permits.doorkeeper import Doorkeeper
from hullwatch.privileges import Rights, be_preferred
from hullwatch.quarantining import Quarantining
from hullwatch.questions import of_workload, workload_name
from hullwatch.reports import Reports, is_outside
from hullwatch.sensor import snapshot
from hullwatch.sensor.batch import Batch, Loss
from hullwatch.sensor.fanotify import Group
from hullwatch.sensor.governor import Governor
from hullwatch.sensor.patterns import TooManyPatterns, compiled
from hullwatch.sensor.pins import Pins, mount
from hullwatch.sensor.programs import RingSizes
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.tier import Tier
from hullwatch.sensor.wire import Class
from hullwatch.store.loaded import LoadedRule
from hullwatch.store.retention import Limits
from hullwatch.store.state import CountRow, SequenceRow, Session
from hullwatch.store.writer import Settings, Writer
from hullwatch.verdicts import stopped_of

__all__ = ["Daemon", "Options", "route_signals"]

_T = TypeVar("_T")
_SECOND = 1.0
_COUNTS_INTERVAL = 3.0
_BASELINE_COUNTS = 60.0  # what is new is written each second, how often it came each minute
_COUNTS_A_TURN = 500  # there may be many, and a finding should not wait for them
_IDLE_WAIT = 0.2
# Mapped rings are resident memory. What no rule is about does not come this way in detect mode.
_RINGS = {"bulk": 4 << 20, "procs": 2 << 20, "packets": 512 << 10}
_TAP_RING = 4 << 20
_RECORD_ROWS = 65_536  # written at once: a string is encoded once for all of them
_SHORT_PAUSE = 0.002  # a finding is shown at once
_LONG_PAUSE = 0.020  # under load: a turn costs half a millisecond whatever it carries
_BUSY = 500.0  # events a second above which it is load
_CROWDED = 1 / 8  # of a ring in use: no pause
_HELD_WAIT = 0.01
_LAST_WAIT = 2.0  # s, at the end, for containers that are still being looked up


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent runs. store: directory; record: keep everything instead of what matters."""

    store: Path
    record: bool = False
    tier: str | None = None
    rings: dict[str, int] = {}
    max_bytes: int = 2 << 30
    max_age: float = 7 * 86400.0
    cpu_budget: float = 0.02  # of all cores; 0 = no governor
    shed_new: bool = False  # let the governor count even what was never seen before
    labels: tuple[str, ...] = ("secret", "private")  # that the kernel gives; none: it follows none
    label_host: bool = False  # processes outside of containers, too
    private: tuple[str, ...] = ()  # paths whose readers are labelled so
    trusted: tuple[str, ...] = ()  # networks whose word is not `untrusted`
    calls: Path | None = None  # socket for those who tell of calls; None: nobody may
    tap: bool = False  # read calls of tools and models out of what processes read and write
    content: tuple[str, ...] = ()  # workloads whose redacted content is kept; none: nobody's
    content_limit: int = 8 << 10  # bytes of an item
    content_keep: float = 86400.0  # s
    content_max_bytes: int = 64 << 20
    canaries: tuple[str, ...] = ()  # values that are redacted wherever they are
    otlp: tuple[str, ...] = ()  # addresses at which frameworks tell of calls; none: nowhere
    export: str = ""  # OTLP endpoint that is told of calls and findings
    export_headers: str = ""  # file:PATH or env:NAME
    export_ca: Path | None = None
    enforce: bool = True  # policies that were applied, in the kernel
    files: bool = True  # those about opens and execs that take a process that is asked, too
    elsewhere: Elsewhere | None = None  # who is told of the opens and execs that wait for a person
    resolvers: tuple[str, ...] = ()  # whose word about names counts


class Daemon:
    """Everything is opened on construction (SensorError, StoreError); `run` until `stop`.

    rights: privileges.begin(), called before this module was imported; ended when it watches.
    """

    def __init__(
        self,
        options: Options,
        rules: RuleSet,
        rights: Rights,
        on_findings: Callable[[list[Finding]], None] | None = None,
        on_notice: Callable[[str, str], None] | None = None,
    ) -> None:
        self.options = options
        self.rules = rules
        self.rights = rights
        self.faults: dict[str, int] = {}
        self._on_findings = on_findings
        self._on_notice = on_notice
        self._stop = False
        self._watching = False
        self._started = time.time()
        self._cpu_at_start = _cpu()
        self._events = 0
        self._rate = 0.0
        self._rate_events = 0
        self._losses: dict[str, int] = {}
        self._due = time.monotonic() + _SECOND
        self._counts_due = self._due
        self._counting: Iterator[CountRow] = iter(())
        limits = Limits(max_bytes=options.max_bytes, max_age=int(options.max_age))
        settings = Settings(limits=limits)
        if options.record:
            settings = settings._replace(flush_rows=_RECORD_ROWS)
        self.writer = Writer(options.store, Session(version=__version__), settings)
        try:
            self.sensor = rights.call(
                lambda: Sensor(
                    policy=options.enforce,
                    record=options.record,
                    rings=RingSizes(**_rings(options)),
                    tier=Tier.parse(options.tier),
                )
            )
        except BaseException:
            self.writer.close("failed")
            raise
        self._guard("labels", self._give_labels, None)
        self.writer.describe(
            Session(
                tier=self.sensor.facts.tier.value,
                kernel=self.sensor.facts.release,
                mode="record" if options.record else "detect",
                rules=rules.digest,
                version=__version__,
            )
        )
        self.writer.keep_rules(rules.digest, rules.hashes)
        self.resolver = Resolver()
        self.context = Context(self.resolver)
        self._alarm = LossAlarm(self._whose)
        self._quarantining = Quarantining(self.sensor.cut, self.resolver, self.context.processes)
        self.engine = Engine(rules)
        self.engine.sequences.restore(Saved(*row) for row in self.writer.sequences())
        self._suppressed: list[Suppression] = []
        self._told = Pace()  # to followers: at most so often for one finding
        self._quiet = Pace(burst=0)  # to the store: what nobody waits for
        self.earlier: dict[str, int] = {}
        """Counts of findings, by id, that earlier runs have told and this one goes on with."""
        self._guard("detect", self._take_up, None)
        self._counted_due = self._due
        for row, entries in self.writer.baseline_rows():
            self.engine.baselines.load(row, entries)
        self.feedback = Feedback(self.engine, self.sensor.verdicts)
        cores = os.cpu_count() or 1
        # Recording means everything: there is nothing to turn into counts.
        governs = options.cpu_budget > 0 and not options.record
        highest = (2 if options.shed_new else 1) if governs else 0
        self.governor = Governor(options.cpu_budget or 0.02, cores, highest)
        self._governed_at = (time.monotonic(), self._cpu_at_start, 0)
        self.control = Control(options.store / "control.sock", self.status)
        self.keeping: Keeping | None = self._guard("content", self._keep, None)
        self._canaries = self._guard("canaries", self._planted, Canaries())
        self._mentions = Mentions(self._canaries)
        self.guarding: Guarding | None = None
        self.opens: Opens | None = None
        if options.enforce:
            self.guarding = self._guard("policy", self._keep_policy, None)
        if options.elsewhere is not None:
            told = options.elsewhere
            self._guard("policy", lambda: self._see_who_answers(told), None)
        self.listening: Listening | None = None
        if options.tap:
            self.listening = self._guard("tap", self._listen, None)
        self.reports: Reports | None = None
        if options.calls is not None:
            path = options.calls
            self.reports = self._guard("calls", lambda: self._take_reports(path), None)
        self.otlp = Otlp(options.otlp, options.export, options.export_headers, options.export_ca)
        for problem in self.otlp.problems:
            self._say("otlp", problem)

    # -- life ------------------------------------------------------------------------------

    def stop(self, *_: object) -> None:
        """Ask run() to end; safe in a signal handler."""
        self._stop = True

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Watch until stop(). SIGINT and SIGTERM are the caller's to route to stop()."""
        self._start()
        # The start-up objects never die: keep the collector from walking them again and again.
        gc.collect()
        gc.freeze()
        give_back()  # what loading took: BTF, rules
        # What loading took is not what watching takes.
        self._governed_at = (time.monotonic(), _cpu(), self.sensor.bulk_events)
        self._watching = True
        if ready is not None:
            ready()
        try:
            drained, rate = time.monotonic(), 0.0
            while not self._stop:
                held = self.context.holding() > 0
                if self.sensor.wait(_HELD_WAIT if held else _IDLE_WAIT):
                    self._gather(_LONG_PAUSE if rate > _BUSY else _SHORT_PAUSE)
                before, drained = drained, time.monotonic()
                batch = self.sensor.drain()
                rate = len(batch.events) / max(drained - before, _SHORT_PAUSE)
                self._step(batch)
        finally:
            self.close()

    def _start(self) -> None:
        """What takes root; then the rest of its rights goes."""
        main = threading.get_native_id()
        self.rights.call(lambda: be_preferred(main))
        batches = self.rights.call(lambda: snapshot.begin(self.sensor))
        if (listening := self.listening) is not None:
            self._guard("tap", lambda: self.rights.call(listening.start), None)
        self.rights.end()
        for problem in self.rights.problems:
            self._say("privileges", problem)
        # The resolver is told of processes before it is asked: it cannot look them up itself.
        for batch in batches:
            self.resolver.began(batch.procs)
        self.resolver.scan()
        if (guarding := self.guarding) is not None:
            guarding.start()
            self.context.calls.heard = guarding.heard
        for batch in batches:
            self._step(batch)

    def _gather(self, pause: float) -> None:
        """Let a burst gather: fewer, larger batches. A crowded ring does not wait."""
        if max(self.sensor.fill().values()) < _CROWDED:
            time.sleep(pause)

    def close(self) -> None:
        """Take what is left in the rings, write everything down, let go of the kernel."""
        try:
            if self.reports is not None:
                self.reports.close()
            self._guard("otlp", self._take_otlp, None)
            # First no more events: on a busy host the rings would never be empty.
            self.sensor.detach()
            for _ in range(100):
                batch = self.sensor.drain()
                self._step(batch)
                if not len(batch.events):
                    break
            self._step(self.sensor.drain(final=True))
            until = time.monotonic() + _LAST_WAIT
            while self.context.holding() and time.monotonic() < until:
                time.sleep(_HELD_WAIT)
                self._step(self.sensor.drain())
            for part in self.context.let_go():
                self._handle(part)
            self._every_second(force=True)
            self._guard("otlp", self.otlp.close, None)
        finally:
            if self.listening is not None:
                self.listening.close()
            if self.guarding is not None:
                self._guard("policy", self.guarding.close, None)
            if self.opens is not None:
                self._guard("policy", self.opens.close, None)
            self.sensor.close()
            self.control.close()
            self.resolver.close()
            self.writer.close()

    # -- one turn --------------------------------------------------------------------------

    def _guard(self, stage: str, work: Callable[[], _T], otherwise: _T) -> _T:
        """Run one stage's work; a fault is counted and said, and does not reach the next stage."""
        try:
            return work()
        except Exception as error:
            self.faults[stage] = self.faults.get(stage, 0) + 1
            if self.faults[stage] <= 5:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = (
                    f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                )
                self._say(f"fault in {stage}", text)
            return otherwise

    def _step(self, batch: Batch) -> None:
        none: list[Enriched] = []
        enriched = self._guard("context", lambda: self.context.enrich(batch), none)
        if not enriched and len(batch.events):
            self.writer.add_losses([Loss("context", 0, 0, len(batch.events))])
        # Before the findings that name them.
        if self.context.workload_news:
            self.writer.put_workloads(self.context.workload_news)
        for part in enriched:
            self._handle(part)
        if (guarding := self.guarding) is not None:
            self._guard("policy", lambda: self._guard_by(guarding, batch, enriched), None)
        if (listening := self.listening) is not None:
            self._guard("tap", lambda: listening.follow(batch), None)
            if listening.problem:
                self._say("tap", listening.problem)
                listening.problem = ""
        self._guard("canaries", lambda: self._recognise(batch), None)
        self._events += len(batch.events)
        if batch.losses:
            self._count_losses(batch.losses)
        self._guard("store", self.writer.tick, None)
        if time.monotonic() >= self._due:
            self._every_second()
        some = islice(self._counting, _COUNTS_A_TURN)
        self._guard("counts", lambda: self.writer.add_counts(some), None)

    def _handle(self, part: Enriched) -> None:
        nothing: list[Finding] = []
        findings = self._guard("detect", lambda: self.engine.process(part), nothing)
        # Events first: what a finding flushes then holds its own evidence.
        self._guard("store", lambda: self.writer.write(part), None)
        quiet = [one for one in findings if one.suppressed_by]
        told = [one for one in findings if not one.suppressed_by]
        if quiet and (now := self._quiet.admit(quiet, time.monotonic())):
            self._guard("store", lambda: self.writer.add_findings(now), None)
        if told:
            self._guard("store", lambda: self.writer.add_findings(told), None)
            self._guard("publish", lambda: self._publish(told), None)
            self._guard("store", self.writer.show_evidence, None)
        if not self.sensor.recording:
            self._guard("feedback", lambda: self.feedback.answer(part), None)

    def _publish(self, findings: list[Finding]) -> None:
        self._tell(self._told.admit(findings, time.monotonic()))

    def _tell(self, findings: list[Finding]) -> None:
        if not findings:
            return
        self.otlp.findings(findings)
        if self.control.wants("findings"):
            for finding in findings:
                self.control.publish("findings", msgspec.json.encode(finding))
        if self._on_findings is not None:
            self._on_findings(findings)

    def _take_up(self) -> None:
        """What earlier runs left: findings that still fold; and what this one runs."""
        since = time.time_ns() - IDLE
        decode = msgspec.json.Decoder(Finding).decode
        earlier: list[Finding] = []
        for body in self.writer.open_findings(since, MAX_FOLDS):
            with contextlib.suppress(msgspec.ValidationError):  # of another version: begin anew
                earlier.append(decode(body))
        self.engine.folder.resume(earlier)
        self._told.known(one.id for one in earlier)
        self.earlier = {one.id: one.count for one in earlier if not one.suppressed_by}
        self._suppressions()
        sight = Sight(self.sensor.facts.tier, self.options.record, self.sensor.facts.machine)
        never = unreachable(self.rules, sight)
        self.writer.runs(
            LoadedRule(rule.name, rule.hash, never.get(rule.name, "")) for rule in self.engine.rules
        )

    def _suppressions(self) -> None:
        """Follow what the command line wrote."""
        found = self.writer.suppressions()
        if found is None or found == self._suppressed:
            return
        self._suppressed = found
        self.engine.suppress(found)
        for one, problem in self.engine.suppressions.errors:
            self._say("suppression", f"{one.id} quiets nothing: {problem}")

    def _count_losses(self, losses: Iterable[Loss]) -> None:
        losses = list(losses)
        for loss in losses:
            self._losses[loss.stage] = self._losses.get(loss.stage, 0) + loss.count
        self.writer.add_losses(losses)
        self._alarm.add(losses)

    def _say(self, kind: str, text: str) -> None:
        """Something an operator should know: kept for `status`, and said at once."""
        self.writer.notice(kind, text)
        if self._on_notice is not None:
            with contextlib.suppress(OSError):  # a log on a full disk must not end the watch
                self._on_notice(kind, text)

    def _whose(self, cgroup: int) -> str:
        """A cgroup in words."""
        if not cgroup:
            return "an unknown cgroup"
        workload = self.resolver.lookup(cgroup)
        if workload.container_id:
            return f"container {workload.name or workload.container_id[:12]}"
        return "the host" if workload.state == "host" else f"cgroup {cgroup}"

    def _every_second(self, force: bool = False) -> None:
        now = time.monotonic()
        passed = max(now - self._due + _SECOND, 1e-3)
        self._rate = (self._events - self._rate_events) / passed
        self._rate_events = self._events
        self._due = now + _SECOND
        self._guard("suppressions", self._suppressions, None)
        moment = now if not force else None
        if late := self._quiet.due(moment):
            self._guard("store", lambda: self.writer.add_findings(late), None)
        self._guard("publish", lambda: self._tell(self._told.due(moment)), None)
        self._guard("governor", self._govern, None)
        self._guard("baselines", lambda: self._keep_baselines(now, force), None)
        lost = self._guard("alarm", lambda: self._alarm.due(now, force=force), None)
        if lost is not None:
            self._say("lost", lost)
        self._guard("sequences", self._keep_sequences, None)
        self._guard("quarantine", self._set_apart, None)
        if self.guarding is not None:
            self._guard("policy", self.guarding.tick, None)
        self._guard("otlp", self._take_otlp, None)
        self._guard("calls", self._keep_calls, None)
        if (keeping := self.keeping) is not None:
            self._guard("content", lambda: keeping.tick(force), None)
        if now >= self._counts_due or force:
            self._counts_due = now + _COUNTS_INTERVAL
            self._counting = chain(self._counting, self.feedback.counts())
            self._guard("labels", self._sweep_labels, None)
        if force:
            self._guard("counts", lambda: self.writer.add_counts(self._counting), None)

    def _give_labels(self) -> None:
        options = self.options
        from hullwatch.agent.secrets.labels import path_patterns

        labels = self.sensor.labels
        wanted = bool(options.labels or options.private)
        # Policies ask which are secrets in any case, so also where there is no room for `private`.
        try:
            tables = compiled(path_patterns(options.labels, options.private))
        except TooManyPatterns:
            labels.give_paths(compiled(path_patterns(options.labels)), on=wanted)
            raise
        labels.give_paths(tables, on=wanted)
        if not wanted:
            return
        labels.follow_host(options.label_host)
        trusted = map(ipaddress.ip_network, options.trusted)
        labels.give_untrusted("untrusted" in options.labels, trusted)

    def _sweep_labels(self) -> None:
        if dropped := self.sensor.labels.sweep():
            self._say("labels", f"{dropped} labelled files let go of: there are too many")

    def _take_reports(self, path: Path) -> Reports | None:
        context, sensor = self.context, self.sensor
        return Reports(
            path,
            sensor.spans,
            context.calls,
            sensor.told,
            context.listeners.behind,
            sensor.tap.leave_out,
            self.keeping.content if self.keeping is not None else None,
            self._labels_of,
            self._whose_calls,
        )

    def _whose_calls(self, cgroup: int) -> Whose | None:
        workload = self.resolver.lookup(cgroup)
        if workload.state != "resolved" or not workload.container_id:
            return None
        about = {name: str(value) for name, value in of_workload(workload).items()}
        about["baseline"] = self.engine.baselines.state(workload, time.time_ns())
        return Whose(workload_name(workload), workload.container_id, about)

    def _labels_of(self, roots: set[int], tgids: set[int]) -> tuple[str, ...] | None:
        """None: the kernel does not follow what one of them reads. What descends from a process in
        a container is in it, too."""
        options = self.options
        if not (options.labels or options.private):
            return None
        if not options.label_host and any(map(is_outside, roots)):
            return None
        return self.sensor.labels.of(tgids)

    def _take_otlp(self) -> None:
        """Calls that frameworks told of: they are over by then."""
        for call in self.otlp.take(self.context):
            self.context.calls.put(call)
            self.sensor.told.put(told_call(call))

    def _keep(self) -> Keeping:
        options = self.options
        if options.content:  # so that it can be told later when content was kept
            self._say("content", f"kept, without secrets, of {', '.join(options.content)}")
        return self.rights.call(
            lambda: Keeping(
                options.store,
                options.content,
                options.content_limit,
                options.content_keep,
                options.content_max_bytes,
                self.resolver.lookup,
                options.canaries,
            )
        )

    def _listen(self) -> Listening:
        keyed = self.rights.call(lambda: hasher(self.options.store / "mcp"))
        content = self.keeping.content if self.keeping is not None else None
        made = Listening(self.sensor, self.context, keyed, content, self._canaries)
        self.sensor.on_pieces = lambda pieces: self._guard("tap", lambda: made.take(pieces), None)
        return made

    def _planted(self) -> Canaries:
        """Those whose rules are in force."""
        files = [Path(file) for file in self.rules.files]
        found, problems = self.rights.call(lambda: Canaries.load(files))
        for problem in problems:
            self._say("canaries", problem)
        return found

    def _recognise(self, batch: Batch) -> None:
        for said, key, cgroup in self._mentions.follow(batch):
            self.sensor.told.put(told_signal(said, key & PID_MASK, cgroup, key))

    def _keep_calls(self) -> None:
        calls, sets = self.context.calls.changes()
        self._guard("otlp", lambda: self.otlp.calls(calls), None)
        if not self.writer.put_calls(calls, sets):
            self.context.calls.unsaved(calls, sets)

    def _keep_policy(self) -> Guarding:
        store = self.options.store
        if problem := self.rights.call(mount):
            self._say("policy", f"it ends with this agent: {problem}")
        self.opens = self._ask_about_opens()
        return Guarding(
            self.sensor.guard,
            Following(Applied(store)),
            lambda: Log(store),
            self.options.resolvers,
            Pins(self.sensor.descriptors),
            self.writer.quarantine,
            self._say,
            self.opens,
            self.engine.baselines.known,
        )

    def _see_who_answers(self, told: Elsewhere) -> None:
        """No socket listens where no doorkeeper answers."""
        opens = self.opens
        if opens is not None and self.guarding is None:  # nobody would tell it of a set
            opens.close()
        state = opens.stats()["state"] if opens is not None else "off"
        if state == "off":
            os.close(told.listening)
        if state in ("off", "ended"):
            why = "nobody waits for a person here"
            self._say("policy", f"the webhook is told of nothing, and no link is answered: {why}")

    def _ask_about_opens(self) -> Opens:
        store, numbered, why = self.options.store, Numbered(), ""
        if self.options.files:
            try:
                self.rights.call(lambda: Group().close())
            except OSError as error:
                why = f"{error.strerror}; it takes Linux 5.17 and CAP_SYS_ADMIN"
        else:
            why = "--no-files"
        keeper = None
        if not why:
            given = handed(self.sensor, numbered)
            more = [one.name for one in self.rights.kept if one.name == "DAC_OVERRIDE"]
            told = self.options.elsewhere
            keeper = self.rights.call(
                lambda: Doorkeeper(store, handed=given, more=more, elsewhere=told)
            )

        def stopped(one: Stop) -> None:
            if self.guarding is not None:
                what = f"{one.action} {one.object}"
                self.guarding.stopped_by(one.policies, one.workload, what)

        def holds(held: Held, by: Keepers) -> None:
            if self.guarding is not None:
                self.guarding.held(held, by)

        return Opens(
            keeper,
            why,
            numbered,
            lambda version: Applied(store).set(version).policies,
            self.sensor.told.put,
            stopped,
            self._say,
            IN_KERNEL if self.sensor.facts.tier is Tier.LSM else ("exec",),
            holds,
            self.engine.baselines.known,
        )

    def _guard_by(self, guarding: Guarding, batch: Batch, enriched: list[Enriched]) -> None:
        """What policy has to know of this batch."""
        if self.context.workload_news:
            guarding.found(self.context.workload_news)
        events = batch.events
        ended = events["num"][events["cls"] == Class.CGROUP_RMDIR].tolist()
        guarding.gone(ended)
        if self.opens is not None:
            self.opens.found(self.context.workload_news)
            self.opens.gone(ended)
            self.opens.turn(self.sensor.wall_offset)
        if batch.names:
            address = self.context.dictionary.address
            guarding.named(
                Named(one.ts, one.cgroup, address(one.server).ip, one.name, one.addresses)
                for one in batch.names
            )
        for part in enriched:
            rows = np.flatnonzero(part.batch.events["cls"] == Class.POLICY).tolist()
            found = (row_of(part, at, 0) for at in rows)
            guarding.stopped(
                stopped_of(row, batch.wall_offset, batch.tier)
                for row in found
                if not is_told(row.event.num, row.event.flags)
            )

    def _set_apart(self) -> None:
        for one in self._quarantining.follow(self.writer.quarantines()):
            self._say("quarantine", f"{one.container} ({one.how}), {one.id}: {one.state}")
            self.writer.keep_quarantine(one)

    def _keep_sequences(self) -> None:
        """How far sequences have come survives a restart, whatever ends this run."""
        sequences = self.engine.sequences
        changes = list(sequences.changes())
        if not self.writer.put_sequences([SequenceRow(*one) for one in changes]):
            sequences.unsaved(changes)

    def _keep_baselines(self, now: float, force: bool) -> None:
        """What was learnt into the store, and what people decided out of it."""
        baselines = self.engine.baselines
        counts = force or now >= self._counted_due
        if counts:
            self._counted_due = now + _BASELINE_COUNTS
        for row in self.writer.keep_baselines(baselines, counts):
            state = "learning" if row.locked is None else "locked"
            self._say("baseline", f"{row.name or row.image}: {state}, as was asked for")

    def _govern(self) -> None:
        """Hold the agent to its budget; every change of level is said, and stored."""
        before, cpu_before, bulk_before = self._governed_at
        now, cpu, bulk = time.monotonic(), _cpu(), self.sensor.bulk_events
        self._governed_at = (now, cpu, bulk)
        passed = max(now - before, 1e-3)
        level = self.governor.step(cpu - cpu_before, passed, (bulk - bulk_before) / passed)
        for change in self.governor.changes():
            self.sensor.set_governed(level)
            self._say("governor", f"level {change.old} to {change.new}: {change.reason}")

    # -- what people see -------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """For `hullwatch status`; called from the control thread, reads only."""
        facts = self.sensor.facts
        wall = max(time.time() - self._started, 1e-3)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "watching": self._watching,
            "started": self._started,
            "tier": facts.tier.value,
            "tier_reason": facts.reason,
            "kernel": facts.release,
            "mode": "record" if self.sensor.recording else "detect",
            "rules": sum(rule.enabled for rule in self.rules.rules),
            "rules_refused": len(self.rules.errors),
            "rules_digest": self.rules.digest,
            "events": self._events,
            "events_per_second": round(self._rate, 1),
            "governor": {
                "level": self.governor.level,
                "cpu_share": round(self.governor.share, 4),
                "cpu_allowed": round(self.governor.allowed, 4),
            },
            "rings": {name: round(fill, 4) for name, fill in self.sensor.fill().items()},
            "policy": self.guarding.stats() if self.guarding is not None else {},
            "opens": self.opens.stats() if self.opens is not None else {},
            "losses": dict(self._losses),
            "faults": dict(self.faults),
            "privileges": self.rights.report(),
            "strings": len(self.context.dictionary),
            "processes": self.context.processes.stats(),
            "workloads": self.resolver.stats(),
            "held": self.context.holding(),
            "held_gave_up": self.context.gave_up_waiting,
            "verdicts": {
                "asked": self.feedback.asked,
                "written": self.sensor.verdicts.written,
                "refused": self.sensor.verdicts.refused,
            },
            "sequences": self.engine.sequences.stats(),
            "folds": {
                "open": len(self.engine.folder.open),
                "evicted": self.engine.folder.evicted,
                "overflowed": self.engine.folder.overflowed,
            },
            "suppressions": {
                "in_force": len(self.engine.suppressions.given),
                "refused": len(self.engine.suppressions.errors),
            },
            "baselines": self.engine.baselines.stats(),
            "calls": self.reports.stats() if self.reports is not None else {},
            **(self.listening.stats() if self.listening is not None else {}),
            "content": self.keeping.stats() if self.keeping is not None else {},
            "otlp": self.otlp.stats(),
            "labels": {
                "given": list(self.options.labels),
                "host": self.options.label_host,
                **self.sensor.labels.stats(),
            },
            "store": msgspec.to_builtins(self.writer.stats()),
            "cpu_share": round((_cpu() - self._cpu_at_start) / wall, 4),
            "rss_bytes": _rss(),
        }


def _rings(options: Options) -> dict[str, int]:
    tap = {"tap": _TAP_RING} if options.tap else {}
    return ({} if options.record else _RINGS) | tap | options.rings


def route_signals(daemon: Daemon) -> None:
    """SIGINT and SIGTERM end the run in order."""
    signal.signal(signal.SIGINT, daemon.stop)
    signal.signal(signal.SIGTERM, daemon.stop)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
