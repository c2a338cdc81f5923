"""Who keeps the process that answers opens and execs (permitting.py): starts it, tells it what it
was told, and ends it when it hangs, so that no open in a container hangs with it.

The doorkeeper is a small process of its own, since the agent gives up the rights that a new start
takes. When the agent ends, it ends, and nobody is asked about any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hullwatch.context.workload import Workload
from hullwatch.decide.elsewhere import Elsewhere
from hullwatch.decide.question import Value
from hullwatch.detect.baseline.known import Known
from hullwatch.permits.asked import KINDS
from hullwatch.permits.asleep import sleep, turn_away
from hullwatch.permits.carried import Carried, Handed
from hullwatch.permits.messages import (
    ACTIONS,
    Channel,
    Counts,
    Message,
    Normal,
    Ping,
    Policies,
    Problem,
    Release,
    Watch,
)
from hullwatch.sensor.identities import Identities

__all__ = ["Doorkeeper", "facts_of"]

KEPT = ("DAC_READ_SEARCH", "SYS_PTRACE", "SYS_ADMIN")
"""Files of any user; what a process waits for, and its root; fanotify."""
PING = 0.5  # s
HUNG = 3.0  # s without an answer
MANY, WITHIN = 5, 10.0  # new starts in so many s: then slower
PAUSE = 1.0
_ENDS_WITHIN = 5.0
PREFERRED = 20  # nice: who is asked about may start as many programs as it likes

# With the agent's own path to modules, and nothing that the environment or a folder could add. It
# may never be needed: until it is told something it has only what giving up rights takes.
_START = (
    "import json, signal, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    " signal.signal(signal.SIGINT, signal.SIG_IGN);"  # of a terminal: the agent ends us
    f" from hullwatch import privileges; privileges.be_preferred(by={PREFERRED});"
    " agent, *listening = json.loads(sys.argv.pop(1));"
    f" said = privileges.keep_only(*{KEPT!r}, *sys.argv[1:]);"
    f" from {sleep.__module__} import sleep; sleep(agent, listening);"
    f" from {__name__} import main; main(agent, said)"
)
# Where people answer; whose word counts for a webhook's server.
_HANDED_ON = ("HULLWATCH_APPROVALS", "SSL_CERT_FILE", "SSL_CERT_DIR")


class _Given(msgspec.Struct):
    """On standard input: a command line is everybody's to read. head: '' by default."""

    folder: str
    head: str
    handed: Handed | None
    elsewhere: Elsewhere | None


class Doorkeeper:
    """folder, head: of the decision log. handed: where labels and calls can be read. more: rights
    that it keeps besides, to write the log. elsewhere: who is told of what waits; its socket is the
    process's from then on, and closed here. Needs CAP_SYS_ADMIN, CAP_SYS_PTRACE and
    CAP_DAC_READ_SEARCH only while it is made. Not for several threads; never blocks.

    alive: False once the process has ended, which is for good: nothing is asked about then.
    """

    def __init__(
        self,
        folder: Path,
        head: Path | None = None,
        handed: Handed | None = None,
        more: Sequence[str] = (),
        elsewhere: Elsewhere | None = None,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        given = _Given(str(folder), str(head or ""), handed, elsewhere)
        kept = handed.descriptors if handed else ()
        listening = (elsewhere.listening,) if elsewhere else ()
        with theirs, open(os.memfd_create("hullwatch-given"), "w+b") as memory:
            memory.write(msgspec.json.encode(given))
            memory.seek(0)
            heard = json.dumps([theirs.fileno(), *listening])
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, paths, heard, *more],
                stdin=memory,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *kept, *listening],
                env={name: os.environ[name] for name in _HANDED_ON if name in os.environ},
            )
        for descriptor in listening:
            os.close(descriptor)
        self._channel = Channel(ours)
        self._tells = elsewhere is not None  # nobody yet that nobody is told any more

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def fd(self) -> int:
        """Readable when `take` has something."""
        return self._channel.fd

    @property
    def alive(self) -> bool:
        return self._channel.open

    def policies(
        self,
        texts: Sequence[tuple[str, str]],
        actions: Sequence[str] = ACTIONS,
        only: Mapping[str, tuple[str, ...]] | None = None,
        number: int = 0,
    ) -> None:
        """The set in force: (text, path) of each file. actions, only, number: as Policies has
        them."""
        chosen = None if only is None else dict(only)
        self._channel.send(Policies(tuple(texts), tuple(actions), chosen, number))

    def watch(
        self,
        container: str,
        name: str,
        cgroup: str,
        facts: Mapping[str, Value] | None = None,
        image: str = "",
    ) -> None:
        """Ask about a container, from the moment that it has a root folder. cgroup: its path in
        cgroup v2. facts: image, kind, namespace and so on, as the schema has them. image: whose
        baseline counts."""
        self._channel.send(Watch(container, name, cgroup, dict(facts or {}), image))

    def normal(self, known: Known) -> bool:
        """What the baseline of an image has by now. False: too much waits, it was not told."""
        refused = self._channel.refused
        names = {kind: known.names[kind] for kind in KINDS.values()}
        self._channel.send(Normal(known.image, known.settled, names, known.accepted))
        return self._channel.refused == refused

    def forget(self, image: str) -> None:
        """Of whose baseline nothing is known any more."""
        self._channel.send(Normal(image))

    def release(self, container: str) -> None:
        """Ended containers are let go by themselves."""
        self._channel.send(Release(container))

    def take(self) -> Iterator[Message]:
        """Told, Problem, Counts, and Release of those who ended, since the last call."""
        yield from self._channel.take()
        self._channel.flush()
        if not self.alive:
            self._channel.close()  # where it was not the process that ended it, it ends now
            if self._tells:
                self._tells = False
                yield Problem("the webhook is told of nothing any more, and no link is answered")

    def close(self) -> None:
        self._channel.close()
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def facts_of(workload: Workload) -> dict[str, Value]:
    """What policies may know of a container, as far as it is known."""
    labels = workload.annotations | workload.pod_labels | workload.labels
    said = {
        # Of a bundle only annotations of our own prefix are kept (context/spec.py).
        "kind": labels.get("hullwatch.kind") or labels.get("io.hullwatch.kind"),
        "image": workload.image,
        "image_digest": workload.image_digest,
        "namespace": workload.namespace,
    }
    return {name: value for name, value in said.items() if value}


# --- the process ----------------------------------------------------------------------------


class _Keeping:
    """The worker, and what it has to be told when it starts anew."""

    def __init__(self, agent: Channel, given: _Given) -> None:
        self._agent = agent
        self._given = given
        self._policies: Policies | None = None
        self._normal: dict[str, Normal] = {}
        self._watched: dict[str, Watch] = {}
        self._starts: list[float] = []
        self._pinged = self._answered = 0.0
        self._start()

    def serve(self) -> None:
        """Until the agent ends."""
        while self._agent.open:
            channels = (self._agent, self._worker)
            full = [one.fd for one in channels if one.full]
            with contextlib.suppress(InterruptedError):
                select.select([one.fd for one in channels], full, [], PING / 2)
            self._from_agent()
            self._from_worker()
            for one in channels:
                one.flush()
            self._look_after()
        self._end_worker()

    def _from_agent(self) -> None:
        for message in self._agent.take():
            match message:
                case Policies():
                    self._policies = message
                case Normal():
                    message.keep(self._normal)
                case Watch(container):
                    self._watched[container] = message
                case Release(container):
                    self._watched.pop(container, None)
                case _:
                    continue
            self._worker.send(message)

    def _from_worker(self) -> None:
        for message in self._worker.take():
            self._answered = time.monotonic()
            if isinstance(message, Release):
                self._watched.pop(message.container, None)
            if not isinstance(message, Ping):
                self._agent.send(message)

    def _look_after(self) -> None:
        now = time.monotonic()
        if not self._worker.open:
            self._again("the process that answers opens and execs ended")
        elif now - self._answered >= HUNG:
            self._again(f"the process that answers opens and execs hung for {HUNG:g} s")
        elif now - self._pinged >= PING:
            self._pinged = now
            self._worker.send(Ping(0))

    def _again(self, why: str) -> None:
        self._agent.send(Counts({}))  # nothing is asked about, by no set
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self._pid, 0)
            if os.WIFSIGNALED(status):
                why += f" (signal {os.WTERMSIG(status)})"
        self._worker.close()
        self._known.close()
        with contextlib.suppress(OSError):
            self._desk.unlink()
        if (told := self._given.elsewhere) is not None:
            turn_away(told.listening)  # a link of the worker that ended is none of the next
        began = time.monotonic()
        self._starts = [one for one in self._starts if began - one < WITHIN]
        if len(self._starts) >= MANY:
            time.sleep(PAUSE)
        self._start()
        said = f"{why}; until it was started anew every open and exec was let through"
        self._agent.send(Problem(said, gap=True))

    def _start(self) -> None:
        from hullwatch.decide.desk import folder
        from hullwatch.permits import permitting

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._starts.append(time.monotonic())
        known, given = Identities(), self._given
        self._pid = os.fork()  # one thread here, and all modules are there: it answers at once
        if not self._pid:
            status = 1
            try:
                ours.close()
                self._agent.close()
                head = Path(given.head) if given.head else None
                carried = Carried(given.handed) if given.handed else None
                permitting.main(
                    *(Channel(theirs), Path(given.folder), head),
                    *(known, carried, given.elsewhere),
                )
                status = 0
            except BaseException as error:
                sys.stderr.write(f"permitting: {type(error).__name__}: {error}\n")
            finally:
                os._exit(status)
        theirs.close()
        self._desk = folder() / f"{self._pid}.sock"  # which it cannot remove when it is killed
        self._known = known  # stays open here, so that it is not what the worker's end waits for
        self._worker = Channel(ours)
        self._pinged = self._answered = time.monotonic()
        if self._policies is not None:
            self._worker.send(self._policies)
        self._worker.send(*self._normal.values(), *self._watched.values())

    def _end_worker(self) -> None:
        self._worker.close()
        until = time.monotonic() + _ENDS_WITHIN / 2
        while time.monotonic() < until:
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def main(fd: int, problems: Sequence[str]) -> None:
    agent = Channel(socket.socket(fileno=fd))
    for text in problems:
        agent.send(Problem(text))
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=_Given)
    os.ftruncate(sys.stdin.fileno(), 0)  # secrets, which nobody inherits
    _Keeping(agent, given).serve()
