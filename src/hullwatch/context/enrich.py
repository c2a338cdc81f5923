"""From whose-key-is-it to who: batches in, enriched batches out.

Events of a container that is still being looked up wait, bounded in time and number; then they go
on as they are, their workload's state saying `pending`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hullwatch.context.calls import Calls
from hullwatch.context.enriched import Enriched, Tables
from hullwatch.context.listeners import Listeners
from hullwatch.context.names import Names
from hullwatch.context.processes import PID_MASK, ProcessTable
from hullwatch.context.resolver import WorkloadSource
from hullwatch.context.spaces import NAMESPACES
from hullwatch.context.told import call_of
from hullwatch.context.workload import Creator, Workload
from hullwatch.context.workloads import WorkloadTable
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import classes_mask
from hullwatch.sensor.wire import Class

__all__ = ["Context"]

# The resolver says "unknown" after five seconds (Timing.deadline), and most often knows within
# milliseconds. Longer than it takes even on a starved machine: a rule about containers does not
# fire on what is let through as pending. One that is behind, but answers, is waited for longer.
_HOLD_NS = 15_000_000_000
_HOLD_MOST_NS = 60_000_000_000
_MAX_HELD = 20_000
_MAX_STRINGS_HELD = 200_000
_NETWORK = classes_mask(
    (
        *(Class.CONNECT, Class.SEND, Class.FLOW, Class.BIND, Class.LISTEN, Class.ACCEPT),
        *(Class.DUP, Class.LABEL, Class.POLICY),
    )
)
_CGROUPS = classes_mask((Class.CGROUP_MKDIR, Class.CGROUP_RMDIR))
_TOLD = classes_mask((Class.CALL, Class.SIGNAL, Class.POLICY))
_NS_MNT = NAMESPACES.index("ns_mnt")
_NAMING = classes_mask((Class.DNS, Class.TLS, Class.CGROUP_RMDIR))


class Context:
    """Owns the tables. `enrich` one batch after the other; `workload_news` after each."""

    def __init__(self, source: WorkloadSource, *, hold: bool = True) -> None:
        self._source = source
        self.dictionary = Dictionary()
        self.processes = ProcessTable()
        self.workloads = WorkloadTable(source)
        self.names = Names()
        self.calls = Calls()
        self.listeners = Listeners(self.processes)
        self.tables = Tables(self.dictionary, self.processes, self.workloads, self.calls)
        self.workload_news: list[Workload] = []
        self._hold = hold
        self._held: list[tuple[int, Enriched]] = []
        self._held_rows = 0
        self.gave_up_waiting = 0
        self._answered = 0  # when the resolver last said something, CLOCK_BOOTTIME ns

    def holding(self) -> int:
        """Rows that wait for their container's metadata."""
        return self._held_rows

    def enrich(self, batch: Batch) -> list[Enriched]:
        """The batch with slots, and what had been held and is ready now. Order in time is kept
        within each; held rows come first."""
        released = self.processes.release(batch.drained, held=bool(self._held))
        self.dictionary.add(batch.strings)
        self.calls.learn(batch.strings)
        batch = self._take_told(batch)
        image = self.processes.apply(batch, self.dictionary)
        events = batch.events
        if len(events):
            self._learn(batch, image)
        changed, self.workload_news = self.workloads.refresh()
        if any(one.state != "pending" for one in self.workload_news):
            self._answered = batch.drained
        cgroups, inverse = np.unique(events["cgroup"], return_inverse=True)
        slots = np.array([self.workloads.slot(int(c)) for c in cgroups], np.int32)
        workload = slots[inverse] if len(events) else np.empty(0, np.int32)
        # Copies too: the one that they are of may be from this batch and not have been told yet.
        for placed in self.processes.placed:
            placed.workload = self.workloads.slot(placed.cgroup)
        made = Enriched(
            batch=batch,
            image=image,
            workload=workload,
            names=self._names_of(batch),
            released_images=released,
            released_workloads=changed,
            tables=self.tables,
        )
        ready = self._ready(batch, released, changed)
        made = self._set_aside(made, slots, inverse)
        # What waits still needs its strings, unless that costs too much.
        if not self._held or len(self.dictionary) > _MAX_STRINGS_HELD:
            self.dictionary.forget_below(batch.dict_base)
        if ready:
            # Releases are to be read once, before anything else.
            made = replace(made, released_images=(), released_workloads=())
        return [*ready, made]

    def let_go(self) -> list[Enriched]:
        """What waits still, as it is: nobody will wait for it any longer."""
        left = [held for _, held in self._held]
        self._held.clear()
        for one in left:
            self.gave_up_waiting += int(self._waits(one.workload).sum())
            self.processes.unpin(one.image)
        self._held_rows = 0
        return left

    def _take_told(self, batch: Batch) -> Batch:
        """Events that somebody told of: whose they are, and the calls among them."""
        told = np.flatnonzero(_TOLD[batch.events["cls"]]).tolist()
        if not told:
            return batch
        events = batch.events.copy()  # a capture's are read-only
        for row in told:
            event = events[row]
            if not event["proc"]:
                event["proc"] = self._process_of(int(event["tid"]), events)
            if event["cls"] == Class.CALL:
                known = self.calls.get(int(event["span"]))
                # Whoever told this agent has told it more than an event holds.
                if known is None or (int(event["flags"]) & 1 and not known.end):
                    self.calls.put(call_of(event, self.dictionary, batch.wall_offset, known))
        return replace(batch, events=events)

    def _process_of(self, pid: int, events: np.ndarray) -> int:
        """The key of a process that lives: of this batch, or known from before; 0 if neither."""
        made = events["num"][events["cls"] == int(Class.FORK)]
        keys = np.concatenate([events["proc"], made])
        keys = keys[keys & np.uint64(PID_MASK) == pid]
        return int(keys.max()) if keys.size else self.processes.key_of(pid)

    # -- waiting for metadata --------------------------------------------------------------

    def _set_aside(self, made: Enriched, slots: np.ndarray, inverse: np.ndarray) -> Enriched:
        if not self._hold or not len(made.batch.events):
            return made
        waits = self._waits(slots)[inverse]
        if not waits.any():
            return made
        if self._held_rows + int(waits.sum()) > _MAX_HELD:
            self.gave_up_waiting += int(waits.sum())
            return made
        held = _rows(made, waits)
        self.processes.pin(held.image)
        self._held.append((made.batch.drained, held))
        self._held_rows += len(held.image)
        return _rows(made, ~waits, keep_rest=True)

    def _waits(self, workload: np.ndarray) -> np.ndarray:
        """Which of these slots' workloads are pending: bool[n], each slot asked once."""
        slots, inverse = np.unique(workload, return_inverse=True)
        pending = [self.workloads.workload(int(slot)).state == "pending" for slot in slots]
        waits: np.ndarray = np.array(pending, bool)[inverse]
        return waits

    def _ready(
        self, batch: Batch, released: tuple[int, ...], changed: tuple[int, ...]
    ) -> list[Enriched]:
        if not self._held:
            return []
        ready: list[Enriched] = []
        still: list[tuple[int, Enriched]] = []
        for since, held in self._held:
            waits = self._waits(held.workload)
            until = min(max(since, self._answered) + _HOLD_NS, since + _HOLD_MOST_NS)
            if batch.drained >= until:
                self.gave_up_waiting += int(waits.sum())
                waits[:] = False
            if waits.all():
                still.append((since, held))
                continue
            going = _rows(held, ~waits)
            self.processes.unpin(going.image)
            self._held_rows -= len(going.image)
            ready.append(going)
            if waits.any():
                still.append((since, _rows(held, waits)))
        self._held = still
        if ready:
            ready[0] = replace(ready[0], released_images=released, released_workloads=changed)
        return ready

    # -- learning from events --------------------------------------------------------------

    def _learn(self, batch: Batch, image: np.ndarray) -> None:
        events, text = batch.events, self.dictionary.text
        if len(batch.procs):
            self._source.began(batch.procs)
        for row in np.flatnonzero(_CGROUPS[events["cls"]]):
            event = events[row]
            if event["cls"] == Class.CGROUP_MKDIR:
                actor = self.processes.image(int(image[row]))
                creator = Creator(
                    pid=actor.pid,
                    exe=actor.exepath,
                    argv=actor.argv,
                    cwd=actor.cwd,
                    mnt_ns=actor.namespaces[_NS_MNT],
                )
                self._source.submit(int(event["num"]), text(int(event["obj"])), creator)
            else:
                self.workloads.forget(int(event["num"]))
        self._source.ended(events["proc"][events["cls"] == int(Class.EXIT)].tolist())
        for row in np.flatnonzero((events["cls"] == int(Class.LISTEN)) & (events["ret"] >= 0)):
            address = self.dictionary.address(int(events["obj"][row]))
            if address.ip is not None:
                self.listeners.learn(self.processes.image(int(image[row])), address.port)

    def _names_of(self, batch: Batch) -> dict[int, str]:
        """Row → the name its address was asked for. In order of time, as a later answer may name
        an address anew, and a short-lived container may be gone by the end of the batch."""
        events, text, address = batch.events, self.dictionary.text, self.dictionary.address
        found: dict[int, str] = {}
        gone: list[int] = []
        wanted = _NAMING[events["cls"]] | (events["cls"] == Class.POLICY) & (events["obj2"] != 0)
        if self.names or wanted.any():
            wanted |= _NETWORK[events["cls"]] & (events["obj"] != 0)
        for row in np.flatnonzero(wanted).tolist():
            event = events[row]
            cls, cgroup, obj = int(event["cls"]), int(event["cgroup"]), int(event["obj"])
            now = int(event["ts"])
            if cls == Class.CGROUP_RMDIR:
                gone.append(int(event["num"]))
            elif cls == Class.TLS:
                if event["obj2"]:
                    self.names.learn(cgroup, str(address(int(event["obj2"])).ip), text(obj), now)
            elif cls == Class.DNS:
                if int(event["flags"]) & 1 and event["obj2"]:
                    ttl = int(event["num2"]) * 1_000_000_000
                    for address_text in text(int(event["obj2"])).split(" "):
                        self.names.learn(cgroup, address_text, text(obj), now, ttl)
            elif cls == Class.POLICY and event["obj2"]:
                found[row] = text(int(event["obj2"]))
            elif self.names.knows(cgroup):
                ip = address(obj).ip
                name = self.names.of(cgroup, str(ip), now) if ip else ""
                if name:
                    found[row] = name
        for cgroup in gone:
            self.names.forget(cgroup)
        return found


def _rows(of: Enriched, mask: np.ndarray, *, keep_rest: bool = False) -> Enriched:
    """Some rows of an enriched batch. keep_rest: procs, strings and losses go with these rows."""
    at = np.cumsum(mask) - 1
    names = {int(at[row]): name for row, name in of.names.items() if mask[row]}
    rest = (
        of.batch
        if keep_rest
        else replace(of.batch, procs=of.batch.procs[:0], strings=(), losses=())
    )
    return replace(
        of,
        batch=replace(rest, events=of.batch.events[mask]),
        image=of.image[mask],
        workload=of.workload[mask],
        names=names,
        released_images=of.released_images if keep_rest else (),
        released_workloads=of.released_workloads if keep_rest else (),
    )
