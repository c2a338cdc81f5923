"""The process table: which program runs behind a process key, and what it descends from.

Keys hold pid and start time, so a reused pid is another process. An image is made at exec (at fork
as a copy, the first time the child does something) and stays until it was replaced or its process
has ended, no living image descends from it, and a grace period for late events has passed.
"""

from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from operator import attrgetter
from typing import Any

import numpy as np

from hullwatch.context.enriched import ProcessImage
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import classes_mask
from hullwatch.sensor.wire import PROC, Class

__all__ = ["ProcessTable"]

_GRACE_NS = 4_000_000_000  # longer than events are held (enrich.py)
_MAX_ENDED = 8192
_MAX_FORKED = 65536
_MAX_ARGV = 8192
_MAX_DEPTH = 256
_PID_MASK = (1 << 22) - 1
# A row of PROC as Python values: 45 of them one by one would cost more than all the rest.
_named: Any = namedtuple  # its fields are known at run time only
_Row = _named("_Row", PROC.names)
_NAMESPACES = ("ns_pid", "ns_mnt", "ns_net", "ns_user", "ns_uts", "ns_ipc", "ns_cgroup")
_namespaces = attrgetter(*_NAMESPACES)
_CHANGES = classes_mask((Class.EXEC, Class.TASK, Class.FORK, Class.EXIT, Class.SETID, Class.CAPSET))


def _texts(data: bytes) -> tuple[str, ...]:
    """NUL-separated bytes to strings; invalid UTF-8 stays visible as \\xNN."""
    if not data:
        return ()
    parts = data[:-1] if data.endswith(b"\0") else data
    return tuple(part.decode("utf-8", "backslashreplace") for part in parts.split(b"\0"))


class ProcessTable:
    """apply() takes batches in order. Bounded: ended images, forked keys and caches have limits."""

    def __init__(self, *, max_ended: int = _MAX_ENDED) -> None:
        self._images: list[ProcessImage | None] = []
        self._current: dict[int, ProcessImage] = {}
        # Forked and not yet seen acting: key -> (parent's image, start, tid).
        self._forked: OrderedDict[int, tuple[ProcessImage, int, int]] = OrderedDict()
        self._ended: deque[tuple[int, ProcessImage]] = deque()
        self._free: list[int] = []
        self._released: list[int] = []
        self._argv: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._names: dict[int, tuple[str, ...]] = {}
        self._namespaces: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._max_ended = max_ended
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
        keys, first, inverse = np.unique(events["proc"], return_index=True, return_inverse=True)
        changing = np.flatnonzero(_CHANGES[events["cls"]])
        slots = np.empty(len(keys), np.int32)
        known = self._current
        for i, key in enumerate(keys.tolist()):
            found = known.get(key)
            slots[i] = found.slot if found is not None else -1
        switches: dict[int, list[tuple[int, int]]] = {}
        if len(changing):
            self._changes(batch, dictionary, changing, inverse, first, switches)
        for i in np.flatnonzero(slots < 0).tolist():
            # Not known before the batch: what its first row needs, unless the batch itself says.
            if i not in switches:
                row = int(first[i])
                made = known.get(int(keys[i])) or self._materialise(
                    int(keys[i]), int(events["cgroup"][row]), int(events["ts"][row])
                )
                slots[i] = made.slot
            else:
                slots[i] = switches[i][0][1]
        whole: list[int] = []
        for i, changes in switches.items():
            # The usual case, one change before the first row: one number for all rows.
            if len(changes) == 1 and changes[0][0] <= first[i]:
                slots[i] = changes[0][1]
                whole.append(i)
        for i in whole:
            del switches[i]
        result = slots[inverse]
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
        switches: dict[int, list[tuple[int, int]]],
    ) -> None:
        events = batch.events[rows]
        procs = {(row.ts, row.proc): row for row in map(_Row._make, batch.procs.tolist())}
        exec_, task, fork, exit_ = Class.EXEC, Class.TASK, Class.FORK, Class.EXIT
        columns = (events[name].tolist() for name in ("ts", "proc", "cgroup", "num", "num2", "cls"))
        groups = inverse[rows].tolist()
        flags, rets = events["flags"].tolist(), events["ret"].tolist()
        orphans: list[tuple[ProcessImage, int]] = []
        for i, (ts, key, cgroup, num, num2, cls) in enumerate(zip(*columns, strict=True)):
            if cls == fork:
                parent = self._current.get(key) or self._materialise(key, cgroup, ts)
                self._forked[num] = (parent, ts, num2)
                parent.children += 1
                if len(self._forked) > _MAX_FORKED:
                    _, (oldest, _, _) = self._forked.popitem(last=False)
                    oldest.children -= 1
                    self.evicted_early += 1
            elif cls in (exec_, task):
                proc = procs.get((ts, key))
                if proc is None:
                    continue
                group = groups[i]
                if cls == exec_ and key not in self._current and first[group] < rows[i]:
                    # It acted between fork and exec, in this very batch: as what it was then.
                    before = self._materialise(key, cgroup, ts)
                    switches.setdefault(group, []).append((0, before.slot))
                image = self._run(proc, dictionary)
                if image.parent is None and cls == task:
                    orphans.append((image, proc.parent))
                switches.setdefault(group, []).append((int(rows[i]), image.slot))
            elif cls == exit_:
                found = self._current.get(key) or self._materialise(key, cgroup, ts)
                found.exited = ts
                self._ended.append((ts, found))
                if groups[i] not in switches:
                    switches[groups[i]] = [(0, found.slot)]
            elif rets[i] >= 0:
                changed = self._current.get(key)
                if changed is not None:
                    if cls == Class.SETID:
                        changed.uid, changed.gid = num2 >> 32, num2 & 0xFFFFFFFF
                        changed.euid = flags[i]
                    else:
                        changed.cap_effective, changed.cap_permitted = num, num2
        # A snapshot goes by pid: a parent with a reused, higher pid comes after its children.
        for image, parent_key in orphans:
            above = self._current.get(parent_key)
            if above is not None and above is not image:
                image.parent = above
                image.depth = min(above.depth + 1, _MAX_DEPTH)
                above.children += 1

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
        return image

    def _replace(self, key: int, image: ProcessImage, now: int) -> None:
        old = self._current.get(key)
        if old is not None and not old.exited:
            self._ended.append((now, old))
        self._current[key] = image

    def _parent_of(self, key: int, parent_key: int) -> tuple[ProcessImage | None, int]:
        """(parent's image, start of this process): the lineage survives the parent's end."""
        old = self._current.get(key)
        if old is not None:
            return old.parent, old.started
        forked = self._forked.pop(key, None)
        if forked is not None:
            forked[0].children -= 1
            return forked[0], forked[1]
        parent = self._current.get(parent_key)
        if parent is None and parent_key in self._forked:
            parent = self._materialise(parent_key, 0, 0)
        return parent, 0

    def _argv_of(self, ident: int, dictionary: Dictionary) -> tuple[str, ...]:
        found = self._argv.get(ident)
        if found is None:
            found = _texts(dictionary.entry(ident).data)
            self._argv[ident] = found
            if len(self._argv) > _MAX_ARGV:
                self._argv.popitem(last=False)
        return found

    def _namespaces_of(self, proc: Any) -> tuple[int, ...]:
        """One tuple for all that share it: nearly every process has its parent's."""
        found = _namespaces(proc)
        if len(self._namespaces) >= _MAX_FORKED:
            self._namespaces.clear()
        return self._namespaces.setdefault(found, found)

    def _run(self, proc: Any, dictionary: Dictionary) -> ProcessImage:
        """A new image from a row of PROC."""
        key = proc.proc
        parent, _ = self._parent_of(key, proc.parent)
        env = proc.env
        names = self._argv_of(env, dictionary) if env else ()
        text = dictionary.text
        image = ProcessImage(
            slot=-1,
            key=key,
            exec_id=proc.exec_id,
            parent=parent,
            workload=0,
            cgroup=proc.cgroup,
            name=proc.comm.decode("utf-8", "backslashreplace"),
            exepath=text(proc.exe),
            argv=self._argv_of(proc.argv, dictionary) if proc.argv else (),
            cwd=text(proc.cwd),
            env_names=names,
            script=text(proc.script) if proc.script else "",
            pid=proc.pid,
            vpid=proc.vpid,
            pgid=proc.pgid,
            vpgid=proc.vpgid,
            sid=proc.sid,
            uid=proc.uid,
            gid=proc.gid,
            euid=proc.euid,
            egid=proc.egid,
            loginuid=proc.loginuid,
            tty=proc.tty,
            cap_effective=proc.cap_effective,
            cap_permitted=proc.cap_permitted,
            cap_inheritable=proc.cap_inheritable,
            namespaces=self._namespaces_of(proc),
            marks=proc.marks,
            exe_ino=proc.exe_ino,
            exe_ctime=proc.exe_ctime,
            exe_mtime=proc.exe_mtime,
            started=proc.start,
            exec_ts=proc.ts if proc.cls == Class.EXEC else proc.start,
            exe_id=proc.exe,
            argv_id=proc.argv,
            depth=min(parent.depth + 1, _MAX_DEPTH) if parent else 0,
            known=True,
            tid=proc.tid,
            exe_mode=proc.exe_mode,
            vsid=proc.vsid,
        )
        self._place(image)
        self._replace(key, image, proc.ts)
        return image

    def _materialise(self, key: int, cgroup: int, now: int) -> ProcessImage:
        """Of a process that has not exec'ed: a copy of its parent's image, or an unknown one."""
        if key == 0:
            return self._nobody
        forked = self._forked.pop(key, None)
        if forked is None:
            return self._make_unknown(key, cgroup, now)
        of, started, tid = forked
        of.children -= 1
        pid = key & _PID_MASK
        image = ProcessImage(
            -1, key, of.exec_id, of, of.workload, cgroup or of.cgroup, of.name, of.exepath, of.argv,
            of.cwd, of.env_names, of.script, pid, pid, of.pgid, of.vpgid, of.sid, of.uid, of.gid,
            of.euid, of.egid, of.loginuid, of.tty, of.cap_effective, of.cap_permitted,
            of.cap_inheritable, of.namespaces, of.marks, of.exe_ino, of.exe_ctime, of.exe_mtime,
            started, of.exec_ts, of.exe_id, of.argv_id, min(of.depth + 1, _MAX_DEPTH), of.known,
            tid=tid, exe_mode=of.exe_mode, vsid=of.vsid,
        )  # fmt: skip
        self._place(image)
        self._current[key] = image
        return image

    def _make_unknown(self, key: int, cgroup: int, now: int) -> ProcessImage:
        self.unknown_made += key != 0
        pid = key & _PID_MASK
        image = ProcessImage(
            -1, key, 0, None, 0, cgroup, "", "", (), "", (), "", pid, 0, 0, 0, 0, 0, 0, 0, 0,
            0xFFFFFFFF, 0, 0, 0, 0, (0,) * len(_NAMESPACES), 0, 0, 0, 0, (key >> 22) << 16, now,
            0, 0, 0, False,
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
        for _ in range(len(self._ended)):
            since, image = self._ended[0]
            crowded = len(self._ended) > bound
            if now - since < _GRACE_NS and not crowded:
                break
            self._ended.popleft()
            if image.children > 0:
                # Still the ancestor of someone; looked at again later.
                self._ended.append((now, image))
                if crowded:
                    break
                continue
            self.evicted_early += now - since < _GRACE_NS
            self._drop(image)
        released = tuple(self._released)
        self._free.extend(released)
        self._released.clear()
        return released

    def _drop(self, image: ProcessImage) -> None:
        if self._images[image.slot] is not image:
            return
        self._images[image.slot] = None
        self._released.append(image.slot)
        if self._current.get(image.key) is image:
            del self._current[image.key]
        if image.parent is not None:
            image.parent.children -= 1
