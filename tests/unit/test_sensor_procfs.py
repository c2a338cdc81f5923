"""What /proc adds: arguments and names of variables, cut where they are too long, never a value."""

from __future__ import annotations

import os
import subprocess
import sys

from hullwatch.sensor import procfs


def running(argv: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A program that has echoed a first line and waits for another.

    Popen returns within execve, when /proc may not have the new arguments yet.
    """
    process = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"first\n"
    return process


def test_arguments_and_names():
    with running(["cat", "-u", "-"], {"TOKEN": "hidden=value", "EMPTY": ""}) as process:
        assert procfs.arguments(process.pid) == (b"cat\0-u\0-\0", 9)
        assert procfs.environment_names(process.pid) == (b"TOKEN\0EMPTY\0", False)


def test_long_ones_are_cut_and_say_so():
    words = ["sh", "-c", "read line; echo $line; read line", "x" * 40000]
    names = {f"NAME_{i:05}": "v" for i in range(3000)}
    with running(words, names) as process:
        data, whole = procfs.arguments(process.pid)
        assert len(data) == 16384 and whole == sum(len(word) + 1 for word in words)
        found, cut = procfs.environment_names(process.pid)
        assert cut and 8000 < len(found) <= 8192
        assert found.endswith(b"\0")
        assert set(found[:-1].split(b"\0")) <= {name.encode() for name in names}


def test_a_title_over_the_environment_gives_no_end_of_a_value(monkeypatch):
    raw = b"worker: busy\0ret-value-of-a-token\0NAME=value\0" + b"N" * 300 + b"=1\0"
    monkeypatch.setattr(procfs, "_read", lambda pid, name: raw)
    assert procfs.environment_names(1) == (b"NAME\0" + b"N" * 128 + b"\0", False)


def test_kernel_threads_and_processes_that_are_gone():
    assert procfs.arguments(2**22 - 1) == (b"", 0)
    assert procfs.environment_names(2**22 - 1) == (b"", False)
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", ""])
    os.waitpid(pid, 0)
    assert procfs.arguments(pid) == (b"", 0)
