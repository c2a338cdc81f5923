"""Where gateways and workloads tell of their calls: a Unix socket that any user may speak to.

A peer speaks for itself only, and as long as its process lives. Who it is, the kernel says
(SO_PEERCRED, and a pidfd from then on), and a thread has to be one of its own. A call is in the
kernel before its `begin` is answered, so whoever waits for the answer before going on has
everything attributed. Lines of JSON both ways:

    {"serve": NAME}                         this process, and what it starts, is a server
    {"serve": NAME, "port": PORT}           ... and so is what listens there, in its own network
    {"served": true}                        ... but not this process itself
    {"begin": CALL, "scope": "server"}      scope: server | process | thread (with "tid")
    {"end": CALL}
    {"labels": true}                        what it and its server's processes carry
    {"workload": true}                      which container it is in
    {"signal": SIGNAL}
    {"said": SAID}                          redacted content of a call that runs; no answer to this,
                                            to end and signal, but with "answer": true

The answer to `labels` has them: names, or null where nobody follows what these processes read.

That to `workload` has it, as policies know it: {"name": ..., "container": ID, "about": {...}}, or
null on the host and while it is not known.

Where the peer's workload was chosen for it, the answer to `begin` has `content`: the bytes of an
item that are kept.

One thread, no asyncio. Bounds: connections, in all and of one user; a user's lines a second; bytes
of a line and of a call's attributes; calls at once; threads of a peer. A fault costs its peer only.
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

from hullwatch.agent import semconv
from hullwatch.agent.content import Content
from hullwatch.agent.report import Said, Whose
from hullwatch.context.call import MAX_ATTRIBUTES, MAX_TEXT, Call, Signal
from hullwatch.context.calls import Calls
from hullwatch.context.cgroupfs import cgroup_id, find_v2_root
from hullwatch.context.told import told_call, told_signal
from hullwatch.sensor.spans import Spans
from hullwatch.sensor.told import ToldQueue
from hullwatch.sensor.wire import OF_THREAD

__all__ = ["Reports", "is_outside"]

_UCRED = struct.Struct("3i")
_LINE_MAX = 64 << 10
_CLIENTS_MAX = 256
_OF_ONE_USER = 64  # of root too: it is a limit for mistakes
_SKEW = 5 * 10**9  # ns: a time further from ours is not believed
_THREADS_MAX = 64  # of one peer, that speak for themselves at once
_LINES_A_SECOND, _BURST = 2_000.0, 8_000.0  # of one user
_SERVED_FRESH = 0.02  # s: whoever asks often must not make us go through all processes each time
_ATTRIBUTES_MAX = 4_096  # bytes of a call's
_MOST = (1 << 63) - 1
_SAID = frozenset((semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT))


class Begin(msgspec.Struct):
    begin: Call
    scope: str = "server"
    tid: int = 0


class _Refused(Exception):
    """Of a request: what the peer is told."""


class _Peer:
    """One connection. open: its calls that run, with the actor that serves each. marked: processes
    that were named as its server's. pidfd: tells when its process ends."""

    def __init__(self, sock: socket.socket, pid: int, uid: int) -> None:
        self.sock, self.pid, self.uid = sock, pid, uid
        self.pidfd = os.pidfd_open(pid)  # OSError: it has ended already
        self.gone = False
        self.name = ""
        self.cgroup = _cgroup_of(pid)
        self.request = b""
        self.longest = _LINE_MAX
        self.server = 0
        self.marked: set[int] = set()
        self.threads: dict[int, int] = {}  # tid of the host -> actor
        self.open: dict[int, tuple[int, Call]] = {}


class _Allowance:
    """Lines that one user may still send."""

    def __init__(self) -> None:
        self.left, self.at = _BURST, time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self.left = min(_BURST, self.left + (now - self.at) * _LINES_A_SECOND)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Reports:
    """Serve `path` until `close`; OSError where that cannot be. refused: what was not taken."""

    def __init__(
        self,
        path: Path,
        spans: Spans,
        calls: Calls,
        told: ToldQueue,
        behind: Callable[[int, int], Iterable[int]] = lambda pid, port: (),
        leave_out: Callable[[int], None] = lambda pid: None,
        content: Content | None = None,
        labels: Callable[[set[int], set[int]], tuple[str, ...] | None] = lambda roots, all: None,
        whose: Callable[[int], Whose | None] = lambda cgroup: None,
    ) -> None:
        """behind: the processes that serve a port, as a process (tgid) sees ports. leave_out: a
        gateway's own process (tgid), for the tap: its server's calls are told already. content:
        takes what is said in calls of chosen workloads. labels: what processes
        carry, of these and of those that they descend from (roots); None: not known. whose: the
        container of a cgroup."""
        self.path = path
        self._content = content
        self._labels = labels
        self._whose = whose
        self._leave_out = leave_out
        self._spans, self._calls, self._told, self._behind = spans, calls, told, behind
        self._peers: dict[int, _Peer] = {}
        self._allowances: dict[int, _Allowance] = {}
        self._served: tuple[float, dict[int, list[int]]] = (0.0, {})  # when asked, by server
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
                try:
                    self._attend(key)
                except Exception:  # whatever a peer made of it: the others are still heard
                    self.refused["faults"] += 1
                    if isinstance(key.data, _Peer):
                        self._drop(key.data)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            self._accept()
        elif isinstance(key.data, _Peer):
            if key.fileobj == key.data.pidfd:
                self._drop(key.data)  # its number may be another's by now
            else:
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
            try:
                peer = _Peer(sock, pid, uid)
            except OSError:
                sock.close()
                return
            self._peers[sock.fileno()] = peer
            self._selector.register(sock, selectors.EVENT_READ, peer)
            self._selector.register(peer.pidfd, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(_LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        peer.request += data
        allowance = self._allowances.setdefault(peer.uid, _Allowance())
        while b"\n" in peer.request and not peer.gone:
            line, _, peer.request = peer.request.partition(b"\n")
            if not allowance.take():
                self.refused["too_fast"] += 1
                self._drop(peer)
                return
            self._take(peer, line)
        if not data or len(peer.request) > peer.longest:
            self._drop(peer)

    def _take(self, peer: _Peer, line: bytes) -> None:
        answer: dict[str, Any] = {"ok": True}
        asked = True
        try:
            request = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            asked = "answer" in request or not request.keys() & {"end", "signal", "said"}
            self._handle(peer, request, line)
            if "begin" in request:
                answer |= self._content_of(peer)
            elif "labels" in request:
                answer["labels"] = self._labels_of(peer)
            elif "workload" in request:
                answer["workload"] = self._whose(peer.cgroup) if peer.cgroup else None
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
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
        elif "said" in request:
            self._said(peer, msgspec.json.decode(request["said"], type=Said))
        elif "signal" in request:
            self._signal(peer, msgspec.json.decode(request["signal"], type=Signal))
        elif "serve" in request:
            self._be_server(peer, msgspec.json.decode(request["serve"], type=str))
            if "port" in request:
                self._stand_before(peer, msgspec.json.decode(request["port"], type=int))
        elif "served" in request:
            self._unmark(peer, peer.pid)
            self._leave_out(peer.pid)
        elif not request.keys() & {"labels", "workload"}:
            raise _Refused("say begin, end, signal, serve, served, labels or workload")

    def _labels_of(self, peer: _Peer) -> tuple[str, ...] | None:
        """Of the peer itself, too: it has read what its client and its server wrote."""
        now = time.monotonic()
        if peer.server and now - self._served[0] > _SERVED_FRESH:
            self._served = now, self._spans.serving()
        roots = {peer.pid, *peer.marked}
        return self._labels(roots, roots.union(self._served[1].get(peer.server, ())))

    def _be_server(self, peer: _Peer, name: str) -> None:
        peer.name = name[:MAX_TEXT]
        peer.server = peer.server or self._spans.new_server()
        if not peer.server or not self._mark(peer, peer.pid):
            raise _Refused("too many servers")

    def _mark(self, peer: _Peer, tgid: int) -> bool:
        marked = self._spans.serves(tgid, peer.server)
        peer.marked.add(tgid)
        if _uid_of(tgid) < 0:  # it ended meanwhile, and will not take the mark with it
            self._unmark(peer, tgid)
        return marked

    def _unmark(self, peer: _Peer, tgid: int) -> None:
        peer.marked.discard(tgid)
        self._spans.forget(tgid, peer.server)

    def _stand_before(self, peer: _Peer, port: int) -> None:
        """Another user's server is not this peer's to name; root may be before anybody's."""
        for tgid in self._behind(peer.pid, port):
            owner = _uid_of(tgid)
            if owner >= 0 and peer.uid in (0, owner) and self._mark(peer, tgid):
                self.taken["servers"] += 1

    def _begin(self, peer: _Peer, request: Begin) -> None:
        call = msgspec.structs.replace(_checked(request.begin), end=0, status="")
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
        if known is not None:
            call = msgspec.structs.replace(call, begin=known.begin)
        peer.open[call.id] = actor, call
        self._calls.put(call)
        self._told.put(told_call(call))
        self.taken["calls"] += known is None

    def _actor(self, peer: _Peer, request: Begin) -> int:
        if request.scope == "server" and peer.server:
            return peer.server
        if request.scope == "process":
            if peer.pid not in peer.marked:
                self._be_server(peer, peer.name)
            return peer.server
        if request.scope == "thread":
            tid = _host_tid(peer.pid, request.tid)
            if not tid:
                raise _Refused("no such thread of this process")
            actor = peer.threads.get(tid, 0)
            if not actor and len(peer.threads) < _THREADS_MAX:
                actor = self._spans.add_thread(tid)
            if not actor:
                raise _Refused("too many threads")
            peer.threads[tid] = actor
            return actor
        raise _Refused("scope is server (after serve), process or thread")

    def _end(self, peer: _Peer, call: Call) -> None:
        actor, known = peer.open.pop(call.id, (0, call))
        if not actor:
            raise _Refused("no such call")
        self._spans.end(actor, call.id)
        if actor & OF_THREAD and not any(one == actor for one, _ in peer.open.values()):
            # Threads come and go, and their numbers are used again.
            self._spans.drop_actor(actor)
            peer.threads = {tid: one for tid, one in peer.threads.items() if one != actor}
        now = time.time_ns()
        said = _bounded(call)
        ended = msgspec.structs.replace(
            said,
            kind=known.kind,
            source=known.source,
            name=said.name or known.name,
            begin=known.begin,
            end=max(call.end if abs(call.end - now) < _SKEW else now, known.begin),
            status=call.status or "ok",
            pid=known.pid,
            cgroup=known.cgroup,
            server=said.server or known.server,
        )
        self._calls.put(ended)
        self._told.put(told_call(ended))

    def _content_of(self, peer: _Peer) -> dict[str, int]:
        if self._content is None or self._content.wants(peer.cgroup) is False:
            return {}
        limit = self._content.limit
        peer.longest = _LINE_MAX + 2 * limit  # as JSON in JSON
        return {"content": limit}

    def _said(self, peer: _Peer, said: Said) -> None:
        """What a gateway has redacted is redacted again: it is a peer's word like others."""
        if self._content is None or said.call not in peer.open or said.name not in _SAID:
            raise _Refused("nothing is kept of this call")
        if said.lost:
            self._content.drop("incomplete")
        else:
            data = said.text.encode("utf-8", "replace")
            self._content.put(peer.cgroup, said.call, said.name, data, time.time_ns())

    def _signal(self, peer: _Peer, signal: Signal) -> None:
        server = signal.server or peer.name
        cut = msgspec.structs.replace(
            signal,
            kind=signal.kind[:64],
            subject=signal.subject[:MAX_TEXT],
            detail=signal.detail[:MAX_TEXT],
            server=server[:MAX_TEXT],
            time=signal.time if abs(signal.time - time.time_ns()) < _SKEW else time.time_ns(),
            call=signal.call if self._may_name(peer, signal.call) else 0,
        )
        self._told.put(told_signal(cut, peer.pid, peer.cgroup))
        self.taken["signals"] += 1

    def _may_name(self, peer: _Peer, ident: int) -> bool:
        """Its own call, or one that is about to begin."""
        known = self._calls.get(ident)
        return 0 < ident <= _MOST and (known is None or known.pid == peer.pid)

    def _drop(self, peer: _Peer) -> None:
        """It is gone: what it left running is over, as far as anybody knows."""
        if peer.gone:
            return
        peer.gone = True
        del self._peers[peer.sock.fileno()]
        now = time.time_ns()
        for ident, (actor, call) in peer.open.items():
            self._spans.end(actor, ident)
            lost = msgspec.structs.replace(call, end=max(now, call.begin), status="lost")
            self._calls.put(lost)
            self._told.put(told_call(lost))
        for tgid in tuple(peer.marked):
            self._unmark(peer, tgid)
        for actor in (*peer.threads.values(), *((peer.server,) if peer.server else ())):
            self._spans.drop_actor(actor)
        self._selector.unregister(peer.sock)
        self._selector.unregister(peer.pidfd)
        peer.sock.close()
        os.close(peer.pidfd)
        if not any(one.uid == peer.uid for one in self._peers.values()):
            self._allowances.pop(peer.uid, None)


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
    begin = call.begin if abs(call.begin - now) < _SKEW else now
    return msgspec.structs.replace(_bounded(call), begin=begin)


def _bounded(call: Call) -> Call:
    """Its texts, numbers and attributes within what is kept."""
    attributes: dict[str, Any] = {}
    room = _ATTRIBUTES_MAX
    for name, value in list(call.attributes.items())[:MAX_ATTRIBUTES]:
        kept = value[:MAX_TEXT] if isinstance(value, str) else value
        if isinstance(kept, int | float) and not -_MOST <= kept <= _MOST:
            continue
        room -= len(name[:MAX_TEXT].encode()) + len(str(kept).encode("utf-8", "replace"))
        if room < 0:
            break
        attributes[name[:MAX_TEXT]] = kept
    return msgspec.structs.replace(
        call,
        name=call.name[:MAX_TEXT],
        server=call.server[:MAX_TEXT],
        client=call.client[:MAX_TEXT],
        error=call.error[:MAX_TEXT],
        parent=call.parent if 0 <= call.parent <= _MOST else 0,
        request_bytes=min(max(call.request_bytes, 0), _MOST),
        response_bytes=min(max(call.response_bytes, 0), _MOST),
        attributes=attributes,
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


def is_outside(pid: int) -> bool:
    """Whether a process is in no pid namespace below ours, as one of a container is. One that has
    ended is nowhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    spaces = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return len(spaces) <= 1


def _host_tid(pid: int, tid: int) -> int:
    """The host's number of a thread that has this one in its own pid namespace; 0: it has none."""
    for path in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for line in (path / "status").read_text().splitlines():
                if line.startswith("NSpid:") and int(line.split()[-1]) == tid:
                    return int(path.name)
    return 0
