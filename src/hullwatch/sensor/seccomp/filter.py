"""Which system calls the kernel asks about, which it refuses by itself, and which it leaves alone.

One table, written twice: as the classic BPF program of seccomp(2), and as `linux.seccomp` of an OCI
config.json. Conditions are about registers only: what a pointer leads to, a filter cannot see.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from hullwatch.sensor.seccomp.abi import ARCH, AUDIT_ARCH, number

__all__ = ["ACTIONS", "REFUSED", "Rule", "When", "profile", "program", "rules"]

_ACCESS = os.O_ACCMODE
_PATH = getattr(os, "O_PATH", 0o10000000)


class When(NamedTuple):
    """A condition on one argument: `argument & mask == value`; mask 0: it is not zero. 32 bits,
    but for the latter, which is of all 64."""

    argument: int
    mask: int = 0
    value: int = 0


class Rule(NamedTuple):
    """code: the error that the call ends with; 0: the kernel asks. when: all of them hold."""

    call: str
    code: int = 0
    when: tuple[When, ...] = ()


class Refusal(NamedTuple):
    """Calls that would get around what is asked, and why."""

    calls: tuple[str, ...]
    code: int
    why: str


REFUSED: tuple[Refusal, ...] = (
    Refusal(
        ("io_uring_setup", "io_uring_enter", "io_uring_register"),
        errno.ENOSYS,
        "opens and connects without a system call for each; programs fall back to those",
    ),
    Refusal(
        ("ptrace", "process_vm_writev", "pidfd_getfd"),
        errno.EPERM,
        "acts through another process, which may not be held, or changes what was decided",
    ),
    Refusal(("userfaultfd",), errno.EPERM, "stops whoever reads the memory that is decided on"),
    Refusal(("open_by_handle_at",), errno.EPERM, "opens a file without a path"),
    Refusal(
        (
            *("mount", "umount2", "move_mount", "pivot_root", "mount_setattr", "fsopen", "fsmount"),
            *("fspick", "fsconfig", "open_tree", "open_tree_attr"),
        ),
        errno.EPERM,
        "gives a file another path, as any user may within a user namespace",
    ),
)


def _opens(argument: dict[str, int], *wanted: tuple[int, int]) -> tuple[Rule, ...]:
    """argument: where each call has its flags. wanted: of those, (mask, value), any of them; O_PATH
    opens nothing."""
    return tuple(
        Rule(call, 0, (When(at, mask | _PATH, value),))
        for call, at in argument.items()
        for mask, value in wanted
    )


_FLAGS = {"open": 1, "openat": 2}
# Another name for a file is another path to open it by.
_NAMES = tuple(map(Rule, ("link", "linkat", "rename", "renameat", "renameat2")))
_SCTP = 132
_INET = (2, 10)
_READS = (
    *_opens(_FLAGS, (_ACCESS, os.O_RDONLY), (_ACCESS, os.O_RDWR), (_ACCESS, _ACCESS)),
    Rule("openat2"),
    *_NAMES,
)
_WATCHED: dict[str, tuple[Rule, ...]] = {
    "exec": (Rule("execve"), Rule("execveat")),
    **dict.fromkeys(("open-read", "use-secret", "load-plugin"), _READS),
    "open-write": (
        *_opens(
            _FLAGS,
            *((_ACCESS, how) for how in (os.O_WRONLY, os.O_RDWR, _ACCESS)),
            (os.O_CREAT, os.O_CREAT),
            (os.O_TRUNC, os.O_TRUNC),
        ),
        *map(Rule, ("openat2", "creat", "truncate")),
        *_NAMES,
    ),
    "connect": (
        *map(Rule, ("connect", "sendmsg", "sendmmsg")),
        Rule("sendto", 0, (When(4),)),
        # It connects through setsockopt(2).
        Rule("socket", errno.EPROTONOSUPPORT, (When(2, 0xFFFFFFFF, _SCTP),)),
        *(
            Rule("socket", errno.EPROTONOSUPPORT, (When(0, 0xFFFFFFFF, one), When(1, 0xF, 5)))
            for one in _INET
        ),
    ),
    "listen": (Rule("bind"), Rule("listen")),
}
ACTIONS = tuple(_WATCHED)
_SET_FILTER, _NEW_LISTENER = 1, 1 << 3


def rules(actions: Iterable[str]) -> tuple[Rule, ...]:
    """For these actions, in the order of calls; none for none."""
    found = [rule for action in actions for rule in _WATCHED[action]]
    if not found:
        return ()
    found += [Rule(call, one.code) for one in REFUSED for call in one.calls]
    # Of several filters the newest would be asked.
    newer = (When(0, 0xFFFFFFFF, _SET_FILTER), When(1, _NEW_LISTENER, _NEW_LISTENER))
    found.append(Rule("seccomp", errno.EBUSY, newer))
    return tuple(sorted({one for one in found if number(one.call) is not None}))


# --- as a program: linux/filter.h, linux/seccomp.h ----------------------------------------

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _RETURN, _JEQ, _JGE = 0x20, 0x54, 0x06, 0x15, 0x35
_KILL_PROCESS, _ERRNO, _ASK, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000

_Code = list[tuple[int, int, int, int]]


def program(wanted: Iterable[Rule]) -> bytes:
    """For seccomp(2). A call by another ABI (32-bit) ends the process, as its numbers mean others;
    x32 does not exist."""
    code: _Code = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, AUDIT_ARCH),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
    ]
    if ARCH == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for call, of_call in groupby(wanted, key=lambda rule: rule.call):
        body = [line for rule in of_call for line in _body(rule)]
        body.append((_RETURN, 0, 0, _ALLOW))
        code += [(_JEQ, 0, len(body), number(call) or 0), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*line) for line in code)


def _body(rule: Rule) -> _Code:
    """What ends the call, or goes on after it."""
    end = [(_RETURN, 0, 0, _ERRNO | rule.code if rule.code else _ASK)]
    for one in reversed(rule.when):
        end = [*_test(one, len(end)), *end]
    return end


def _test(when: When, over: int) -> _Code:
    """Jumps over so many instructions where it does not hold."""
    at = _ARGUMENTS + 8 * when.argument
    if when.mask:
        return [(_LOAD, 0, 0, at), (_AND, 0, 0, when.mask), (_JEQ, 0, over, when.value)]
    return [(_LOAD, 0, 0, at), (_JEQ, 0, 2, 0), (_LOAD, 0, 0, at + 4), (_JEQ, over, 0, 0)]


# --- as OCI: runtime-spec 1.0.2, config-linux.md ------------------------------------------

_OCI_ARCH = {"x86_64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}


def profile(wanted: Iterable[Rule], listener: str, metadata: str) -> dict[str, Any]:
    """`linux.seccomp` of a config.json. listener: path of the agent's socket. metadata: handed to
    the agent as it is."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_OCI_ARCH[ARCH]],
        "listenerPath": listener,
        "listenerMetadata": metadata,
        "syscalls": list(_entries(wanted)),
    }


def _entries(wanted: Iterable[Rule]) -> Iterator[dict[str, Any]]:
    def alike(rule: Rule) -> tuple[int, tuple[When, ...]]:
        return rule.code, rule.when

    for (code, when), same in groupby(sorted(wanted, key=alike), key=alike):
        entry: dict[str, Any] = {
            "names": [rule.call for rule in same],
            "action": "SCMP_ACT_ERRNO" if code else "SCMP_ACT_NOTIFY",
        }
        if code:
            entry["errnoRet"] = code
        if when:
            entry["args"] = [_condition(one) for one in when]
        yield entry


def _condition(when: When) -> dict[str, Any]:
    if not when.mask:
        return {"index": when.argument, "value": 0, "op": "SCMP_CMP_NE"}
    return {
        "index": when.argument,
        "value": when.mask,
        "valueTwo": when.value,
        "op": "SCMP_CMP_MASKED_EQ",
    }
