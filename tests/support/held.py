"""`hullwatch run` as somebody without any rights has it, and what a held program tries."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from hullwatch.sensor.seccomp.abi import ARCH, number
from support.scratch import poll

__all__ = ["Laptop", "missing_seccomp"]

_NOBODY = 65534
# Python may lie where only root can read it: all of it is read before the rights are given up.
_DRIVER = """
import importlib, os, sys
for name in "run policy approvals decisions errors show".split():
    importlib.import_module(f"hullwatch.cli.{name}")
import concurrent.futures.thread, encodings.ascii
import hullwatch.control, hullwatch.holding, hullwatch.decide.desk, hullwatch.store.errors
import hullwatch.agent.link, hullwatch.decide.elsewhere, hullwatch.decide.page
import hullwatch.decide.webhook, encodings.idna
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
from hullwatch.cli import main
exec(os.environ.get("PATCH", ""))
sys.exit(main(sys.argv[1:]))
""".replace("NOBODY", str(_NOBODY))
# What held programs are written with: results by name, errors by theirs.
_PRELUDE = """
import ctypes, errno, json, os, socket, struct, sys, threading, time
NUMBERS = json.loads(os.environ["NUMBERS"])
FOLDER = os.environ["FOLDER"]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
found = {}
def call(name, *arguments):
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    done = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    if done < 0:
        raise OSError(ctypes.get_errno(), name)
    return done
def attempt(name, do):
    try:
        done = do()
        found[name] = done if isinstance(done, (str, int, list)) else "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
def read(path, **more):
    fd = os.open(path, os.O_RDONLY, **more)
    try:
        return os.read(fd, 1 << 16).decode()
    finally:
        os.close(fd)
def tell():
    print(json.dumps(found), flush=True)
"""
_CALLS = (
    "openat2 io_uring_setup ptrace userfaultfd open_by_handle_at mount seccomp execve execveat"
    " process_vm_writev pidfd_getfd linkat"
).split()


def missing_seccomp() -> str | None:
    """Why nothing can be held here; None if it can."""
    if not ARCH:
        return "needs x86-64 or arm64"
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text()
    except OSError:
        actions = ""
    if "user_notif" not in actions:
        return "needs seccomp user notification (Linux 5.0)"
    if shutil.which("python3", path="/usr/bin:/bin") is None:
        return "needs a python3 that everybody may run"
    return None


class Laptop:
    """A folder that everybody may write to, and commands held in it. As root they run as nobody.
    patch: Python that whoever holds runs first."""

    def __init__(self, policy: str, patch: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hw-held-", dir="/tmp"))
        self.folder.chmod(0o777)
        self.policy = str(self.write("policy.cedar", policy.replace("FOLDER", str(self.folder))))
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.folder),
            "HULLWATCH_APPROVALS": str(self.folder / "desks"),
            "HULLWATCH_CALLS": str(self.folder / "calls.sock"),
            "HULLWATCH_DECISIONS": str(self.folder / "log"),
            "HULLWATCH_STORE": str(self.folder / "store"),
            "FOLDER": str(self.folder),
            "PATCH": patch,
            "NUMBERS": json.dumps({name: number(name) for name in _CALLS}),
        }
        self.options: list[str] = []  # more of `hullwatch run`
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        shutil.rmtree(self.folder)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file of the one who is held."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
            if path.parent != self.folder:
                os.chown(path.parent, _NOBODY, _NOBODY)
        return path

    def apply(self, name: str, policy: str) -> None:
        """From now on commands are held by what is in force: `hullwatch policy apply`."""
        path = self.write(name, policy.replace("FOLDER", str(self.folder)))
        self.policy = "applied"
        command = [sys.executable, "-c", _DRIVER, "policy", "apply", str(path)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _DRIVER, "run", "--name", "box"),
                *("--policy", self.policy, *self.options, "--", *command),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.env,
            cwd=self.folder,
        )
        self._started.append(process)
        return process

    def python(self, script: str) -> subprocess.Popen[str]:
        """A program that calls tell() at its end."""
        path = self.write("script.py", _PRELUDE + script)
        return self.start("/usr/bin/python3", "-ISB", str(path))

    def told(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (process.returncode, out, err)
        last: dict[str, Any] = json.loads(out.splitlines()[-1])
        return last

    def child(self, process: subprocess.Popen[str], name: str) -> int:
        """pid of the held command, once it is that."""
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def found() -> int | None:
            for pid in path.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return int(pid)
            return None

        return poll(found, seconds=30, waiting_for=name)

    def person(self, *words: str) -> tuple[int, str]:
        """`hullwatch approvals ...`, not below what is held: exit code, output."""
        command = [sys.executable, "-m", "hullwatch", "approvals", *words]
        done = subprocess.run(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout

    def waits(self, count: int = 1) -> list[dict[str, Any]]:
        """So many that wait, the oldest first."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            _, said = self.person("list", "--json")
            found[:] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
            return len(found) >= count

        poll(enough, seconds=60, waiting_for="a held call")
        return found

    def decisions(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "hullwatch", "decisions", "--json", "--limit", "100000"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def end(self, process: subprocess.Popen[str], how: int = signal.SIGTERM) -> int:
        process.send_signal(how)
        return process.wait(60)
