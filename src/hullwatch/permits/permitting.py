"""The process that answers opens and execs of guarded containers: fanotify's permission events,
asked of the policies.

One thread answers, and never waits for the policies, the disk or a person: those have threads of
their own, and a dictionary knows what was decided before. Whatever happens to this process, nobody
hangs: when it ends in any way the kernel lets all go on, and when it hangs its alarm ends it, or
the doorkeeper does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from hullwatch.agent.plugins import kind_of
from hullwatch.context.cgroupfs import find_v2_root
from hullwatch.decide.approvals import Terms, terms_of
from hullwatch.decide.elsewhere import Elsewhere, WebhookError
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry, LogError
from hullwatch.decide.policy import PolicyError
from hullwatch.decide.question import Decision, Effect, Entity, Fail, Mode, Question, Value
from hullwatch.decide.schema import clean
from hullwatch.detect.baseline.objects import path_object
from hullwatch.opened import OPENS
from hullwatch.permits import threads
from hullwatch.permits.asked import (
    BY_PURPOSE,
    Approval,
    Asked,
    Ruled,
    Verdict,
    questions_of,
    strongest_of,
    things_of,
    verdict_of,
)
from hullwatch.permits.carried import Carried, process_of
from hullwatch.permits.container import (
    Guard,
    GuardError,
    NotYet,
    Opened,
    cgroup_path,
    cgroup_text,
    files_named,
    host_mounts,
)
from hullwatch.permits.held import Holding, Outcome
from hullwatch.permits.messages import (
    ACTIONS,
    NOTHING,
    Channel,
    Counts,
    Flood,
    Normal,
    Ping,
    Policies,
    Problem,
    Release,
    Told,
    Watch,
)
from hullwatch.permits.telling import Actor, Telling, entry_of
from hullwatch.sensor.fanotify import EXEC, OPEN, Event, Group
from hullwatch.sensor.identities import Identities, Key
from hullwatch.sensor.mounts import Mount
from hullwatch.sensor.opening import purpose_of

__all__ = ["Permitting", "main"]

DECIDING = 1.0  # s that a decision may take
ALARM = 5.0  # s after which this process ends if it does nothing
MAX_REMEMBERED = 65_536  # decisions
MAX_CGROUPS = 4096
MAX_GUARDS = 1024
COMING, SOON = 30.0, 0.02  # s that a container may take to begin; s between two looks at it
COUNTED = 60.0  # s between two writings of counts
LOOKED = 10.0  # s between two looks for files that policies name
_ENDING = 2.0  # s for the log


class _Pending(msgspec.Struct):
    """Who waits for the policies. approved: what was held and approved; it is asked once
    more, as another one may need an approval of its own."""

    asked: Asked
    events: list[tuple[Event, Opened]]
    until: float
    approved: tuple[Approval, ...] = ()


class _Held(NamedTuple):
    event: Event
    actor: Actor
    opened: Opened
    asked: Asked
    ruled: Ruled
    approved: tuple[Approval, ...]
    started: str


class _Worker:
    """Work in a thread of its own, one after the other; a daemon, as it may hang."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            work = self._work.get()
            # A panic in native code is no Exception.
            with contextlib.suppress(BaseException):
                work()


class Permitting:
    """known: of the process that started this one. carried: None where labels and calls are not
    known; policies that read them fail. elsewhere: who is told of what waits. LogError, OSError and
    WebhookError where it cannot begin. run: until the channel or a signal ends it."""

    def __init__(
        self,
        channel: Channel,
        folder: Path,
        head: Path | None,
        known: Identities,
        carried: Carried | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._channel = channel
        self._carried = carried
        self._facts: Mapping[str, Callable[[int], Value | None]] = {
            **threads.FACTS,
            **(carried.facts if carried else {}),
        }
        self._group = Group()
        self._known = known
        self._poll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._holding = Holding(folder, head, self._wake, self._is_guarded, elsewhere)
        self._telling = Telling(channel, self._holding)
        self._v2_root = find_v2_root() or ""
        self._own = cgroup_path(cgroup_text(os.getpid()))
        self._host: list[Mount] = []
        self._guards: dict[str, Guard] = {}
        self._normal: dict[str, Normal] = {}
        self._coming: dict[str, tuple[Watch, float]] = {}
        self._of_cgroup: dict[bytes, Guard | None] = {}
        self._engine: Engine | None = None
        self._of_set = 0  # number of the message that it came in
        self._actions: tuple[str, ...] = ACTIONS
        self._reads: dict[bool, frozenset[str]] = {True: frozenset(), False: frozenset()}
        self._reading: dict[bool, tuple[str, ...]] = {True: (), False: ()}
        self._remembered: dict[Asked, Verdict] = {}
        self._decider, self._loader, self._finder = map(_Worker, ("decider", "loader", "finder"))
        self._looking: set[str] = set()  # by the finder, which a file system may keep waiting
        self._done: deque[Callable[[], None]] = deque()
        self._pending: dict[int, _Pending] = {}
        self._asking: dict[Asked, int] = {}
        self._stuck: set[int] = set()
        self._held: dict[int, _Held] = {}
        self._last = 0
        self._counts: dict[str, int] = dict.fromkeys(
            "events outside allowed blocked observed held asked late faults".split(), 0
        )
        self._running = True

    # --- the loop -------------------------------------------------------------------------

    def run(self) -> None:
        for fd in (self._group.fd, self._channel.fd, self._wake_fd, self._known.fd):
            self._poll.register(fd, select.EPOLLIN)
        alarm = counted = looked = followed = tried = 0.0
        try:
            while self._running and self._channel.open:
                now = time.monotonic()
                if now - alarm >= ALARM / 10:
                    alarm = now
                    signal.setitimer(signal.ITIMER_REAL, ALARM)
                self._turn(SOON if self._coming else DECIDING / 2)
                if self._coming and now - tried >= SOON:
                    tried = now
                    for asked, _ in list(self._coming.values()):
                        self._watch(asked)
                if now - followed >= DECIDING / 2:
                    followed = now
                    self._follow(now)
                if now - looked >= LOOKED:
                    looked = now
                    for guard in self._guards.values():
                        self._look_for_files(guard)
                if now - counted >= COUNTED:
                    counted = now
                    self._telling.write_counts(self._name_of, self._version)
        finally:
            self._end()

    def stop(self, *_: object) -> None:
        self._running = False
        self._wake()

    def _turn(self, seconds: float) -> None:
        ready = dict(self._poll.poll(seconds))
        # What is gone is forgotten before its number can come with an event.
        if self._known.fd in ready:
            self._known.drain()
        if self._group.fd in ready:
            events = self._group.read()
            if len(self._known):
                self._known.drain()
            for event in events:
                try:
                    self._event(event)
                except Exception as error:  # of one event: the others are not to suffer from it
                    self._fault(event, error)
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            self._finish()
        if self._channel.fd in ready:
            self._listen()
        if self._channel.full:
            self._channel.flush()
        if any(how & select.EPOLLPRI for how in ready.values()):
            self._host = host_mounts()
            for guard in self._guards.values():
                if not ready.keys().isdisjoint(guard.watched):
                    self._mark(guard)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    def _follow(self, now: float) -> None:
        """What has ended, what takes too long, what is new."""
        for number, pending in list(self._pending.items()):
            if now >= pending.until:
                self._late(number)
        for number, held in list(self._held.items()):
            if not held.started or threads.started(held.event.thread) != held.started:
                self._holding.cancel(number, "the process that asked has ended")
                self._held.pop(number)
                self._group.forget(held.event)
        for guard in list(self._guards.values()):
            alive, new = guard.look_for_spaces() if guard.mask else (any(guard.pids()), False)
            if not alive:
                self._release(guard.container)
                self._channel.send(Release(guard.container))
            elif new:
                self._host = host_mounts()
                self._mark(guard)
        if self._holding.problem:
            self._telling.problem(
                f"{self._holding.problem}; what needs a person is blocked until it can be"
            )
        if self._holding.unheard:
            self._telling.problem(f"webhook: {self._holding.unheard}")
        self._tell()

    def _end(self) -> None:
        """Who waits is answered before the kernel lets the others go on."""
        signal.setitimer(signal.ITIMER_REAL, 2 * ALARM)
        self._telling.write_counts(self._name_of, self._version)
        self._holding.close(_ENDING)
        for held in self._held.values():
            self._group.answer(held.event, False)
        open_ = self._fail() is Fail.OPEN
        for pending in self._pending.values():
            for event, _ in pending.events:
                self._group.answer(event, open_)
        self._group.close()
        for guard in self._guards.values():
            guard.close()

    # --- what the agent says --------------------------------------------------------------

    def _listen(self) -> None:
        for message in self._channel.take():
            match message:
                case Policies():
                    self._loader.put(lambda said=message: self._load(said))  # type: ignore[misc]
                case Normal():
                    message.keep(self._normal)
                case Watch():
                    self._watch(message)
                case Release(container):
                    self._release(container)
                case Ping():
                    self._channel.send(message)
                case _:
                    pass

    def _load(self, said: Policies) -> None:
        """In a thread: reading a large set takes its time."""
        try:
            engine = Engine.of(said.texts)
        except PolicyError as error:
            why = f"a set of policies was refused, the one before stays: {error}"
            self._later(lambda: self._telling.problem(why, gap=self._engine is None))
            return
        part = engine if said.only is None else engine.narrowed(said.only)
        self._later(lambda: self._use(part, said.actions, said.number))

    def _use(self, engine: Engine, actions: tuple[str, ...], number: int) -> None:
        self._engine, self._of_set = engine, number
        spoken = frozenset[str]().union(*(one.actions for one in engine.policies.values()))
        self._actions = tuple(one for one in actions if one in spoken)
        self._reads = {
            True: engine.reads("exec"),
            False: frozenset[str]().union(
                *(engine.reads(one) for one in self._actions if one in OPENS)
            ),
        }
        self._reading = {
            exec_: tuple(sorted(reads & self._facts.keys())) for exec_, reads in self._reads.items()
        }
        self._remembered.clear()
        self._host = host_mounts()
        for guard in self._guards.values():
            self._mark(guard)
            self._look_for_files(guard)
        self._tell()

    def _watch(self, asked: Watch) -> None:
        known = self._guards.get(asked.container)
        if known is not None:
            known.know(asked.name, asked.facts, asked.image)
            self._remembered.clear()
            self._mark(known)
            return
        self._host = host_mounts()
        try:
            if len(self._guards) >= MAX_GUARDS:
                raise GuardError(f"{asked.name}: {MAX_GUARDS} containers are guarded already")
            guard = Guard(
                *(asked.container, asked.name, asked.cgroup, asked.facts),
                *(self._v2_root, self._host, asked.image),
            )
            if _within(self._own, guard.base):
                guard.close()
                raise GuardError(f"{asked.name}: it is the agent's own")
        except GuardError as error:
            since = self._coming.get(asked.container, (asked, time.monotonic()))[1]
            if isinstance(error, NotYet) and time.monotonic() - since < COMING:
                self._coming[asked.container] = asked, since
                return
            self._coming.pop(asked.container, None)
            self._telling.problem(f"not guarded: {error}", gap=True)
            self._channel.send(Release(asked.container))
            return
        self._coming.pop(guard.container, None)
        self._guards[guard.container] = guard
        self._of_cgroup.clear()
        self._mark(guard)
        self._look_for_files(guard)
        self._tell()

    def _release(self, container: str) -> None:
        guard = self._guards.pop(container, None)
        self._coming.pop(container, None)
        if guard is None:
            return
        self._of_cgroup.clear()
        for fd in guard.watched:
            with contextlib.suppress(OSError):
                self._poll.unregister(fd)
        self._host = host_mounts()
        guard.release(self._group, self._host, self._wanted_by_others(guard))
        for number, held in list(self._held.items()):
            if held.asked.container == container:
                self._holding.cancel(number, "the container is guarded no longer")
        self._tell()

    def _mark(self, guard: Guard) -> None:
        """As far as a policy could hold for it."""
        engine = self._engine
        if engine is None:
            return
        who = Entity("Workload", guard.name)
        mask = 0
        for action in self._actions:
            if engine.concerns(action, who, guard.facts):
                mask |= OPEN if action in OPENS else EXEC
        try:
            guard.follow(self._group, mask, self._host, self._wanted_by_others(guard))
        except OSError as error:
            self._telling.problem(
                f"{guard.name}: its mounts cannot be read: {error.strerror}", gap=True
            )
        for fd in guard.watched:
            with contextlib.suppress(FileExistsError):
                self._poll.register(fd, select.EPOLLPRI)
        if guard.gaps:
            self._telling.problem(f"{guard.name}: not watched: {', '.join(guard.gaps)}", gap=True)

    def _wanted_by_others(self, guard: Guard) -> Callable[[int], int]:
        def wanted(device: int) -> int:
            mask = 0
            for one in self._guards.values():
                if one is not guard and device in one.devices():
                    mask |= one.mask
            return mask

        return wanted

    # --- one event ------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        self._counts["events"] += 1
        guard = self._guard_of(event.thread)
        if guard is None or self._engine is None:
            self._counts["outside"] += 1
            self._group.answer(event, True)
            return
        try:
            opened = Opened.of(event.fd)
            asked = self._asked(guard, event, opened)
        except OSError as error:  # a path that is too long
            self._fault(event, error)
            return
        verdict = self._remembered.get(asked)
        if verdict is not None:
            self._settle(event, opened, asked, verdict)
        elif self._stuck:
            self._fail_at_once(event, opened, asked)
        elif asked in self._asking:
            self._pending[self._asking[asked]].events.append((event, opened))
        else:
            self._ask(_Pending(asked, [(event, opened)], time.monotonic() + DECIDING))

    def _fault(self, event: Event, error: Exception) -> None:
        self._counts["faults"] += 1
        self._group.answer(event, self._fail() is Fail.OPEN)
        why = error.strerror if isinstance(error, OSError) else error
        self._telling.problem(f"a question failed: {type(error).__name__}: {why}", gap=True)

    def _guard_of(self, thread: int) -> Guard | None:
        text = cgroup_text(thread)
        if text in self._of_cgroup:
            return self._of_cgroup[text]
        path = cgroup_path(text)
        found = next((one for one in self._guards.values() if _within(path, one.base)), None)
        if len(self._of_cgroup) >= MAX_CGROUPS:
            self._of_cgroup.clear()
        self._of_cgroup[text] = found
        return found

    def _is_guarded(self, pid: int) -> bool:
        path = cgroup_path(cgroup_text(pid))
        return any(_within(path, one.base) for one in list(self._guards.values()))

    def _asked(self, guard: Guard, event: Event, opened: Opened) -> Asked:
        reads = self._reads[event.exec]
        known = self._known.path(opened.key, guard.container)
        path = clean(opened.path)
        names = (path,) if known in ("", path) else (path, known)
        plugins = ("",) * len(names)
        if "load-plugin" in self._actions and not event.exec:
            plugins = threads.plugins(names, event.thread)
        upper = guard.in_upper(opened, event.fd) if "upper" in reads else None
        facts: list[tuple[str, Value]] = []
        for name in self._reading[event.exec]:
            if (value := self._facts[name](event.thread)) is not None:
                facts.append((name, value))
        if "hour" in reads or "weekday" in reads:
            now = time.localtime()
            facts += (("hour", now.tm_hour), ("weekday", _DAYS[now.tm_wday]))
        new = self._new(guard, event, opened) if "first_seen" in reads else None
        return Asked(guard.container, event.exec, names, plugins, upper, tuple(facts), new)

    def _new(self, guard: Guard, event: Event, opened: Opened) -> frozenset[str] | None:
        """The path that it was reached by is what baselines are about. They have the program that
        ran: not the loader that comes with it, nor a script, which that has read."""
        known, now = self._normal.get(guard.image), time.time_ns()
        if known is None:
            return None
        name = path_object(clean(opened.path))
        kinds = ("exec",) if event.exec else ("read", "write")
        new = frozenset(kind for kind in kinds if known.is_new(kind, name, now))
        if "exec" not in new:
            return new
        script = not known.is_new("read", name, now) and guard.is_script(event.fd)
        return frozenset() if script or guard.is_loader(opened, event.fd) else new

    def _ask(self, pending: _Pending) -> None:
        """Of the policies, in their thread."""
        asked, engine = pending.asked, self._engine
        guard = self._guards.get(asked.container)
        if engine is None or guard is None:  # meanwhile
            for event, _ in pending.events:
                self._group.answer(event, not pending.approved)
            return
        self._counts["asked"] += 1
        number = self._number()
        self._pending[number] = pending
        approved = pending.approved
        if not approved:
            self._asking[asked] = number
        questions = questions_of(asked, guard.name, guard.facts, self._actions)

        def work() -> None:
            try:
                verdict = verdict_of(engine, questions, approved)
            except BaseException:
                self._later(lambda: self._late(number))
                raise
            finally:
                self._later(lambda: self._stuck.discard(number))
            self._later(lambda: self._decided(number, engine, verdict))

        self._decider.put(work)

    def _decided(self, number: int, engine: Engine, verdict: Verdict) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:  # too late
            return
        asked = pending.asked
        if engine is not self._engine:
            if self._asking.get(asked) == number:
                del self._asking[asked]
            self._ask(pending)
            return
        if pending.approved:
            event, opened = pending.events[0]
            self._rule(event, opened, asked, self._of_purpose(event, verdict), pending.approved)
            return
        self._asking.pop(asked, None)
        if all(one.quiet for one in verdict):
            verdict = ()
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[asked] = verdict
        for event, opened in pending.events:
            self._settle(event, opened, asked, verdict)

    def _settle(self, event: Event, opened: Opened, asked: Asked, verdict: Verdict) -> None:
        if any(one.decision.wanted is not Effect.ALLOW for one in verdict):
            # By whatever name it is reached from now on; also where it is only made now.
            self._known.learn(event.fd, opened.key, asked.container, asked.names[-1])
        self._rule(event, opened, asked, self._of_purpose(event, verdict) if verdict else ())

    def _of_purpose(self, event: Event, verdict: Verdict) -> Verdict:
        """What it is opened for; nothing where the kernel opens it to execute it, which is another
        question."""
        if event.exec:
            return verdict
        actions = BY_PURPOSE.get(purpose_of(event.thread), ())
        return tuple(one for one in verdict if one.action in actions)

    def _rule(
        self,
        event: Event,
        opened: Opened,
        asked: Asked,
        verdict: Verdict,
        approved: tuple[Approval, ...] = (),
    ) -> None:
        """The strongest counts. approved: what a person has let go on."""
        if all(one.quiet for one in verdict):
            self._group.answer(event, True)
            self._counts["allowed"] += 1
            self._telling.plain(asked.container, "exec" if event.exec else "open")
            return
        strongest = strongest_of(verdict, approved)
        if strongest.decision.effect is Effect.CHALLENGE:
            self._hold(event, opened, asked, strongest, approved)
        elif strongest.decision.effect is Effect.BLOCK:
            self._finally(event, asked, strongest)
        else:  # then all that is only observed is told
            seen = (one for one in verdict if one.decision.wanted is not Effect.ALLOW)
            self._finally(event, asked, strongest, *(one for one in seen if one is not strongest))

    def _finally(self, event: Event, asked: Asked, ruled: Ruled, *beside: Ruled) -> None:
        """No person is waited for (any more)."""
        allow = ruled.decision.effect is Effect.ALLOW
        # Before it goes on, since it may end then.
        entries = [self._entry(event, asked, one) for one in (ruled, *beside)]
        actor = self._actor(event, asked)
        self._group.answer(event, allow)
        self._counts["allowed" if allow else "blocked"] += 1
        if allow and ruled.decision.wanted is not Effect.ALLOW:
            self._counts["observed"] += 1
        for entry in entries:
            self._telling.log(entry, actor)

    def _actor(self, event: Event, asked: Asked) -> Actor:
        process, known = process_of(event.thread), self._carried
        if known is None:
            return Actor(asked.container, process)
        call = known.call(event.thread, process)
        return Actor(asked.container, process, known.bits(process), call)

    def _hold(
        self,
        event: Event,
        opened: Opened,
        asked: Asked,
        ruled: Ruled,
        approved: tuple[Approval, ...],
    ) -> None:
        self._counts["held"] += 1
        number = self._number()
        actor = self._actor(event, asked)
        started = threads.started(event.thread)
        self._held[number] = _Held(event, actor, opened, asked, ruled, approved, started)
        terms: Terms = terms_of(ruled.challenges)
        shown = {
            "said": f"{ruled.action} {ruled.thing.id}",
            "pid": event.thread,
            **ruled.thing.attributes,
            **dict(asked.facts),
        }
        self._holding.hold(number, self._entry(event, asked, ruled), terms, shown)

    def _outcome(self, outcome: Outcome) -> None:
        held = self._held.get(outcome.number)
        self._channel.send(Told(outcome.entry, *(held.actor if held else ())))
        if held is None or outcome.effect is Effect.CHALLENGE:  # None: it has ended
            return
        del self._held[outcome.number]
        if outcome.effect is Effect.BLOCK:
            self._group.answer(held.event, False)
            self._counts["blocked"] += 1
            return
        until = time.monotonic() + DECIDING
        approved = (*held.approved, Approval(held.ruled))
        self._ask(_Pending(held.asked, [(held.event, held.opened)], until, approved))

    # --- policies that do not answer ------------------------------------------------------

    def _late(self, number: int) -> None:
        pending = self._pending.pop(number, None)
        if pending is None:
            return
        self._asking.pop(pending.asked, None)
        self._stuck.add(number)
        for event, opened in pending.events:
            self._fail_at_once(event, opened, pending.asked)

    def _fail_at_once(self, event: Event, opened: Opened, asked: Asked) -> None:
        assert self._engine is not None
        self._counts["late"] += 1
        fail = self._fail()
        effect = Effect.ALLOW if fail is Fail.OPEN else Effect.BLOCK
        decision = Decision(
            effect=effect,
            wanted=Effect.BLOCK,
            reason=f"the policies gave no answer within {DECIDING:g} s, and fail {fail}",
            version=self._engine.version,
        )
        action = "exec" if asked.exec else "open-read"
        thing = Entity("Binary" if asked.exec else "Path", asked.names[0])
        self._finally(event, asked, Ruled(action, thing, decision))

    def _fail(self) -> Fail:
        """Open only where every policy about files that is enforced is."""
        if self._engine is None:
            return Fail.OPEN
        fails = [
            one.fail
            for one in self._engine.policies.values()
            if one.mode is Mode.ENFORCE and not {*self._actions}.isdisjoint(one.actions)
        ]
        return Fail.OPEN if all(one is Fail.OPEN for one in fails) else Fail.CLOSED

    # --- what other threads have done -----------------------------------------------------

    def _later(self, work: Callable[[], None]) -> None:
        """From another thread: to be done by this one."""
        self._done.append(work)
        self._wake()

    def _finish(self) -> None:
        while self._done:
            self._done.popleft()()
        for outcome in self._holding.take():
            self._outcome(outcome)
        for flood in self._holding.floods():
            self._channel.send(Flood(flood))

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _look_for_files(self, guard: Guard) -> None:
        """That policies name, so that they are known by whatever name they are reached."""
        engine = self._engine
        if engine is None or not guard.mask or guard.container in self._looking:
            return
        self._looking.add(guard.container)
        root = os.dup(guard.root)
        who, container = Entity("Workload", guard.name), guard.container
        contexts = [dict(guard.facts), {**guard.facts, "first_seen": True}]
        actions = self._actions
        texts = [
            one.matcher
            for one in engine.policies.values()
            if not {*actions}.isdisjoint(one.actions) and one.principal.fits(who.kind, who.id)
        ]

        def wanted(name: str) -> bool:
            found = things_of(name, None, kind_of(name) or "")
            asked = (
                Question(principal=who, action=one, resource=found[one], context=facts)
                for one in actions
                for facts in contexts
                if one in found
            )
            return any(engine.decide(one).wanted is not Effect.ALLOW for one in asked)

        def work() -> None:
            try:
                for fd, name in files_named(root, iter(texts)):
                    about = os.fstat(fd)
                    if wanted(name):
                        key = (about.st_dev, about.st_ino)
                        self._later(lambda fd=fd, key=key, name=clean(name): learn(fd, key, name))  # type: ignore[misc]
                    else:
                        os.close(fd)
            finally:
                os.close(root)
                self._looking.discard(container)

        def learn(fd: int, key: Key, name: str) -> None:
            self._known.learn(fd, key, container, name)
            os.close(fd)

        self._finder.put(work)

    # --- what is told ---------------------------------------------------------------------

    @property
    def _version(self) -> str:
        return self._engine.version if self._engine else ""

    def _name_of(self, container: str) -> str:
        guard = self._guards.get(container)
        return guard.name if guard else container

    def _entry(self, event: Event, asked: Asked, ruled: Ruled) -> Entry:
        return entry_of(event.thread, self._name_of(asked.container), asked, ruled)

    def _tell(self) -> None:
        counts = self._counts | {
            "known_files": len(self._known),
            "unknown_files": self._known.refused,
            "unreadable": self._group.unreadable,
            "unlogged": self._holding.unlogged,
            **self._holding.told(),
            "untold": self._channel.refused,
            "waiting": len(self._held),
        }
        said = Counts(
            counts=counts,
            gaps={one.container: one.gaps for one in self._guards.values() if one.gaps},
            guarded={one.container: _SAID[one.mask] for one in self._guards.values()},
            version=self._version,
            worker=os.getpid(),
            number=self._of_set,
        )
        self._telling.counts(said)


_SAID = {0: NOTHING, OPEN: "open", EXEC: "exec", OPEN | EXEC: "open, exec"}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _within(path: str, base: str) -> bool:
    return path == base or path.startswith(base + "/")


def main(
    channel: Channel,
    folder: Path,
    head: Path | None,
    known: Identities,
    carried: Carried | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """In a process of its own, until the other end closes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # one for each who waits
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        permitting = Permitting(channel, folder, head, known, carried, elsewhere)
    except (OSError, LogError, WebhookError) as error:
        channel.send(Problem(f"opens and execs are not asked about: {error}", gap=True))
        return
    signal.signal(signal.SIGTERM, permitting.stop)
    permitting.run()
