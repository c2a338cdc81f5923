"""The kernel side under test: a sensor, all that it reported, and children that act.

`watch.act(function)` forks, runs the function in the child, and returns when the child's exit event
has been read: by then everything that it did in process context has been read too, so a test may
also assert what was *not* reported. Packets and socket closes come later: `watch.expect` waits.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from hullwatch.sensor.batch import Batch, Loss, String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import CLASSES
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.syscalls import OPS, SYSCALLS, op_of
from hullwatch.sensor.tier import Tier, cgroup2_root, read_facts
from hullwatch.sensor.wire import Class, Mark, ProcMark
from support.scratch import poll

__all__ = ["Child", "Event", "Process", "Watch", "call", "missing_bpf", "number_of", "own_cgroup"]

PID_MASK = 0x3FFFFF
_libc = ctypes.CDLL(None, use_errno=True)


def missing_bpf() -> str | None:
    """Why a sensor cannot run here; None if it can."""
    facts = read_facts()
    return f"needs BPF: {facts.reason}; {facts.mend}" if facts.tier == Tier.NONE else None


def number_of(name: str) -> int:
    """The number of a system call on this machine."""
    row = SYSCALLS[op_of(name)]
    number = row.x86_64 if platform.machine() == "x86_64" else row.arm64
    assert number is not None, f"{platform.machine()} has no {name}"
    return number


def call(name: str, *arguments: Any, number: int | None = None) -> int:
    """A raw system call: its result, or -errno."""
    words = [
        ctypes.c_char_p(a)
        if isinstance(a, bytes)
        else ctypes.c_long(a)
        if isinstance(a, int)
        else a
        for a in arguments
    ]
    ctypes.set_errno(0)
    done = _libc.syscall(ctypes.c_long(number_of(name) if number is None else number), *words)
    return int(done) if done != -1 else -ctypes.get_errno()


class Event(NamedTuple):
    """One row, its ids turned to text. op is the system call's name, '' for none."""

    cls: str
    obj: str
    obj2: str
    ret: int
    flags: int
    num: int
    num2: int
    marks: Any
    op: str
    proc: int
    cgroup: int
    tid: int
    port: int
    ts: int
    string: String
    string2: String


class Process(NamedTuple):
    """One row of a batch's procs, its ids turned to text."""

    row: Any
    exe: str
    argv: tuple[bytes, ...]
    argv_string: String
    cwd: str
    env: tuple[bytes, ...]
    script: str
    marks: Any


class Child:
    """A process that has acted and ended. status: as os.waitstatus_to_exitcode."""

    def __init__(self, watch: Watch, pid: int, proc: int, result: Any, status: int) -> None:
        self._watch = watch
        self.pid, self.proc, self.result, self.status = pid, proc, result, status

    def events(self, cls: str | None = None, **fields: Any) -> list[Event]:
        """What it did, in order; fields as Event's, for equality."""
        return self._watch.find(cls, proc=self.proc, **fields)

    def event(self, cls: str, **fields: Any) -> Event:
        """The one such event; AssertionError tells all that there was instead."""
        found = self.events(cls, **fields)
        if len(found) != 1:
            seen = "\n".join(f"  {event}" for event in self.events())
            raise AssertionError(
                f"{len(found)} {cls} events with {fields} instead of one. All of it:\n{seen}"
            )
        return found[0]


class Watch:
    """Reads a sensor's batches and keeps them. clear() forgets events, not strings."""

    def __init__(self, *, record: bool = True, keep_batches: bool = False, **options: Any) -> None:
        options = {"policy": False} | options  # it takes long to load
        self.sensor = Sensor(record=record, epoch_strings=1 << 30, **options)
        self.dictionary = Dictionary()
        self.strings: list[String] = []
        self.batches: list[Batch] = []
        self.losses: list[Loss] = []
        self.keep_batches = keep_batches
        self._events: list[np.ndarray] = []
        self._procs: list[np.ndarray] = []
        self.sensor.start()
        self.pump()

    @property
    def lsm(self) -> bool:
        return self.sensor.facts.tier == Tier.LSM

    def close(self) -> None:
        self.sensor.close()

    def pump(self) -> None:
        """Read all that is there."""
        while True:
            batch = self.sensor.drain()
            self.dictionary.add(batch.strings)
            self.strings.extend(batch.strings)
            self.losses.extend(batch.losses)
            if self.keep_batches:
                self.batches.append(batch)
            if len(batch.procs):
                self._procs.append(batch.procs)
            if not len(batch.events):
                return
            self._events.append(batch.events)

    def clear(self) -> None:
        self.pump()
        self._events.clear()
        self._procs.clear()
        self.strings.clear()
        self.losses.clear()

    def rows(self) -> np.ndarray:
        """All events so far: EVENT[n]."""
        if len(self._events) > 1:
            self._events = [np.concatenate(self._events)]
        return self._events[0] if self._events else np.empty(0, dtype=Batch().events.dtype)

    def _event(self, row: Any) -> Event:
        text, entry = self.dictionary.text, self.dictionary.entry
        obj, obj2 = int(row["obj"]), int(row["obj2"])
        numbers = {
            name: int(row[name])
            for name in ("ret", "flags", "num", "num2", "proc", "cgroup", "tid", "port", "ts")
        }
        return Event(
            cls=CLASSES[int(row["cls"])].name,
            obj=text(obj),
            obj2=text(obj2),
            marks=Mark(int(row["marks"])),
            op=OPS[int(row["op"])],
            string=entry(obj),
            string2=entry(obj2),
            **numbers,
        )

    def find(
        self, cls: str | None = None, *, proc: int | None = None, **fields: Any
    ) -> list[Event]:
        """Events so far of one class and process, with these fields."""
        rows = self.rows()
        if cls is not None:
            number = next(row.cls for row in CLASSES.values() if row.name == cls)
            rows = rows[rows["cls"] == number]
        if proc is not None:
            rows = rows[rows["proc"] == proc]
        found = (self._event(row) for row in rows)
        return [e for e in found if all(getattr(e, k) == v for k, v in fields.items())]

    def expect(self, cls: str, *, seconds: float = 30, **fields: Any) -> Event:
        """Wait for an event; the first that fits."""

        def seen() -> Event | None:
            self.pump()
            found = self.find(cls, **fields)
            return found[0] if found else None

        return poll(seen, seconds=seconds, waiting_for=f"{cls} {fields}")

    def process(self, pid: int, cls: int = Class.EXEC) -> Process:
        """The last exec (or task) row of a pid; waits for it."""

        def seen() -> Process | None:
            self.pump()
            for rows in reversed(self._procs):
                fitting = rows[(rows["pid"] == pid) & (rows["cls"] == int(cls))]
                if len(fitting):
                    return self._process(fitting[-1])
            return None

        return poll(seen, seconds=30, waiting_for=f"a process row of pid {pid}")

    def _process(self, row: Any) -> Process:
        argv = self.dictionary.entry(int(row["argv"]))
        env = self.dictionary.entry(int(row["env"])).data
        return Process(
            row=row,
            exe=self.dictionary.text(int(row["exe"])),
            argv=tuple(argv.data.split(b"\0")[:-1]) if argv.data else (),
            argv_string=argv,
            cwd=self.dictionary.text(int(row["cwd"])),
            env=tuple(env.split(b"\0")[:-1]) if env else (),
            script=self.dictionary.text(int(row["script"])),
            marks=ProcMark(int(row["marks"])),
        )

    def ended(self, pid: int, seconds: float = 60) -> Event:
        """Wait for the exit event of the newest process with this pid."""

        def seen() -> Event | None:
            self.pump()
            rows = self.rows()
            rows = rows[
                (rows["cls"] == int(Class.EXIT)) & (rows["proc"] & np.uint64(PID_MASK) == pid)
            ]
            return self._event(rows[-1]) if len(rows) else None

        return poll(seen, seconds=seconds, waiting_for=f"the exit of {pid}")

    def act(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """Run the function in a forked child; its result travels as JSON. Raises what it raised."""
        reading, writing = os.pipe()
        self.pump()
        pid = os.fork()
        if pid == 0:
            _be_child(writing, function, arguments)
        os.close(writing)
        with open(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
        answer = json.loads(said) if said else {"result": None}
        if "error" in answer:
            raise AssertionError(f"the child failed:\n{answer['error']}")
        proc = self.ended(pid).proc
        return Child(self, pid, proc, answer["result"], os.waitstatus_to_exitcode(status))

    def act_exec(self, function: Callable[[], Any]) -> Child:
        """As act, for a function that ends in another program."""
        self.pump()
        pid = os.fork()
        if pid == 0:
            try:
                function()
            finally:
                traceback.print_exc()
                os._exit(126)
        _, status = os.waitpid(pid, 0)
        assert status != 126 << 8, "the child never got to its exec"
        return Child(self, pid, self.ended(pid).proc, None, os.waitstatus_to_exitcode(status))

    def run(self, argv: Sequence[str | bytes], **options: Any) -> Child:
        """Run a program to its end; options are Popen's. result: its stdout."""
        self.pump()
        options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
        process = subprocess.Popen(argv, **options)
        out, _ = process.communicate(timeout=60)
        proc = self.ended(process.pid).proc
        return Child(self, process.pid, proc, out, process.returncode)


def _be_child(writing: int, function: Callable[..., Any], arguments: Sequence[Any]) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        answer: Mapping[str, Any] = {"result": function(*arguments)}
        status = 0
    except BaseException:
        answer = {"error": traceback.format_exc()}
    try:
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(status)


@contextmanager
def own_cgroup(name: str) -> Iterator[Path]:
    """A cgroup in the v2 tree, removed in the end; processes still in it are killed."""
    folder = Path(cgroup2_root()) / name
    folder.mkdir()
    try:
        yield folder
    finally:

        def removed() -> bool:
            for pid in (folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            try:
                folder.rmdir()
            except OSError:
                return False
            return True

        poll(removed, seconds=30, waiting_for=f"{folder} to be empty")
