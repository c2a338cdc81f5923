"""Policy at the system call: a call that waits becomes questions, their decisions its answer, a
challenge a call that waits for a person; the others go on meanwhile.

What a policy is about is opened or copied first, and done with exactly that after the decision
(sensor/seccomp/wish.py), on threads of each listener's own, as a file system or a peer may let
them wait. What was allowed a moment ago is done by the thread that received it. Of an exec it is
looked at what came of it, before that does anything (tracing.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from hullwatch.agent.secrets import Key, redact
from hullwatch.context import etc
from hullwatch.context.call import MAX_TEXT
from hullwatch.decide.approvals import Full, Waiting
from hullwatch.decide.deciding import Decider
from hullwatch.decide.following import Following
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Entity, Question
from hullwatch.decide.ruling import OTHER_TERMS, Rulings, terms
from hullwatch.opened import READING, loaded_as, things
from hullwatch.questions import Asked as Questions
from hullwatch.sensor.seccomp.caller import Caller, apart
from hullwatch.sensor.seccomp.calls import CALLS
from hullwatch.sensor.seccomp.filter import ACTIONS
from hullwatch.sensor.seccomp.listener import Listener, Notification
from hullwatch.sensor.seccomp.tracing import traced
from hullwatch.sensor.seccomp.wish import Asked, Changed, Given, Result, Running, Wish

__all__ = ["Holder", "Workload", "file_of", "spoken_of", "untold"]

RECEIVERS, MAX_DOING = 8, 64  # threads of a listener; what is more is told to try again
MAX_KNOWN = 4096  # answers that are remembered, for as long as GONE
MAX_CHANGED = 16  # times that what was decided on may be another one by then
MAX_SHOWN = 2048  # characters of a held command that are shown
MAX_COMMAND = 16_384  # characters that policies see, as the sensor keeps them
GONE = 0.5  # s between two looks at whether who waits is there still
_UNTOLD = frozenset(("labels", "tool_call", "server", "first_seen", "baseline"))
"""What only an agent knows."""
_TIER = "seccomp"
_REFUSED = errno.EPERM


def spoken_of(decider: Decider, name: str | None = None) -> frozenset[str]:
    """Which of ACTIONS the policies speak of, for this workload; None: for any."""
    return frozenset(
        action
        for one in decider.policies.values()
        for action in one.actions
        if action in ACTIONS
        and one.principal.kind in ("", "Workload")
        and (name is None or one.principal.fits("Workload", name))
    )


def untold(decider: Decider) -> Iterator[str]:
    """Of each policy that is asked here what it reads that nobody tells here, as a sentence."""
    for one in decider.policies.values():
        missing = sorted((one.reads or frozenset()) & _UNTOLD)
        if missing and not {*ACTIONS}.isdisjoint(one.actions):
            yield f"policies: {one.id} reads {', '.join(missing)}, which only an agent knows"


@dataclass
class Workload:
    """Who is held. container: its id, '' on a laptop. known: of it, names as policies have them.
    starting: pid of a runtime's process that has not yet become the container's program; what it
    opens is not the container's doing. runtime: (device, inode) of what it runs until then."""

    name: str
    container: str = ""
    known: Mapping[str, str] = field(default_factory=dict)
    starting: int = 0
    runtime: tuple[int, int] = (0, 0)

    def is_starting(self, process: int) -> bool:
        if not self.starting or process != self.starting:
            return False
        with contextlib.suppress(OSError):
            return file_of(process) == self.runtime
        return False


def file_of(process: int) -> tuple[int, int]:
    """(device, inode) of what it runs. OSError."""
    found = os.stat(f"/proc/{process}/exe")
    return found.st_dev, found.st_ino


class _Refused(Exception):
    """By a policy, or as nobody approved."""


class _Gone(Exception):
    """Who waited does not any more."""


_Key = tuple[Asked, str, str, str]
"""What is asked, by which program, of which parent, as whom."""


@dataclass
class _Held:
    """One listener. actions: what the policies speak of; first: what they spoke of when it began.
    turn: of the one thread that waits for the next call. doing: which thread does which call, since
    when. known: what was allowed a moment ago; again: how often it was since."""

    listener: Listener
    workload: Workload
    actions: frozenset[str]
    ended: asyncio.Event
    first: frozenset[str]
    doers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(MAX_DOING, "do", apart)
    )
    turn: threading.Lock = field(default_factory=threading.Lock)
    poller: select.poll = field(default_factory=select.poll)
    stop: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    doing: dict[int, tuple[int, float]] = field(default_factory=dict)
    known: dict[_Key, Entry] = field(default_factory=dict)
    again: Counter[_Key] = field(default_factory=Counter)

    def receive(self) -> Notification | None:
        """The next call, one thread at a time; None when there will be none."""
        with self.turn:
            while not self.over:
                events = dict(self.poller.poll())
                if self.stop in events:
                    break
                if events.get(self.listener.fd, 0) & select.POLLIN:
                    with contextlib.suppress(OSError):  # it has gone meanwhile
                        return self.listener.receive()
                else:  # nobody is below the filter any more
                    break
            self.over = True
            return None

    def interrupt(self, ident: int, thread: int) -> None:
        with self.lock:
            if ident in self.doing:
                signal.pthread_kill(thread, signal.SIGUSR2)


class _Call(NamedTuple):
    """One that waits, and the set that decides it."""

    held: _Held
    note: Notification
    caller: Caller
    decider: Decider


class Holder:
    """client: pid of the process below which nobody may approve; 0: not known. following, tell: as
    of Rulings."""

    def __init__(
        self,
        decider: Decider,
        log: Log,
        client: int = 0,
        clock: Callable[[], int] = time.time_ns,
        hosts: Path = Path("/etc/hosts"),
        resolvers: Path = Path("/etc/resolv.conf"),
        *,
        following: Following | None = None,
        tell: Callable[[str], None] = lambda said: None,
    ) -> None:
        self._rulings = Rulings(decider, log, _TIER, client, clock, following=following, tell=tell)
        self._rulings.on_change = self._changed
        self.approvals = self._rulings.approvals
        self._hosts = etc.hosts(hosts)
        self._resolvers = frozenset(etc.name_servers(resolvers))
        self._key = Key(os.urandom(32))
        self._salt = os.urandom(32)
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = {"refused": 0, "crowded": 0, "killed": 0}

    @property
    def problem(self) -> str:
        return self._rulings.problem

    async def start(self) -> None:
        """LogError."""
        await self._rulings.start()
        # Only so that a thread's system call ends when its caller has gone.
        signal.signal(signal.SIGUSR2, lambda *_: None)
        self._spawn(self._tend())

    def close(self) -> None:
        """What waits fails: the kernel says ENOSYS where nobody listens."""
        for task in self._tasks:
            task.cancel()
        for held in list(self._held.values()):
            self._drop(held)
        self._rulings.close()

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer. LogError."""
        return self._rulings.log.story(principal)

    def watch(self, fd: int, workload: Workload) -> asyncio.Event:
        """From now on, until nobody is below its filter: then the event is set, and fd closed."""
        actions = spoken_of(self._rulings.decider, workload.name)
        held = _Held(Listener(fd), workload, actions, asyncio.Event(), actions)
        self._held[fd] = held
        held.poller.register(fd, select.POLLIN)
        held.poller.register(held.stop, select.POLLIN)
        loop = asyncio.get_running_loop()
        for _ in range(RECEIVERS):
            threading.Thread(target=self._receive, args=(held, loop), daemon=True).start()
        return held.ended

    def _changed(self) -> None:
        """Another set is in force. Its filter stays what it was, for as long as something runs."""
        for held in list(self._held.values()):
            try:
                self._count(held)
            except LogError as error:
                self._rulings.problem = str(error)
            held.actions = spoken_of(self._rulings.decider, held.workload.name)
            if more := sorted(held.actions - held.first):
                self._rulings.tell(
                    f"policies: {', '.join(more)} of {held.workload.name}: not spoken of when it"
                    " started, and not held until it starts anew"
                )

    def _drop(self, held: _Held) -> None:
        fd = held.listener.fd
        if self._held.pop(fd, None) is None:
            return
        os.eventfd_write(held.stop, 1)
        for ident, (thread, _) in list(held.doing.items()):
            held.interrupt(ident, thread)
        try:
            self._count(held)
        except LogError as error:
            self._rulings.problem = str(error)
        held.doers.shutdown(wait=False, cancel_futures=True)
        with held.turn:  # nobody waits on them
            held.over = True
            held.listener.close()
            os.close(held.stop)
        held.ended.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one call -------------------------------------------------------------------------

    def _receive(self, held: _Held, loop: asyncio.AbstractEventLoop) -> None:
        """One of a listener's threads."""
        apart()
        while (note := held.receive()) is not None:
            found: tuple[Caller, Wish] | Exception
            try:
                found = _look(held, note)
                if self._at_once(held, note, *found, loop):
                    continue
            except Exception as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._serve_soon, held, note, found)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._drop, held)

    def _at_once(
        self,
        held: _Held,
        note: Notification,
        caller: Caller,
        wish: Wish,
        loop: asyncio.AbstractEventLoop,
    ) -> bool:
        """Done without asking, as all of it was allowed a moment ago."""
        asked = [one for one in wish.asked if one.action in held.actions]
        executes = any(one.action == "exec" for one in wish.asked)
        if executes or self._rulings.behind:
            return False
        who = (caller.program, caller.parent, caller.status["Uid"])
        keys = [(one, *who) for one in asked]
        with held.lock:
            if len(held.doing) >= MAX_DOING or not all(key in held.known for key in keys):
                return False
            held.again.update(keys)
        if wish.quick:
            self._finish(held, note, caller, wish, loop)
        else:
            held.doers.submit(self._finish, held, note, caller, wish, loop)
        return True

    def _finish(
        self,
        held: _Held,
        note: Notification,
        caller: Caller,
        wish: Wish,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        with caller:
            try:
                _do(held, note, caller, wish)
            except Exception as error:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._serve_soon, held, note, error)

    def _serve_soon(
        self, held: _Held, note: Notification, found: tuple[Caller, Wish] | Exception
    ) -> None:
        self._spawn(self._serve(held, note, found))

    async def _serve(
        self, held: _Held, note: Notification, found: tuple[Caller, Wish] | Exception
    ) -> None:
        code = errno.EAGAIN
        loop = asyncio.get_running_loop()
        for _ in range(MAX_CHANGED):
            try:
                if isinstance(found, Exception):
                    raise found
                await self._once(held, note, *found)
                return
            except Changed:
                try:
                    found = await loop.run_in_executor(held.doers, _look, held, note)
                except Exception as error:
                    found = error
                continue
            except _Gone:
                return
            except _Refused:
                self.counts["refused"] += 1
                code = _REFUSED
            except LogError as error:
                self._rulings.problem = str(error)
                code = _REFUSED
            except OSError as error:
                code = error.errno or errno.EIO
            except Exception as error:  # whatever it was, it is not let through
                self._rulings.problem = f"{type(error).__name__}: {error}"
                code = _REFUSED
            break
        with contextlib.suppress(OSError):
            held.listener.fail(note.id, code)

    async def _once(self, held: _Held, note: Notification, caller: Caller, wish: Wish) -> None:
        loop = asyncio.get_running_loop()
        with caller:
            await self._allowed(_Call(held, note, caller, self._rulings.decider), wish)
            if len(held.doing) >= MAX_DOING:
                self.counts["crowded"] += 1
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            as_decided = await loop.run_in_executor(held.doers, _do, held, note, caller, wish)
            if not as_decided:
                self._killed(held.workload, caller, wish.asked[0])

    async def _allowed(self, call: _Call, wish: Wish) -> None:
        """_Refused, _Gone, LogError."""
        workload, actions = call.held.workload, call.held.actions
        if any(one.action == "exec" for one in wish.asked):
            workload.starting = 0
        elif workload.is_starting(call.caller.process):
            return
        for asked in wish.asked:
            if asked.action in actions:
                await self._ask(call, asked)

    async def _ask(self, call: _Call, asked: Asked) -> None:
        held, caller = call.held, call.caller
        questions = self._questions(held.workload, caller, asked)
        decision = await self._decide(call.decider, questions, False)
        entry = self._entry(held.workload, questions.questions[0], decision)
        if decision.effect is Effect.ALLOW:
            self._rulings.allow(entry)
            plain = entry.wanted is Effect.ALLOW and not entry.failed
            # Not where another set is in force by now, which was not asked.
            if plain and call.decider is self._rulings.decider and len(held.known) < MAX_KNOWN:
                key = (asked, caller.program, caller.parent, caller.status["Uid"])
                with held.lock:
                    held.known[key] = entry
            return
        if decision.effect is Effect.BLOCK:
            self._rulings.block(entry)
            raise _Refused
        await self._challenge(call, questions, decision, entry)

    async def _challenge(
        self, call: _Call, questions: Questions, decision: Decision, entry: Entry
    ) -> None:
        """_Refused, _Gone, LogError."""
        granted = self.approvals.granted(entry)
        decider = call.decider
        if granted is None:
            waiting = await self._answered(call, questions, decision, entry)
            decider = self._rulings.decider
            other = await self._rulings.outgrown(
                decider, questions.questions, waiting, questions.listed
            )
            if other is not None:
                self._refuse(call, questions, other, effect=Effect.BLOCK, reason=OTHER_TERMS)
        again = await self._decide(decider, questions, True)
        if again.effect is not Effect.ALLOW:
            self._refuse(call, questions, again)
        if granted is not None:
            self._rulings.log.append(granted)

    def _refuse(
        self, call: _Call, questions: Questions, decision: Decision, **but: Any
    ) -> NoReturn:
        """but: what the entry says instead. LogError."""
        entry = self._entry(call.held.workload, questions.questions[0], decision)
        self._rulings.log.append(msgspec.structs.replace(entry, **but))
        raise _Refused

    async def _answered(
        self, call: _Call, questions: Questions, decision: Decision, entry: Entry
    ) -> Waiting:
        """Waits for a person, as long as the policy says. _Refused, _Gone."""
        over = asyncio.Event()
        command = str(questions.questions[0].context.get("command", ""))
        shown = {
            "said": redact(command, self._key)[:MAX_SHOWN],
            "program": call.caller.program,
            "pid": call.caller.process,
        }
        try:
            waiting = self.approvals.hold(entry, terms(call.decider, decision), over.set, shown)
        except Full as error:
            self._rulings.block(
                msgspec.structs.replace(entry, effect=Effect.BLOCK, reason=str(error))
            )
            raise _Refused from None
        until = time.monotonic() + waiting.terms.deadline
        while not over.is_set():
            left = until - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, GONE))):
                    await over.wait()
            if not over.is_set():
                self._look_after(call, waiting, left)
        if waiting.effect is not Effect.ALLOW:
            raise _Refused
        return waiting

    def _look_after(self, call: _Call, waiting: Waiting, left: float) -> None:
        if not call.held.listener.valid(call.note.id):
            self.approvals.cancel(waiting, "the process does not wait any more")
            raise _Gone
        if left <= 0:
            self.approvals.expire(waiting)

    # --- questions ------------------------------------------------------------------------

    def _questions(self, workload: Workload, caller: Caller, asked: Asked) -> Questions:
        known: dict[str, Any] = {
            "program": caller.program,
            "parent": caller.parent,
            **workload.known,
            "uid": int(caller.status["Uid"].split()[1]),
        }
        if asked.argv:
            command = b" ".join(asked.argv).decode("utf-8", "replace")
            known["command"] = command[:MAX_COMMAND]
            known["arguments"] = self._hash(asked.argv)
        context = {name: value for name, value in known.items() if value != ""}
        principal = Entity("Workload", workload.name[:MAX_TEXT])
        about, listed = self._things(asked)
        made = (
            Question(principal=principal, action=asked.action, resource=thing, context=context)
            for thing in about
        )
        return Questions(tuple(made), listed)

    def _things(self, asked: Asked) -> tuple[list[Entity], bool]:
        """As `questions.asked` has them. Whether a list of permits counts."""
        found, listed = [], True
        for kind, ident in asked.names:
            if asked.action in READING:
                found.append(things(ident, plugin=asked.plugin)[asked.action])
                continue
            if kind != "Host":
                found.append(Entity(kind, ident))
                continue
            host, _, port = ident.rpartition(":")
            ip = host.strip("[]")
            own = ipaddress.ip_address(ip).is_loopback
            resolver = port == "53" and ip in self._resolvers
            listed = not own and not resolver
            if not resolver:
                names = self._hosts.get(ip) or (("localhost",) if own else (host,))
                found += [Entity(kind, f"{name}:{port}") for name in names]
        return found, listed

    async def _decide(self, decider: Decider, about: Questions, approved: bool) -> Decision:
        return await self._rulings.decide(decider, about.questions, approved, about.listed)

    def _hash(self, argv: Sequence[bytes]) -> str:
        return blake2b(b"\0".join(argv), key=self._salt, digest_size=16).hexdigest()

    def _entry(self, workload: Workload, question: Question, decision: Decision) -> Entry:
        said = [f"uid:{question.context['uid']}"]
        if workload.container:
            said.append(f"container:{workload.container}")
        said.append(str(question.context.get("program", "")))
        return msgspec.structs.replace(
            self._rulings.entry(question, decision), identity=" ".join(filter(None, said))
        )

    # --- beside it --------------------------------------------------------------------------

    def _killed(self, workload: Workload, caller: Caller, asked: Asked) -> None:
        """What was decided on was exchanged at the last moment. LogError."""
        self.counts["killed"] += 1
        question = self._questions(workload, caller, asked).questions[0]
        said = "ended: it became another program or command than was decided on"
        version = self._rulings.decider.version
        decision = Decision(effect=Effect.BLOCK, wanted=Effect.BLOCK, reason=said, version=version)
        self._rulings.log.append(self._entry(workload, question, decision))

    async def _tend(self) -> None:
        """A call whose caller has gone is not waited for."""
        while True:
            await asyncio.sleep(GONE)
            for held in list(self._held.values()):
                try:
                    self._count(held)
                except LogError as error:
                    self._rulings.problem = str(error)
                for ident, (thread, since) in list(held.doing.items()):
                    if time.monotonic() - since < GONE or held.listener.valid(ident):
                        continue
                    held.interrupt(ident, thread)

    def _count(self, held: _Held) -> None:
        """And forgets: what an hour or a weekday changes has to be asked. LogError."""
        with held.lock:
            known, again = held.known, held.again
            held.known, held.again = {}, Counter()
        for key, count in again.items():
            self._rulings.allow(known[key], count)


def _look(held: _Held, note: Notification) -> tuple[Caller, Wish]:
    listener = held.listener
    try:
        caller = Caller(note.thread)
    except ProcessLookupError:
        raise _Gone from None
    try:
        wish = CALLS[note.number](caller, note.arguments)
        if not held.actions.isdisjoint(READING):
            wish = wish._replace(asked=tuple(_also(wish.asked, caller)))
        if not listener.valid(note.id):
            raise _Gone
    except BaseException as error:
        caller.close()
        if isinstance(error, OSError) and not listener.valid(note.id):
            raise _Gone from None
        raise
    return caller, wish


def _also(wished: Iterable[Asked], caller: Caller) -> Iterator[Asked]:
    """Who reads a file is asked about its secret, too, and about the code that it loads."""
    for asked in wished:
        yield asked
        if asked.action != "open-read" or asked.directory:
            continue
        ((_, path),) = asked.names
        plugin = loaded_as(path, caller.program, caller.status["Name"].strip())
        for action in things(path, plugin=plugin).keys() & {*READING} - {"open-read"}:
            yield asked._replace(action=action, plugin=plugin if action == "load-plugin" else "")


def _do(held: _Held, note: Notification, caller: Caller, wish: Wish) -> bool:
    """And answers. False: an exec that came to something else, and was ended."""
    with held.lock:
        held.doing[note.id] = (threading.get_ident(), time.monotonic())
    try:
        done = wish.do()
        if not isinstance(done, Running):
            _answer(held.listener, note, done)
            return True
        return traced(
            caller, lambda: held.listener.go_on(note.id), lambda: _fits(caller.process, done)
        )
    finally:
        with held.lock:
            del held.doing[note.id]


def _answer(listener: Listener, note: Notification, done: Result) -> None:
    try:
        if isinstance(done, Given):
            try:
                listener.give(note.id, done.fd, done.close_on_exec)
            finally:
                os.close(done.fd)
        elif isinstance(done, int):
            listener.finish(note.id, done)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise _Gone from None
        raise


def _fits(process: int, running: Running) -> bool:
    """What it has become. A script's command has its interpreter before it."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
        rest = list(running.argv[1:])
        whole = command[len(command) - len(rest) :] == rest and len(command) >= len(running.argv)
        return whole and file_of(process) in running.files
    except OSError:
        return False
