"""What the agent and its doorkeeper say to each other: messages over a socket pair, each with its
length before it. Bounded both ways; what does not fit in what may wait is given up and counted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

import msgspec

from hullwatch.context.call import Signal
from hullwatch.decide.log import Entry
from hullwatch.decide.question import Value
from hullwatch.detect.baseline.known import has
from hullwatch.opened import OPENS

__all__ = [
    "ACTIONS",
    "LOSSES",
    "NOTHING",
    "Channel",
    "Counts",
    "Flood",
    "Message",
    "Normal",
    "Ping",
    "Policies",
    "Problem",
    "Release",
    "Told",
    "Watch",
]

MAX_MESSAGE = 16 << 20  # bytes; a set of policies is the longest
MAX_WAITING = 32 << 20
_LENGTH = struct.Struct("=I")
ACTIONS = ("exec", *OPENS)
NOTHING = "nothing"
"""That a container is asked about: no policy could hold for it."""
LOSSES = {
    "late": "questions were not answered in time",
    "faults": "questions failed",
    "unlogged": "entries could not be logged",
    "untold": "entries were not told",
    "webhook_failed": "held actions could not be told to the webhook",
    "unknown_files": "files could not be remembered by inode",
    "unreadable": "opens were refused, as the file could not be opened for a look",
}
"""Of `Counts`: what did not go as it should."""


class Policies(msgspec.Struct, frozen=True, tag=True):
    """The set in force from now on: (text, path). actions: that are asked about here. only: of
    which policies, by id, and for which actions of each; None: of all, for all of theirs. number:
    of the message, for `Counts`."""

    texts: tuple[tuple[str, str], ...]
    actions: tuple[str, ...] = ACTIONS
    only: dict[str, tuple[str, ...]] | None = None
    number: int = 0


class Watch(msgspec.Struct, frozen=True, tag=True):
    """A container whose opens and execs are asked about; again: what is known of it now. cgroup:
    its path in cgroup v2; it may be empty still. facts: of the context, the same for all of its
    questions: image, image_digest, kind, namespace. image: of `Normal`."""

    container: str
    name: str
    cgroup: str
    facts: dict[str, Value] = {}
    image: str = ""


class Normal(msgspec.Struct, frozen=True, tag=True):
    """What the baseline of an image has by now, for policies that read first_seen: the fields of
    detect/baseline/known.py. Before a Watch of its containers. Without names: none is there any
    more."""

    image: str
    settled: int = 0
    names: dict[str, frozenset[str]] = {}
    accepted: frozenset[tuple[str, str]] = frozenset()

    def keep(self, among: dict[str, Normal]) -> None:
        """By image, as the last that was said of it."""
        if self.names:
            among[self.image] = self
        else:
            among.pop(self.image, None)

    def is_new(self, kind: str, name: str, now: int) -> bool:
        """name: as baselines have it. now: unix ns."""
        if now <= self.settled:
            return False
        return not has(self.names.get(kind, frozenset()), self.accepted, kind, name)


class Release(msgspec.Struct, frozen=True, tag=True):
    """Not asked about any more: from the agent, or to it where one has ended, or could not be."""

    container: str


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Answered with the same."""

    number: int


class Told(msgspec.Struct, frozen=True, tag=True):
    """An entry as it goes to the log; those that only count are left out. container: its full id.
    process: who asked, 0 where it has ended. labels, call: that it carried, and acted for, as far
    as is known."""

    entry: Entry
    container: str = ""
    process: int = 0
    labels: int = 0
    call: int = 0


class Problem(msgspec.Struct, frozen=True, tag=True):
    """For an operator. gap: what should have been asked about was not, or will not be."""

    text: str
    gap: bool = False


class Counts(msgspec.Struct, frozen=True, tag=True):
    """Since the process began. gaps: by container, mounts that cannot be watched. version: of the
    set in force; '': none yet; number: that it came with. guarded: by container, what is asked
    about. worker: the process; 0: it has ended, and the next is not there yet."""

    counts: dict[str, int]
    gaps: dict[str, tuple[str, ...]] = {}
    guarded: dict[str, str] = {}
    version: str = ""
    worker: int = 0
    number: int = 0


class Flood(msgspec.Struct, frozen=True, tag=True):
    """So much is held of somebody that a person may tire."""

    signal: Signal


Message = Policies | Watch | Normal | Release | Ping | Told | Problem | Counts | Flood
_DECODER = msgspec.msgpack.Decoder(Message)
_ENCODER = msgspec.msgpack.Encoder()


class Channel:
    """One end, which never blocks. open: False once the other end has gone. refused: messages that
    were given up, as too many waited."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._in = bytearray()
        self._out = bytearray()
        self.open = True
        self.refused = 0

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def full(self) -> bool:
        """Whether something waits to be sent: `flush` when the socket takes it."""
        return bool(self._out)

    def send(self, *messages: Message) -> None:
        for one in messages:
            data = _ENCODER.encode(one)
            if len(data) > MAX_MESSAGE or len(self._out) + len(data) > MAX_WAITING:
                self.refused += 1
                continue
            self._out += _LENGTH.pack(len(data)) + data
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(memoryview(self._out)[: 1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
            self._out.clear()

    def take(self) -> Sequence[Message]:
        """What has come. What makes no sense ends the channel."""
        try:
            while len(self._in) <= MAX_WAITING:
                piece = self._socket.recv(1 << 18)
                if not piece:
                    self.open = False
                    break
                self._in += piece
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        found: list[Message] = []
        at = 0
        while len(self._in) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in, at)
            if length > MAX_MESSAGE:
                self.open = False
                break
            end = at + _LENGTH.size + length
            if len(self._in) < end:
                break
            try:
                found.append(_DECODER.decode(bytes(self._in[at + _LENGTH.size : end])))
            except msgspec.MsgspecError:
                self.open = False
                break
            at = end
        del self._in[:at]
        return found

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
        self.open = False
