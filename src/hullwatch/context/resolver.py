"""Whose cgroup is it, answered in the background: submit, look up, poll for what changed.

Two threads, so that a runtime that answers slowly cannot hold up what the disk already tells:
``disk`` reads files (a bundle named by the creator's command line takes well under 2 ms), and
``socket`` asks the runtime for what no file has (image digest, pod labels). A value is published
when the container is known, and again when more is learnt.
"""

import contextlib
import itertools
import posixpath
import threading
import time
from collections import Counter, OrderedDict
from typing import Protocol

import msgspec
import numpy as np

from hullwatch.context.cgroupfs import cgroup_path, find_v2_root, walk
from hullwatch.context.cgroups import identify
from hullwatch.context.disk import Roots
from hullwatch.context.due import DueQueue
from hullwatch.context.facts import Facts, merge, to_workload
from hullwatch.context.lookup import Answer, look, running_shim, shim_address
from hullwatch.context.roles import ended_before, with_role
from hullwatch.context.sockets import Sockets
from hullwatch.context.workload import Creator, Workload

__all__ = ["Resolver", "WorkloadSource"]

_BACKOFF = (0.005, 0.010, 0.020, 0.050, 0.100, 0.200, 0.400)
_STEADY = 0.5
_NEVER = 1 << 62
_HELD = 0.25
# Runtimes with a socket that knows more than their files do.
_ASKED = frozenset({"containerd", "cri-o", "kata"})


class WorkloadSource(Protocol):
    """What the rest of Hullwatch needs; `Resolver` and `RecordedResolver` are two of it."""

    def submit(self, cgroup: int, path: str, creator: Creator | None) -> None: ...
    def lookup(self, cgroup: int) -> Workload: ...
    def poll(self) -> list[Workload]: ...
    def forget(self, cgroup: int) -> None: ...
    def began(self, procs: np.ndarray) -> None: ...
    def ended(self, keys: list[int]) -> None: ...
    def stats(self) -> dict[str, int]: ...


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    deadline: float = 5.0
    """After this a container nobody knows is ``unknown``."""
    host_after: float = 1.0
    """After this a cgroup that no runtime claims, and none made, is the host's."""
    recheck: float = 30.0
    rechecks: int = 20
    grace: float = 60.0
    """How long a removed cgroup's value is kept for late events."""
    socket: float = 2.0


class _Job:
    """One cgroup on its way to an answer."""

    __slots__ = (
        "address",
        "answer",
        "began",
        "born",
        "by_path",
        "cgroup",
        "creator",
        "existing",
        "facts",
        "path",
        "slow",
        "tries",
    )

    def __init__(self, cgroup: int, path: str, creator: Creator | None, existing: bool) -> None:
        self.cgroup = cgroup
        self.path = path
        self.creator = creator
        self.existing = existing
        self.born = time.monotonic()
        self.began = 0 if creator is None else time.time_ns()
        self.tries = 0
        self.slow = 0
        self.facts: Facts | None = None
        self.answer = Answer()
        self.address: str | None = None
        self.by_path = False

    def next_delay(self) -> float:
        delay = _BACKOFF[self.tries] if self.tries < len(_BACKOFF) else _STEADY
        self.tries += 1
        return delay

    def age(self) -> float:
        return time.monotonic() - self.born


class Resolver:
    """Resolves cgroups of this host. Safe to call from one thread or several; never blocks."""

    def __init__(
        self,
        roots: Roots | None = None,
        *,
        v2_root: str | None = None,
        timing: Timing | None = None,
        max_values: int = 8_192,
        max_pending: int = 8_192,
    ) -> None:
        self.roots = roots or Roots()
        self.v2_root = v2_root or find_v2_root()
        self._timing = timing or Timing()
        self._max_values = max_values
        self._lock = threading.Lock()
        self._values: OrderedDict[int, Workload] = OrderedDict()
        self._paths: dict[str, int] = {}  # of live cgroups
        self._changed: dict[int, Workload] = {}
        self._gone: OrderedDict[int, float] = OrderedDict()  # cgroup → when it may be dropped
        self._order = itertools.count(1)  # of cgroups made and removed, as they were announced
        self._made: dict[int, int] = {}
        self._removed: dict[int, int] = {}
        self._sandboxes: OrderedDict[str, list[int]] = OrderedDict()
        self._inside: dict[int, dict[int, str | None]] = {}  # container → cgroups in it → nested id
        self._counts: Counter[str] = Counter()
        self._disk: DueQueue[_Job] = DueQueue(max_pending)
        self._asks: DueQueue[_Job] = DueQueue(max_pending)
        self._addresses: dict[str, str] = {}  # containerd task root → its socket
        self._sockets = Sockets(self.roots, self._timing.socket)
        self._threads = [
            threading.Thread(target=work, name=f"workloads-{name}", daemon=True)
            for name, work in (("disk", self._run_disk), ("socket", self._run_socket))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, cgroup: int, path: str, creator: Creator | None) -> None:
        """A cgroup was made (or found, with no creator). Its value is ``pending`` at once."""
        self._submit(_Job(cgroup, path, creator, existing=False))

    def scan(self, v2_root: str | None = None) -> int:
        """Submit every cgroup that exists now; how many there are."""
        root = v2_root or self.v2_root
        count = 0
        for cgroup, path in walk(root) if root else ():
            count += 1
            known = self._values.get(cgroup)
            if known is None or (known.state == "unknown" and not known.cgroup_path):
                self._submit(_Job(cgroup, path, None, existing=True))
        return count

    def lookup(self, cgroup: int) -> Workload:
        """The value now. A cgroup that was never announced is looked for by its id."""
        value = self._values.get(cgroup)
        if value is None:
            self._counts["unannounced"] += 1
            self._submit(_Job(cgroup, "", None, existing=True))
            return self._values.get(cgroup) or Workload(
                cgroup=cgroup, cgroup_path="", state="pending"
            )
        if self._lock.acquire(blocking=False):  # if not, it is as recently used as it was
            with contextlib.suppress(KeyError):
                self._values.move_to_end(cgroup)
            self._lock.release()
        return value

    def of_container(self, container_id: str) -> list[Workload]:
        """The cgroups that a container has now, with those inside it."""
        with self._lock:
            return [
                value
                for cgroup, value in self._values.items()
                if value.container_id == container_id
                and value.state == "resolved"
                and cgroup not in self._gone
            ]

    def poll(self) -> list[Workload]:
        """The values that changed since the last call, each once, at its latest."""
        with self._lock:
            self._drop_expired()
            changed, self._changed = self._changed, {}
        return list(changed.values())

    def forget(self, cgroup: int) -> None:
        """The cgroup was removed; its value stays for a while, for events still on their way."""
        with self._lock:
            value = self._values.get(cgroup)
            if value is None:
                return
            if self._paths.get(value.cgroup_path) == cgroup:
                del self._paths[value.cgroup_path]
            self._removed.setdefault(cgroup, next(self._order))
            self._gone[cgroup] = time.monotonic() + self._timing.grace
            self._gone.move_to_end(cgroup)
            self._drop_expired()

    def began(self, procs: np.ndarray) -> None:
        """PROC[n]: whose namespaces may be asked for later."""
        self.roots.spaces.began(procs)

    def ended(self, keys: list[int]) -> None:
        """Process keys."""
        self.roots.spaces.ended(keys)

    def stats(self) -> dict[str, int]:
        """Counters, and the sizes of what is held."""
        with self._lock:
            states = Counter(value.state for value in self._values.values())
            return {
                **{f"state_{name}": states[name] for name in
                   ("host", "pending", "resolved", "unknown")},
                **{name: self._counts[name] for name in (
                    "submitted", "resolved", "refined", "gave_up", "refused", "evicted",
                    "unannounced", "retries", "socket_asks", "socket_failures", "errors")},
                "queued": len(self._disk) + len(self._asks),
                "values": len(self._values),
            }  # fmt: skip

    def close(self) -> None:
        self._disk.close()
        self._asks.close()
        for thread in self._threads:
            thread.join(timeout=5)
        self._sockets.close()

    # What follows runs under the lock, or in the two threads.

    def _submit(self, job: _Job) -> None:
        value = Workload(
            cgroup=job.cgroup,
            cgroup_path=job.path,
            state="pending",
            created_by=job.creator.exe if job.creator else None,
        )
        with self._lock:
            self._counts["submitted"] += 1
            if not job.existing:
                self._made[job.cgroup] = next(self._order)
            self._gone.pop(job.cgroup, None)  # ids are not used again, but a scan may come late
            self._store(value)
        if not self._disk.put(job):
            self._refuse(value)

    def _refuse(self, value: Workload) -> None:
        with self._lock:
            self._counts["refused"] += 1
            self._store(
                msgspec.structs.replace(value, state="unknown", reason="too many cgroups pending")
            )

    def _store(self, value: Workload) -> None:
        old = self._values.get(value.cgroup)
        if old == value:
            return
        self._values[value.cgroup] = value
        self._values.move_to_end(value.cgroup)
        self._changed[value.cgroup] = value
        if value.cgroup_path and value.cgroup not in self._gone:
            self._paths[value.cgroup_path] = value.cgroup
        for cgroup, nested in list(self._inside.get(value.cgroup, {}).items()):
            if (inner := self._values.get(cgroup)) is not None:
                self._store(_inside_of(value, cgroup, inner.cgroup_path, nested))
        while len(self._values) > self._max_values:
            oldest = next(iter(self._gone), None)
            self._drop(oldest if oldest is not None else next(iter(self._values)))
            self._counts["evicted"] += 1

    def _drop(self, cgroup: int) -> None:
        self._gone.pop(cgroup, None)
        self._changed.pop(cgroup, None)
        self._made.pop(cgroup, None)
        self._removed.pop(cgroup, None)
        self._inside.pop(cgroup, None)
        value = self._values.pop(cgroup, None)
        if value is not None and self._paths.get(value.cgroup_path) == cgroup:
            del self._paths[value.cgroup_path]

    def _drop_expired(self) -> None:
        now = time.monotonic()
        while self._gone:
            cgroup, when = next(iter(self._gone.items()))
            if when > now:
                return
            self._drop(cgroup)

    def _publish(self, value: Workload) -> None:
        with self._lock:
            if value.cgroup in self._values:
                self._store(value)

    def _run_disk(self) -> None:
        while (job := self._disk.get()) is not None:
            try:
                self._look(job)
            except Exception as error:  # one cgroup's trouble must not end the thread
                self._failed(job, error)

    def _run_socket(self) -> None:
        while (job := self._asks.get()) is not None:
            try:
                self._ask(job)
            except Exception as error:
                self._failed(job, error)

    def _failed(self, job: _Job, error: Exception) -> None:
        with self._lock:
            self._counts["errors"] += 1
        reason = f"internal error: {type(error).__name__}: {error}"
        self._publish(msgspec.structs.replace(self._blank(job), state="unknown", reason=reason))

    def _blank(self, job: _Job) -> Workload:
        return Workload(
            cgroup=job.cgroup,
            cgroup_path=job.path,
            state="pending",
            created_by=job.creator.exe if job.creator else None,
            start_ts=job.began,
            nested_id=job.answer.nested_id,
        )

    def _look(self, job: _Job) -> None:
        if job.cgroup not in self._values:  # dropped meanwhile
            return
        if not job.path:
            found = cgroup_path(self.v2_root, job.cgroup) if self.v2_root else None
            if found is None:
                self._give_up(job, "never announced (or long forgotten), and gone")
                return
            job.path = found
        outer = self._outer(job.path)
        if outer is not None and outer.state == "resolved":
            self._inherit(job, outer)
            return
        if not job.answer.host and job.answer.facts is None:
            job.answer = look(job.path, job.creator or self._shim(job), self.roots)
        # While what is around it is pending, an answer of its own is held back, but not for long.
        patience = _HELD if job.answer.facts else self._timing.deadline
        if outer is not None and outer.state == "pending" and job.age() < patience:
            self._disk.put(job, job.next_delay())
        elif job.answer.host:
            self._publish(self._host(job, job.answer.reason))
        elif job.answer.facts is not None:
            self._found(job, job.answer.facts)
        else:
            self._again(job)

    def _shim(self, job: _Job) -> Creator | None:
        """Who is to be asked where the making of a container was not seen. Not at once: the runtime
        may still be at it."""
        if not job.tries or self.v2_root is None:
            return None
        return running_shim(self.v2_root + job.path, self.roots)

    def _outer(self, path: str) -> Workload | None:
        """The nearest directory above that is, or may be, a container."""
        at = path.rfind("/")
        while at > 0:
            outer = self._values.get(self._paths.get(path[:at], -1))
            if outer is not None and outer.state in ("resolved", "pending"):
                return outer
            at = path.rfind("/", 0, at)
        return None

    def _inherit(self, job: _Job, outer: Workload) -> None:
        """A cgroup inside a container's is the container's, whoever made it and however named."""
        inner = identify(job.path)
        nested = inner.container_id if inner and inner.container_id != outer.container_id else None
        with self._lock:
            if job.cgroup not in self._values:
                return
            self._inside.setdefault(outer.cgroup, {})[job.cgroup] = nested or outer.nested_id
            self._store(_inside_of(outer, job.cgroup, job.path, nested))

    def _host(self, job: _Job, reason: str) -> Workload:
        return msgspec.structs.replace(
            self._blank(job), state="host", reason=reason, container_id="", start_ts=0
        )

    def _again(self, job: _Job) -> None:
        answer, age = job.answer, job.age()
        left = self._gone.get(job.cgroup)
        limit = self._timing.deadline
        if answer.else_host or (job.existing and answer.reason.startswith("no container runtime")):
            limit = 0.0 if job.existing else self._timing.host_after
        if left is not None:  # removed: what was there is soon gone too
            limit = min(limit, 0.2)
        if age < limit:
            with self._lock:
                self._counts["retries"] += 1
            self._disk.put(job, job.next_delay())
        elif limit < self._timing.deadline and left is None:
            self._publish(self._host(job, answer.reason))
        else:
            self._give_up(job, answer.reason)

    def _only_path(self, job: _Job) -> Facts | None:
        """What the path alone says of a pod's container whose files were not found, or are gone
        as those of one that lives for a moment are; its runtime may know it."""
        identity = identify(job.path)
        if job.by_path or identity is None:
            return None
        known = identity.trusted
        if known.pod_uid is None or known.runtime not in (None, *_ASKED):
            return None
        return Facts(
            source="the cgroup's path",
            container_id=known.container_id,
            runtime=known.runtime or "containerd",
            pod_uid=known.pod_uid,
            qos=known.qos,
            cgroup_path=job.path,
        )

    def _give_up(self, job: _Job, reason: str) -> None:
        facts = self._only_path(job)
        if facts is not None:
            job.facts, job.by_path = facts, True
            known = next(reversed(self._addresses.values()), None)
            shim = self._shim(job)
            job.address = shim_address(shim, None, self.roots) if shim else known
            self._asks.put(job)
            return
        with self._lock:
            if job.slow == 0:
                self._counts["gave_up"] += 1
            gone = job.cgroup in self._gone or not job.path
        self._publish(
            msgspec.structs.replace(self._blank(job), state="unknown", reason=reason, start_ts=0)
        )
        if not gone and job.slow < self._timing.rechecks:
            job.slow += 1
            self._disk.put(job, self._timing.recheck)

    def _found(self, job: _Job, facts: Facts) -> None:
        """Files know it: publish, or first ask the socket where the image is still to come."""
        job.facts = facts
        ask = facts.runtime in _ASKED
        if ask:
            self._find_address(job, facts)
            ask = job.creator is not None or bool(self._sockets.present(job.address))
        if not ask or facts.image is not None or facts.is_sandbox:
            more = msgspec.structs.replace(facts, problem="its runtime is still being asked")
            self._resolved(job, more if ask else facts, "resolved", siblings=not ask)
        if ask:
            self._asks.put(job)

    def _find_address(self, job: _Job, facts: Facts) -> None:
        """Which socket to ask; remembered for each place where a containerd keeps its bundles."""
        place = posixpath.dirname(posixpath.dirname(facts.bundle or ""))
        job.address = self._addresses.get(place)
        if job.address is None:
            job.address = shim_address(job.creator, facts.bundle, self.roots)
            if job.address is not None and len(self._addresses) < 64:
                self._addresses[place] = job.address

    def _resolved(self, job: _Job, facts: Facts, count: str, *, siblings: bool = True) -> None:
        value = to_workload(self._blank(job), facts)
        value = with_role(value, facts.role, facts.is_sandbox)
        with self._lock:
            if job.cgroup not in self._values:
                return
            self._counts[count] += 1
            self._store(value)
            ended = self._ended_siblings(value) if siblings else []
        for earlier, later in ended:
            code = self._sockets_exit_code(earlier)
            self._publish(ended_before(earlier, later, code))

    def _ended_siblings(self, value: Workload) -> list[tuple[Workload, Workload]]:
        """(one that had been removed, one that was made after that) in the value's sandbox, with
        the value as either: whose metadata comes first is chance."""
        if not value.sandbox_id:
            return []
        members = self._sandboxes.setdefault(value.sandbox_id, [])
        self._sandboxes.move_to_end(value.sandbox_id)
        if len(self._sandboxes) > 4096:
            self._sandboxes.popitem(last=False)
        known = [self._values[c] for c in members if c != value.cgroup and c in self._values]
        members[:] = [*[w.cgroup for w in known][-63:], value.cgroup]
        pairs = [pair for other in known for pair in ((other, value), (value, other))]
        return [
            (earlier, later)
            for earlier, later in pairs
            if self._removed.get(earlier.cgroup, _NEVER) < self._made.get(later.cgroup, 0)
        ]

    def _sockets_exit_code(self, value: Workload) -> int | None:
        if threading.current_thread() is not self._threads[1] or not value.container_id:
            return None
        return self._sockets.exit_code(value.container_id)

    def _ask(self, job: _Job) -> None:
        facts = job.facts
        if facts is None or job.cgroup not in self._values:
            return
        with self._lock:
            self._counts["socket_asks"] += 1
        if job.address is None:
            self._find_address(job, facts)
        found, problem = self._sockets.ask(facts, job.address)
        if job.by_path and (found is None or found.pod_uid != facts.pod_uid):
            self._give_up(job, f"its files are gone; {problem or 'its pod is another'}")
            return
        if found is not None:
            said = merge(facts, found)
            labelled = said.sandbox_id is None or said.pod_labels is not None
            complete = labelled and (said.is_sandbox or said.image_digest is not None)
            self._resolved(job, said, "refined")
        else:
            complete = False
            with self._lock:
                self._counts["socket_failures"] += 1
        if complete:
            return
        if job.age() < self._timing.deadline and job.cgroup not in self._gone:
            self._asks.put(job, job.next_delay())
        elif found is None:
            self._resolved(job, msgspec.structs.replace(facts, problem=problem), "resolved")


def _inside_of(outer: Workload, cgroup: int, path: str, nested: str | None) -> Workload:
    return msgspec.structs.replace(
        outer, cgroup=cgroup, cgroup_path=path, nested_id=nested or outer.nested_id
    )
