"""What no event of this machine can ever meet: rules that load, and cannot match here.

A rule that no event of the sensor could meet is refused when it is loaded. What a tier, the mode or
the processor takes away besides is a table here, in terms of the numbers of events.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.fields import Where
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.program import Program
from hullwatch.detect.row import Env, Event
from hullwatch.detect.ruleset import RuleSet
from hullwatch.sensor.syscalls import OPS, SYSCALLS
from hullwatch.sensor.tier import Tier
from hullwatch.sensor.wire import Class, Mark

__all__ = ["LIMITS", "Limit", "Sight", "unreachable"]

_ERRNOS = range(1, 134)
_FAMILIES = range(46)


class Sight(NamedTuple):
    """What decides what can be seen. machine: as uname says."""

    tier: Tier
    record: bool = False
    machine: str = "x86_64"


class Limit(NamedTuple):
    """In events of `classes`, where `when` is so, the columns `reads` have no values but these."""

    classes: frozenset[int]
    when: Callable[[Sight], bool]
    reads: tuple[frozenset[str], ...]
    samples: Callable[[], Iterator[Event]]
    why: str


def _attempts() -> Iterator[Event]:
    yield Event(0, marks=int(Mark.ATTEMPT))
    for number in _ERRNOS:
        yield Event(0, ret=-number)


def _unusual_sockets() -> Iterator[Event]:
    """kernel/network.bpf.c, made_socket."""
    for family in _FAMILIES:
        if family in (socket.AF_UNIX, 16):
            continue
        inet = family in (socket.AF_INET, socket.AF_INET6)
        for kind in range(16):
            if inet and kind <= socket.SOCK_DGRAM:
                continue
            for protocol in (0, 1, 2, 6, 17, 58, 255):
                yield Event(0, flags=family << 16 | kind << 8 | protocol)


_HOOKED = (
    *(Class.OPEN, Class.RENAME, Class.UNLINK, Class.LINK, Class.SYMLINK),
    *(Class.MKDIR, Class.RMDIR, Class.CHMOD, Class.CHOWN),
)
LIMITS: tuple[Limit, ...] = (
    Limit(
        frozenset(map(int, _HOOKED)),
        lambda sight: sight.tier is Tier.LSM,
        (frozenset(("ret",)), frozenset(("ret", "marks"))),
        _attempts,
        "on the lsm tier a file operation that succeeds is seen as it is granted: its number of fd"
        " or other result is not known",
    ),
    Limit(
        frozenset((int(Class.SOCKET),)),
        lambda sight: not sight.record,
        (frozenset(("flags",)), frozenset(("flags", "marks"))),
        _unusual_sockets,
        "ordinary sockets (Unix, netlink, TCP, UDP) are seen as they are made only with --record",
    ),
)


def unreachable(rules: RuleSet, sight: Sight) -> dict[str, str]:
    """Names of enabled rules that cannot match, and why."""
    limits = [one for one in LIMITS if one.when(sight)]
    classes = {cls for rule in rules.rules for cls in rule.classes}
    # In two steps, to say which of them it was.
    calls = {cls: _possible(rules.program, cls, sight.machine, []) for cls in classes}
    possible = calls | {
        cls: _possible(rules.program, cls, sight.machine, [one])
        for one in limits
        for cls in one.classes & classes
    }
    found: dict[str, str] = {}
    owners = {
        step.rule: rule.name
        for rule in rules.rules
        if rule.sequence is not None
        for step in rule.sequence.steps
    }
    for rule in (*rules.rules, *rules.steps):
        # A sequence has no tree of its own: it cannot match where one of its steps cannot.
        if not rule.enabled or rule.sequence is not None:
            continue
        name = owners.get(rule.name, rule.name)
        if not any(rule.tree.ask(*calls[cls]) for cls in rule.classes):
            found[name] = f"{sight.machine} has none of the system calls that it is about"
        elif not any(rule.tree.ask(*possible[cls]) for cls in rule.classes):
            reasons = [one.why for one in limits if one.classes & set(rule.classes)]
            found[name] = "; ".join(reasons)
    return found


def _possible(program: Program, cls: int, machine: str, limits: list[Limit]) -> tuple[int, int]:
    """(may hold, may fail) over the events of a class, as Program.by_class, on this machine."""
    holds, fails = program.by_class(cls)
    ops = _ops(cls, machine)
    if not limits and len(ops) == len({0, *(name for name in types_of(cls) if name in OPS)}):
        return holds, fails
    env = Env(HostAccounts())
    for column, source in program.sources():
        if source.where(cls) is not Where.EVENT:
            continue
        if source.reads:
            samples = [
                sample._replace(cls=cls, op=op)
                for limit in limits
                if source.reads in limit.reads
                for sample in limit.samples()
                for op in ops
            ]
        else:
            samples = [Event(cls, op) for op in ops]
        if not samples:
            continue
        some = none = 0
        for sample in samples:
            bits = column.bits(source.read(Where.EVENT, sample, env))
            some |= bits
            none |= column.all_bits & ~bits
        holds = holds & ~column.all_bits | some
        fails = fails & ~column.all_bits | none
    return holds, fails


def _ops(cls: int, machine: str) -> list[int]:
    """Numbers of the system calls that such an event may be of; 0: of none."""
    return [0] + [OPS.index(name) for name in types_of(cls) if name in OPS and _has(machine, name)]


def _has(machine: str, name: str) -> bool:
    row = SYSCALLS[OPS.index(name)]
    if machine == "x86_64":
        return row.x86_64 is not None or row.ia32 is not None
    return row.arm64 is not None
