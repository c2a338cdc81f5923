"""Root's rights: what the agent keeps of them, and how the others are given up for good.

capset(2) and prctl(2) act on the calling thread, and a thread or child has what its maker had
(capabilities(7)). Libraries make threads when they are imported (OpenBLAS, jemalloc), which nobody
could ask to give up anything. So it is done the other way about, before they are: one thread is
made that keeps everything, then the main thread gives up, and all that it makes from then on never
had more. The one thread does what needs root and ends when the agent watches.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "KEPT", "Held", "Kept", "Rights", "Situation", "be_preferred", "begin", "held", "keep_only",
    "name_of", "read_status",
]  # fmt: skip

_T = TypeVar("_T")
# include/uapi/linux/capability.h, in the order of their numbers.
CAPABILITIES = tuple(
    (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP"
        " LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER"
        " SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE"
        " SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
        " MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF"
        " CHECKPOINT_RESTORE"
    ).split(" ")
)
# include/uapi/linux/prctl.h
_SET_DUMPABLE, _GET_DUMPABLE = 4, 3
_CAPBSET_READ, _CAPBSET_DROP, _SET_SECUREBITS, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 23, 24, 28, 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
# include/uapi/linux/securebits.h: root's exec gives nothing (1), nor does a change of ids (4); no
# keeping over one (16 stays off), no ambient ones any more (64); each locked by the bit above it.
_SECUREBITS = 1 | 2 | 4 | 8 | 32 | 64 | 128
_CAP_VERSION_3 = 0x20080522
_HEADER, _SETS = struct.Struct("<Ii"), struct.Struct("<6I")
_ENDS_WITHIN = 5.0  # s: a thread that has ended for Python is gone for the kernel soon after
_libc = ctypes.CDLL(None, use_errno=True)


class Situation(NamedTuple):
    """What decides which rights are needed. release: of the kernel; foreign: root may not write
    to the store, or the capture, without a right over other users' files."""

    release: str
    foreign: bool = False


class Kept(NamedTuple):
    """A capability that the agent keeps `where` that holds; for its children too, or not."""

    name: str
    why: str
    children: bool = False
    where: Callable[[Situation], bool] = lambda _: True

    @property
    def bit(self) -> int:
        return 1 << CAPABILITIES.index(self.name)


def _bpf_asks(situation: Situation) -> bool:
    """Before Linux 5.19 (c8644cd0efe7) bpf(2) wants CAP_BPF for every command where unprivileged
    BPF is off; from then on only to make maps and load programs. Backports cannot be told."""
    found = re.match(r"(\d+)\.(\d+)", situation.release)
    return found is None or (int(found[1]), int(found[2])) < (5, 19)


KEPT = (
    Kept(
        "DAC_READ_SEARCH",
        "files of runtimes, images and users that only their owner may read; cgroups by id",
        children=True,  # the interpreter may lie in somebody's home
    ),
    Kept(
        "DAC_OVERRIDE",
        "what it writes to belongs to another user",
        children=True,  # it writes there too
        where=lambda situation: situation.foreign,
    ),
    Kept("BPF", "this kernel wants it to read and write BPF maps", where=_bpf_asks),
)


class Held(NamedTuple):
    """What the threads of a process hold, all together: sets as bits of capability numbers."""

    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0
    bounding: int = 0
    no_new_privs: bool = True
    threads: int = 0

    @property
    def any(self) -> int:
        return self.effective | self.permitted | self.inheritable | self.ambient

    def with_(self, other: Held) -> Held:
        return Held(
            self.effective | other.effective,
            self.permitted | other.permitted,
            self.inheritable | other.inheritable,
            self.ambient | other.ambient,
            self.bounding | other.bounding,
            self.no_new_privs and other.no_new_privs,
            self.threads + other.threads,
        )


class Rights:
    """Made by begin(). `call` has something done with all of root's rights until `end`."""

    def __init__(self, kept: tuple[Kept, ...], worker: ThreadPoolExecutor, said: list[str]) -> None:
        self.kept = kept
        self.problems = said
        """What could not be given up, and why: to be shown."""
        self._worker = worker

    def call(self, work: Callable[[], _T]) -> _T:
        return self._worker.submit(work).result()

    def end(self) -> None:
        """The thread that had everything ends; what others hold that they should not is told."""
        tasks = {thread.native_id for thread in self._worker._threads}
        self._worker.shutdown(wait=True)
        deadline = time.monotonic() + _ENDS_WITHIN
        while any(Path(f"/proc/self/task/{task}").exists() for task in tasks):
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        extra = held().any & ~mask(self.kept)
        if extra:
            self.problems.append(f"still held: {', '.join(names_of(extra))}")

    def report(self) -> dict[str, Any]:
        """For `status`: what the kernel says is held now, by any thread."""
        now = held()
        return {
            "held": names_of(now.any),
            "bounding": names_of(now.bounding),
            "why": {f"CAP_{one.name}": one.why for one in self.kept},
            "no_new_privs": now.no_new_privs,
            "dumpable": bool(_libc.prctl(_GET_DUMPABLE, 0, 0, 0, 0)),
            "problems": list(self.problems),
        }


def begin(*written: Path) -> Rights:
    """Give up, in this thread, what KEPT does not name. Call before anything makes threads.

    written: files and directories that will be written to. Never fails: Rights.problems says what
    did not work.
    """
    from concurrent.futures import ThreadPoolExecutor  # what only gives up has no use for it

    worker = ThreadPoolExecutor(1, "root")
    worker.submit(lambda: None).result()  # it is made now, of a thread that has everything
    with ThreadPoolExecutor(1) as plain:
        foreign = plain.submit(_cannot_write, written).result()
    situation = Situation(os.uname().release, foreign)
    kept = tuple(one for one in KEPT if one.where(situation))
    said = _give_up(mask(kept), mask(tuple(one for one in kept if one.children)))
    # What is in memory is nobody's but root's: not to be read or traced by a process of the same
    # user without CAP_SYS_PTRACE (ptrace(2)), nor left in a core file.
    _try(said, "to be dumpable", _SET_DUMPABLE, 0)
    return Rights(kept, worker, said)


def keep_only(*names: str) -> list[str]:
    """Give up, in this thread and for good, all but these; what did not work. For a program with
    one thread."""
    said = _give_up(sum(1 << CAPABILITIES.index(name) for name in names), 0)
    _try(said, "to be dumpable", _SET_DUMPABLE, 0)
    return said


def be_preferred(thread: int = 0, by: int = 10) -> None:
    """More often on the CPU than what is watched: a starved reader loses events, and one that
    answers would be taken for hung. Its threads to come, too. Without CAP_SYS_NICE it runs as it
    is."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, -by)


def _cannot_write(written: tuple[Path, ...]) -> bool:
    """Whether root needs a right over other users' files for one of these. For good: to be called
    in a thread of its own."""
    _give_up(0, 0)
    try:
        for path in written:
            how = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
            if path.exists() and not os.access(path, how, effective_ids=True):
                return True
    except OSError:  # not even to be looked at
        return True
    return False


def _give_up(keep: int, children: int) -> list[str]:
    """Of this thread. children: what a program that it runs gets (as ambient ones)."""
    said: list[str] = []
    permitted = _capget()[1]
    keep, children = keep & permitted, children & keep & permitted
    for number in range(64):
        if _libc.prctl(_CAPBSET_READ, number, 0, 0, 0) == 1 and not keep >> number & 1:
            _try(said, "the bounding set", _CAPBSET_DROP, number)
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    # While all are still held: an ambient one has to be permitted and inheritable before.
    _capset(said, permitted, permitted, children)
    for number in _numbers(children):
        _try(said, f"what children get ({name_of(number)})", _CAP_AMBIENT, _AMBIENT_RAISE, number)
    _try(said, "gaining rights by exec (securebits)", _SET_SECUREBITS, _SECUREBITS)
    _capset(said, keep, keep, children)
    _try(said, "gaining rights by exec (no_new_privs)", _SET_NO_NEW_PRIVS, 1)
    return said


def _try(said: list[str], what: str, option: int, *arguments: int) -> None:
    """prctl, where a failure is told once a kind."""
    if _libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4]) != 0:
        why = os.strerror(ctypes.get_errno())
        if (text := f"could not give up {what}: {why}") not in said:
            said.append(text)


def _capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread."""
    sets = ctypes.create_string_buffer(_SETS.size)
    if _libc.capget(_HEADER.pack(_CAP_VERSION_3, 0), sets) != 0:
        return 0, 0, 0
    words = _SETS.unpack(sets.raw)
    low, high = words[:3], words[3:]
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def _capset(said: list[str], effective: int, permitted: int, inheritable: int) -> None:
    sets = (effective, permitted, inheritable)
    words = [*(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets)]
    if _libc.capset(_HEADER.pack(_CAP_VERSION_3, 0), _SETS.pack(*words)) != 0:
        said.append(f"could not give up capabilities: {os.strerror(ctypes.get_errno())}")


# --- what is held ---------------------------------------------------------------------------


def mask(kept: tuple[Kept, ...]) -> int:
    return sum(one.bit for one in kept)


def name_of(number: int) -> str:
    """CAP_ and its name, or its number where a later kernel has more."""
    return f"CAP_{CAPABILITIES[number] if number < len(CAPABILITIES) else number}"


def names_of(bits: int) -> list[str]:
    return [name_of(number) for number in _numbers(bits)]


def _numbers(bits: int) -> Iterator[int]:
    return (number for number in range(64) if bits >> number & 1)


def read_status(text: str) -> Held:
    """/proc/PID/task/TID/status (proc(5)) as one thread's Held."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    effective, permitted, inheritable, ambient, bounding = (
        int(lines[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Amb", "Bnd")
    )
    sealed = lines["NoNewPrivs"].strip() == "1"
    return Held(effective, permitted, inheritable, ambient, bounding, sealed, 1)


def held(pid: int | None = None) -> Held:
    """All threads of a process (ours), together."""
    total = Held()
    for path in Path(f"/proc/{pid or 'self'}/task").glob("*/status"):
        try:
            one = read_status(path.read_text())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):  # it has ended
                continue
            raise
        total = total.with_(one)
    return total
