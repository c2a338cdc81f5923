"""What the agent keeps of root's rights: the table, what the kernel says of it, giving up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hullwatch.privileges import (
    CAPABILITIES,
    KEPT,
    Held,
    Situation,
    held,
    mask,
    name_of,
    names_of,
    read_status,
)

STATUS = """Name:\tpython
Umask:\t0077
CapInh:\t0000000000000004
CapPrm:\t0000008000000004
CapEff:\t0000000000000006
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000004
NoNewPrivs:\t1
Seccomp:\t0
"""


def kept(release: str, foreign: bool = False) -> list[str]:
    situation = Situation(release, foreign)
    return [one.name for one in KEPT if one.where(situation)]


def test_each_row_names_a_capability_once_and_says_why() -> None:
    names = [one.name for one in KEPT]
    assert len(set(names)) == len(names) and set(names) <= set(CAPABILITIES)
    assert all(one.why for one in KEPT)
    # What would give back everything else, or the memory of every process.
    assert not {"SYS_ADMIN", "SYS_PTRACE", "SETPCAP", "SYS_MODULE", "SETUID"} & set(names)


def test_numbers_are_the_kernels() -> None:
    # include/uapi/linux/capability.h
    known = {"CHOWN": 0, "DAC_READ_SEARCH": 2, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "BPF": 39}
    assert {name: CAPABILITIES.index(name) for name in known} == known
    assert names_of(1 << 40 | 1 << 41) == ["CAP_CHECKPOINT_RESTORE", "CAP_41"]
    assert name_of(0) == "CAP_CHOWN"
    assert mask(KEPT) == 1 << 1 | 1 << 2 | 1 << 39


@pytest.mark.parametrize(
    ("release", "bpf"),
    [
        ("5.17.0-1-amd64", True),
        ("5.18.19", True),
        ("5.19.0", False),
        ("6.1.0-18-amd64", False),
        ("10.0", False),
        ("unheard-of", True),
        ("", True),
    ],
)
def test_bpf_is_kept_where_looking_into_a_map_needs_it(release: str, bpf: bool) -> None:
    assert ("BPF" in kept(release)) is bpf
    assert "DAC_READ_SEARCH" in kept(release)


def test_other_users_files_are_written_only_where_the_store_is_one() -> None:
    assert kept("6.1.0") == ["DAC_READ_SEARCH"]
    assert kept("6.1.0", foreign=True) == ["DAC_READ_SEARCH", "DAC_OVERRIDE"]


def test_a_threads_status() -> None:
    assert read_status(STATUS) == Held(
        effective=6,
        permitted=1 << 39 | 4,
        inheritable=4,
        ambient=4,
        bounding=(1 << 41) - 1,
        no_new_privs=True,
        threads=1,
    )
    one, other = read_status(STATUS), read_status(STATUS.replace("Privs:\t1", "Privs:\t0"))
    assert one.any == 1 << 39 | 6
    both = one.with_(other)
    assert (both.threads, both.no_new_privs) == (2, False)


def test_what_we_hold_ourselves() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    said = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    ours = held()
    assert ours.threads == len(list(Path("/proc/self/task").iterdir()))
    assert ours.bounding & int(said["CapBnd"], 16) == int(said["CapBnd"], 16)
    assert held(os.getpid()).permitted == ours.permitted


BEGIN = """
import json, os, subprocess, sys, threading
from pathlib import Path
from types import SimpleNamespace
from hullwatch import privileges
real, os.uname = os.uname, lambda: SimpleNamespace(release=sys.argv[2])
rights = privileges.begin(Path(sys.argv[1]))
os.uname = real
import numpy  # makes threads of its own
before = rights.call(lambda: os.geteuid()), rights.call(threading.get_native_id)
rights.end()
show = "import json; from hullwatch.privileges import held; print(json.dumps(held()))"
child = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
gone = not Path(f"/proc/self/task/{before[1]}").exists()
print(json.dumps([rights.report(), json.loads(child.stdout), before[0], gone]))
"""


@pytest.mark.parametrize(("release", "bpf"), [("5.17.0", {"CAP_BPF"}), ("6.1.0", set())])
def test_given_up_by_every_thread_and_child(tmp_path: Path, release: str, bpf: set[str]) -> None:
    command = [sys.executable, "-c", BEGIN, str(tmp_path), release]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report, child, uid, gone = json.loads(done.stdout)
    assert uid == os.geteuid() and gone
    assert report["no_new_privs"] and not report["dumpable"]
    wanted = {"CAP_DAC_READ_SEARCH"} | bpf
    assert set(report["held"]) == wanted & set(names_of(held().permitted))
    assert set(report["why"]) >= wanted
    after = Held(*child)
    assert after.no_new_privs and after.any & ~(1 << 2) == 0
    if held().permitted >> CAPABILITIES.index("SETPCAP") & 1:
        assert report["problems"] == [] and report["bounding"] == report["held"]
        assert after.bounding & ~mask(KEPT) == 0
    else:  # told, and not fatal
        assert any("bounding set" in problem for problem in report["problems"])
