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
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from hullwatch import privileges
from hullwatch.sensor.uprobes import Answer, Probe, Reading, Uprobes

__all__ = ["Prober"]

KEPT = ("DAC_READ_SEARCH", "SYS_PTRACE", "SYS_ADMIN")
"""Files of any user; which code a process runs; opening exactly that, and hooking it."""
MAX_WAITING = 8192  # pids
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


class Prober:
    """programs: name -> descriptor, of kernel/tls.bpf.c. Not for several threads.

    alive: False once the process has ended, which is for good. refused: pids not looked at.
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
            told = json.loads(said)
            if "counts" in told:
                self.counts, self.failures = told["counts"], told["failures"]
            else:
                kinds, opaque = tuple(told["kinds"]), tuple(told["opaque"])
                yield Answer(told["pid"], Reading(told["state"], kinds, opaque))

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
    waiting: deque[int] = deque()
    queued: set[int] = set()
    told: dict[str, int] = {}
    while True:
        if not select.select([agent], [], [], 0 if waiting else 1.0)[0]:
            if not waiting:
                counts, failures = uprobes.counts(), uprobes.failures()
                if counts | failures != told and _answer(
                    agent, {"counts": counts, "failures": failures}
                ):
                    told = counts | failures
                continue
        else:
            said = agent.recv(_PID.size)
            if len(said) != _PID.size:
                return
            (pid,) = _PID.unpack(said)
            if pid < 0:
                uprobes.ended(-pid)
            elif pid not in queued and len(waiting) < MAX_WAITING:
                waiting.append(pid)
                queued.add(pid)
            if len(waiting) < 64 and select.select([agent], [], [], 0)[0]:
                continue  # take what has come, so that the agent's socket is not full
        if waiting:
            pid = waiting.popleft()
            queued.discard(pid)
            _answer(agent, {"pid": pid, **uprobes.look_now(pid)._asdict()})


def _answer(agent: socket.socket, said: dict[str, object]) -> bool:
    data = json.dumps(said).encode()
    with contextlib.suppress(OSError):  # it will see by itself that the agent has ended
        return agent.send(data[: 1 << 16]) > 0
    return False


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
