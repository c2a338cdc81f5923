"""The sensor: programs in the kernel, rings drained into batches, every loss counted."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np

from hullwatch.sensor import dns, procfs, tls
from hullwatch.sensor.batch import Batch, Loss, Name, String, in_order
from hullwatch.sensor.clock import read_offset
from hullwatch.sensor.cut import Cut
from hullwatch.sensor.guard import Guard
from hullwatch.sensor.labels import Labels
from hullwatch.sensor.programs import Programs, RingSizes
from hullwatch.sensor.ring import Ring
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.tap import Piece, Tap
from hullwatch.sensor.tier import Facts, Tier
from hullwatch.sensor.told import ToldQueue
from hullwatch.sensor.verdicts import Counted, Verdicts
from hullwatch.sensor.wire import (
    DICT_HEADER,
    EVENT,
    LOSS_KEY,
    PACKET_HEADER,
    PROC,
    Class,
    Mark,
    ProcMark,
    Stage,
    StrKind,
)

__all__ = ["Sensor"]

_STRING = struct.Struct("<QIIIHH")
_PACKET = struct.Struct("<QQQQIIIHHII")
assert _STRING.size == DICT_HEADER.itemsize and _PACKET.size == PACKET_HEADER.itemsize
_LOSS = struct.Struct("<QII")
assert _LOSS.size == LOSS_KEY.itemsize

_DRAIN_LIMIT = 8192  # events of one ring in one batch: bounds memory
_FLOOD_LIMIT = 1024
_EPOCH_STRINGS = 100_000  # new strings before the dictionary starts a new epoch
_LOSS_INTERVAL = 1.0  # s
_CLOCK_STEP = 100_000  # ns between the clocks that count as a change; less is how they were read
_REPEATED = Stage.REPEATED.name.lower()


class Sensor:
    """`start`, then `wait` and `drain` in a loop. Not thread-safe: one thread drains.

    policy: False: what policy says is never asked, and its programs are not loaded.
    record: report everything (forensics, back-tests) instead of what the rules may want.
    Raises SensorError when no tier works here.
    """

    def __init__(
        self,
        *,
        record: bool = False,
        rings: RingSizes | None = None,
        tier: Tier | None = None,
        own_tgid: int | None = None,
        policy: bool = True,
        epoch_strings: int = _EPOCH_STRINGS,
    ) -> None:
        self._programs = Programs(rings=rings, tier=tier, own_tgid=own_tgid, policy=policy)
        self._programs.set(record_mode=int(record))
        self.verdicts = Verdicts(self._programs)
        self.spans = Spans(self._programs)
        self.labels = Labels(self._programs)
        self.cut = Cut(self._programs)
        self.guard = Guard(self._programs)
        self.told = ToldQueue()
        self.tap = Tap(self._programs, self.spans)
        self.on_pieces: Callable[[Iterator[Piece]], None] = lambda pieces: None
        """Given what the tap heard before the events that are drained with it: a call that was
        heard of in time is known before anything is done for it."""
        self._rings = {
            name: Ring(self._programs.object.map(name))
            for name in ("vital", "bulk", "strings", "procs", "packets")
        }
        self._poll = select.epoll()
        for name in ("vital", "procs", "bulk", "packets"):
            self._poll.register(self._rings[name].fd, select.EPOLLIN)
        self._poll.register(self.tap.fd, select.EPOLLIN)
        self._loss_map = self._programs.object.map("losses")
        self._loss_total = self._programs.object.map("losses_total")
        self._losses: dict[tuple[str, int, int], int] = {}
        self._losses_due = 0.0
        self._epoch_strings = epoch_strings
        self._epoch_start = [1, 1]  # first id of the previous and of this epoch
        self._in_epoch = 0
        self._fresh = 0  # strings that came with no event yet, as far as can be told
        self._made: dict[tuple[int, bytes], int] = {}
        self._next_made = 1
        self._pending: list[String] = []
        self._names: list[Name] = []
        self._wall_offset = 0
        self.unreadable_packets = 0
        self.bulk_events = 0
        """Taken since the start: what the governor's rate is made of."""

    @property
    def facts(self) -> Facts:
        return self._programs.facts

    def tls_programs(self) -> dict[str, int]:
        """Name -> descriptor of the programs that are put on functions of TLS libraries."""
        programs = self._programs.object.programs.items()
        return {name: one.fd for name, one in programs if one.section in ("uprobe", "uretprobe")}

    def map_fd(self, name: str) -> int:
        """For another process that is to read a map."""
        return self._programs.object.map(name).fd

    def descriptors(self) -> dict[str, int]:
        """Of what has to be held for the programs to go on without us (sensor/pins.py)."""
        return self._programs.descriptors()

    @property
    def wall_offset(self) -> int:
        """From CLOCK_BOOTTIME to the wall clock, ns, as of the last batch."""
        return self._wall_offset or self._offset()

    @property
    def recording(self) -> bool:
        return bool(self._programs.settings["record_mode"][0])

    def set_recording(self, record: bool) -> None:
        self._programs.set(record_mode=int(record))

    @property
    def governed(self) -> int:
        """The governor's level in force."""
        return int(self._programs.settings["governed"][0])

    def set_governed(self, level: int) -> None:
        """0: off; 1: repeats within a second are counted; 2: new strings of bulk events too."""
        self._programs.set(governed=level)

    def start(self) -> None:
        """Attach, and have every running process reported."""
        self._programs.attach()
        self._programs.snapshot()

    def detach(self) -> None:
        """No more events after this; drain() still gives what is in the rings."""
        self._programs.detach()

    def close(self) -> None:
        self._poll.close()
        self._programs.close()

    def wait(self, timeout: float) -> bool:
        """True when there is something to drain; returns at the latest after `timeout` s."""
        return bool(self._poll.poll(timeout)) or self._rings["bulk"].waiting() > 0

    def fill(self) -> dict[str, float]:
        """How full each ring is, 0 to 1."""
        fills = {name: ring.waiting() / ring.size for name, ring in self._rings.items()}
        return fills | ({"tap": self.tap.fill()} if self.tap.on else {})

    # -- strings ---------------------------------------------------------------------------

    def _take_strings(self) -> None:
        for record in self._rings["strings"].take_variable():
            _key, ident, orig_len, length, kind, marks = _STRING.unpack_from(record)
            data = bytes(record[_STRING.size : _STRING.size + length])
            self._pending.append(String(ident, kind, marks, orig_len, data))

    def make_string(self, kind: int, data: bytes, orig_len: int = 0) -> int:
        """The id of a string found in user space (odd; the kernel's are even).

        orig_len: how long it was before it was cut, if it was.
        """
        if not data:
            return 0
        ident = self._made.get((kind, data))
        if ident is None:
            kernel_next = int(self._programs.settings["next_id"][0])
            ident = self._next_made = max(self._next_made + 2, kernel_next | 1)
            self._made[kind, data] = ident
            marks = int(Mark.TRUNCATED) if orig_len > len(data) else 0
            self._pending.append(String(ident, kind, marks, max(orig_len, len(data)), data))
        return ident

    def _turn_epoch(self) -> None:
        """Start a new epoch when this one is full; ids of the one before the last are dropped."""
        if self._in_epoch < self._epoch_strings:
            return
        settings = self._programs.settings
        first = max(int(settings["next_id"][0]), self._next_made + 1)
        first += first & 1
        self._programs.set(epoch=int(settings["epoch"][0]) + 1)
        self._epoch_start = [self._epoch_start[1], first]
        self._next_made = first - 1
        self._made.clear()
        self._in_epoch = 0

    # -- draining --------------------------------------------------------------------------

    def drain(self, *, final: bool = False) -> Batch:
        """All that is there, at most _DRAIN_LIMIT records a ring; empty arrays if nothing is.
        Losses come once a second; final: now, as there will be no later batch.

        Order matters: positions of the event rings first, then all strings, then the events up
        to those positions. So every id in an event has its string in this batch or an earlier one.
        """
        upto = {name: self._rings[name].produced() for name in ("vital", "bulk", "procs")}
        packets = list(self._rings["packets"].take_variable())
        goal = self._rings["strings"].produced()
        self._take_strings()
        for _ in range(1000):  # a record may still be being written on another CPU
            if self._rings["strings"].produced() - self._rings["strings"].waiting() >= goal:
                break
            time.sleep(0)
            self._take_strings()
        # New strings cost 50 times what known ones do: fewer at a time, so that vital events do not
        # wait behind a flood of them.
        self._fresh += len(self._pending)
        limit = _DRAIN_LIMIT if self._fresh < _FLOOD_LIMIT else _FLOOD_LIMIT
        parts = [
            self._rings["vital"].take_fixed(EVENT, upto["vital"], _DRAIN_LIMIT),
            self._rings["bulk"].take_fixed(EVENT, upto["bulk"], limit),
        ]
        self.bulk_events += len(parts[1])
        self._fresh = max(self._fresh - len(parts[1]), 0)
        procs = self._rings["procs"].take_fixed(PROC, upto["procs"], _DRAIN_LIMIT)
        if len(procs):
            procs = self._complete(procs)
            parts.append(_process_events(procs))
        if packets:
            parts.append(self._packet_events(packets))
        if self.tap.on:
            self.on_pieces(self.tap.take())
        # After the rings' positions: a call is told before anything is done for it.
        told = self.told.take(self.make_string)
        if len(told):
            parts.append(told)
        events = in_order(parts)
        strings = tuple(self._pending)
        self._pending.clear()
        names, self._names = tuple(self._names), []
        self._in_epoch += len(strings)
        self._turn_epoch()
        return Batch(
            events=events,
            procs=procs,
            strings=strings,
            losses=self._take_losses(final),
            names=names,
            dict_base=self._epoch_start[0],
            wall_offset=self._offset(),
            drained=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            tier=self.facts.tier.value,
        )

    def _offset(self) -> int:
        """From CLOCK_BOOTTIME to the wall clock. The same for long, so that storing it costs
        nothing, and times of events that are near each other compare."""
        found, bound = read_offset()
        if abs(found - self._wall_offset) >= _CLOCK_STEP + bound:
            self._wall_offset = found
        return self._wall_offset

    def _complete(self, procs: np.ndarray) -> np.ndarray:
        order = np.argsort(procs["ts"], kind="stable")
        procs = procs[order]
        for i in np.flatnonzero(procs["cls"] == int(Class.TASK)):
            pid = int(procs["pid"][i])
            argv, whole = procfs.arguments(pid)
            names, cut = procfs.environment_names(pid)
            procs["argv"][i] = self.make_string(StrKind.ARGV, argv, whole)
            procs["env"][i] = self.make_string(StrKind.ENV, names)
            if whole > len(argv):
                procs["marks"][i] |= ProcMark.ARGV_CUT
            if cut:
                procs["marks"][i] |= ProcMark.ENV_CUT
        return procs

    def _packet_events(self, packets: list[memoryview]) -> np.ndarray:
        rows = np.zeros(len(packets), EVENT)
        count = 0
        for record in packets:
            ts, cgroup, proc, span, obj, length, tid, cls, outgoing, labels, _ = (
                _PACKET.unpack_from(record)
            )
            data = bytes(record[_PACKET.size : _PACKET.size + length])
            row = rows[count]
            if cls == Class.DNS:
                message = dns.parse(data)
                if message is None or message.response == bool(outgoing):
                    self.unreadable_packets += 1
                    continue
                row["obj"] = self.make_string(StrKind.DNS, message.name.encode())
                answers = " ".join(a.value for a in message.answers)
                row["obj2"] = self.make_string(StrKind.TEXT, answers.encode())
                row["num"] = message.qtype
                row["num2"] = min((a.ttl for a in message.answers), default=0)
                row["flags"] = int(message.response) | message.rcode << 8
                if message.response:
                    addresses = [a.value for a in message.answers if a.kind in dns.ADDRESSES]
                    self._names.append(Name(ts, cgroup, obj, message.name, tuple(addresses)))
            else:
                name = tls.server_name(data)
                if name is None:
                    self.unreadable_packets += 1
                    continue
                row["obj"] = self.make_string(StrKind.SNI, name.encode())
                row["obj2"] = obj
            row["ts"], row["cgroup"], row["proc"], row["span"] = ts, cgroup, proc, span
            row["cls"], row["tid"], row["labels"] = cls, tid, labels
            count += 1
        return rows[:count]

    # -- losses ----------------------------------------------------------------------------

    def _take_losses(self, final: bool) -> tuple[Loss, ...]:
        now = time.monotonic()
        if now < self._losses_due and not final:
            return ()
        self._losses_due = now + _LOSS_INTERVAL
        found: list[Loss] = []
        totals: dict[tuple[str, int, int], int] = {}
        entries = list(self._loss_map.items())
        crowded = len(entries) > self._loss_map.max_entries // 2
        ended: list[tuple[str, int, int]] = []
        for key, value in entries:
            cgroup, cls, stage = _LOSS.unpack(key)
            where = Stage(stage).name.lower(), cls, cgroup
            total = int.from_bytes(value, "little")
            # Containers come and go: what does not grow any more makes room for others.
            if crowded and total == self._losses.get(where):
                taken = self._loss_map.take(key)
                if taken is not None:
                    total = int.from_bytes(taken, "little")
                    ended.append(where)
            totals[where] = total
        for stage in Stage:
            value = self._loss_total.lookup(struct.pack("<I", stage)) or b""
            if any(value):
                totals[stage.name.lower(), 0, 0] = int.from_bytes(value, "little")
        for where, total in totals.items():
            more = total - self._losses.get(where, 0)
            self._losses[where] = total
            stage, cls, cgroup = where
            if more > 0 and stage == _REPEATED and cls:
                self.verdicts.carry(Counted(cgroup, 0, cls, more))
            elif more > 0:
                found.append(Loss(*where, more))
        for where in ended:
            del self._losses[where]
        return tuple(found)


def _process_events(procs: np.ndarray) -> np.ndarray:
    """The exec and task events that stand for rows of procs: EVENT[n]."""
    rows = np.zeros(len(procs), EVENT)
    for field in ("ts", "proc", "cgroup", "span", "tid", "cls", "labels"):
        rows[field] = procs[field]
    rows["num"], rows["num2"] = procs["exe_ino"], procs["exec_id"]
    rows["obj"], rows["obj2"] = procs["exe"], procs["argv"]
    rows["flags"] = procs["marks"]
    rows["op"] = procs["op"]
    rows["marks"] = np.where(procs["exe"] == 0, int(Mark.STR_LOST), 0)
    return rows
