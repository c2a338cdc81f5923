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
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hullwatch.agent.secrets import Key, redact
from hullwatch.context.call import MAX_TEXT
from hullwatch.decide.approvals import Approvals, Full, Waiting
from hullwatch.decide.engine import Answer, Engine
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Decision, Effect, Entity, Question
from hullwatch.ruling import Rulings, entry_of
from hullwatch.sensor.seccomp.caller import Caller, apart
from hullwatch.sensor.seccomp.calls import CALLS
from hullwatch.sensor.seccomp.filter import ACTIONS
from hullwatch.sensor.seccomp.listener import Listener, Notification
from hullwatch.sensor.seccomp.tracing import traced
from hullwatch.sensor.seccomp.wish import Asked, Changed, Given, Result, Running, Wish

__all__ = ["Holder", "Workload", "file_of", "spoken_of"]

_T = TypeVar("_T")

RECEIVERS, MAX_DOING = 8, 64  # threads of a listener; what is more is told to try again
MAX_KNOWN = 4096  # answers that are remembered, for as long as GONE
MAX_CHANGED = 16  # times that what was decided on may be another one by then
MAX_SHOWN = 2048  # characters of a held command that are shown
MAX_COMMAND = 16_384  # characters that policies see, as the sensor keeps them
GONE = 0.5  # s between two looks at whether who waits is there still
_TIER = "seccomp"
_REFUSED = errno.EPERM


def spoken_of(engine: Engine, name: str | None = None) -> frozenset[str]:
    """Which of ACTIONS the policies speak of, for this workload; None: for any."""
    return frozenset(
        action
        for one in engine.policies.values()
        for action in one.actions
        if action in ACTIONS
        and one.principal.kind in ("", "Workload")
        and (name is None or one.principal.fits("Workload", name))
    )


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
    """One listener. turn: of the one thread that waits for the next call. doing: which thread does
    which call, since when. known: what was allowed a moment ago; again: how often it was since."""

    listener: Listener
    workload: Workload
    actions: frozenset[str]
    ended: asyncio.Event
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


class Holder:
    """client: pid of the process below which nobody may approve; 0: not known."""

    def __init__(
        self,
        engine: Engine,
        log: Log,
        client: int = 0,
        clock: Callable[[], int] = time.time_ns,
        hosts: Path = Path("/etc/hosts"),
    ) -> None:
        self._engine = engine
        self._log = log
        self._clock = clock
        self.approvals = Approvals(log, client, clock)
        self._rulings = Rulings(engine, log, clock)
        self._hosts = _hosts(hosts)
        self._key = Key(os.urandom(32))
        self._salt = os.urandom(32)
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = {"refused": 0, "crowded": 0, "killed": 0}
        self.problem = ""

    async def start(self) -> None:
        """LogError."""
        self.approvals.sweep()
        # Only so that a thread's system call ends when its caller has gone.
        signal.signal(signal.SIGUSR2, lambda *_: None)
        self._spawn(self._rulings.tidy())
        self._spawn(self._tend())

    def close(self) -> None:
        """What waits fails: the kernel says ENOSYS where nobody listens."""
        for task in self._tasks:
            task.cancel()
        for held in list(self._held.values()):
            self._drop(held)
        try:
            self.approvals.close()
            self._rulings.close()
        except LogError as error:
            self.problem = str(error)
        self.problem = self.problem or self._rulings.problem

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer. LogError."""
        self._log.flush()
        found = [one for one in self._log.entries(newest=200) if one.principal == principal]
        names = "time kind action resource effect policies reason count".split()
        return [{name: getattr(one, name) for name in names} for one in found[-10:]]

    def watch(self, fd: int, workload: Workload) -> asyncio.Event:
        """From now on, until nobody is below its filter: then the event is set, and fd closed."""
        actions = spoken_of(self._engine, workload.name)
        held = _Held(Listener(fd), workload, actions, asyncio.Event())
        self._held[fd] = held
        held.poller.register(fd, select.POLLIN)
        held.poller.register(held.stop, select.POLLIN)
        loop = asyncio.get_running_loop()
        for _ in range(RECEIVERS):
            threading.Thread(target=self._receive, args=(held, loop), daemon=True).start()
        return held.ended

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
            self.problem = str(error)
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
                found = _look(held.listener, note)
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
                    found = await loop.run_in_executor(held.doers, _look, held.listener, note)
                except Exception as error:
                    found = error
                continue
            except _Gone:
                return
            except _Refused:
                self.counts["refused"] += 1
                code = _REFUSED
            except LogError as error:
                self.problem = str(error)
                code = _REFUSED
            except OSError as error:
                code = error.errno or errno.EIO
            except Exception as error:  # whatever it was, it is not let through
                self.problem = f"{type(error).__name__}: {error}"
                code = _REFUSED
            break
        with contextlib.suppress(OSError):
            held.listener.fail(note.id, code)

    async def _once(self, held: _Held, note: Notification, caller: Caller, wish: Wish) -> None:
        loop = asyncio.get_running_loop()
        with caller:
            await self._allowed(held, note, caller, wish)
            if len(held.doing) >= MAX_DOING:
                self.counts["crowded"] += 1
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            as_decided = await loop.run_in_executor(held.doers, _do, held, note, caller, wish)
            if not as_decided:
                self._killed(held.workload, caller, wish.asked[0])

    async def _allowed(self, held: _Held, note: Notification, caller: Caller, wish: Wish) -> None:
        """_Refused, _Gone, LogError."""
        if any(one.action == "exec" for one in wish.asked):
            held.workload.starting = 0
        elif held.workload.is_starting(caller.process):
            return
        for asked in wish.asked:
            if asked.action in held.actions:
                await self._ask(held, note, caller, asked)

    async def _ask(self, held: _Held, note: Notification, caller: Caller, asked: Asked) -> None:
        questions = self._questions(held.workload, caller, asked)
        decision = await self._decide(questions, False)
        entry = self._entry(held.workload, caller, questions[0], decision)
        if decision.effect is Effect.ALLOW:
            self._rulings.allow(entry)
            if entry.wanted is Effect.ALLOW and not entry.failed and len(held.known) < MAX_KNOWN:
                key = (asked, caller.program, caller.parent, caller.status["Uid"])
                with held.lock:
                    held.known[key] = entry
            return
        if decision.effect is Effect.BLOCK:
            self._rulings.block(entry)
            raise _Refused
        await self._challenge(held, note, caller, questions, decision, entry)

    async def _challenge(
        self,
        held: _Held,
        note: Notification,
        caller: Caller,
        questions: Sequence[Question],
        decision: Decision,
        entry: Entry,
    ) -> None:
        granted = self.approvals.granted(entry)
        why = f"approved for every such call by {granted.by}: {granted.why}" if granted else ""
        if granted is None:
            await self._answered(held, note, caller, questions, decision, entry)
        again = await self._decide(questions, True)
        if again.effect is not Effect.ALLOW:
            self._log.append(self._entry(held.workload, caller, questions[0], again))
            raise _Refused
        if granted is not None:
            self._log.append(
                msgspec.structs.replace(
                    entry, effect=again.effect, why=why, scope=granted.scope, by=granted.by
                )
            )

    async def _answered(
        self,
        held: _Held,
        note: Notification,
        caller: Caller,
        questions: Sequence[Question],
        decision: Decision,
        entry: Entry,
    ) -> None:
        """Waits for a person, as long as the policy says. _Refused, _Gone."""
        over = asyncio.Event()
        command = str(questions[0].context.get("command", ""))
        shown = {
            "said": redact(command, self._key)[:MAX_SHOWN],
            "program": caller.program,
            "pid": caller.process,
        }
        try:
            waiting = self.approvals.hold(entry, self._rulings.terms(decision), over.set, shown)
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
            if over.is_set():
                break
            self._look_after(held, note, waiting, left)
        if waiting.effect is not Effect.ALLOW:
            raise _Refused

    def _look_after(self, held: _Held, note: Notification, waiting: Waiting, left: float) -> None:
        if not held.listener.valid(note.id):
            self.approvals.cancel(waiting, "the process does not wait any more")
            raise _Gone
        if left <= 0:
            self.approvals.expire(waiting)

    # --- questions ------------------------------------------------------------------------

    def _questions(self, workload: Workload, caller: Caller, asked: Asked) -> list[Question]:
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
        return [
            Question(
                principal=principal,
                action=asked.action,
                resource=Entity(kind, ident),
                context=context,
            )
            for kind, ident in self._names(asked)
        ]

    def _names(self, asked: Asked) -> Iterable[tuple[str, str]]:
        yield from asked.names
        for kind, ident in asked.names:
            if kind == "Host":
                ip, _, port = ident.rpartition(":")
                for name in self._hosts.get(ip.strip("[]"), ()):
                    yield "Host", f"{name}:{port}"

    def _hash(self, argv: Sequence[bytes]) -> str:
        return blake2b(b"\0".join(argv), key=self._salt, digest_size=16).hexdigest()

    async def _decide(self, questions: Sequence[Question], approved: bool) -> Decision:
        return await self._rulings.decide(lambda: decide_any(self._engine, questions, approved))

    def _entry(
        self, workload: Workload, caller: Caller, question: Question, decision: Decision
    ) -> Entry:
        said = [f"uid:{question.context['uid']}"]
        if workload.container:
            said.append(f"container:{workload.container}")
        said.append(str(question.context.get("program", "")))
        return msgspec.structs.replace(
            entry_of(question, decision, _TIER, self._clock()),
            identity=" ".join(filter(None, said)),
        )

    # --- beside it --------------------------------------------------------------------------

    def _killed(self, workload: Workload, caller: Caller, asked: Asked) -> None:
        """What was decided on was exchanged at the last moment. LogError."""
        self.counts["killed"] += 1
        question = self._questions(workload, caller, asked)[0]
        said = "ended: it became another program or command than was decided on"
        decision = Decision(
            effect=Effect.BLOCK, wanted=Effect.BLOCK, reason=said, version=self._engine.version
        )
        self._log.append(self._entry(workload, caller, question, decision))

    async def _tend(self) -> None:
        """A call whose caller has gone is not waited for."""
        while True:
            await asyncio.sleep(GONE)
            for held in list(self._held.values()):
                try:
                    self._count(held)
                except LogError as error:
                    self.problem = str(error)
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


def _look(listener: Listener, note: Notification) -> tuple[Caller, Wish]:
    try:
        caller = Caller(note.thread)
    except ProcessLookupError:
        raise _Gone from None
    try:
        wish = CALLS[note.number](caller, note.arguments)
        if not listener.valid(note.id):
            raise _Gone
    except BaseException as error:
        caller.close()
        if isinstance(error, OSError) and not listener.valid(note.id):
            raise _Gone from None
        raise
    return caller, wish


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


def decide_any(engine: Engine, questions: Sequence[Question], approved: bool) -> Decision:
    """Of one object that is known by several names: what holds for one of them holds. To be
    replaced by Engine.decide_any."""
    first, *others = questions
    if not others:
        return engine.decide(first, approved=approved)
    began = time.perf_counter_ns()
    answers = [engine.answer(one) for one in questions]
    joined = Answer(
        answers[0].asked,
        frozenset[str]().union(*(one.matched for one in answers)),
        frozenset[str]().union(*(one.failed for one in answers)),
    )
    return engine._weigh(first, joined, approved, began)


def _fits(process: int, running: Running) -> bool:
    """What it has become. A script's command has its interpreter before it."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
        rest = list(running.argv[1:])
        whole = command[len(command) - len(rest) :] == rest and len(command) >= len(running.argv)
        return whole and file_of(process) in running.files
    except OSError:
        return False


def _hosts(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Address to names, of a file as /etc/hosts; what cannot be read names nothing."""
    found: dict[str, tuple[str, ...]] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text("ascii", "replace")[: 1 << 20].splitlines():
            words = line.partition("#")[0].split()
            if len(words) > 1:
                found[words[0]] = (*found.get(words[0], ()), *map(str.lower, words[1:]))
    return found
