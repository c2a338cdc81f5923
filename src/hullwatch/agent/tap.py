"""The tap: pieces of what processes read and write become calls of tools and models.

Each stream is a `Connection`; a process's pipes are one together. A tool's call that the kernel saw
begin has its id from there, and was on events before this ran; what the kernel could not see begins
here, late. A call of a model is told when it is over, with the call it was made in.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.connection import Carried, Connection, Direction, Event, Opaque
from hullwatch.agent.content import Content
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.models.exchange import Spoken
from hullwatch.agent.secrets.canaries import Canaries, used
from hullwatch.agent.wire.mcp import ToolCall, ToolCallBegan
from hullwatch.agent.wire.said import Said
from hullwatch.context.call import AMBIGUOUS, Call, Signal, new_id
from hullwatch.sensor.tap import Piece, token_hash
from hullwatch.sensor.wire import TapKind, TapWhat

__all__ = ["SELF_HOSTED", "Kernel", "Listener"]

MAX_STREAMS = 4096
MAX_CARRIED = 256  # uses of canaries that are remembered so as not to be told again
MAX_PASSED_OVER = 8  # requests that were no calls, after which a connection is not listened to
SELF_HOSTED = "self_hosted"
"""The provider of a model at a private address whose host is nobody's we know."""
_COMPATIBLE = "_compatible"
_PATIENCE = 2 * 10**9  # ns that a call which only the kernel saw is believed
_PREFACE = b"PRI * HTTP/2"


class Kernel(Protocol):
    """What is asked of sensor/tap.py."""

    def want(self, stream: int, tgid: int, wanted: bool) -> None: ...
    def forget(self, stream: int, tgid: int) -> None: ...
    def begin(self, tgid: int, call: int) -> bool: ...
    def end(self, tgid: int, call: int) -> None: ...


class _Stream:
    """tgid: whose it is. open: calls that run, by their key in the connection. began: calls that
    the kernel saw, by the hash of their ids, until they are seen here."""

    def __init__(self, connection: Connection, piece: Piece) -> None:
        self.connection = connection
        self.stream, self.tgid, self.cgroup = piece.stream, piece.tgid, piece.cgroup
        self.port = piece.port
        self.remote = ipaddress.ip_address(piece.address) if piece.address else None
        self.open: dict[int, Call] = {}
        self.began: list[tuple[int, int, int]] = []  # id's hash, call, when
        self.judged = False
        self.within = 0  # what the process acted for when it asked last
        self.last: Call | None = None  # of a model, that was told last
        self.carried: dict[tuple[str, bool, int], None] = {}  # canaries that were told of


class Listener:
    """take: pieces in their order; what they tell goes to `tell`, each call as it begins and again
    as it ends. hasher: text -> keyed hash. content: takes what is said in calls of chosen
    workloads; None: nobody's is listened to. signal: is told of uses of `canaries`, with pid and
    cgroup. Not for several threads.

    heard, opaque: counts for `status`: of calls by their kind, and of what could not be read.
    """

    def __init__(
        self,
        kernel: Kernel,
        tell: Callable[[Call], None],
        hasher: Callable[[str], str],
        content: Content | None = None,
        canaries: Canaries | None = None,
        signal: Callable[[Signal, int, int], None] = lambda signal, pid, cgroup: None,
    ) -> None:
        self._kernel, self._tell, self._hasher = kernel, tell, hasher
        self._content = content
        self._canaries, self._signal = canaries, signal
        self._streams: OrderedDict[tuple[int, int], _Stream] = OrderedDict()
        self._offset = 0
        self.heard: Counter[str] = Counter()
        self.opaque: Counter[str] = Counter()
        self.mistaken = 0

    def take(self, pieces: Iterable[Piece], wall_offset: int) -> None:
        """wall_offset: unix time less CLOCK_BOOTTIME, ns."""
        self._offset = wall_offset
        for piece in pieces:
            if piece.what == TapWhat.BEGAN:
                self._of(piece).began.append((piece.ident, piece.call, piece.ts))
            elif piece.what == TapWhat.ENDED:
                if piece.kind == TapKind.PIPE:
                    continue  # what was asked is still answered, through the other pipe
                ended = self._streams.pop(_key(piece), None)
                if ended is not None:
                    self._close(ended, piece.ts + wall_offset)
            else:
                self._read(piece)

    def ended(self, tgids: Iterable[int], time: int) -> None:
        """These processes are over; time: unix ns."""
        gone = set(tgids)
        for key in [key for key in self._streams if key[0] in gone]:
            self._close(self._streams.pop(key), time)

    def stats(self) -> dict[str, int]:
        return {
            "streams": len(self._streams),
            "running": sum(len(one.open) for one in self._streams.values()),
            "mistaken": self.mistaken,
            **{f"heard_{kind}": count for kind, count in self.heard.items()},
            **{f"opaque_{reason}": count for reason, count in self.opaque.items()},
        }

    # --- streams --------------------------------------------------------------------------

    def _of(self, piece: Piece) -> _Stream:
        key = _key(piece)
        found = self._streams.get(key)
        anew = piece.data.startswith(_PREFACE)  # another connection at the same address
        if found is not None and not anew:
            self._streams.move_to_end(key)
            return found
        if found is not None:
            self._close(found, piece.ts + self._offset)
        server = str(ipaddress.ip_address(piece.address)) if piece.address else ""
        room = self._content.room(piece.cgroup) if self._content is not None else None
        connection = Connection(
            self._hasher,
            server=server,
            port=piece.port,
            pipe=not key[1],
            room=room,
            canaries=self._canaries,
        )
        made = self._streams[key] = _Stream(connection, piece)
        while len(self._streams) > MAX_STREAMS:
            _, oldest = self._streams.popitem(last=False)
            self._close(oldest, piece.ts + self._offset)
        return made

    def _close(self, stream: _Stream, time: int) -> None:
        self._sort(stream, stream.connection.close(time))
        for _, call, _ in stream.began:
            self._kernel.end(stream.tgid, call)
        if stream.judged:
            self._kernel.forget(stream.stream, stream.tgid)

    def _read(self, piece: Piece) -> None:
        stream = self._of(piece)
        connection = stream.connection
        if connection.asks != piece.received:
            stream.within = piece.call
        missing = piece.total - len(piece.data)
        direction: Direction = "received" if piece.received else "sent"
        time = piece.ts + self._offset
        before = dict(stream.open) if self._canaries else {}
        events = connection.feed(direction, piece.data, time, missing)
        self._sort(stream, events)
        for event in events:
            if isinstance(event, Carried):
                self._carried(stream, event, piece, before)
        if not stream.judged and (connection.followed or self._dull(connection)):
            stream.judged = True
            self._kernel.want(piece.stream, piece.tgid, connection.followed)
        elif piece.kind == TapKind.PIPE and piece.stream != stream.stream:
            stream.stream = piece.stream  # the other pipe of the two
            self._kernel.want(piece.stream, piece.tgid, True)
        if stream.began:
            self._doubt(stream, piece.ts)

    @staticmethod
    def _dull(connection: Connection) -> bool:
        return connection.opaque or connection.passed_over >= MAX_PASSED_OVER

    def _doubt(self, stream: _Stream, now: int) -> None:
        """What the kernel took for a call and is none, by all that came after it."""
        kept = [one for one in stream.began if now - one[2] < _PATIENCE]
        for _, call, _ in stream.began[: len(stream.began) - len(kept)]:
            self._kernel.end(stream.tgid, call)
            self.mistaken += 1
        stream.began = kept

    # --- calls ----------------------------------------------------------------------------

    def _sort(self, stream: _Stream, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Opaque):
                self.opaque[event.reason] += 1
            elif isinstance(event, Carried):
                continue
            elif isinstance(event, ModelCall):
                self._asked_model(stream, event)
            elif isinstance(event, Spoken):
                for name, said in event.said:
                    self._keep(stream.last, name, said)
                for _ in range(event.missed):
                    self._keep(stream.last, "", None)
            elif isinstance(event, ToolCallBegan):
                made = self._began(stream, event.call)
                if event.said is not None or "cut" in event.call.problems:  # else there are none
                    self._keep(made, semconv.TOOL_ARGUMENTS, event.said)
            else:
                ended = self._over(stream, event.call)
                if event.call.status in ("ok", "error"):
                    self._keep(ended, semconv.TOOL_RESULT, event.said)

    def _keep(self, call: Call | None, name: str, said: Said | None) -> None:
        """What was said in a call that was told; None: it was not heard."""
        if self._content is None or call is None:
            return
        if said is None:
            self._content.missed(call.cgroup)
        else:
            self._content.hear(call.cgroup, call.id, name, said, call.end or call.begin)

    def _began(self, stream: _Stream, call: ToolCall) -> Call | None:
        """The call as it was told; None: it is not ours to tell."""
        if call.role == "client":
            # Of a server that is here, too, the server's side is told.
            if stream.remote is None or stream.remote.is_loopback or call.transport == "pipe":
                return None
            span = new_id()
        else:
            span = self._seen_by_kernel(stream, call)
            if not span:
                span = new_id()
                if not self._kernel.begin(stream.tgid, span):
                    return None
                self.heard["late"] += 1
        made = self._placed(stream, call.to_call(span, stream.tgid))
        stream.open[call.key] = made
        self.heard["tool"] += 1
        self._tell(made)
        return made

    @staticmethod
    def _seen_by_kernel(stream: _Stream, call: ToolCall) -> int:
        """The kernel's id of the call with this JSON-RPC id, or else the first whose id it did not
        see; of an id that may be written in many ways, the first. 0: none."""
        ident = token_hash(call.id)
        written = isinstance(call.id, float)
        for wanted in (ident, 0):
            for number, (seen, known, _) in enumerate(stream.began):
                if seen == wanted or written:
                    del stream.began[number]
                    return known
        return 0

    def _over(self, stream: _Stream, call: ToolCall) -> Call | None:
        known = stream.open.pop(call.key, None)
        if known is None:
            return None
        if call.role == "server":
            self._kernel.end(stream.tgid, known.id)
        ended = self._placed(stream, call.to_call(known.id, stream.tgid))
        ended = msgspec.structs.replace(ended, begin=known.begin, parent=known.parent)
        self._tell(ended)
        return ended

    def _asked_model(self, stream: _Stream, model: ModelCall) -> None:
        stream.last = None
        if not stream.connection.asks:  # a model's server: its clients' calls are theirs
            return
        self.heard["model"] += 1
        call = model.to_call(new_id(), stream.tgid)
        private = stream.remote is not None and stream.remote.is_private
        if private and model.provider.endswith(_COMPATIBLE):
            call = msgspec.structs.replace(call, server=SELF_HOSTED)
        stream.last = self._placed(stream, call)
        self._tell(stream.last)

    def _carried(
        self, stream: _Stream, seen: Carried, piece: Piece, before: dict[int, Call]
    ) -> None:
        """A canary's value went by: told once a connection, direction and call. A request belongs
        to the call that it begins, an answer to the one that ran `before`, where there is one."""
        connection = stream.connection
        begun = [call for key, call in stream.open.items() if key not in before]
        # By lines, either side may ask.
        lines = connection.protocol == "jsonrpc"
        asked = bool(begun) if lines else seen.sent == connection.asks
        calls = begun if asked else list(before.values())
        span = calls[0].id if len(calls) == 1 else piece.call
        if (key := (seen.canary.id, seen.sent, span)) in stream.carried:
            return
        stream.carried[key] = None
        if len(stream.carried) > MAX_CARRIED:
            del stream.carried[next(iter(stream.carried))]
        self.heard["canary"] += 1
        what = "a request" if asked else "an answer" if before or not lines else "a message"
        how = f"in {what} {'sent' if seen.sent else 'received'}"
        if stream.remote is not None:
            end = f"{stream.remote}:{stream.port}"
            if stream.remote.version == 6:
                end = f"[{stream.remote}]:{stream.port}"
            host = f" ({seen.host[:100]})" if seen.host and connection.asks else ""
            how += f" {'to' if seen.sent else 'from'} {end}{host}"
        self._signal(used(seen.canary, how, seen.time, span), stream.tgid, stream.cgroup)

    @staticmethod
    def _placed(stream: _Stream, call: Call) -> Call:
        """With the container, the call it was made in, and where its bytes really go: the host in
        a request is the workload's word."""
        within = 0 if stream.within & AMBIGUOUS else stream.within
        parent = 0 if within == call.id else within
        said = dict(call.attributes)
        if stream.remote is not None:
            said[semconv.PEER_ADDRESS] = str(stream.remote)
            said[semconv.PEER_PORT] = stream.port
        return msgspec.structs.replace(call, cgroup=stream.cgroup, parent=parent, attributes=said)


def _key(piece: Piece) -> tuple[int, int]:
    """The process, and which of its connections; its pipes are one."""
    return piece.tgid, 0 if piece.kind == TapKind.PIPE else piece.stream
