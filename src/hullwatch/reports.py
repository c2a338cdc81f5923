"""Where gateways and workloads tell of their calls: a Unix socket that any user may speak to.

A peer speaks for itself only. Who it is, the kernel says (SO_PEERCRED), and a thread has to be one
of its own. A call is in the kernel before its `begin` is answered, so whoever waits for the answer
before going on has everything attributed. Lines of JSON both ways:

    {"serve": NAME}                         this process, and what it starts, is a server
    {"serve": NAME, "port": PORT}           ... and so is what listens there, in its own network
    {"served": true}                        ... but not this process itself
    {"begin": CALL, "scope": "server"}      scope: server | process | thread (with "tid")
    {"end": CALL}
    {"signal": SIGNAL}                      no answer to this and to end, unless with "answer": true

One thread, no asyncio. Bounds: connections, of them by one user, bytes of a line, calls at once.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.context.call import MAX_ATTRIBUTES, MAX_TEXT, Call, Signal
from hullwatch.context.calls import Calls
from hullwatch.context.cgroupfs import cgroup_id, find_v2_root
from hullwatch.context.told import told_call, told_signal
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.told import ToldQueue
from hullwatch.sensor.wire import OF_THREAD

__all__ = ["Reports"]

_UCRED = struct.Struct("3i")
_LINE_MAX = 64 << 10
_CLIENTS_MAX = 256
_OF_ONE_USER = 64  # of root too: it is a limit for mistakes
_SKEW = 5 * 10**9  # ns: a time further from ours is not believed


class Begin(msgspec.Struct):
    begin: Call
    scope: str = "server"
    tid: int = 0


class _Refused(Exception):
    """Of a request: what the peer is told."""


class _Peer:
    """One connection. open: its calls that run, with the actor that serves each."""

    def __init__(self, sock: socket.socket, pid: int, uid: int) -> None:
        self.sock, self.pid, self.uid = sock, pid, uid
        self.name = ""
        self.cgroup = _cgroup_of(pid)
        self.request = b""
        self.server = 0
        self.acts = False  # for itself, as a process
        self.threads: dict[int, int] = {}  # tid of the host -> actor
        self.open: dict[int, int] = {}


class Reports:
    """Serve `path` until `close`; OSError where that cannot be. refused: what was not taken."""

    def __init__(
        self,
        path: Path,
        spans: Spans,
        calls: Calls,
        told: ToldQueue,
        behind: Callable[[int, int], Iterable[int]] = lambda pid, port: (),
    ) -> None:
        """behind: the processes that serve a port, as a process (tgid) sees ports."""
        self.path = path
        self._spans, self._calls, self._told, self._behind = spans, calls, told, behind
        self._peers: dict[int, _Peer] = {}
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._running = True
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # whatever the umask
        _make_way(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o111)  # anybody may speak: of itself
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="reports", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._running = False
        os.write(self._wake_out, b"x")
        self._thread.join(5)
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()
        self._listener.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def stats(self) -> dict[str, int]:
        """For `status`."""
        return {
            "peers": len(self._peers),
            "running": sum(len(peer.open) for peer in list(self._peers.values())),
            "known": len(self._calls),
            **{f"taken_{name}": count for name, count in self.taken.items()},
            **{f"refused_{name}": count for name, count in self.refused.items()},
            **{f"no_room_{name}": count for name, count in self._spans.refused.items()},
        }

    # --- the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        while self._running:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Peer):
                    self._read(key.data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            pid, uid, _gid = _UCRED.unpack(credentials)
            same = sum(peer.uid == uid for peer in self._peers.values())
            if len(self._peers) >= _CLIENTS_MAX or same >= _OF_ONE_USER or pid <= 0:
                self.refused["connections"] += 1
                with contextlib.suppress(OSError):
                    sock.send(b'{"error": "too many connections"}\n')
                sock.close()
                return
            sock.setblocking(False)
            peer = self._peers[sock.fileno()] = _Peer(sock, pid, uid)
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(_LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.request += data
        while b"\n" in peer.request:
            line, _, peer.request = peer.request.partition(b"\n")
            self._take(peer, line)
        if not data or len(peer.request) > _LINE_MAX:
            self._drop(peer)

    def _take(self, peer: _Peer, line: bytes) -> None:
        answer: dict[str, Any] = {"ok": True}
        asked = True
        try:
            request = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            asked = "answer" in request or not ("end" in request or "signal" in request)
            self._handle(peer, request, line)
        except (msgspec.DecodeError, RecursionError) as error:
            self.refused["malformed"] += 1
            answer = {"error": f"not understood: {error}"[:MAX_TEXT]}
        except _Refused as error:
            self.refused["requests"] += 1
            answer = {"error": str(error)}
        if asked:
            try:
                peer.sock.send(msgspec.json.encode(answer) + b"\n")
            except OSError:  # it does not read what it asked for
                self._drop(peer)

    def _handle(self, peer: _Peer, request: dict[str, msgspec.Raw], line: bytes) -> None:
        if "begin" in request:
            self._begin(peer, msgspec.json.decode(line, type=Begin))
        elif "end" in request:
            self._end(peer, msgspec.json.decode(request["end"], type=Call))
        elif "signal" in request:
            self._signal(peer, msgspec.json.decode(request["signal"], type=Signal))
        elif "serve" in request:
            self._be_server(peer, msgspec.json.decode(request["serve"], type=str))
            if "port" in request:
                self._stand_before(peer, msgspec.json.decode(request["port"], type=int))
        elif "served" in request:
            self._spans.forget(peer.pid)
        else:
            raise _Refused("say begin, end, signal, serve or served")

    def _be_server(self, peer: _Peer, name: str) -> None:
        peer.name = name[:MAX_TEXT]
        peer.server = peer.server or self._spans.new_server()
        if not peer.server or not self._spans.serves(peer.pid, peer.server):
            raise _Refused("too many servers")

    def _stand_before(self, peer: _Peer, port: int) -> None:
        """Another user's server is not this peer's to name; root may be before anybody's."""
        for tgid in self._behind(peer.pid, port):
            owner = _uid_of(tgid)
            if owner >= 0 and peer.uid in (0, owner):
                self._spans.serves(tgid, peer.server)
                self.taken["servers"] += 1

    def _begin(self, peer: _Peer, request: Begin) -> None:
        call = _checked(request.begin)
        known = self._calls.get(call.id)
        if known is not None and (known.pid != peer.pid or known.name != call.name):
            raise _Refused("there is a call with this id")
        if call.id in peer.open:
            return
        # A call that takes several requests (`input_required`) goes on where it had ended.
        actor = self._actor(peer, request)
        if not self._spans.begin(actor, call.id):
            raise _Refused("too many calls at once")
        call = msgspec.structs.replace(
            call, pid=peer.pid, cgroup=peer.cgroup, server=call.server or peer.name
        )
        peer.open[call.id] = actor
        if known is not None:
            call = msgspec.structs.replace(call, begin=known.begin)
        self._calls.put(call)
        self._told.put(told_call(call))
        self.taken["calls"] += known is None

    def _actor(self, peer: _Peer, request: Begin) -> int:
        if request.scope == "server" and peer.server:
            return peer.server
        if request.scope == "process":
            if not peer.acts:
                self._be_server(peer, peer.name)
                peer.acts = True
            return peer.server
        if request.scope == "thread":
            tid = _host_tid(peer.pid, request.tid)
            if not tid:
                raise _Refused("no such thread of this process")
            actor = peer.threads.get(tid) or self._spans.add_thread(tid)
            if not actor:
                raise _Refused("too many threads")
            peer.threads[tid] = actor
            return actor
        raise _Refused("scope is server (after serve), process or thread")

    def _end(self, peer: _Peer, call: Call) -> None:
        actor = peer.open.pop(call.id, 0)
        known = self._calls.get(call.id)
        if not actor or known is None:
            raise _Refused("no such call")
        self._spans.end(actor, call.id)
        if actor & OF_THREAD and actor not in peer.open.values():
            # Threads come and go, and their numbers are used again.
            self._spans.drop_actor(actor)
            peer.threads = {tid: one for tid, one in peer.threads.items() if one != actor}
        call = _checked(call)
        ended = msgspec.structs.replace(
            call,
            begin=known.begin,
            end=max(call.end or time.time_ns(), known.begin),
            status=call.status or "ok",
            pid=known.pid,
            cgroup=known.cgroup,
            server=call.server or known.server,
        )
        self._calls.put(ended)
        self._told.put(told_call(ended))

    def _signal(self, peer: _Peer, signal: Signal) -> None:
        server = signal.server or peer.name
        cut = msgspec.structs.replace(
            signal,
            kind=signal.kind[:64],
            subject=signal.subject[:MAX_TEXT],
            detail=signal.detail[:MAX_TEXT],
            server=server[:MAX_TEXT],
        )
        self._told.put(told_signal(cut, peer.pid, peer.cgroup))
        self.taken["signals"] += 1

    def _drop(self, peer: _Peer) -> None:
        """It is gone: what it left running is over, as far as anybody knows."""
        if self._peers.pop(peer.sock.fileno(), None) is None:
            return
        now = time.time_ns()
        for ident, actor in peer.open.items():
            self._spans.end(actor, ident)
            self._calls.close(ident, now)
            if (call := self._calls.get(ident)) is not None:
                self._told.put(told_call(call))
        for actor in (*peer.threads.values(), *((peer.server,) if peer.server else ())):
            self._spans.drop_actor(actor)
        if peer.acts:
            self._spans.forget(peer.pid)
        self._selector.unregister(peer.sock)
        peer.sock.close()


def _make_way(path: Path) -> None:
    """Remove what an agent that was killed left; OSError if another agent listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except FileNotFoundError:
            return
        else:
            raise FileExistsError(f"{path}: another agent takes reports of calls there")


def _checked(call: Call) -> Call:
    """Within bounds, and of a time that can be true; raises _Refused."""
    if not 0 < call.id < 1 << 63:
        raise _Refused("an id is 1 to 2**63-1")
    if not call.name:
        raise _Refused("a call has a name")
    now = time.time_ns()
    attributes = dict(list(call.attributes.items())[:MAX_ATTRIBUTES])
    return msgspec.structs.replace(
        call,
        name=call.name[:MAX_TEXT],
        server=call.server[:MAX_TEXT],
        client=call.client[:MAX_TEXT],
        error=call.error[:MAX_TEXT],
        begin=call.begin if abs(call.begin - now) < _SKEW or call.end else now,
        attributes={
            name[:MAX_TEXT]: value[:MAX_TEXT] if isinstance(value, str) else value
            for name, value in attributes.items()
        },
    )


def _cgroup_of(pid: int) -> int:
    """v2 cgroup id of a process; 0 if it cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
        return cgroup_id(f"{find_v2_root() or ''}{path}")
    except (OSError, StopIteration):
        return 0


def _uid_of(pid: int) -> int:
    """-1: it has ended."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return -1


def _host_tid(pid: int, tid: int) -> int:
    """The host's number of a thread that has this one in its own pid namespace; 0: it has none."""
    for path in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for line in (path / "status").read_text().splitlines():
                if line.startswith("NSpid:") and int(line.split()[-1]) == tid:
                    return int(path.name)
    return 0
