"""Probes on TLS libraries, put there by a process of its own.

Looking into the files of other users' processes, and hooking them, takes rights that the agent
gives up when it watches. A small process keeps these few, is told of pids over a socket, and
answers with what can be read of each. When it ends, or the agent does, all probes are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from hullwatch import privileges
from hullwatch.sensor.uprobes import Answer, Probe, Reading, Uprobes

__all__ = ["Prober"]

KEPT = ("DAC_READ_SEARCH", "SYS_PTRACE", "SYS_ADMIN")
"""Files of any user; which code a process runs; opening exactly that, and hooking it."""
MAX_WAITING = 8192  # pids
MAX_FAILURES = 64  # reasons that are told
_AT_ONCE = 256
_PID = struct.Struct("<q")  # negative: it has ended
_PMU = Path("/sys/bus/event_source/devices/uprobe")
# include/uapi/linux/perf_event.h: PERF_ATTR_SIZE_VER1, _IO('$', 0), _IOW('$', 8, u32)
_ATTR = struct.Struct("<IIQQQQQIIQQ")
_CLOEXEC, _ENABLE, _SET_BPF = 8, 0x2400, 0x40042408
_OPEN = {"x86_64": 298, "aarch64": 241}
_libc = ctypes.CDLL(None, use_errno=True)


# With the agent's own path to modules, and nothing that the environment or a folder could add.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    f" from {__name__} import main; main()"
)


class _Said(msgspec.Struct):
    """A reading of a process, or (pid 0) counts."""

    pid: int = 0
    state: Literal["tapped", "opaque", "none"] = "none"
    kinds: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    failures: dict[str, int] = {}


class Prober:
    """programs: name -> descriptor, of kernel/tls.bpf.c. Not for several threads.

    alive: False once the process has ended, which is for good. refused: pids not looked at.
    misunderstood: answers that were none.
    """

    def __init__(self, programs: Mapping[str, int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        named = [f"{name}={fd}" for name, fd in programs.items()]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, _paths(), str(theirs.fileno()), *named],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *programs.values()],
                env={},
            )
        ours.setblocking(False)
        self._socket = ours
        self.alive = True
        self.refused = 0
        self.misunderstood = 0
        self.counts: dict[str, int] = {}
        self.failures: dict[str, int] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def look(self, pid: int) -> None:
        """A new program, or one that is about to speak TLS."""
        self._send(pid)

    def ended(self, pid: int) -> None:
        self._send(-pid)

    def take(self) -> Iterator[Answer]:
        """Answers since the last call."""
        while self.alive:
            try:
                said = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                self.alive = False
                return
            # It reads files of workloads: what it says is not believed further than this.
            try:
                told = msgspec.json.decode(said, type=_Said)
            except msgspec.DecodeError:
                self.misunderstood += 1
                continue
            if told.pid:
                yield Answer(told.pid, Reading(told.state, told.kinds, told.opaque))
            else:
                self.counts, self.failures = told.counts, told.failures

    def close(self) -> None:
        self._socket.close()
        self.alive = False
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # a file system that does not answer
            self._process.kill()
            self._process.wait()

    def _send(self, number: int) -> None:
        try:
            self._socket.send(_PID.pack(number))
        except BlockingIOError:
            self.refused += 1
        except OSError:
            self.alive = False


def _paths() -> str:
    return json.dumps([os.path.abspath(path) for path in sys.path])


# --- the process ----------------------------------------------------------------------------


class _Program:
    """A loaded program by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def attach_uprobe(self, path: str, offset: int, at_return: bool) -> Probe:
        """On all processes that run the file's code. OSError."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        kind = int((_PMU / "type").read_text())
        attr = _ATTR.pack(
            *(kind, _ATTR.size, int(at_return), 0, 0, 0, 0, 0, 0),
            *(ctypes.addressof(name), offset),
        )
        # Any process; the processor that has to be named means nothing then.
        fd = _libc.syscall(_OPEN[os.uname().machine], attr, -1, 0, -1, _CLOEXEC)
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"probe: {os.strerror(code)}")
        probe = _Probe(fd)
        for request, argument in ((_SET_BPF, self._fd), (_ENABLE, 0)):
            if _libc.ioctl(fd, request, argument) < 0:
                code = ctypes.get_errno()
                probe.close()
                raise OSError(code, f"probe: {os.strerror(code)}")
        return probe


class _Probe:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _serve(agent: socket.socket, uprobes: Uprobes) -> None:
    """Until the agent ends."""
    waiting: OrderedDict[int, None] = OrderedDict()
    told: object = None
    while True:
        # What has come is taken first, so that the agent's socket is not full.
        for _ in range(_AT_ONCE):
            if not select.select([agent], [], [], 0 if waiting else 1.0)[0]:
                break
            said = agent.recv(_PID.size)
            if len(said) != _PID.size:
                return
            (pid,) = _PID.unpack(said)
            if pid < 0:
                uprobes.ended(-pid)
                waiting.pop(-pid, None)
            elif len(waiting) < MAX_WAITING:
                waiting[pid] = None
        if waiting:
            pid, _ = waiting.popitem(last=False)
            _answer(agent, pid=pid, **uprobes.look(pid)._asdict())
        counts, failures = uprobes.counts(), uprobes.failures()
        if not waiting and (counts, failures) != told:
            told = counts, failures
            _answer(agent, counts=counts, failures=dict(list(failures.items())[:MAX_FAILURES]))


def _answer(agent: socket.socket, **said: object) -> None:
    with contextlib.suppress(OSError):  # that the agent has ended is seen by the next read
        agent.send(msgspec.json.encode(said))


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # a probe costs two
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    problems = privileges.keep_only(*KEPT)
    agent = socket.socket(fileno=int(sys.argv[1]))
    programs = {}
    for named in sys.argv[2:]:
        name, _, fd = named.partition("=")
        programs[name] = _Program(int(fd))
    if problems:
        sys.stderr.write(f"prober: {'; '.join(problems)}\n")
    uprobes = Uprobes(programs)
    try:
        _serve(agent, uprobes)
    except OSError as error:
        if error.errno not in (errno.ECONNRESET, errno.EPIPE):
            raise
