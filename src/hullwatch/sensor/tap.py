"""The tap's side in user space: pieces of what processes read and write, as the kernel sends them.

See kernel/tap.h. Which calls are listened to is the table here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.ring import Ring
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.wire import TAP_HEADER, TAP_KEY, TapKind, TapWhat

__all__ = ["Piece", "Tap", "token_hash"]

_HEADER = struct.Struct("<6Q3I6H16s")
_KEY = struct.Struct("<QII")
assert _HEADER.size == TAP_HEADER.itemsize and _KEY.size == TAP_KEY.itemsize
_PID_MASK = (1 << 22) - 1
_WANTED, _UNWANTED = struct.pack("<I", 1), struct.pack("<I", 2)
_LEFT_OUT = (1 << 64) - 1
_MOST_BYTES = 256 << 10  # of one turn, so that events do not wait long: the rest is for the next

# name: (x86-64, arm64, shape, received); shapes: kernel/tap.bpf.c. Numbers: see syscalls.py.
_BUFFER, _VECTOR, _MESSAGE = 1, 2, 3
_CALLS: dict[str, tuple[int, int, int, bool]] = {
    "read": (0, 63, _BUFFER, True),
    "write": (1, 64, _BUFFER, False),
    "readv": (19, 65, _VECTOR, True),
    "writev": (20, 66, _VECTOR, False),
    "sendto": (44, 206, _BUFFER, False),
    "recvfrom": (45, 207, _BUFFER, True),
    "sendmsg": (46, 211, _MESSAGE, False),
    "recvmsg": (47, 212, _MESSAGE, True),
}


class Piece(NamedTuple):
    """ts: CLOCK_BOOTTIME ns. what: TapWhat; kind: TapKind. call: of DATA, what the process acts
    for (a span, as an event's); of BEGAN, the call that the kernel made of a `tools/call` with the
    id whose `token_hash` is ident. total: bytes that were moved from here on; those above
    len(data) are missing. received: by the process. address: of the remote end, packed."""

    ts: int
    stream: int
    tgid: int
    tid: int
    cgroup: int
    call: int
    ident: int
    total: int
    what: int
    kind: int
    received: bool
    port: int
    local_port: int
    address: bytes
    data: bytes


class Tap:
    """Not for several threads. Off (`on` False) there is nothing to take."""

    def __init__(self, programs: Programs, spans: Spans) -> None:
        self._programs, self._spans = programs, spans
        self._ring = Ring(programs.object.map("tap"))
        self._wanted = programs.object.map("tap_wanted")
        self._tapped = programs.object.map("tapped")
        self._acting = programs.object.map("acting")
        self.on = False
        self.behind = False
        """Whether the last `take` left something that had been there before it."""
        self.fd = self._ring.fd

    def start(self) -> None:
        """Listen. BpfError where the kernel does not let us."""
        at = 0 if os.uname().machine == "x86_64" else 1
        calls = self._programs.object.map("tap_calls")
        for row in _CALLS.values():
            calls.update(struct.pack("<I", row[at]), struct.pack("<BBxx", row[2], row[3]))
        self._programs.set(tap=1, calls=1)
        self._programs.attach_tap()
        self.on = True

    def fill(self) -> float:
        return self._ring.waiting() / self._ring.size

    def take(self) -> Iterator[Piece]:
        self.behind = self._ring.waiting() > _MOST_BYTES
        for record in self._ring.take_variable(_MOST_BYTES):
            fields = _HEADER.unpack_from(record)
            ts, stream, proc, cgroup, call, ident, tid, total, length = fields[:9]
            what, kind, received, family, port, local_port, address = fields[9:]
            yield Piece(
                ts=ts,
                stream=stream,
                tgid=proc & _PID_MASK,
                tid=tid,
                cgroup=cgroup,
                call=call,
                ident=ident,
                total=total,
                what=what,
                kind=kind,
                received=bool(received),
                port=port,
                local_port=local_port,
                address=_address(family, address),
                data=bytes(record[_HEADER.size : _HEADER.size + length]),
            )

    def want(self, stream: int, tgid: int, wanted: bool) -> None:
        """All of a stream from now on, or no more of it."""
        self._wanted.update(_KEY.pack(stream, tgid, 0), _WANTED if wanted else _UNWANTED)

    def forget(self, stream: int, tgid: int) -> None:
        self._wanted.delete(_KEY.pack(stream, tgid, 0))

    def leave_out(self, tgid: int) -> None:
        """A gateway of ours, that tells of its calls itself: for as long as it lives."""
        self._tapped.update(struct.pack("<I", tgid), struct.pack("<Q", _LEFT_OUT))

    def begin(self, tgid: int, call: int) -> bool:
        """What the kernel did not see to be a call begins late. False: somebody else tells of this
        process's calls, or there is no room."""
        key = struct.pack("<I", tgid)
        found = self._tapped.lookup(key)
        if found is None:  # it has ended
            return False
        actor = int.from_bytes(found, "little")
        acts = self._acting.lookup(key)
        server = int.from_bytes(acts[8:16], "little") if acts else 0
        if actor == _LEFT_OUT or server not in (0, actor):
            return False
        try:
            if not actor:
                actor = self._spans.new_server()
                self._tapped.update(key, struct.pack("<Q", actor))
        except BpfError:
            return False
        if not actor or (not server and not self._spans.serves(tgid, actor)):
            return False
        return self._spans.begin(actor, call)

    def end(self, tgid: int, call: int) -> None:
        """A call is over, if the kernel has not seen so."""
        found = self._tapped.lookup(struct.pack("<I", tgid))
        if found is not None:
            self._spans.end(int.from_bytes(found, "little"), call)


def token_hash(ident: str | int | float | None) -> int:
    """What the kernel makes of a JSON-RPC id as it stands in the text (FNV-1a, with the quote that
    a string begins with); 0: there is none."""
    if ident is None:
        return 0
    token = f'"{ident}' if isinstance(ident, str) else str(ident)
    value = 0xCBF29CE484222325
    for byte in token.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def _address(family: int, raw: bytes) -> bytes:
    """4 bytes of IPv4, 16 of IPv6, none of anything else."""
    return {2: raw[:4], 10: raw}.get(family, b"")


assert TapWhat.DATA == 1 and TapKind.PIPE == 1
