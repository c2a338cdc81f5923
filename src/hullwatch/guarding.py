"""The policies in force, kept in the kernel: for each container the answers to all that it may ask.

    the set in force (decide/following.py) → Plan → Guard: a generation of answers
    containers as they are found           → which kind they are to the policies
    what resolvers answered                → which names an address has
    what the kernel stopped                → entries of the decision log

One thread does it, so that a large set delays nobody; what it cannot do leaves the generation in
force that is there, and is said.
"""

from __future__ import annotations

import ipaddress
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.plan import Cell, Facts, Plan, Row, Who
from hullwatch.decide.question import Effect, Mode
from hullwatch.detect.row import Row as EventRow
from hullwatch.questions import Asked, act_of, asked, of_workload, workload_name
from hullwatch.sensor.guard import Answers, Guard, GuardError
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.patterns import Pattern, Tables, TooManyPatterns, told_apart
from hullwatch.sensor.wire import FACT_UPPER, ROW_ANY, ROW_UNKNOWN, Action, Class, Done, Privilege

__all__ = ["Guarding", "Named", "Stopped", "stopped_of"]

MAX_NAMES = 16_384  # of addresses, all containers together
MAX_WAITING = 10_000  # verdicts that are still to be logged
_ACTION = {name.replace("_", "-").lower(): int(value) for name, value in Action.__members__.items()}
_NAME = {number: name for name, number in _ACTION.items()}
_CLASS = {
    "exec": Class.EXEC,
    "open-read": Class.OPEN,
    "open-write": Class.OPEN,
    "connect": Class.CONNECT,
    "listen": Class.LISTEN,
}
_PRIVILEGE = {
    int(Privilege.PTRACE): Class.PTRACE,
    int(Privilege.MOUNT): Class.MOUNT,
    int(Privilege.BPF): Class.BPF,
    int(Privilege.MODULE): Class.MODULE,
}
_FIRST = ROW_UNKNOWN + 1
_POLL = 1.0  # s between two looks at the set in force

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Follow(Protocol):
    """decide/following.py."""

    problem: str

    def follow(self) -> Engine | None: ...


class Named(NamedTuple):
    """A resolver told a container which addresses a name has. server: of the resolver."""

    cgroup: int
    server: Address
    name: str
    addresses: tuple[str, ...]


class Stopped(NamedTuple):
    """What the kernel did at the policies' word. ts: unix ns. asked: the questions that it stands
    for. done: enum hw_done."""

    ts: int
    done: int
    action: str
    object: str
    workload: str
    identity: str
    tool_call: str
    tier: str
    asked: tuple[Asked, ...]
    own: bool = False  # it reached for the agent itself: no policy was asked


def stopped_of(row: EventRow, offset: int, tier: str) -> Stopped:
    """Of a `policy` event. offset: from its clock to the wall."""
    action, done = row.event.flags & 0xFFFF, row.event.flags >> 16
    name = _NAME[action]
    act = act_of(row)
    cls = _PRIVILEGE.get(row.event.num, Class.BPF) if name == "privilege" else _CLASS[name]
    act = act._replace(cls=int(cls), flags=int(name == "open-write"))
    own = name == "privilege" and row.event.num == Privilege.OWN
    questions = [] if own else [one for one in asked(act) if one.questions[0].action == name]
    image = row.image
    identity = f"uid:{image.euid} {image.exepath}" if image is not None else ""
    return Stopped(
        row.ts + offset,
        done,
        name,
        act.object,
        workload_name(row.workload),
        identity,
        f"{row.span:016x}" if row.span else "",
        tier,
        tuple(questions),
        own,
    )


class _Tables(NamedTuple):
    """Of one generation. rows: of paths, the first is of number _FIRST."""

    number: int
    plan: Plan
    rows: tuple[Row, ...]


class Guarding:
    """resolvers: addresses whose word about names counts. say: (kind, text) for whoever operates
    it. Calls put into the thread's queue what there is to do, and return at once."""

    def __init__(
        self,
        guard: Guard,
        follow: Follow,
        log: Callable[[], Log],
        resolvers: Sequence[str],
        say: Callable[[str, str], None],
    ) -> None:
        self._guard = guard
        self._follow = follow
        self._open_log = log
        self._log: Log | None = None
        self._resolvers = tuple(resolvers)
        self._trusted = frozenset(map(ipaddress.ip_address, resolvers))
        self._say = say
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._in_force: _Tables | None = None
        self._containers: dict[int, Workload] = {}
        self._scopes: dict[Who, int] = {}
        self._next_scope = 1
        self._names: OrderedDict[tuple[int, str], set[str]] = OrderedDict()  # cgroup, address
        self._numbers: dict[tuple[Who, int, frozenset[str]], int] = {}
        self._told: dict[str, str] = {}
        self._waiting = 0
        self._hour = -1
        self.filled = 0.0
        """Seconds that the answers in force took."""
        self.lost = 0
        """Verdicts that were not logged."""
        self.unheld: dict[str, str] = {}
        """Policies that the kernel cannot ask, and why."""

    # -- for the agent's threads ----------------------------------------------------------------

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What is waiting is done first; then nothing is guarded any more."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(10)
        if self._guard.generation:
            self._guard.end()

    def tick(self) -> None:
        """Each second."""
        if self._guard.generation:
            self._guard.alive()

    def found(self, workloads: Iterable[Workload]) -> None:
        for one in workloads:
            if one.state == "resolved" and one.container_id and not one.nested_id:
                self._work.put(lambda one=one: self._hold(one))  # type: ignore[misc]

    def gone(self, cgroups: Iterable[int]) -> None:
        for cgroup in cgroups:
            self._work.put(lambda cgroup=cgroup: self._let_go(cgroup))  # type: ignore[misc]

    def named(self, answers: Iterable[Named]) -> None:
        for one in answers:
            if one.server in self._trusted:
                self._work.put(lambda one=one: self._learn(one))  # type: ignore[misc]

    def stopped(self, verdicts: Iterable[Stopped]) -> None:
        for one in verdicts:
            if self._waiting >= MAX_WAITING:
                self.lost += 1
                continue
            self._waiting += 1
            self._work.put(lambda one=one: self._write(one))  # type: ignore[misc]

    @property
    def on(self) -> bool:
        return self._guard.generation > 0

    def stats(self) -> dict[str, object]:
        tables = self._in_force
        return {
            "version": tables.plan.version if tables else "",
            "policies": len(tables.plan.policies) if tables else 0,
            "unheld": dict(self.unheld),
            "kinds": len(self._scopes),
            "names": len(self._names),
            "filled_seconds": round(self.filled, 3),
            "verdicts_lost": self.lost,
            "problem": self._follow.problem,
            **self._guard.stats(),
        }

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        self._guarded("decisions", self._open)
        due = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + _POLL
                self._guarded("policy", self._look)
                self._guarded("decisions", self._flush)
            try:
                work = self._work.get(timeout=max(due - now, 0.001))
            except queue.Empty:
                continue
            if work is None:
                if self._log is not None:
                    self._guarded("decisions", self._log.close)
                return
            self._guarded("policy", work)

    def _open(self) -> None:
        """Here, as it is for one thread."""
        self._log = self._open_log()

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """A fault is said once, and leaves in force what is."""
        try:
            work()
        except Exception as error:
            self._once(what, f"{type(error).__name__}: {error}")

    def _once(self, what: str, text: str) -> None:
        if self._told.get(what) != text:
            self._told[what] = text
            if text:
                self._say(what, text)

    def _look(self) -> None:
        engine = self._follow.follow()
        self._once("policy in force", self._follow.problem)
        hour = time.localtime().tm_hour
        timed = self._in_force is not None and self._in_force.plan.timed and hour != self._hour
        if engine is not None:
            self._engine = engine
        if self._engine is not None and (engine is not None or timed):
            self._hour = hour
            self._fill(self._engine)

    def _fill(self, engine: Engine) -> None:
        """A generation of this set beside the one in force, and then instead of it."""
        began = time.monotonic()
        plan = Plan(engine, self._resolvers)
        compiled, rows = self._compiled(plan)
        networks = {one.network: _FIRST + number for number, one in enumerate(plan.networks)}
        facts = bits_of(plan.labels) | (FACT_UPPER if plan.upper else 0)
        number = self._guard.begin(compiled, networks, plan.ports, facts)
        tables = _Tables(number, plan, rows)
        scopes, numbers = self._scopes, self._numbers
        self._scopes, self._numbers, self._next_scope = {}, {}, 1
        try:
            for container in self._containers.values():
                self._place(tables, container)
            self._give_names(tables)
        except GuardError:
            self._scopes, self._numbers = scopes, numbers
            raise
        self._guard.commit(number)
        self._in_force = tables
        self.filled = time.monotonic() - began
        self.unheld = dict(plan.unheld)
        self._say(
            "policy",
            f"set {plan.version[:12]} is in force in the kernel: {len(plan.policies)} policies,"
            f" {self._guard.stats()['answers']} answers in {self.filled:.2f} s",
        )
        for ident, why in plan.unheld.items():
            self._say("policy", f"{ident} is not asked in the kernel: {why}")

    def _compiled(self, plan: Plan) -> tuple[Tables, tuple[Row, ...]]:
        """Groups are halved until their automata fit; a policy that fits alone with none is left
        out."""
        while True:
            rows: list[Row] = []

            def row(group: int, _: int, text: bytes, rows: list[Row] = rows) -> int:
                rows.append(Row(group, text.decode()))
                return _FIRST + len(rows) - 1

            groups = [
                [Pattern(text, 1 << bit) for bit, text in enumerate(plan.patterns(group))]
                for group in range(len(plan.groups))
            ]
            try:
                return told_apart(groups, self._guard.first_state(), row), tuple(rows)
            except TooManyPatterns as error:
                largest = max(range(len(plan.groups)), key=lambda at: len(plan.groups[at]))
                plan.halve(largest, str(error))

    def _place(self, tables: _Tables, container: Workload) -> None:
        who = tables.plan.who(workload_name(container), of_workload(container))
        scope = self._scopes.get(who)
        if scope is None:
            scope = self._next_scope
            self._next_scope += 1
            cells = (
                *tables.plan.of_paths(who, tables.rows, ROW_ANY, ROW_UNKNOWN, _FIRST),
                *tables.plan.of_networks(who, ROW_UNKNOWN, _FIRST),
            )
            self._guard.put(tables.number, scope, map(_answer, cells))
            self._scopes[who] = scope
        self._guard.hold(tables.number, container.cgroup, scope)

    def _hold(self, container: Workload) -> None:
        self._containers[container.cgroup] = container
        if (tables := self._in_force) is not None:
            self._place(tables, container)

    def _let_go(self, cgroup: int) -> None:
        self._containers.pop(cgroup, None)
        self._guard.let_go(cgroup)
        for key in [key for key in self._names if key[0] == cgroup]:
            del self._names[key]

    # -- names -------------------------------------------------------------------------------

    def _learn(self, answer: Named) -> None:
        """The addresses have this name, too. A name is kept as long as its container is there: the
        connections that were made by it are judged by it."""
        if answer.cgroup not in self._containers:
            return
        for address in answer.addresses:
            key = answer.cgroup, address
            names = self._names.setdefault(key, set())
            self._names.move_to_end(key)
            if answer.name in names:
                continue
            names.add(answer.name)
            if (tables := self._in_force) is not None:
                self._give_name(tables, *key)
        while len(self._names) > MAX_NAMES:
            (cgroup, address), _ = self._names.popitem(last=False)
            if (tables := self._in_force) is not None and cgroup in self._containers:
                self._give_name(tables, cgroup, address)

    def _give_names(self, tables: _Tables) -> None:
        for cgroup, address in self._names:
            self._give_name(tables, cgroup, address)

    def _give_name(self, tables: _Tables, cgroup: int, address: str) -> None:
        container = self._containers[cgroup]
        plan = tables.plan
        if not any("connect" in one.actions for one in plan.policies.values()):
            return
        who = plan.who(workload_name(container), of_workload(container))
        scope = self._scopes[who]
        kin = {
            one.cgroup
            for one in self._containers.values()
            if plan.who(workload_name(one), of_workload(one)) == who
        }
        names = frozenset(name for one in kin for name in self._names.get((one, address), ()))
        place = plan.row_of(address)
        if not names or place is None:
            self._guard.put_name(tables.number, scope, address, 0)
            return
        key = who, place, names
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers) + 1
            cells = (
                _answer(Cell("connect", facts, _FIRST + place, port, held))._replace(name=number)
                for facts in plan.facts(files=False)
                for port in (0, *plan.ports)
                for held in (plan.net(who, facts, place, port, sorted(names)),)
            )
            self._guard.put(tables.number, scope, cells)
        self._guard.put_name(tables.number, scope, address, number)

    # -- the log -----------------------------------------------------------------------------

    def _write(self, one: Stopped) -> None:
        self._waiting -= 1
        engine = self._engine
        if self._log is None or (engine is None and not one.own):
            self.lost += 1
            return
        stopped = one.done != Done.TOLD
        ranks = list(Effect)
        decisions = [
            engine.decide_any(asked.questions, listed=asked.listed)
            for asked in one.asked
            if engine is not None
        ]
        decision = max(decisions, key=lambda found: ranks.index(found.wanted), default=None)
        resource = one.object
        if one.asked:
            thing = one.asked[0].questions[0].resource
            resource = f"{thing.kind}:{thing.id}"
        wanted = decision.wanted if decision is not None else Effect.BLOCK
        unasked = "it reached for Hullwatch itself" if one.own else "it cannot be told what it is"
        reason = decision.reason if decision is not None else unasked
        entry = Entry(
            time=one.ts,
            principal=f"Workload:{one.workload}",
            action=one.action,
            resource=resource,
            effect=Effect.BLOCK if stopped else Effect.ALLOW,
            wanted=wanted if wanted is not Effect.ALLOW or not stopped else Effect.BLOCK,
            mode=Mode.ENFORCE if stopped else Mode.OBSERVE,
            policies=decision.policies if decision is not None else (),
            failed=decision.failed if decision is not None else (),
            reason=reason,
            version=engine.version if engine is not None else "",
            took=decision.took if decision is not None else 0,
            tier=one.tier,
            identity=one.identity,
            tool_call=one.tool_call,
            why=_HOW.get(one.done, ""),
        )
        self._log.note(entry)

    def _flush(self) -> None:
        if self._log is None:
            return
        try:
            self._log.flush()
        except LogError as error:
            self._once("decisions", str(error))


_HOW = {
    int(Done.KILLED): "the program was ended before its first instruction",
    int(Done.DROPPED): "a packet of an open connection was dropped",
}


def _answer(cell: Cell) -> Answers:
    return Answers(
        _ACTION[cell.action],
        _facts(cell.facts),
        cell.row,
        cell.port,
        int(cell.held.now),
        int(cell.held.orphaned),
    )


def _facts(facts: Facts) -> int:
    return bits_of(facts.labels) | (FACT_UPPER if facts.upper else 0)
