"""The filter, asked as the kernel would ask it; and the profile, as libseccomp would."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.sensor.seccomp.abi import ARCH, AUDIT_ARCH, number
from hullwatch.sensor.seccomp.calls import CALLS
from hullwatch.sensor.seccomp.filter import ACTIONS, profile, program, rules

pytestmark = pytest.mark.skipif(not ARCH, reason="needs x86-64 or arm64")

ALLOW, ASK, KILL, ERRNO = 0x7FFF0000, 0x7FC00000, 0x80000000, 0x00050000


def run(code: bytes, call: int, arguments: tuple[int, ...] = (), arch: int = AUDIT_ARCH) -> int:
    """struct seccomp_data through a BPF program (Documentation/networking/filter.rst)."""
    words = (*arguments, *(0,) * 6)[:6]
    data = struct.pack("=iIQ6Q", call, arch, 0, *words)
    lines = list(struct.iter_unpack("=HBBI", code))
    at, value = 0, 0
    while True:
        op, yes, no, k = lines[at]
        at += 1
        match op:
            case 0x20:
                value = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                value &= k
            case 0x15:
                at += yes if value == k else no
            case 0x35:
                at += yes if value >= k else no
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(hex(op))


def by_profile(section: dict[str, Any], call: str, arguments: tuple[int, ...]) -> int:
    words = (*arguments, *(0,) * 6)[:6]

    def holds(one: dict[str, Any]) -> bool:
        value = words[one["index"]]
        if one["op"] == "SCMP_CMP_NE":
            return bool(value != one["value"])
        return bool(value & one["value"] == one["valueTwo"])

    for entry in section["syscalls"]:
        if call in entry["names"] and all(map(holds, entry.get("args", []))):
            return ERRNO | entry["errnoRet"] if "errnoRet" in entry else ASK
    return ALLOW


def ask(call: str, *arguments: int, actions: tuple[str, ...] = ACTIONS) -> int:
    wanted = number(call)
    assert wanted is not None
    return run(program(rules(actions)), wanted, arguments)


def test_what_is_not_spoken_of_is_left_alone():
    assert rules(()) == ()
    assert ask("openat", 0, 0, os.O_RDWR, actions=("exec",)) == ALLOW
    assert ask("execve", actions=("exec",)) == ASK
    assert ask("connect", actions=("open-read",)) == ALLOW


@pytest.mark.parametrize(
    ("flags", "read", "write"),
    [
        (os.O_RDONLY, ASK, ALLOW),
        (os.O_WRONLY, ALLOW, ASK),
        (os.O_RDWR, ASK, ASK),
        (os.O_RDONLY | os.O_CREAT, ASK, ASK),
        (os.O_RDONLY | os.O_TRUNC, ASK, ASK),
        (os.O_ACCMODE, ASK, ASK),
        (os.O_PATH, ALLOW, ALLOW),
        (os.O_PATH | os.O_RDWR, ALLOW, ALLOW),
    ],
)
def test_opens_by_their_flags(flags: int, read: int, write: int):
    assert ask("openat", 0, 0, flags, actions=("open-read",)) == read
    assert ask("openat", 0, 0, flags, actions=("open-write",)) == write


def test_ways_around():
    for call in ("io_uring_setup", "io_uring_enter"):
        assert ask(call) == ERRNO | errno.ENOSYS
    for call in ("ptrace", "process_vm_writev", "userfaultfd", "mount", "open_by_handle_at"):
        assert ask(call, actions=("exec",)) == ERRNO | errno.EPERM
    assert ask("seccomp", 1, 8) == ERRNO | errno.EBUSY
    assert ask("seccomp", 1, 0) == ALLOW
    assert ask("socket", 2, 1, 132) == ERRNO | errno.EPROTONOSUPPORT
    assert ask("socket", 1, 5, 0) == ALLOW
    assert ask("sendto", 3, 1, 1, 0, 0) == ALLOW
    assert ask("sendto", 3, 1, 1, 0, 1 << 40) == ASK


def test_other_abis():
    code = program(rules(ACTIONS))
    assert run(code, 11, arch=0x40000003) == KILL
    if ARCH == "x86_64":
        assert run(code, 0x40000000 | 59) == ERRNO | errno.ENOSYS


def test_all_that_is_asked_about_can_be_answered():
    asked = {number(rule.call) for rule in rules(ACTIONS) if not rule.code}
    assert asked == set(CALLS)


@given(
    st.sampled_from([rule.call for rule in rules(ACTIONS)] if ARCH else ["none"]),
    st.tuples(*[st.one_of(st.integers(0, 200), st.integers(0, 2**32 - 1))] * 6),
    st.sets(st.sampled_from(ACTIONS), min_size=1),
)
def test_program_and_profile_say_the_same(call: str, arguments: tuple[int, ...], actions: set[str]):
    wanted = rules(actions)
    made = number(call)
    assert made is not None
    section = profile(wanted, "/socket", "")
    assert run(program(wanted), made, arguments) == by_profile(section, call, arguments)
