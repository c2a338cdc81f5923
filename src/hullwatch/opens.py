"""Policies about opens and execs that the kernel's programs cannot hold: the agent has its
doorkeeper ask them (permits/).

    the set that is to be in force → the doorkeeper, with the containers
    what the doorkeeper stopped    → policy events, among the kernel's

Those about opens are all of them where there is no BPF LSM. Else, and of execs everywhere, they are
challenges, and those that say what cannot be told beforehand; the kernel's programs go on holding
all else. The doorkeeper is made while there are rights for it, and sleeps until a set has something
for it.
"""

from __future__ import annotations

import errno
import resource
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hullwatch.context.call import Signal
from hullwatch.context.told import told_signal
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry
from hullwatch.decide.plan import Tool
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Effect, Mode, Value
from hullwatch.detect.baseline.known import Known, Normal, no_baseline
from hullwatch.opened import OPENS
from hullwatch.permits.carried import Handed, Numbered
from hullwatch.permits.doorkeeper import Doorkeeper
from hullwatch.permits.messages import ACTIONS, NOTHING, Counts, Flood, Problem, Told
from hullwatch.questions import of_workload, workload_name
from hullwatch.sensor.events import POLICY_ACTIONS
from hullwatch.sensor.labels import names_of
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.told import Told as ToldEvent
from hullwatch.sensor.wire import Class, Done

__all__ = ["Held", "Keepers", "Opens", "Set", "Stop", "handed", "is_told"]

ASKED = 2  # `num` of a policy event: the kernel has 0 or 1 there, of an open or exec (wire.h)
MAX_TOLD = 256  # problems
MAX_KNOWN = 4096  # containers, ended ones too, as their last stops are told after their end
_ACTION = {name: number for number, name in POLICY_ACTIONS.items()}
_CODES = frozenset(_ACTION[one] for one in ACTIONS)
_UNTOLD = frozenset(("command", "digest", "arguments"))
"""Attributes that no open or exec has here."""
_BASELINES = 0.2  # s between two looks at baselines, where policies ask them
_OF_CALLS = frozenset(("tool_call", "server"))
Set = tuple[tuple[str, str], ...]
"""(text, path) of its files."""
Only = dict[str, tuple[str, ...]]
"""Actions of policies, by their ids."""
Held = dict[int, tuple[int, int]]
"""Containers by cgroup: as which number of a set their opens are held, and their execs. 0: as
none."""
Keepers = tuple[int, int]
"""Processes: who answers, and who looks after that one; 0: it has ended."""


class Stop(NamedTuple):
    """What the doorkeeper refused: whose, what, and at the word of which policies."""

    workload: Workload
    action: str
    object: str
    policies: tuple[str, ...]


class _Wanted(NamedTuple):
    """A set, as the doorkeeper is to have it. baselines: what it reads of them."""

    texts: Set
    only: Only
    number: int
    baselines: frozenset[str]


def handed(sensor: Sensor, numbered: Numbered) -> Handed:
    """What the doorkeeper reads labels and calls of."""
    return Handed(
        labelled=sensor.map_fd("labelled"),
        spread=sensor.map_fd("guard_carried"),
        acting=sensor.map_fd("acting"),
        running=sensor.map_fd("running"),
        tools=sensor.map_fd("guard_tools"),
        numbered=numbered.fd,
        names=tuple(names_of(1 << bit)[0] for bit in range(32)),
    )


def is_told(num: int, flags: int) -> bool:
    """Whether a policy event is the doorkeeper's, which has written its own entry in the log."""
    return num == ASKED and flags & 0xFFFF in _CODES


class Opens:
    """keeper: None where nothing can be asked about, or shall be; why: which of it. texts: of
    a set by its version. tell: of an event, as sensor/told.py. kernel: actions that its programs
    stop; holds: told of whom is held what here, and by whom. normal: what baselines know. `use`,
    `number`, `challenges` and `numbered` are the policy thread's, all else is for one thread."""

    def __init__(
        self,
        keeper: Doorkeeper | None,
        why: str,
        numbered: Numbered,
        texts: Callable[[str], Set],
        tell: Callable[[ToldEvent], object],
        stopped: Callable[[Stop], None],
        say: Callable[[str, str], None],
        kernel: Collection[str] = (),
        holds: Callable[[Held, Keepers], None] = lambda held, by: None,
        normal: Normal = no_baseline,
    ) -> None:
        self._keeper, self._why = keeper, why
        self._kernel = tuple(one for one in ACTIONS if one in kernel)
        self._numbered = numbered
        self._texts = texts
        self._tell, self._stopped = tell, stopped
        self._holds = holds
        self._say = say
        self._wanted: deque[_Wanted] = deque()
        self._last: tuple[str, Only] = ("", {})
        self.number = 0
        """Of what was wanted last: the same as long as nothing else is. 0: nothing ever was."""
        self._awake = False
        self._living: dict[int, Workload] = {}  # by cgroup
        self._known: OrderedDict[str, Workload] = OrderedDict()  # by container
        self._normal = normal
        self._asks = frozenset[str]()  # of baselines, what any set has read
        self._baselines: dict[str, Known] = {}  # by container
        self._names_of: dict[str, int] = {}  # the edition that the doorkeeper was told, by image
        self._due = 0.0
        self._problems: set[str] = set()
        self._counts = Counts({})
        self._before: dict[str, int] = {}  # of workers that have ended
        self.restarts = 0
        """Times that nothing was asked about for a moment."""

    # -- for the policy thread ------------------------------------------------------------------

    def challenges(self, engine: Engine) -> dict[str, tuple[str, ...]]:
        """By their ids, those that hold an open or exec here, and the actions that the kernel's
        programs leave to that: nobody can be waited for there."""
        if self._keeper is None:
            return {}
        found = {one.id: self._held(one) for one in engine.policies.values()}
        return {ident: actions for ident, actions in found.items() if actions}

    def _held(self, policy: Policy) -> tuple[str, ...]:
        holds = policy.does is Effect.CHALLENGE and policy.mode is Mode.ENFORCE
        if not holds or _missing(policy, tools=True):
            return ()
        return tuple(one for one in policy.actions if one in self._kernel)

    def use(
        self,
        engine: Engine,
        unheld: Mapping[str, str],
        tools: bool,
        apart: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> dict[str, str]:
        """This set is to be in force in the kernel, but for `unheld`, of some only actions that are
        `apart`; what is neither there nor here, and why. tools: the kernel is told which tool a
        call is of."""
        policies = engine.policies.values()
        if self._keeper is not None:
            wanted = engine.version, self._left(policies, unheld, tools)
            if wanted != self._last and (wanted[1] or self.number):
                texts = self._texts(engine.version)
                self._last, self.number = wanted, self.number + 1
                words = _of_baselines(policies, wanted[1])
                self._wanted.append(_Wanted(texts, wanted[1], self.number, words))
        found = {
            one.id: self._unheld(one, unheld.get(one.id, ""), tools, apart.get(one.id))
            for one in policies
        }
        return {ident: why for ident, why in found.items() if why}

    def _left(self, policies: Collection[Policy], unheld: Mapping[str, str], tools: bool) -> Only:
        """What the kernel leaves to the doorkeeper: nothing twice. A list that has a permit which
        the kernel cannot ask is none there, so all of it is the doorkeeper's; but nobody's where
        that permit cannot be asked here, either, as it would stop what it permits."""
        permits = [one for one in policies if one.does is Effect.ALLOW and one.id in unheld]
        lists = {action for one in permits for action in one.actions}
        lists -= {a for one in permits if _missing(one, tools) for a in one.actions}

        def left(one: Policy, action: str) -> bool:
            if action not in self._kernel:
                return action in ACTIONS
            if one.does is Effect.ALLOW:
                return action in lists
            if action in self._held(one):
                return True
            return one.id in unheld and not _missing(one, tools)

        found = {one.id: tuple(a for a in one.actions if left(one, a)) for one in policies}
        return {ident: actions for ident, actions in found.items() if actions}

    def _unheld(
        self, policy: Policy, elsewhere: str, tools: bool, apart: Collection[str] | None
    ) -> str:
        """Why a policy is not, or only in part, held; elsewhere: why the kernel does not, apart:
        of its actions which; None: all."""
        held = self._kernel if not elsewhere else ()
        mine = {one for one in policy.actions if one in ACTIONS and one not in held}
        if not mine:
            return elsewhere
        said = [elsewhere] * (not mine >= {*(policy.actions if apart is None else apart)})
        here, what = self._why, _called(mine)
        if self._keeper is not None:
            missing = _missing(policy, tools)
            here = f"{', '.join(missing)}: not told of {what}" if missing else ""
        if here and not said:
            if self._keeper is not None:
                return here
            first = f"{elsewhere}; " if elsewhere and not mine.isdisjoint(self._kernel) else ""
            return f"{first}{what} are not asked about: {here}"
        if here:
            said.append(f"its {what}: {here}")
        return "; ".join(filter(None, said))

    def numbered(self, tool: Tool) -> None:
        """The next number of a tool is this one's."""
        self._numbered.add(tool.name, tool.server)

    # -- for the agent's loop ---------------------------------------------------------------------

    def found(self, workloads: Iterable[Workload]) -> None:
        for one in workloads:
            if one.state != "resolved" or not one.container_id or one.nested_id:
                continue
            before = self._known.pop(one.container_id, None)
            self._living[one.cgroup] = self._known[one.container_id] = one
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
            if not self._awake or self._keeper is None:
                continue
            if before is not None and before.cgroup != one.cgroup:  # it was started anew
                self._keeper.release(one.container_id)
            if before is None or before.cgroup != one.cgroup or _facts(before) != _facts(one):
                self._watch(one)

    def gone(self, cgroups: Iterable[int]) -> None:
        for cgroup in cgroups:
            if (one := self._living.pop(cgroup, None)) is not None:
                known = self._baselines.pop(one.container_id or "", None)
                if known is not None and self._keeper is not None:
                    self._forget(self._keeper, known.image)

    def turn(self, offset: int) -> None:
        """Each turn of the loop. offset: of unix time to CLOCK_BOOTTIME, ns."""
        keeper = self._keeper
        if keeper is None:
            return
        while self._wanted:
            wanted = self._wanted.popleft()
            anew = not wanted.baselines <= self._asks
            self._asks |= wanted.baselines
            self._tell_names(keeper)
            keeper.policies(wanted.texts, ACTIONS, wanted.only, wanted.number)
            if not self._awake or anew:
                self._awake = True
                for one in self._living.values():
                    self._watch(one)
        for message in keeper.take():
            match message:
                case Told():
                    self._take(message, offset)
                case Problem(text):
                    self._once(text)
                case Counts():
                    self._count(message)
                case Flood(signal):
                    self._flood(signal)
                case _:
                    pass
        self._follow_baselines(keeper)
        if self._kernel:
            if keeper.alive and (worker := self._counts.worker):
                self._holds(self._asked_about(), (worker, keeper.pid))
            else:
                self._holds({}, (0, 0))
        if not keeper.alive:
            self._once("the doorkeeper has ended: nothing is asked about; start the agent anew")

    def close(self) -> None:
        """What is held is refused; then nothing is asked about."""
        if self._keeper is not None:
            self._keeper.close()
        self._numbered.close()

    def stats(self) -> dict[str, Any]:
        """state: off, asleep, asks, ended."""
        keeper, counts = self._keeper, self._counts
        if keeper is None:
            return {"state": "off", "why": self._why, "kernel": list(self._kernel)}
        state = "ended" if not keeper.alive else "asks" if self._awake else "asleep"
        names = {*self._before, *counts.counts}
        gaps = {
            workload_name(one) if (one := self._known.get(ident)) else ident: list(some)
            for ident, some in counts.gaps.items()
        }
        return {
            "state": state,
            "kernel": list(self._kernel),
            "version": counts.version,
            "guarded": sum(asked != NOTHING for asked in counts.guarded.values()),
            "worker": counts.worker,
            "restarts": self.restarts,
            "gaps": gaps,
            "rss_bytes": sum(map(_rss, (keeper.pid, counts.worker))),
            **{name: self._before.get(name, 0) + counts.counts.get(name, 0) for name in names},
        }

    # -- what it says -----------------------------------------------------------------------------

    def _watch(self, one: Workload) -> None:
        if self._keeper is not None and one.container_id:
            name, facts = _facts(one)
            image = ""
            if self._asks:
                known = self._baseline(one)
                facts["baseline"], image = known.state, known.image
                self._tell_names(self._keeper, known)
            self._keeper.watch(one.container_id, name, one.cgroup_path, facts, image)

    def _baseline(self, one: Workload) -> Known:
        """As it is by now."""
        key = one.container_id or ""
        before = self._baselines.get(key)
        now = self._normal(one, before.edition if before is not None else -1)
        if now is not None:
            self._baselines[key] = now
        return self._baselines[key]

    def _tell_names(self, keeper: Doorkeeper, *of: Known) -> None:
        """Before what is judged by them."""
        if "first_seen" not in self._asks:
            return
        for known in of or tuple(map(self._baseline, self._living.values())):
            if not known.image or self._names_of.get(known.image) == known.edition:
                continue
            if keeper.normal(known):
                self._names_of[known.image] = known.edition
            else:  # a moment later, then
                self._once(
                    "the doorkeeper does not read what baselines have: some may be missing there"
                )

    def _forget(self, keeper: Doorkeeper, image: str) -> None:
        """Once none of its containers is there."""
        if any(one.image == image for one in self._baselines.values()):
            return
        if self._names_of.pop(image, None) is not None:
            keeper.forget(image)

    def _follow_baselines(self, keeper: Doorkeeper) -> None:
        if not self._asks or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _BASELINES
        for one in self._living.values():
            before = self._baselines.get(one.container_id or "")
            now = self._baseline(one)
            if before is None or (before.image, before.state) != (now.image, now.state):
                self._watch(one)
        self._tell_names(keeper)

    def _take(self, told: Told, offset: int) -> None:
        entry, workload = told.entry, self._known.get(told.container)
        done = _done(entry)
        if done is None or workload is None or entry.action not in ACTIONS:
            return
        path = entry.resource.partition(":")[2]
        self._tell(
            ToldEvent(
                ts=entry.time - offset,
                cls=int(Class.POLICY),
                proc=0,
                cgroup=workload.cgroup,
                tid=told.process,
                span=told.call,
                text=path,
                text2="",
                num=ASKED,
                flags=_ACTION[entry.action] | done << 16,
                ret=0 if done == Done.TOLD else -errno.EPERM,
                labels=told.labels,
            )
        )
        if done == Done.DENIED:
            self._stopped(Stop(workload, entry.action, path, entry.policies))

    def _flood(self, signal: Signal) -> None:
        name = signal.subject.partition(":")[2]
        for one in self._living.values():
            if workload_name(one) == name:
                self._tell(told_signal(signal, 0, one.cgroup))
                return

    def _asked_about(self) -> Held:
        """Containers whose every open, or exec, is seen here."""
        counts, known = self._counts, self._known
        return {
            known[ident].cgroup: (
                counts.number if "open" in what else 0,
                counts.number if "exec" in what else 0,
            )
            for ident, what in counts.guarded.items()
            if what != NOTHING and ident in known and ident not in counts.gaps
        }

    def _count(self, now: Counts) -> None:
        if self._counts.worker not in (0, now.worker):
            self.restarts += 1
            for name, count in self._counts.counts.items():
                self._before[name] = self._before.get(name, 0) + count
        self._counts = now

    def _once(self, text: str) -> None:
        if text not in self._problems and len(self._problems) < MAX_TOLD:
            self._problems.add(text)
            self._say("policy", text)


def _of_baselines(policies: Iterable[Policy], only: Collection[str]) -> frozenset[str]:
    words = frozenset(("first_seen", "baseline"))
    mine = (one.reads for one in policies if one.id in only)
    return frozenset[str]().union(*(words if one is None else one & words for one in mine))


def _missing(policy: Policy, tools: bool) -> list[str]:
    """What it reads that nobody tells of an open or exec. tools: as in `use`."""
    untold = set(_UNTOLD)
    if "load-plugin" not in policy.actions:
        untold.add("plugin")
    if not tools:
        untold |= _OF_CALLS
    return sorted(untold if policy.reads is None else policy.reads & untold)


def _called(actions: Collection[str]) -> str:
    parts = ["opens"] * any(one in OPENS for one in actions) + ["execs"] * ("exec" in actions)
    return " and ".join(parts)


def _done(entry: Entry) -> int | None:
    """What was done; None: it was only allowed, or waits."""
    if entry.kind == "verdict" and entry.effect is Effect.ALLOW:
        return None if entry.wanted is Effect.ALLOW else int(Done.TOLD)
    if entry.effect is Effect.BLOCK and entry.kind in ("verdict", "denied", "expired", "cancelled"):
        return int(Done.DENIED)
    return None


def _facts(one: Workload) -> tuple[str, dict[str, Value]]:
    """As the kernel's answers are made for it."""
    return workload_name(one), of_workload(one)


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
