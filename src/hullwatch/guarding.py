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
import itertools
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from hullwatch.context.call import Call
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Log
from hullwatch.decide.plan import SOCKET, Cell, HostRow, Plan, Row, Tool, Who
from hullwatch.decide.quarantine import Quarantine
from hullwatch.decide.rows import host_rows, path_rows
from hullwatch.detect.baseline.baselines import image_key
from hullwatch.detect.baseline.known import NOTHING, Contacts, Normal, has, no_baseline
from hullwatch.detect.baseline.objects import dns_object, end_object
from hullwatch.memory import give_back
from hullwatch.questions import Act, Asked, asked, of_workload, workload_name
from hullwatch.sensor.dictionary import address_of
from hullwatch.sensor.events import POLICY_ACTIONS
from hullwatch.sensor.guard import ANY_ADDRESS, Answers, End, Guard, GuardError, mapped
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.patterns import (
    ROWED,
    Tables,
    TooManyPatterns,
)
from hullwatch.sensor.wire import (
    FACT_NEW,
    FACT_UPPER,
    NAME_ALONE,
    ROW_ANY,
    ROW_SAID,
    ROW_SECRET,
    ROW_UNKNOWN,
    Action,
    Class,
)
from hullwatch.verdicts import Stopped, Verdicts

__all__ = ["Guarding", "Named", "Opening"]

MAX_NAMES = 16_384  # of addresses, all containers together
MAX_TOOLS = 255  # that policies may tell apart: kernel/wire.h
COUNTED = 60.0  # s between two counts of what was allowed
MAX_NAMES_OF = 64  # of one address; with more it cannot be told what is asked for
MAX_EARLY = 256  # cgroups that are not known as containers yet, and answers of each
MAX_QUEUED = 50_000  # of all that is to be done
_ACTION = {name: number for number, name in POLICY_ACTIONS.items()} | {SOCKET: int(Action.SOCKET)}
_FIRST = ROW_SAID + 1
_FIRST_CALL = 0.1  # s that the first call of a tool waits for its answers
_POLL = 1.0  # s between two looks at the set in force
_NORMAL = 0.2  # and at baselines, where policies ask them

_AGAIN = 60.0  # s until a set that could not be filled in is tried again
_HUNG = 30.0  # s without a sign of the thread
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Follow(Protocol):
    """decide/following.py."""

    problem: str

    @property
    def none(self) -> bool: ...
    def follow(self) -> Engine | None: ...


class Holder(Protocol):
    """sensor/pins.py: the programs go on without the agent, should it be killed."""

    def hold(self) -> None: ...
    def let_go(self) -> None: ...
    def take_over(self) -> None: ...


class Opening(Protocol):
    """opens.py: what is asked of opens and execs that the kernel's programs cannot tell, or hold.
    number: of what `use` was told."""

    @property
    def number(self) -> int: ...
    def challenges(self, engine: Engine) -> Mapping[str, Collection[str]]: ...
    def use(
        self,
        engine: Engine,
        unheld: Mapping[str, str],
        tools: bool,
        apart: Mapping[str, Collection[str]] = ...,
    ) -> dict[str, str]: ...
    def numbered(self, tool: Tool) -> None: ...


class Named(NamedTuple):
    """A container was told which addresses a name has. server: by whom; None: not known."""

    ts: int
    cgroup: int
    server: Address | None
    name: str
    addresses: tuple[str, ...]


class _Image:
    """What the baseline of one image has. number: in the kernel. seen: that it has; lost: how many
    it has no room for, which are tried again when due. profile: as which it is known there, 0: all
    counts as known."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.known = NOTHING
        self.contacts = Contacts(NOTHING)
        self.seen: set[End] = set()
        self.of = -1  # the edition that seen is of; -1: nothing was told yet
        self.lost = 0
        self.due = 0.0

    @property
    def profile(self) -> int:
        return self.number if time.time_ns() > self.known.settled else 0


class _Tables(NamedTuple):
    """One generation. rows: of paths, the first is of number _FIRST. hosts: of server names, the
    first is number 1; None: these are not asked about. kinds: by cgroup. whose: by
    scope, names of containers since the last count. scopes, numbers: what is told of whom, and of
    which names; they grow. images, profiles: of scopes; as which the kernel knows them. states: of
    cgroups, what a baseline says of all that they do."""

    number: int
    engine: Engine
    plan: Plan
    rows: tuple[Row, ...]
    hosts: tuple[HostRow, ...] | None
    kinds: dict[int, Who]
    whose: dict[int, set[str]]
    scopes: dict[Who, int]
    numbers: dict[tuple[Who, int, frozenset[str]], int]
    images: dict[int, _Image]
    profiles: dict[int, int]
    states: dict[int, tuple[str, str]]


class Guarding:
    """resolvers: addresses whose word about names counts. say: (kind, text) for whoever operates
    it. normal: what baselines know; by default there are none. Calls put into the thread's queue
    what there is to do, and return at once."""

    def __init__(
        self,
        guard: Guard,
        follow: Follow,
        log: Callable[[], Log],
        resolvers: Sequence[str],
        hold: Holder,
        quarantine: Callable[[Quarantine], None],
        say: Callable[[str, str], None],
        opens: Opening | None = None,
        normal: Normal = no_baseline,
    ) -> None:
        self._guard = guard
        self._normal = normal
        self._images: dict[str, _Image] = {}
        self._profiles = itertools.count(1)
        self._opens = opens
        self._follow = follow
        self._verdicts = Verdicts(log, quarantine, partial(self._once, "decisions"))
        self.resolvers = tuple(resolvers)
        self._hold_on = hold
        self._trusted = frozenset(map(ipaddress.ip_address, resolvers))
        self._say = say
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._wanted: Engine | None = None  # what is to be in force, and is not
        self._again = 0.0
        self._beat = 0.0
        self._in_force: _Tables | None = None
        self._containers: dict[int, Workload] = {}
        self._tools: dict[Tool, int] = {}
        self._names: OrderedDict[tuple[int, str], set[str]] = OrderedDict()  # cgroup, address
        self._early: OrderedDict[int, deque[Named]] = OrderedDict()
        self._told: dict[str, str] = {}
        self._hour = -1
        self._started = False
        self._counts_due = 0.0
        self.filled = 0.0
        """Seconds that the answers in force took."""
        self.names_lost = 0
        """Answers of resolvers that there was no room for."""
        self.problem = ""
        """Why the set that was applied is not in force in the kernel."""
        self.hosts_problem = ""
        """Why names that TLS clients ask for are not asked about."""
        self.unguarded: set[int] = set()
        """Containers that there was no room for."""
        self.unheld: dict[str, str] = {}
        """Policies that the kernel cannot ask, and why."""

    # -- for the agent's threads ----------------------------------------------------------------

    def start(self) -> None:
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What is waiting is done first; then nothing is guarded any more."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(10)
        if self._guard.generation:
            self._guard.end()
        self._guarded("policy", self._hold_on.let_go)

    def tick(self) -> None:
        """Each second."""
        state = self.thread
        self._once("policy thread", _THREAD.get(state, ""))
        if self._guard.generation and state == "alive":
            self._guard.alive()

    @property
    def thread(self) -> str:
        """alive, hangs or ended; not begun."""
        if self._thread is None:
            return "not begun"
        if not self._thread.is_alive():
            return "ended"
        return "alive" if time.monotonic() - self._beat < _HUNG else "hangs"

    def found(self, workloads: Iterable[Workload]) -> None:
        for one in workloads:
            if one.state == "resolved" and one.container_id and not one.nested_id:
                self._work.put(lambda one=one: self._hold(one))  # type: ignore[misc]

    def gone(self, cgroups: Iterable[int]) -> None:
        for cgroup in cgroups:
            self._work.put(lambda cgroup=cgroup: self._let_go(cgroup))  # type: ignore[misc]

    def named(self, answers: Iterable[Named]) -> None:
        if not self.on:
            answers = (one for one in answers if one.server in self._trusted)
        for one in answers:
            if self._work.qsize() >= MAX_QUEUED:
                self.names_lost += 1
            else:
                self._work.put(lambda one=one: self._learn(one))  # type: ignore[misc]

    def stopped(self, verdicts: Iterable[Stopped]) -> None:
        for one in verdicts:
            if self._verdicts.expects():
                self._work.put(lambda one=one: self._write(one))  # type: ignore[misc]

    def stopped_by(self, policies: tuple[str, ...], workload: Workload, what: str) -> None:
        """Elsewhere, at the word of these; it is in the log."""

        def work() -> None:
            if (tables := self._in_force) is not None:
                known = tables.engine.policies
                self._verdicts.set_apart(workload, policies, known, what)

        self._work.put(work)

    def held(self, what: Mapping[int, tuple[int, int]], by: tuple[int, int]) -> None:
        """Opens and execs of these containers are held elsewhere for people, as `Guard.asked` has
        it; of all others a challenge blocks."""
        try:
            self._guard.asked(what, by)
        except GuardError as error:
            self._once("policy held elsewhere", f"challenges may block: {error}")

    def heard(self, call: Call) -> None:
        """A call begins: its processes act for that tool from now on, in whatever they do.

        Where it is the first of its tool, its teller waits for the answers, which takes as long as
        Cedar does; not the agent's own thread, which has to read on."""
        tables = self._in_force
        if tables is None or not tables.plan.calls or call.kind != "tool" or call.end:
            return
        tool = Tool(call.name, call.server)
        if number := self._tools.get(tool):
            self._guard.put_tool(call.id, number)
            return
        done = threading.Event()

        def work() -> None:
            try:
                self._new_tool(tool, call.id)
            finally:
                done.set()

        self._work.put(work)
        if threading.current_thread() is not threading.main_thread():
            done.wait(_FIRST_CALL)

    @property
    def on(self) -> bool:
        return self._guard.generation > 0

    def stats(self) -> dict[str, object]:
        tables = self._in_force
        return {
            "version": tables.plan.version if tables else "",
            "policies": len(tables.plan.policies) if tables else 0,
            "unheld": dict(self.unheld),
            "kinds": len(tables.scopes) if tables else 0,
            "unguarded": len(self.unguarded),
            "thread": self.thread,
            "names": len(self._names),
            "filled_seconds": round(self.filled, 3),
            "names_lost": self.names_lost,
            "contacts_lost": sum(one.lost for one in self._images.values()),
            "verdicts_lost": self._verdicts.lost,
            "problem": self._follow.problem or self.problem or self.hosts_problem,
            **self._guard.stats(),
        }

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        self._guarded("decisions", self._verdicts.begin)
        due = normal_due = 0.0
        while True:
            now = self._beat = time.monotonic()
            if now >= due:
                due = now + _POLL
                self._guarded("policy", self._look)
                self._guarded("decisions", self._verdicts.flush)
            if now >= normal_due:
                normal_due = now + _NORMAL
                self._guarded("baselines", self._follow_baselines)
            if now >= self._counts_due:
                self._counts_due = now + COUNTED
                self._guarded("decisions", self._count)
            try:
                until = min(due, normal_due) if self._asks_baselines else due
                work = self._work.get(timeout=max(until - now, 0.001))
            except queue.Empty:
                continue
            if work is None:
                self._guarded("decisions", self._count)
                self._guarded("decisions", self._verdicts.close)
                return
            self._guarded("policy", work)

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """A fault is said once, and leaves in force what is."""
        try:
            work()
        except BaseException as error:  # a panic in Cedar is no Exception
            self._once(what, f"{type(error).__name__}: {error}")

    def _once(self, what: str, text: str) -> None:
        if self._told.get(what) != text:
            self._told[what] = text
            if text:
                self._say(what, text)

    def _look(self) -> None:
        engine = self._follow.follow()
        self._once("policy in force", self._follow.problem)
        if self._follow.none and not self._started:
            self._hold_on.take_over()  # what an agent held that was killed is in force no more
        self._started = True
        self._guard.sweep()
        if self._in_force is not None:
            self._in_force.plan.forget()
        hour, now = time.localtime().tm_hour, time.monotonic()
        if engine is not None:
            self._wanted, self._again = engine, now
        elif self._wanted is None and hour != self._hour and (timed := self._timed()):
            self._wanted, self._again = timed, now
        if self._wanted is not None and now >= self._again:
            self._hour, self._again = hour, now + _AGAIN
            self._fill(self._wanted)
            self._wanted = None

    def _timed(self) -> Engine | None:
        """The set in force, if it says something else at another hour."""
        tables = self._in_force
        return tables.engine if tables is not None and tables.plan.timed else None

    def _fill(self, engine: Engine) -> None:
        """A generation of this set beside the one in force, and then instead of it."""
        began = time.monotonic()
        number = 0
        try:
            opens = self._opens
            asked = opens.challenges(engine) if opens is not None else {}
            plan = Plan(engine, self.resolvers, asked)
            first = self._guard.first_state()
            compiled, rows = path_rows(plan, first, _FIRST)
            names, hosts = self._hosts(plan, first + len(compiled.states), len(compiled.states))
            networks = {one.network: _FIRST + at for at, one in enumerate(plan.networks)}
            facts = bits_of(plan.labels) | (FACT_UPPER if plan.upper else 0)
            number = self._guard.begin(
                compiled, networks, plan.ports, facts, names, plan.secrets, plan.new
            )
            tables = _Tables(number, engine, plan, rows, hosts, {}, {}, {}, {}, {}, {}, {})
            for container in self._containers.values():
                self._place(tables, container)
            self._give_names(tables)
            unheld, held = dict(plan.unheld), 0
            if opens is not None:
                unheld = opens.use(engine, plan.unheld, plan.calls, plan.apart)
                held = opens.number
        except BaseException as error:
            if number:
                self._guard.abandon(number)
            self.problem = f"set {engine.version[:12]} is not in force in the kernel: {error}"
            raise
        self._guarded("decisions", self._count)
        self._guard.commit(number, held)
        self._verdicts.begin_anew()
        self._in_force, self.problem = tables, ""
        self._guard.ask_tools(plan.tools)
        try:
            self._hold_on.hold()
        except OSError as error:
            self._once("policy held", f"what it forbids ends with this agent: {error}")
        self._hold_on.take_over()
        self.unguarded.clear()
        self.filled = time.monotonic() - began
        self.unheld = unheld
        give_back()  # what filling took
        self._say(
            "policy",
            f"set {plan.version[:12]} is in force in the kernel: {len(plan.policies)} policies,"
            f" {self._guard.stats()['answers']} answers in {self.filled:.2f} s",
        )
        for ident, why in self.unheld.items():
            self._say("policy", f"{ident} is not asked in the kernel: {why}")

    def _hosts(
        self, plan: Plan, first: int, used: int
    ) -> tuple[Tables | None, tuple[HostRow, ...] | None]:
        """(None, None): none is asked about."""
        self.hosts_problem = ""
        if not plan.hosts:
            return None, None
        try:
            return host_rows(plan, first, ROWED - used)
        except TooManyPatterns as error:
            self.hosts_problem = f"names that TLS clients ask for are not asked about: {error}"
            self._say("policy", self.hosts_problem)
            return None, None

    def _place(self, tables: _Tables, container: Workload) -> None:
        self._beat = time.monotonic()
        image = self._image(container) if tables.plan.normal else None
        who = _who(tables.plan, container, image)
        if image is not None:
            tables.states[container.cgroup] = image.known.image, image.known.state
        scope = tables.scopes.get(who)
        if scope is None:
            scope = len(tables.scopes) + 1
            tools = (None, *self._tools) if tables.plan.tools else (None,)
            self._put(tables, who, scope, tools)
            tables.scopes[who] = scope
        before = tables.kinds.get(container.cgroup)
        tables.kinds[container.cgroup] = who
        if before not in (None, who):  # as whom it was told names
            for cgroup, address in self._names:
                if cgroup == container.cgroup:
                    self._give_name(tables, cgroup, address)
        tables.whose.setdefault(scope, set()).add(workload_name(container))
        if who.image and image is not None:
            tables.images[scope] = image
            self._give_baseline(tables, scope)
        self._guard.hold(tables.number, container.cgroup, scope)

    def _put(self, tables: _Tables, who: Who, scope: int, tools: Sequence[Tool | None]) -> None:
        plan = tables.plan
        cells = (
            *plan.of_paths(who, tables.rows, ROW_ANY, ROW_UNKNOWN, _FIRST, tools),
            *plan.of_secrets(who, ROW_ANY, ROW_UNKNOWN, ROW_SECRET, tools),
            *plan.of_networks(who, ROW_UNKNOWN, _FIRST, tools),
        )
        if tables.hosts is not None:
            said = plan.of_hosts(who, tables.hosts, ROW_SAID, NAME_ALONE, _FIRST, tools)
            cells += tuple(one for one in said if any(one.held))
        self._guard.put(tables.number, scope, map(self._answer, cells))

    def _answer(self, cell: Cell) -> Answers:
        facts = cell.facts
        return Answers(
            _ACTION[cell.action],
            bits_of(facts.labels) | (FACT_UPPER * facts.upper) | (FACT_NEW * facts.new),
            cell.row,
            cell.port,
            int(cell.held.now),
            int(cell.held.orphaned),
            self._tools[facts.tool] if facts.tool is not None else 0,
            cell.name,
        )

    def _new_tool(self, tool: Tool, span: int) -> None:
        """What it may do is answered before its first call goes on."""
        tables = self._in_force
        if tables is None or not tables.plan.calls:
            return
        if tool not in self._tools:
            if len(self._tools) == MAX_TOOLS:
                self._once("policy tools", f"{tool.name}: more than {MAX_TOOLS} tools")
                return
            if self._opens is not None:
                self._opens.numbered(tool)
            self._tools[tool] = len(self._tools) + 1
            if tables.plan.tools:
                self._put_tool(tables, tool)
        self._guard.put_tool(span, self._tools[tool])

    def _put_tool(self, tables: _Tables, tool: Tool) -> None:
        for who, scope in tables.scopes.items():
            self._put(tables, who, scope, (tool,))
        for (who, place, names), number in tables.numbers.items():
            self._put_named(tables, who, place, names, number, (tool,))

    def _hold(self, container: Workload) -> None:
        cgroup = container.cgroup
        self._containers[cgroup] = container
        early = self._early.pop(cgroup, ())
        if (tables := self._in_force) is not None:
            self.unguarded.add(cgroup)
            self._place(tables, container)
            self.unguarded.discard(cgroup)
        for answer in early:
            self._name(answer)

    def _let_go(self, cgroup: int) -> None:
        container = self._containers.pop(cgroup, None)
        if self._in_force is not None:
            self._in_force.kinds.pop(cgroup, None)
            self._in_force.states.pop(cgroup, None)
        if container is not None:
            self._forget_image(image_key(container))
        self._early.pop(cgroup, None)
        self.unguarded.discard(cgroup)
        self._guard.let_go(cgroup)
        for key in [key for key in self._names if key[0] == cgroup]:
            del self._names[key]

    # -- baselines -----------------------------------------------------------------------------

    @property
    def _asks_baselines(self) -> bool:
        return self._in_force is not None and self._in_force.plan.normal

    def _image(self, container: Workload) -> _Image:
        """As it is now."""
        key = image_key(container)
        found = self._images.get(key)
        if found is None:
            found = self._images[key] = _Image(next(self._profiles))
            now = self._normal(container)
        else:
            now = self._normal(container, found.known.edition)
        if now is not None:
            found.known, found.contacts = now, Contacts(now)
        return found

    def _follow_baselines(self) -> None:
        """What they have by now; whose is another one to the policies is placed anew."""
        tables = self._in_force
        if tables is None or not tables.plan.normal:
            return
        for cgroup, container in self._containers.items():
            known = self._image(container).known
            if tables.states.get(cgroup) != (known.image, known.state):
                self._place(tables, container)
        for scope in tables.images:
            self._give_baseline(tables, scope)

    def _give_baseline(self, tables: _Tables, scope: int) -> None:
        image = tables.images[scope]
        again = image.lost and time.monotonic() >= image.due
        if again or image.of != image.known.edition:
            now = self._contacted(image)
            self._guard.unsee(image.number, image.seen - now)
            image.seen &= now
            image.of, image.lost = image.known.edition, 0
            self._see(image, now - image.seen)
        if tables.profiles.get(scope) != image.profile:
            tables.profiles[scope] = image.profile
            self._guard.put_profile(tables.number, scope, image.profile)

    def _see(self, image: _Image, ends: set[End]) -> None:
        """Where there is no room for one, it counts as new until there is."""
        lost = self._guard.see(image.number, ends)
        image.seen |= ends.difference(lost)
        image.lost += len(lost)
        if lost:
            image.due = time.monotonic() + _AGAIN
            self._once("baselines", f"no room for all that {image.known.image} has contacted")

    def _forget_image(self, key: str) -> None:
        """Once none of its containers is there."""
        image = self._images.get(key)
        if image is None or any(image_key(one) == key for one in self._containers.values()):
            return
        del self._images[key]
        if (tables := self._in_force) is not None:
            for scope in [at for at, of in tables.images.items() if of is image]:
                del tables.images[scope]
        self._guard.unsee(image.number, image.seen)

    def _contacted(self, image: _Image) -> set[End]:
        contacts = image.contacts
        found = {(ANY_ADDRESS, 0)} if contacts.every else set()
        found |= {(mapped(str(address))[0], port) for address, port in contacts.by_address()}
        found |= {(ANY_ADDRESS, port) for port in contacts.of_any_address()}
        for (cgroup, address), names in self._names.items():
            container = self._containers.get(cgroup)
            if container is not None and self._images.get(image_key(container)) is image:
                found |= _named_ends(contacts, address, names)
        return found

    def _give_named(self, cgroup: int, address: str, name: str) -> None:
        image = self._images.get(image_key(self._containers[cgroup]))
        if image is not None and image.of >= 0:
            self._see(image, {*_named_ends(image.contacts, address, (name,))} - image.seen)

    def _normally(self, act: Act) -> Act:
        """With what a baseline said of it: a connection that the kernel took for new was new."""
        if not self._asks_baselines:
            return act
        actor = act.actor
        known = self._image(actor.workload).known
        new, address = actor.first_seen, address_of(act.object)
        told = known.image and act.cls in (Class.CONNECT, Class.TLS)
        if told and address is not None and address.ip is not None:
            ends = {end_object(address, name) for name in act.names or ("",)}
            ours = known.names["connect"], known.accepted, "connect"
            fresh = not any(has(*ours, end) for end in ends)
            new = new or (fresh and time.time_ns() > known.settled)
        return act._replace(actor=actor._replace(baseline=known.state, first_seen=new))

    # -- names -------------------------------------------------------------------------------

    def _learn(self, answer: Named) -> None:
        if answer.server in self._trusted:
            self._name(answer)
        self._guard.answered(answer.cgroup, answer.ts)

    def _name(self, answer: Named) -> None:
        """The addresses have this name, too. A name is kept as long as its container is there: the
        connections that were made by it are judged by it."""
        name = dns_object(answer.name)
        if answer.cgroup not in self._containers:
            self._early.setdefault(answer.cgroup, deque(maxlen=MAX_EARLY)).append(answer)
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
            return
        for address in answer.addresses if name else ():
            key = answer.cgroup, address
            names = self._names.setdefault(key, set())
            self._names.move_to_end(key)
            if name in names or len(names) > MAX_NAMES_OF:
                continue
            names.add(name)
            self._give_named(answer.cgroup, address, name)
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
        plan = tables.plan
        if not any("connect" in one.actions for one in plan.policies.values()):
            return
        who = tables.kinds.get(cgroup)
        scope = tables.scopes.get(who) if who is not None else None
        if who is None or scope is None:
            return  # there was no room for it
        names = self._names_of(tables, cgroup, address)
        place = plan.row_of(address)
        if not names or place is None:
            self._guard.put_name(tables.number, scope, address, 0)
            return
        # With too many there are no answers: it is judged as what cannot be told.
        many = len(names) > MAX_NAMES_OF
        key = who, place, frozenset() if many else names
        number = tables.numbers.get(key)
        if number is None:
            number = tables.numbers[key] = len(tables.numbers) + 1
            tools = (None, *self._tools) if plan.tools else (None,)
            if not many:
                self._put_named(tables, who, place, names, number, tools)
        self._guard.put_name(tables.number, scope, address, number)

    def _put_named(
        self,
        tables: _Tables,
        who: Who,
        place: int,
        names: frozenset[str],
        number: int,
        tools: Sequence[Tool | None],
    ) -> None:
        """Answers for an address of this row that has these names."""
        plan = tables.plan
        cells = (
            Cell("connect", facts, _FIRST + place, port, held)
            for facts in plan.facts(False, tools, who.image)
            for port in (0, *plan.ports)
            for held in (plan.net(who, facts, place, port, sorted(names)),)
        )
        answers = (self._answer(cell)._replace(name=number) for cell in cells)
        self._guard.put(tables.number, tables.scopes[who], answers)

    def _names_of(self, tables: _Tables, cgroup: int, address: str) -> frozenset[str]:
        """That any container of the same kind was told."""
        who = tables.kinds.get(cgroup)
        kin = (one for one, kind in tables.kinds.items() if kind == who)
        return frozenset(name for one in kin for name in self._names.get((one, address), ()))

    # -- the log -----------------------------------------------------------------------------

    def questions(self, one: Stopped) -> list[Asked]:
        """What the kernel's answer was about, with the names that counted."""
        act = one.act
        address = address_of(act.object) if one.action in ("connect", "listen") else None
        tables = self._in_force
        if act.cls == Class.CONNECT and address and address.ip and tables is not None:
            names = self._names_of(tables, act.actor.workload.cgroup, str(address.ip))
            act = act._replace(names=tuple(sorted(names)))
        act = self._normally(act)
        return [
            found for found in asked(act, self.resolvers) if found.questions[0].action == one.action
        ]

    def _write(self, one: Stopped) -> None:
        engine = self._in_force.engine if self._in_force is not None else None
        self._verdicts.write(one, engine, self.questions(one))

    def _count(self) -> None:
        if (tables := self._in_force) is None:
            return
        self._verdicts.count(tables.plan.version, self._guard.allowed(), tables.whose)
        tables.whose.clear()
        for cgroup, who in tables.kinds.items():
            if (found := tables.scopes.get(who)) is not None:
                name = workload_name(self._containers[cgroup])
                tables.whose.setdefault(found, set()).add(name)


_THREAD = {
    state: f"the thread that keeps policies in the kernel {state}: what fails closed stays in force"
    for state in ("ended", "hangs")
}


def _who(plan: Plan, container: Workload, image: _Image | None) -> Who:
    name, about = workload_name(container), of_workload(container)
    if image is None:
        return plan.who(name, about)
    return plan.who(name, about | {"baseline": image.known.state}, image.known.image)


def _named_ends(contacts: Contacts, address: str, names: Iterable[str]) -> frozenset[End]:
    """That are seen, as the address has a name that was contacted."""
    at = mapped(address)[0]
    return frozenset((at, port) for name in names for port in contacts.of_name(name))
