"""Labels told to the kernel: which paths give them, whom to trust, who carries what.

See kernel/label.h. Bits have names here; the first three mean something, an operator may name more.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

from hullwatch.sensor.patterns import Tables
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.wire import (
    CARRIED,
    GUARD_CARRIED,
    INODE_KEY,
    INODE_LABELS,
    LABEL_CHANGE,
    LABELLED,
    PATH_STATE,
    SPREAD,
    Label,
)

__all__ = ["LABELS", "Labelled", "LabelledFile", "Labels", "bits_of", "names_of"]

LABELS: tuple[str, ...] = tuple(label.name.lower() for label in Label)
_LABELLED = struct.Struct("<QQII")
_KEY = struct.Struct("<QII")
_INODE = struct.Struct("<QII")
_CHANGE = struct.Struct("<QIIII")
_CARRIED = struct.Struct("<4I")
assert _CARRIED.size == GUARD_CARRIED.itemsize
assert _LABELLED.size == LABELLED.itemsize and _CHANGE.size == LABEL_CHANGE.itemsize
assert _KEY.size == INODE_KEY.itemsize and _INODE.size == INODE_LABELS.itemsize
_CROWDED = 7 / 8

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Labelled(NamedTuple):
    """A process. proc: its key, 0 if it was not known; since: CLOCK_BOOTTIME ns, first label."""

    tgid: int
    proc: int
    labels: int
    since: int


class LabelledFile(NamedTuple):
    """A file, pipe or socket. outside, inside: its labels for who reads it outside of containers,
    and in one."""

    ino: int
    dev: int
    generation: int
    outside: int
    inside: int
    since: int


def names_of(bits: int) -> tuple[str, ...]:
    """Names, in the order of the bits; a bit without one is `label-N`."""
    return tuple(
        LABELS[bit] if bit < len(LABELS) else f"label-{bit}"
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    )


def bits_of(names: Iterable[str]) -> int:
    """The bits; ValueError says which labels there are."""
    bits = 0
    for name in names:
        if name in LABELS:
            bits |= 1 << LABELS.index(name)
        elif (number := name.removeprefix("label-")).isdigit() and len(LABELS) <= int(number) < 32:
            bits |= 1 << int(number)
        else:
            known = ", ".join(LABELS)
            raise ValueError(f"no label {name!r}: {known}, label-{len(LABELS)} ... label-31")
    return bits


class Labels:
    """Safe from several threads: each method is one system call or a few. dropped: labels of files
    that were let go of since there were too many."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._processes = programs.object.map("labelled")
        self._files = programs.object.map("labelled_files")
        self._streams = programs.object.map("labelled_streams")
        self._carried = programs.object.map("guard_carried")
        self._change = programs.object.programs["label_change"]
        self.dropped = 0

    # -- where they come from --------------------------------------------------------------

    def give_paths(self, tables: Tables, on: bool = True) -> None:
        """Paths that are new from now on get the labels of these tables. on: False, they are only
        there for policies about secrets."""
        states = self._programs.object.map("path_states")
        self._programs.set(label_paths=0)
        data = tables.states.tobytes()
        size = PATH_STATE.itemsize
        for number in range(len(tables.states)):
            states.update(struct.pack("<I", number), data[number * size : (number + 1) * size])
        self._programs.object.map("path_table").update(bytes(4), tables.table.tobytes())
        self._programs.set(label_paths=int(on))

    def give_untrusted(self, on: bool, trusted: Iterable[Network] = ()) -> None:
        """Who talks to an address outside gets `untrusted`, but for these networks."""
        networks = self._programs.object.map("trusted")
        for network in trusted:
            shift = 96 if network.version == 4 else 0
            mapped = b"" if network.version == 6 else bytes(10) + b"\xff\xff"
            key = struct.pack("<I", network.prefixlen + shift) + mapped
            networks.update(key + network.network_address.packed, b"\1")
        self._programs.set(untrusted=int(on))

    def follow_host(self, on: bool) -> None:
        """Whether processes outside of containers carry labels, too."""
        self._programs.set(label_host=int(on))

    def add(self, tgid: int, labels: int, proc: int = 0) -> bool:
        """A process (by its key, if known) carries these, too. False: there is no room."""
        done = self._change.run(_CHANGE.pack(proc, tgid, labels, 0, 0))
        return done != -errno.ENOSPC

    def add_to_call(self, spans: Spans, span: int, labels: int) -> int:
        """All processes that act for a call now; how many."""
        acting = [tgid for tgid, (of, _) in spans.acting().items() if of == span]
        return sum(self.add(tgid, labels) for tgid in acting)

    def drop(self, tgid: int, labels: int) -> None:
        """It carries them no more: somebody has looked, and knows better."""
        self._change.run(_CHANGE.pack(0, tgid, 0, labels, 0))

    # -- who carries them ------------------------------------------------------------------

    def processes(self) -> list[Labelled]:
        found = []
        for key, value in self._processes.items():
            proc, since, labels, _ = _LABELLED.unpack(value)
            found.append(Labelled(struct.unpack("<I", key)[0], proc, labels, since))
        return found

    def of(self, tgids: Iterable[int]) -> tuple[str, ...]:
        """All that these processes carry."""
        bits = 0
        for tgid in tgids:
            if (value := self._processes.lookup(struct.pack("<I", tgid))) is not None:
                bits |= _LABELLED.unpack(value)[2]
        return names_of(bits)

    def files(self, *, streams: bool = False) -> list[LabelledFile]:
        """Regular files; streams: pipes, sockets and files without a name instead."""
        found = []
        for key, value in (self._streams if streams else self._files).items():
            since, outside, inside = _INODE.unpack(value)
            ino, dev, generation = _KEY.unpack(key)
            found.append(LabelledFile(ino, dev, generation, outside, inside, since))
        return found

    def stats(self) -> dict[str, int]:
        """in_use: 1 once anything has carried a label: reads and writes are looked at. spread:
        containers all of whose processes are taken to carry some (kernel/guard.h)."""
        state = int(self._programs.settings["labels"][0])
        in_use = state & CARRIED
        processes = len(self.processes()) if in_use else 0
        carried = self._carried.items() if state & SPREAD else ()
        return {
            "in_use": in_use,
            "processes": processes,
            "files_dropped": self.dropped,
            "spread": sum(_CARRIED.unpack(value)[1] > 0 for _, value in carried),
        }

    def sweep(self) -> int:
        """Call it now and then. Files that were deleted keep their place, so that of too many the
        oldest are let go of; how many."""
        if not self._programs.settings["labels"][0]:
            return 0
        files = self.files()
        over = len(files) - int(self._files.max_entries * _CROWDED)
        for one in sorted(files, key=lambda file: file.since)[: max(over, 0)]:
            self._files.delete(_KEY.pack(one.ino, one.dev, one.generation))
        self.dropped += max(over, 0)
        return max(over, 0)
