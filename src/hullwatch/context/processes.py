"""The process table: which program runs behind a process key, and what it descends from.

Keys hold pid and start time, so a reused pid is another process. An image is made at exec (at fork
as a copy, the first time the child does something) and stays until it was replaced or its process
has ended, no living image descends from it, and a grace period for late events has passed.

Most of an image is its `Program`, made once for all that run the same in the same surroundings: the
bytes of their PROC records are the same but for each one's own numbers.
"""

from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np

from hullwatch.context.enriched import ProcessImage, Program
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import classes_mask
from hullwatch.sensor.wire import PROC, Class

__all__ = ["PID_MASK", "ProcessTable"]

_GRACE_NS = 4_000_000_000  # longer than events are held (enrich.py)
_MAX_ENDED = 8192
_MAX_FORKED = 65536
_MAX_ARGV = 8192
_MAX_PROGRAMS = 2048  # remembered for those that will run the same; each about 1 KiB
PID_MASK = (1 << 22) - 1
_FORK, _EXEC, _TASK, _EXIT, _SETID, _CAPSET = (
    int(cls) for cls in (Class.FORK, Class.EXEC, Class.TASK, Class.EXIT, Class.SETID, Class.CAPSET)
)
_RUNS, _IDS = frozenset((_EXEC, _TASK)), frozenset((_SETID, _CAPSET))
_CHANGES = classes_mask((_FORK, _EXIT, *_RUNS, *_IDS))
# A row of PROC as Python values: 45 of them one by one would cost more than all the rest.
_named: Any = namedtuple  # its fields are known at run time only
_Row = _named("_Row", PROC.names)
_NAMESPACES = ("ns_pid", "ns_mnt", "ns_net", "ns_user", "ns_uts", "ns_ipc", "ns_cgroup")
_namespaces = attrgetter(*_NAMESPACES)
# What is a process's own in it; and, also different each time, what nobody reads.
_OWN = ["ts", "proc", "parent", "start", "pid", "vpid", "pgid", "vpgid", "sid"]
_UNREAD = ("span", "tid", "ppid", "vsid")


def _shared_bytes() -> np.ndarray:
    """uint8[bytes of PROC]: 0xFF for those that runs of one program have in common, else 0."""
    mask = np.zeros(PROC.itemsize, np.uint8)
    for name, (kind, at, *_) in (PROC.fields or {}).items():
        if name not in _OWN and name not in _UNREAD:
            mask[at : at + kind.itemsize] = 0xFF
    return mask


_SHARED = _shared_bytes()
_CHANGED_COLUMNS = ("ts", "proc", "cgroup", "num", "num2", "cls", "flags", "ret")
_UNKNOWN = Program(
    None, 0, 0, "", "", (), "", (), "", 0, 0, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0,
    (0,) * len(_NAMESPACES), 0, 0, 0, 0, known=False,
)  # fmt: skip


def _texts(data: bytes) -> tuple[str, ...]:
    """NUL-separated bytes to strings; invalid UTF-8 stays visible as \\xNN."""
    if not data:
        return ()
    parts = data[:-1] if data.endswith(b"\0") else data
    return tuple(part.decode("utf-8", "backslashreplace") for part in parts.split(b"\0"))


def _by_event(procs: np.ndarray) -> dict[tuple[int, ...], tuple[tuple[int, ...], np.void, bytes]]:
    """(ts, key) of rows of PROC to (their _OWN, the row, the bytes it shares)."""
    if not len(procs):
        return {}
    size = PROC.itemsize
    rows = np.ascontiguousarray(procs).view(np.uint8).reshape(-1, size)
    shared = (rows & _SHARED).tobytes()
    return {
        own[:2]: (own, procs[at], shared[at * size : (at + 1) * size])
        for at, own in enumerate(procs[_OWN].tolist())
    }


class ProcessTable:
    """apply() takes batches in order. Bounded: ended images, forked keys and caches have limits."""

    def __init__(self, *, max_ended: int = _MAX_ENDED) -> None:
        self._images: list[ProcessImage | None] = []
        self._current: dict[int, ProcessImage] = {}
        # Forked and not yet seen acting: key -> (parent's image, start).
        self._forked: OrderedDict[int, tuple[ProcessImage, int]] = OrderedDict()
        self._ended: deque[ProcessImage] = deque()
        self._free: list[int] = []
        self._argv: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        # (shared bytes of PROC, the parent's program), or (the parent's program, cgroup) of a copy.
        self._programs: dict[tuple[Any, Any], Program] = {}
        self._max_ended = max_ended
        self.placed: list[ProcessImage] = []  # made by the last `apply`
        self.unknown_made = 0
        self.evicted_early = 0
        self._nobody = self._make_unknown(0, 0, 0)

    # -- look-ups --------------------------------------------------------------------------

    def image(self, slot: int) -> ProcessImage:
        """The image in a slot; slot 0 is 'nobody'."""
        found = self._images[slot] if 0 <= slot < len(self._images) else None
        return found if found is not None else self._nobody

    def current(self, key: int) -> ProcessImage | None:
        return self._current.get(key)

    def living(self) -> list[ProcessImage]:
        """The images of processes that run, as far as they have acted. Any thread may ask."""
        # A copy, in one step: other threads ask, too.
        return [image for image in list(self._current.values()) if not image.ended]

    def key_of(self, pid: int) -> int:
        """The key of the process that has this pid now; 0 if none is known."""
        of_pid = (key for key in (*self._current, *self._forked) if key & PID_MASK == pid)
        return max(of_pid, default=0)  # the one that was started last

    def __len__(self) -> int:
        return len(self._images) - len(self._free)

    def stats(self) -> dict[str, int]:
        return {
            "images": len(self),
            "living": len(self._current),
            "ended": len(self._ended),
            "forked": len(self._forked),
            "unknown": self.unknown_made,
            "evicted_early": self.evicted_early,
        }

    def pin(self, slots: np.ndarray) -> None:
        """Keep these images although they may end: events that wait refer to them, one a row."""
        for slot, rows in zip(*np.unique(slots, return_counts=True), strict=True):
            self.image(int(slot)).children += int(rows)

    def unpin(self, slots: np.ndarray) -> None:
        """Of the same rows, all together or in parts."""
        for slot, rows in zip(*np.unique(slots, return_counts=True), strict=True):
            self.image(int(slot)).children -= int(rows)

    # -- a batch ---------------------------------------------------------------------------

    def apply(self, batch: Batch, dictionary: Dictionary) -> np.ndarray:
        """Take the batch's changes in, in order; returns every event's image slot: int32[n]."""
        events = batch.events
        self.placed = []
        keys, first, inverse = np.unique(events["proc"], return_index=True, return_inverse=True)
        changing = np.flatnonzero(_CHANGES[events["cls"]])
        known = self._current
        # The image at a key's first row; -1 where the batch is to tell.
        slots = [-1 if found is None else found.slot for found in map(known.get, keys.tolist())]
        switches: dict[int, list[tuple[int, int]]] = {}
        if len(changing):
            switches = self._changes(batch, dictionary, changing, inverse, first, slots)
        result = np.array(slots, np.int32)
        for i in np.flatnonzero(result < 0).tolist():
            key, row = int(keys[i]), int(first[i])
            made = known.get(key) or self._materialise(
                key, int(events["cgroup"][row]), int(events["ts"][row])
            )
            result[i] = made.slot
        result = result[inverse]
        if switches:
            order = np.argsort(inverse, kind="stable")
            bounds = np.searchsorted(inverse[order], np.arange(len(keys) + 1))
            for i, changes in switches.items():
                rows = order[bounds[i] : bounds[i + 1]]
                for row, slot in changes:
                    result[rows[np.searchsorted(rows, row) :]] = slot
        return result

    def _changes(
        self,
        batch: Batch,
        dictionary: Dictionary,
        rows: np.ndarray,
        inverse: np.ndarray,
        first: np.ndarray,
        slots: list[int],
    ) -> dict[int, list[tuple[int, int]]]:
        """Sets the slots of keys whose first row decides; returns later changes by key's number:
        (row, slot from there on)."""
        events = batch.events[rows]
        procs = _by_event(batch.procs)
        groups = inverse[rows]
        columns = [events[name].tolist() for name in _CHANGED_COLUMNS]
        columns += [rows.tolist(), groups.tolist(), (first[groups] < rows).tolist()]
        current, forked, ended = self._current, self._forked, self._ended
        switches: dict[int, list[tuple[int, int]]] = {}
        orphans: list[tuple[ProcessImage, int]] = []
        for ts, key, cgroup, num, num2, cls, flags, ret, row, at, acted in zip(
            *columns, strict=True
        ):
            if cls in _RUNS:
                proc = procs.get((ts, key))
                if proc is None:
                    continue
                if cls == _EXEC and acted and slots[at] < 0:
                    # It acted between fork and exec, in this very batch: as what it was then.
                    slots[at] = (current.get(key) or self._materialise(key, cgroup, ts)).slot
                image = self._run(*proc, cls == _EXEC, dictionary)
                if image.parent is None and cls == _TASK:
                    orphans.append((image, proc[0][2]))
                if acted and slots[at] >= 0:
                    switches.setdefault(at, []).append((row, image.slot))
                else:
                    slots[at] = image.slot
                continue
            if cls in _IDS:
                if ret < 0:
                    continue
                # It may be the first thing a forked child does: what drops privileges often does.
                changed = current.get(key) or self._materialise(key, cgroup, ts)
                if slots[at] < 0:
                    slots[at] = changed.slot
                if cls == _SETID:
                    changed.uid, changed.gid = num2 >> 32, num2 & 0xFFFFFFFF
                    changed.euid = flags
                else:
                    changed.cap_effective, changed.cap_permitted = num, num2
                continue
            found = current.get(key) or self._materialise(key, cgroup, ts)
            if slots[at] < 0:
                slots[at] = found.slot
            if cls == _EXIT:
                if not found.ended:
                    ended.append(found)
                found.ended = ts
                continue
            forked[num] = (found, ts)
            found.children += 1
            if len(forked) > _MAX_FORKED:
                _, (oldest, _) = forked.popitem(last=False)
                oldest.children -= 1
                self.evicted_early += 1
        # A snapshot goes by pid: a parent with a reused, higher pid comes after its children.
        for image, parent_key in orphans:
            above = current.get(parent_key)
            if above is not None and above is not image:
                image.parent = above
                image.program.above = above.program
                above.children += 1
        return switches

    # -- making images ---------------------------------------------------------------------

    def _place(self, image: ProcessImage) -> ProcessImage:
        if self._free:
            image.slot = self._free.pop()
            self._images[image.slot] = image
        else:
            image.slot = len(self._images)
            self._images.append(image)
        if image.parent is not None:
            image.parent.children += 1
        self.placed.append(image)
        return image

    def _replace(self, key: int, image: ProcessImage, now: int) -> None:
        old = self._current.get(key)
        if old is not None and not old.ended:
            old.ended = now
            self._ended.append(old)
        self._current[key] = image

    def _parent_of(self, key: int, parent_key: int) -> ProcessImage | None:
        """The parent's image: the lineage survives the parent's end."""
        old = self._current.get(key)
        if old is not None:
            return old.parent
        forked = self._forked.pop(key, None)
        if forked is not None:
            forked[0].children -= 1
            return forked[0]
        parent = self._current.get(parent_key)
        if parent is None and parent_key in self._forked:
            parent = self._materialise(parent_key, 0, 0)
        return parent

    def _argv_of(self, ident: int, dictionary: Dictionary) -> tuple[str, ...]:
        found = self._argv.get(ident)
        if found is None:
            found = _texts(dictionary.entry(ident).data)
            self._argv[ident] = found
            if len(self._argv) > _MAX_ARGV:
                self._argv.popitem(last=False)
        return found

    def _program(self, record: np.void, above: Program | None, dictionary: Dictionary) -> Program:
        """From a row of PROC; own numbers are not read."""
        proc = _Row._make(record.item())
        namespaces = _namespaces(proc)
        if above is not None and above.namespaces == namespaces:
            namespaces = above.namespaces  # nearly always: one tuple for all
        text = dictionary.text
        return Program(
            above=above,
            exec_id=proc.exec_id,
            cgroup=proc.cgroup,
            name=proc.comm.decode("utf-8", "backslashreplace"),
            exepath=text(proc.exe),
            argv=self._argv_of(proc.argv, dictionary) if proc.argv else (),
            cwd=text(proc.cwd),
            env_names=self._argv_of(proc.env, dictionary) if proc.env else (),
            script=text(proc.script) if proc.script else "",
            uid=proc.uid,
            gid=proc.gid,
            euid=proc.euid,
            egid=proc.egid,
            loginuid=proc.loginuid,
            tty=proc.tty,
            cap_effective=proc.cap_effective,
            cap_permitted=proc.cap_permitted,
            cap_inheritable=proc.cap_inheritable,
            namespaces=namespaces,
            marks=proc.marks,
            exe_ino=proc.exe_ino,
            exe_ctime=proc.exe_ctime,
            exe_mtime=proc.exe_mtime,
            known=True,
        )

    def _remember(self, key: tuple[Any, Any], program: Program) -> Program:
        if len(self._programs) >= _MAX_PROGRAMS:
            self._programs.clear()
        self._programs[key] = program
        return program

    def _run(
        self,
        own: tuple[int, ...],
        record: np.void,
        shared: bytes,
        executed: bool,
        dictionary: Dictionary,
    ) -> ProcessImage:
        """A new image from a row of PROC: its own numbers, the whole, the bytes it shares."""
        now, key, parent_key, start, pid, vpid, pgid, vpgid, sid = own
        parent = self._parent_of(key, parent_key)
        above = None if parent is None else parent.program
        # A program of the snapshot is one process's alone: who is above may be known later.
        of = self._programs.get((shared, above)) if executed else None
        if of is None:
            of = self._program(record, above, dictionary)
            if executed:
                self._remember((shared, above), of)
        image = ProcessImage(
            -1, key, of, parent, 0, pid, vpid, pgid, vpgid, sid, start, now if executed else start,
            of.uid, of.gid, of.euid, of.egid, of.cap_effective, of.cap_permitted,
        )  # fmt: skip
        self._place(image)
        self._replace(key, image, now)
        return image

    def _materialise(self, key: int, cgroup: int, now: int) -> ProcessImage:
        """Of a process that has not exec'ed: a copy of its parent's image, or an unknown one."""
        if key == 0:
            return self._nobody
        forked = self._forked.pop(key, None)
        if forked is None:
            return self._make_unknown(key, cgroup, now)
        of, started = forked
        of.children -= 1
        above = of.program
        cgroup = cgroup or above.cgroup
        program = self._programs.get((above, cgroup))
        if program is None:
            program = self._remember((above, cgroup), replace(above, above=above, cgroup=cgroup))
        pid = key & PID_MASK
        image = ProcessImage(
            -1, key, program, of, of.workload, pid, pid, of.pgid, of.vpgid, of.sid, started,
            of.exec_ts, of.uid, of.gid, of.euid, of.egid, of.cap_effective, of.cap_permitted,
        )  # fmt: skip
        self._place(image)
        self._current[key] = image
        return image

    def _make_unknown(self, key: int, cgroup: int, now: int) -> ProcessImage:
        self.unknown_made += key != 0
        program = self._programs.get((None, cgroup))
        if program is None:
            program = self._remember((None, cgroup), replace(_UNKNOWN, cgroup=cgroup))
        image = ProcessImage(
            -1, key, program, None, 0, key & PID_MASK, 0, 0, 0, 0, (key >> 22) << 16, now,
            0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        self._place(image)
        if key:
            self._current[key] = image
        return image

    # -- letting go ------------------------------------------------------------------------

    def release(self, now: int, held: bool = False) -> tuple[int, ...]:
        """Free the slots of images that nobody needs any more; returns them.

        held: rows wait that refer to slots, so the table may grow to four times its bound.
        To be called before a batch is applied: the next stage forgets what it kept about these
        slots before it reads that batch.
        """
        bound = self._max_ended * (4 if held else 1)
        ended, released = self._ended, []
        for _ in range(len(ended)):
            image = ended[0]
            crowded = len(ended) > bound
            early = now - image.ended < _GRACE_NS
            if early and not crowded:
                break
            ended.popleft()
            if image.children > 0:
                # Still the ancestor of someone; looked at again later.
                image.ended = now
                ended.append(image)
                if crowded:
                    break
                continue
            self.evicted_early += early
            self._images[image.slot] = None
            released.append(image.slot)
            if self._current.get(image.key) is image:
                del self._current[image.key]
            if image.parent is not None:
                image.parent.children -= 1
        self._free += released
        return tuple(released)
