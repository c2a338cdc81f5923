"""Which call was it? Calls that were told of, asked by process, container and time.

A framework tells of a call when it has ended, so the question is put to the past: a call is a
closed interval, and whatever happened in its process meanwhile may be its doing. Clocks are taken
as they are: all that is joined here runs under one kernel.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from hullwatch.agent.otlp.received import Received
from hullwatch.context.call import Call

__all__ = ["Answer", "By", "Subject", "Timeline"]

MAX_CALLS = 16_384
MAX_CANDIDATES = 64
KEEP = 600 * 10**9  # ns that a call is kept after its end
_ANCESTORS = 64

By = Literal["", "process", "claim", "container", "pod"]
_Key = tuple[By, str, int]


class Subject(NamedTuple):
    """Whose call is asked for. pids: on the host, the process first, then its ancestors; inner:
    the same processes as they see themselves, if known. Empty: not known, or no container."""

    pids: tuple[int, ...] = ()
    inner: tuple[int, ...] = ()
    container_id: str = ""
    pod_uid: str = ""


class Answer(NamedTuple):
    """calls: what was running, without attributes, the latest begun first; none: nothing known.
    More than one: it may have been any of them. A call in which another of them was made is left
    out: the inner one did it. more: candidates that were too many to list.

    by, strongest first: process (the kernel vouches for the sender's pid), claim (the sender says
    this pid, in this container or on this host), container, pod.
    """

    calls: tuple[Call, ...] = ()
    by: By = ""
    more: int = 0

    @property
    def ambiguous(self) -> bool:
        return len(self.calls) + self.more > 1


class _Entry(NamedTuple):
    begin: int
    end: int
    id: int
    call: Call
    key: _Key


class _Lane:
    """The calls of one process or container, by their begin."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.longest = 0  # ns; of all that were ever in it

    def add(self, entry: _Entry) -> None:
        insort(self.entries, entry, key=_order)
        self.longest = max(self.longest, entry.end - entry.begin)

    def remove(self, entry: _Entry) -> None:
        at = bisect_right(self.entries, _order(entry), key=_order) - 1
        del self.entries[at]

    def at(self, time: int) -> Iterator[Call]:
        """Those that ran, the latest begun first."""
        at = bisect_right(self.entries, (time, 1 << 64), key=_order)
        while at > 0:
            at -= 1
            entry = self.entries[at]
            if entry.begin + self.longest < time:
                return
            if entry.end >= time:
                yield entry.call


def _order(entry: _Entry) -> tuple[int, int]:
    return entry.begin, entry.id


class Timeline:
    """Calls of the last while. The oldest go when there are too many: `evicted` counts them.

    host: what host.name a process of this host gives; without it no claim of a pid on the host is
    taken, as a container that does not say its id counts its pids from 1 as well.
    keep: ns after its end that a call can be asked for. Not thread-safe.
    """

    def __init__(self, host: str = "", most: int = MAX_CALLS, keep: int = KEEP) -> None:
        self._host = host
        self._most = most
        self._keep = keep
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # by call id, as they came
        self._lanes: dict[_Key, _Lane] = {}
        self.evicted = 0
        self.unplaced = 0
        """Calls of which neither process nor container is known: nothing can be joined to them."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, one: Received) -> None:
        """A call that is told of again replaces itself."""
        key = self._key(one)
        if key is None:
            self.unplaced += 1
            return
        call = msgspec.structs.replace(one.call, attributes={})  # a tenth of the memory
        if old := self._entries.pop(call.id, None):
            self._leave(old)
        elif len(self._entries) >= self._most:
            self._leave(self._entries.popitem(last=False)[1])
            self.evicted += 1
        entry = _Entry(call.begin, call.end, call.id, call, key)
        self._entries[call.id] = entry
        self._lanes.setdefault(key, _Lane()).add(entry)

    def expire(self, now: int) -> None:
        """Forget what ended long ago. now: unix ns. They came about in the order of their ends."""
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.end + self._keep >= now:
                return
            del self._entries[entry.id]
            self._leave(entry)

    def running(self, time: int, subject: Subject) -> Answer:
        """The calls in which `subject` may have acted at `time` (unix ns)."""
        for keys in _asked(subject):
            found = [
                call for key in keys if key in self._lanes for call in self._lanes[key].at(time)
            ]
            if found:
                inner = self._innermost(found)
                return Answer(
                    tuple(inner[:MAX_CANDIDATES]), keys[0][0], max(len(inner) - MAX_CANDIDATES, 0)
                )
        return Answer()

    def _key(self, one: Received) -> _Key | None:
        """The one lane in which a call is looked for: of what is known, the most exact."""
        where = one.where
        if where.host_pid:
            return "process", "", where.host_pid
        if where.pid and where.container_id:
            return "claim", where.container_id, where.pid
        if where.container_id:
            return "container", where.container_id, 0
        if where.pod_uid:
            return "pod", where.pod_uid, 0
        if where.pid and self._host and where.host == self._host:
            return "claim", "", where.pid
        return None

    def _leave(self, entry: _Entry) -> None:
        lane = self._lanes[entry.key]
        lane.remove(entry)
        if not lane.entries:
            del self._lanes[entry.key]

    def _innermost(self, calls: list[Call]) -> list[Call]:
        """Without those in which another of them was made; all, if they say so of each other."""
        above: set[int] = set()
        for call in calls:
            parent = call.parent
            for _ in range(_ANCESTORS):
                if not parent or parent in above:
                    break
                above.add(parent)
                entry = self._entries.get(parent)
                parent = entry.call.parent if entry else 0
        return [call for call in calls if call.id not in above] or calls


def _asked(subject: Subject) -> Iterator[list[_Key]]:
    """Lanes to look at, those that prove most first, of processes the nearest first."""
    for pid in subject.pids:
        yield [("process", "", pid)]
    claimed = subject.inner if subject.container_id else subject.pids
    for pid in claimed:
        yield [("claim", subject.container_id, pid)]
    if subject.container_id:
        yield [("container", subject.container_id, 0)]
    if subject.pod_uid:
        yield [("pod", subject.pod_uid, 0)]
