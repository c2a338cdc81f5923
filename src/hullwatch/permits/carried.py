"""What the agent's programs know of a process that waits: the labels it carries, the call it acts
for. Read out of their maps when it is asked about (kernel/label.h, span.h), so nothing is late.

Tools have numbers there. Which is which stands in a file in memory, written before the first call
of a tool goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from hullwatch.context.cgroupfs import find_v2_root
from hullwatch.decide.question import Value
from hullwatch.permits.container import cgroup_path, cgroup_text

__all__ = ["Carried", "Handed", "Numbered", "process_of"]

# As kernel/wire.h lays them out, without the numpy that sensor/wire.py takes.
LABELLED, ACTING, TOOL = struct.Struct("<QQII"), struct.Struct("<QQ"), struct.Struct("<I")
CALLS = struct.Struct("<64QQII")
SPREAD = struct.Struct("<4I")
AT_ONCE, OF_THREAD = 64, 1 << 63
_TGID, _LONG = struct.Struct("<I"), struct.Struct("<Q")
_LOOKUP = struct.Struct("<IIQQQ")  # union bpf_attr of BPF_MAP_LOOKUP_ELEM
_LOOKUP_ELEM = 1
_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, -1)
_MAX_READ = 1 << 20
_MAX_CGROUPS = 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Handed(msgspec.Struct, frozen=True):
    """Descriptors that the agent hands over: maps, and the file of a `Numbered`. names: of all bits
    of labels."""

    labelled: int
    spread: int
    acting: int
    running: int
    tools: int
    numbered: int
    names: tuple[str, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        maps = self.labelled, self.spread, self.acting, self.running, self.tools
        return *maps, self.numbered


class Numbered:
    """The agent's side: tools, each with its number, from 1 on."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("hullwatch-tools", os.MFD_CLOEXEC)

    def add(self, name: str, server: str) -> None:
        """The next number is this tool's."""
        os.write(self.fd, msgspec.json.encode((name, server)) + b"\n")

    def close(self) -> None:
        os.close(self.fd)


class Carried:
    """For one thread. What cannot be read is nothing: no labels, no call."""

    def __init__(self, handed: Handed) -> None:
        self._handed = handed
        self._root = find_v2_root() or ""
        self._cgroups: dict[str, tuple[int, ...]] = {}
        self._tools: list[tuple[str, str]] = []
        self._read = 0  # bytes of the tools' file
        self.facts: Mapping[str, Callable[[int], Value | None]] = {
            "labels": self.labels,
            "tool_call": lambda thread: self._tool(thread)[0] or None,
            "server": lambda thread: self._tool(thread)[1] or None,
        }
        """What policies may read of a thread."""

    def labels(self, thread: int) -> tuple[str, ...]:
        bits = self.bits(process_of(thread)) | self._spread(thread)
        return tuple(name for bit, name in enumerate(self._handed.names) if bits >> bit & 1)

    def bits(self, process: int) -> int:
        found = _lookup(self._handed.labelled, _TGID.pack(process), LABELLED)
        return int(found[2]) if found else 0

    def _spread(self, thread: int) -> int:
        """What all of its container is taken to carry (carried_by_all in kernel/guard.h): labels
        that there was no room for."""
        path, bits = cgroup_path(cgroup_text(thread)), 0
        if path not in self._cgroups:
            if len(self._cgroups) >= _MAX_CGROUPS:
                self._cgroups.clear()
            self._cgroups[path] = self._ids(path)
        for ident in self._cgroups[path]:
            if found := _lookup(self._handed.spread, _LONG.pack(ident), SPREAD):
                bits |= found[1]
        return bits

    def _ids(self, path: str) -> tuple[int, ...]:
        """Of the cgroup, and of all above it but the root."""
        found = []
        while path.strip("/"):
            with contextlib.suppress(OSError):
                found.append(os.stat(self._root + path).st_ino)
            path = path.rpartition("/")[0]
        return tuple(found)

    def call(self, thread: int, process: int) -> int:
        """Its id; 0: none, or several at once. As span_of in kernel/span.h."""
        said = self._served(OF_THREAD | thread)
        if said:
            return said[0] if len(said) == 1 else 0
        acting = _lookup(self._handed.acting, _TGID.pack(process), ACTING)
        if not acting:
            return 0
        span, server = acting
        said = self._served(server) if server else ()
        if said:
            return said[0] if len(said) == 1 else 0
        return int(span)

    def _served(self, actor: int) -> tuple[int, ...]:
        found = _lookup(self._handed.running, _LONG.pack(actor), CALLS)
        return tuple(int(one) for one in found[:AT_ONCE] if one) if found else ()

    def _tool(self, thread: int) -> tuple[str, str]:
        call = self.call(thread, process_of(thread))
        found = _lookup(self._handed.tools, _LONG.pack(call), TOOL) if call else ()
        number = int(found[0]) if found else 0
        if number > len(self._tools):
            self._learn()
        return self._tools[number - 1] if 0 < number <= len(self._tools) else ("", "")

    def _learn(self) -> None:
        data = os.pread(self._handed.numbered, _MAX_READ, self._read)
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return  # it is being written
            self._read += len(line)
            self._tools.append(msgspec.json.decode(line, type=tuple[str, str]))


def process_of(thread: int) -> int:
    """Its thread group; 0 where it has ended."""
    try:
        said = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return 0
    for line in said.split(b"\n"):
        if line.startswith(b"Tgid:"):
            return int(line[5:])
    return 0


def _lookup(fd: int, key: bytes, value: struct.Struct) -> tuple[int, ...]:
    """Of a hash map; () where it is not there."""
    given = ctypes.create_string_buffer(key, len(key))
    found = ctypes.create_string_buffer(value.size)
    attr = _LOOKUP.pack(fd, 0, ctypes.addressof(given), ctypes.addressof(found), 0)
    if _libc.syscall(_BPF, _LOOKUP_ELEM, attr, len(attr)) != 0:
        return ()
    return value.unpack(found.raw)
