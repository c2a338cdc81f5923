"""What the BPF programs keep on their stacks: 512 bytes along any way of calls, as kernels before
6.13 count it, each function rounded up to 32. The guests' kernels refuse what is above; this names
the way."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

import hullwatch.kernel

OBJECTS = sorted(Path(hullwatch.kernel.__file__).parent.glob("*.bpf.o"))
LIMIT, ROUNDED = 512, 32
_PSEUDO_CALL = ("85", "10")


def read(path: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Bytes of stack of each function, and whom it calls."""
    done = subprocess.run(
        ["llvm-objdump", "-d", "-r", str(path)], check=True, capture_output=True, text=True
    )
    section = function = ""
    sizes: dict[str, int] = {}
    begins: dict[tuple[str, int], str] = {}
    calls: list[tuple[str, str, int]] = []  # caller, section and instruction of whom it calls
    called: dict[str, set[str]] = {}
    offset = address = 0
    for line in done.stdout.splitlines():
        if found := re.match(r"Disassembly of section (.+):", line):
            section = found[1]
        elif found := re.match(r"([0-9a-f]+) <((?!LBB).+)>:", line):
            function = found[2]
            sizes[function], called[function] = 0, set()
            begins[section, int(found[1], 16) // 8] = function
        elif found := re.search(r"R_BPF_64_32\s+(\S+)", line):
            calls.pop()
            if found[1] == ".text":  # a static function: counted from the section's beginning
                calls.append((function, ".text", 1 + offset))
            else:
                called[function].add(found[1])
        elif re.search(r"R_BPF_64_64\s+\.text", line):  # a callback's address, counted as a call
            calls.append((function, ".text", address // 8))
        elif found := re.match(r"\s*(\d+):\s+((?:[0-9a-f]{2} ){7}[0-9a-f]{2})", line):
            raw = found[2].split()
            if tuple(raw[:2]) == _PSEUDO_CALL:
                offset = int.from_bytes(bytes.fromhex("".join(raw[4:])), "little", signed=True)
                calls.append((function, section, int(found[1]) + 1 + offset))
            elif raw[0] == "18":
                address = int.from_bytes(bytes.fromhex("".join(raw[4:])), "little")
            for used in re.findall(r"r10 - (0x[0-9a-f]+|\d+)", line):
                sizes[function] = max(sizes[function], int(used, 0))
    for caller, where, at in calls:
        called[caller].add(begins[where, at])
    return sizes, called


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_no_way_of_calls_is_too_deep(path):
    if shutil.which("llvm-objdump") is None:
        pytest.skip("needs llvm-objdump: apt-get install llvm")
    sizes, called = read(path)
    assert len(sizes) > 50 and sum(map(len, called.values())) > 100

    @cache
    def deepest(name: str) -> tuple[int, str]:
        below, way = max((deepest(other) for other in called[name]), default=(0, ""))
        own = max(-(-sizes[name] // ROUNDED), 1) * ROUNDED
        return below + own, f"{name} {sizes[name]} > {way}"

    too_deep = [way for depth, way in map(deepest, sizes) if depth > LIMIT]
    assert not too_deep, "\n".join(too_deep)
    assert max(depth for depth, _ in map(deepest, sizes)) > LIMIT // 2
