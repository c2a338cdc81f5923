"""The table of system calls: numbers are unique, positions are for ever, handlers exist."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from hullwatch.kernel.build import object_path
from hullwatch.sensor.syscalls import OPS, SOCKETCALLS, SYSCALLS, op_of

KERNEL = Path(object_path("x86_64")).parent


@pytest.mark.parametrize("machine", ["x86_64", "arm64", "ia32"])
def test_no_number_is_used_twice(machine: str):
    numbers = Counter(getattr(row, machine) for row in SYSCALLS)
    numbers.pop(None, None)
    assert [number for number, times in numbers.items() if times > 1] == []
    assert all(0 <= number < 512 for number in numbers)


def test_names_are_unique_and_op_0_is_none():
    assert OPS[0] == "" and len(set(OPS)) == len(OPS)
    assert all(op_of(name) == op for op, name in enumerate(OPS))
    with pytest.raises(KeyError):
        op_of("no_such_call")


def test_positions_never_change():
    """`hw_event.op` is stored: new calls go to the end. The first 80 are these."""
    digest = hashlib.sha256("\n".join(OPS[:80]).encode()).hexdigest()
    assert digest[:16] == FIRST_80


FIRST_80 = "289d714c917e1022"


def test_every_handler_is_a_program():
    sources = "".join(path.read_text() for path in KERNEL.glob("*.bpf.c"))
    programs = set(re.findall(r"BPF_PROG\((exit_\w+),", sources))
    assert {row.handler for row in SYSCALLS if row.handler} == programs


def test_numbers_since_5_2_are_the_same_everywhere():
    """From pidfd_send_signal (424) on, all architectures share one number space."""
    for row in SYSCALLS:
        numbers = {row.x86_64, row.arm64, row.ia32} - {None}
        if any(number >= 424 for number in numbers if number is not None):
            assert len(numbers) == 1, row.name


def test_numbers_agree_with_this_machines_headers():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    header32 = header.with_name("unistd_32.h")
    if not header.exists() or not header32.exists():
        pytest.skip("needs linux-libc-dev for x86-64")
    for path, machine in ((header, "x86_64"), (header32, "ia32")):
        known = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", path.read_text()))
        special = {"chown": "chown32", "lchown": "lchown32", "fchown": "fchown32", "mmap": "mmap2"}
        for row in SYSCALLS:
            number = getattr(row, machine)
            if not row.name or number is None:
                continue
            names = [row.name]
            if machine == "ia32":
                names += [special.get(row.name, ""), f"{row.name}32"]
            told = {int(known[name]) for name in names if name in known}
            assert not told or number in told, (row.name, machine, number, told)


def test_socketcalls_are_calls_of_the_table():
    assert all(SYSCALLS[op_of(name)].handler for name in SOCKETCALLS.values())
    assert all(0 < number < 32 for number in SOCKETCALLS)
