"""Does the sensor see? Do one harmless thing of each family and look for its event.

Everything is real: the programs are loaded, the actions are done by a child process, and what
comes out of the rings is compared with what was done.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.programs import Programs, RingSizes
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.tap import Piece
from hullwatch.sensor.tier import Facts, Tier
from hullwatch.sensor.wire import Class, TapWhat

__all__ = ["Check", "Report", "check"]

_DEADLINE = 5.0


class Check(NamedTuple):
    """One action: what was done, whether its event came, and after how many ms."""

    name: str
    seen: bool
    milliseconds: float


class Report(NamedTuple):
    facts: Facts
    checks: tuple[Check, ...]
    losses: int
    skipped: tuple[str, ...]


_ACTIONS = """
import os, socket, sys
os.read(0, 4096)
path, port = sys.argv[1], int(sys.argv[2])
open(path + '/made', 'w').close()
os.rename(path + '/made', path + '/moved')
os.chmod(path + '/moved', 0o600)
os.unlink(path + '/moved')
s = socket.create_connection(('127.0.0.1', port)); s.close()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('127.0.0.1', port)); u.close()
os.close(os.memfd_create('hullwatch-check'))
"""

# What a client asks an MCP server for, over standard input.
_REQUEST = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"check","arguments":{}}}\n'
)
_CALL = "tool call read from a pipe"

# name -> (event class, what the object ends in)
_EXPECT = {
    "process start": (Class.EXEC, ""),
    "process end": (Class.EXIT, ""),
    "file open": (Class.OPEN, "/made"),
    "file rename": (Class.RENAME, "/made"),
    "file chmod": (Class.CHMOD, "/moved"),
    "file unlink": (Class.UNLINK, "/moved"),
    "connection": (Class.CONNECT, ":{port}"),
    "datagram": (Class.SEND, ":{port}"),
    "sensitive call (memfd_create)": (Class.MEMFD, "hullwatch-check"),
}


def check(tier: Tier | None = None) -> Report:
    """Load, act, look. Raises SensorError where no sensor can be loaded."""
    sensor = Sensor(record=True, tier=tier, rings=RingSizes(tap=1 << 16))
    try:
        return _check(sensor, sensor._programs)
    finally:
        sensor.close()


def _check(sensor: Sensor, programs: Programs) -> Report:
    dictionary = Dictionary()
    sensor.start()
    sensor.tap.start()
    dictionary.add(sensor.drain().strings)
    with (
        tempfile.TemporaryDirectory(prefix="hullwatch-check-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        port = server.getsockname()[1]
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        command = [sys.executable, "-I", "-c", _ACTIONS, os.path.realpath(folder), str(port)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert child.stdin
        child.stdin.write(_REQUEST)
        child.stdin.close()
        seen, losses = _look(sensor, dictionary, child, port, began)
    checks = tuple(Check(name, name in seen, seen.get(name, 0.0)) for name in (*_EXPECT, _CALL))
    return Report(sensor.facts, checks, losses, tuple(programs.skipped))


def _look(
    sensor: Sensor, dictionary: Dictionary, child: subprocess.Popen[bytes], port: int, began: int
) -> tuple[dict[str, float], int]:
    seen: dict[str, float] = {}
    losses = 0
    deadline = time.monotonic() + _DEADLINE

    def heard(pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            if piece.what == TapWhat.BEGAN and piece.tgid == child.pid:
                seen.setdefault(_CALL, (piece.ts - began) / 1e6)

    sensor.on_pieces = heard
    while len(seen) <= len(_EXPECT) and time.monotonic() < deadline:
        sensor.wait(0.05)
        batch = sensor.drain()
        dictionary.add(batch.strings)
        losses += sum(loss.count for loss in batch.losses)
        child.poll()
        for event in batch.events:
            if int(event["proc"]) & 0x3FFFFF != child.pid:
                continue
            text = dictionary.text(int(event["obj"]))
            for name, (cls, end) in _EXPECT.items():
                if event["cls"] == cls and text.endswith(end.format(port=port)):
                    seen.setdefault(name, (int(event["ts"]) - began) / 1e6)
    child.wait()
    return seen, losses
