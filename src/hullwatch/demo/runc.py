"""Real containers under runc: start, exec into, kill, and many short-lived ones at once.

runc's own state stays where it is by default (/run/runc), as a sensor would look for it there;
those started here are told from others by their bundle, which lies below the given home.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hullwatch.demo import bundle as bundles
from hullwatch.demo.bundle import Bundle
from hullwatch.demo.image import Image
from hullwatch.demo.scratch import is_dead, poll, session_name

__all__ = [
    "ENVIRONMENT",
    "Container",
    "Done",
    "Network",
    "Runc",
    "RuncError",
    "cgroup2_root",
    "delete_all",
]

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class RuncError(RuntimeError):
    """runc refused; the message holds its words."""


@dataclass(frozen=True)
class Done:
    """How a process ended. A signal counts as 128 + its number, as in a shell."""

    status: int
    stdout: str
    stderr: str


class Container:
    """A container that has been started. Its first process's output goes to files in the bundle."""

    def __init__(
        self,
        runc: Runc,
        bundle: Bundle,
        process: subprocess.Popen[bytes],
        terminal: threading.Thread | None,
    ) -> None:
        self._runc = runc
        self._terminal = terminal
        self._process = process
        self.bundle = bundle
        self.id = bundle.id
        self.name = bundle.name
        self.image = bundle.image
        self.pid = 0
        """The first process's pid on the host; 0 until it is known."""

    @property
    def stdout(self) -> str:
        """What the first process has written so far (with a tty: to the terminal)."""
        return (self.bundle.folder / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What the first process has written to stderr so far."""
        return (self.bundle.folder / "stderr").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Has its first process not ended?"""
        return self._process.poll() is None

    def cgroups(self) -> dict[str, str]:
        """Controller list ("" for cgroup v2) → path, of the first process as the host sees it."""
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}

    def cgroup_id(self) -> int:
        """The id that BPF gives for the container: the inode of its cgroup v2 folder."""
        return (cgroup2_root() / self.cgroups()[""].lstrip("/")).stat().st_ino

    def wait(self, seconds: float = 60) -> Done:
        """Wait for the first process to end; subprocess.TimeoutExpired if it does not."""
        status = self._process.wait(seconds)
        if self._terminal:
            self._terminal.join(seconds)
        return Done(status if status >= 0 else 128 - status, self.stdout, self.stderr)

    def wait_for_output(self, text: str, seconds: float = 30) -> str:
        """Wait until stdout holds `text`; returns all of stdout."""

        def seen() -> str | None:
            out = self.stdout
            if text not in out and not self.running:
                out = self.stdout
                if text not in out:
                    raise RuncError(f"{self.name} ended without {text!r}: {out}{self.stderr}")
            return out if text in out else None

        return poll(seen, seconds=seconds, waiting_for=f"{text!r} from {self.name}")

    def exec(
        self, argv: Sequence[str], *, tty: bool = False, stdin: bytes = b"", seconds: float = 60
    ) -> Done:
        """Run a further process inside, as `docker exec` does, and wait for it."""
        command = [*self._runc.command, "exec", *(["--tty"] if tty else []), self.id, *argv]
        if tty:
            return _run_on_tty(command, seconds)
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=seconds, env=ENVIRONMENT, check=False
        )
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the first process; no error if it is gone."""
        self._runc.call("kill", self.id, str(int(number)), check=False)

    def delete(self) -> None:
        """Kill, wait, and remove container and bundle. May be called again."""
        self._runc.call("delete", "--force", self.id, check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.bundle.remove()


class Network:
    """A named network namespace with loopback up, for containers that shall share one.

    Its name begins with `prefix` and this process's name, for delete_all() to find it by.
    """

    prefix = "hullwatch-demo-"

    def __init__(self, name: str) -> None:
        self.name = f"{self.prefix}{session_name()}-{name}"
        self.path = Path("/run/netns", self.name)
        self.delete()
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    def add_address(self, address: str) -> None:
        """A further address on loopback, such as "203.0.113.7/32"."""
        _ip("-n", self.name, "address", "add", address, "dev", "lo")

    def delete(self) -> None:
        """Remove it. May be called again."""
        if self.path.exists():
            _ip("netns", "delete", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()


class Runc:
    """Starts containers and removes all of them at close()."""

    def __init__(self, image: Image, home: Path) -> None:
        self.home = home
        """Bundles are made below it."""
        self.image = image
        """Used where a call names no image."""
        self.command = ("runc",)
        self._containers: list[Container] = []
        self._kept: list[Bundle] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove every container started here."""
        for container in reversed(self._containers):
            container.delete()
        self._containers.clear()
        for bundle in self._kept:
            bundle.remove()
        self._kept.clear()

    def call(self, *argv: str, check: bool = True) -> str:
        """Run runc itself; its stdout. Raises RuncError with its stderr."""
        done = subprocess.run(
            [*self.command, *argv], capture_output=True, text=True, env=ENVIRONMENT, check=False
        )
        if check and done.returncode:
            raise RuncError(f"runc {argv[0]}: {done.stderr.strip()}")
        return done.stdout

    def start(
        self, argv: Sequence[str], *, name: str, image: Image | None = None, **options: Any
    ) -> Container:
        """Start a container and return once its first process runs (or has already ended).

        Further options are those of bundle.make: env, annotations, network, mounts, tty,
        privileged, host_pid, user, cwd, cgroup, container_id.
        """
        bundle = self.make(argv, name=name, image=image, **options)
        return self.launch(bundle, tty=bool(options.get("tty")))

    def make(
        self, argv: Sequence[str], *, name: str, image: Image | None = None, **options: Any
    ) -> Bundle:
        """Only the bundle, for launch(): its root folder can be looked after in between."""
        return bundles.make(self.home, image or self.image, argv, name=name, **options)

    def run(
        self,
        argv: Sequence[str],
        *,
        name: str,
        image: Image | None = None,
        seconds: float = 60,
        **options: Any,
    ) -> Done:
        """Start a container, wait until its first process ends, remove it. Options as start()."""
        container = self.start(argv, name=name, image=image, **options)
        try:
            return container.wait(seconds)
        finally:
            container.delete()
            self._containers.remove(container)

    def burst(
        self,
        count: int,
        argv: Sequence[str],
        *,
        name: str,
        image: Image | None = None,
        parallel: int = 4,
        keep: bool = False,
        **options: Any,
    ) -> list[tuple[Bundle, int]]:
        """Run `count` short-lived containers, `parallel` at a time: NAME-0, NAME-1, …

        "{i}" in argv stands for the number. Bundles are made before the first is started, so that
        nothing but runc is between one container and the next. They are removed as soon as the last
        has ended; with `keep`, at close(). Returns each with its exit status.
        """
        made = [
            bundles.make(
                self.home,
                image or self.image,
                [word.replace("{i}", str(i)) for word in argv],
                name=f"{name}-{i}",
                **options,
            )
            for i in range(count)
        ]

        def one(bundle: Bundle) -> int:
            command = [*self.command, "run", "--bundle", str(bundle.folder), bundle.id]
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=ENVIRONMENT,
                timeout=120,
                check=False,
            )
            (bundle.folder / "stderr").write_bytes(done.stderr)
            return done.returncode

        try:
            with ThreadPoolExecutor(parallel) as pool:
                return list(zip(made, pool.map(one, made), strict=True))
        finally:
            if keep:
                self._kept += made
            else:
                for bundle in made:
                    bundle.remove()

    def launch(self, bundle: Bundle, *, tty: bool = False) -> Container:
        """Start what make() has made; as start()."""
        pid_file = bundle.folder / "pid"
        command = [*self.command, "run", "--bundle", str(bundle.folder)]
        command += ["--pid-file", str(pid_file), bundle.id]
        with _standard_streams(bundle.folder, tty=tty) as (streams, terminal):
            stdin, stdout, stderr = streams
            process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=stderr, env=ENVIRONMENT
            )
        container = Container(self, bundle, process, terminal)
        with self._lock:
            self._containers.append(container)

        def started() -> bool:
            # Written (renamed into place) before the first process is let go.
            return pid_file.exists() or process.poll() is not None

        poll(started, seconds=60, waiting_for=f"container {bundle.name} to start")
        if pid_file.exists():
            container.pid = int(pid_file.read_text())
            poll(
                lambda: process.poll() is not None or self._is_running(bundle.id),
                seconds=60,
                waiting_for=f"container {bundle.name} to run",
            )
        else:
            raise RuncError(f"runc run {bundle.name}: {container.stderr}{container.stdout}")
        return container

    def _is_running(self, container_id: str) -> bool:
        told = self.call("state", container_id, check=False)
        return bool(told) and json.loads(told)["status"] in ("running", "stopped")


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted: alone, or beside v1 on a hybrid host."""
    hybrid = Path("/sys/fs/cgroup/unified")
    return hybrid if hybrid.exists() else Path("/sys/fs/cgroup")


def delete_all(sessions: Sequence[Path], prefix: str = Network.prefix) -> None:
    """Delete containers whose bundle lies below one of `sessions`, and networks of dead runs."""
    done = subprocess.run(
        ["runc", "list", "--format", "json"], capture_output=True, env=ENVIRONMENT, check=False
    )
    for entry in json.loads(done.stdout or b"null") or ():
        if any(Path(entry["bundle"]).is_relative_to(folder) for folder in sessions):
            subprocess.run(
                ["runc", "delete", "--force", entry["id"]],
                capture_output=True,
                env=ENVIRONMENT,
                check=False,
            )
    for path in Path("/run/netns").glob(f"{prefix}*"):
        if is_dead("-".join(path.name.removeprefix(prefix).split("-")[:2])):
            _ip("netns", "delete", path.name)


def _ip(*argv: str) -> None:
    done = subprocess.run(
        ["ip", *argv], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    if done.returncode:
        raise RuncError(f"ip {' '.join(argv)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _standard_streams(
    folder: Path, *, tty: bool
) -> Iterator[tuple[tuple[int, int, int], threading.Thread | None]]:
    """stdin, stdout and stderr for `runc run`: files, or a terminal whose output a thread copies to
    the stdout file until the container closes it."""
    stdout = os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    stderr = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    opened = [stdout, stderr]
    try:
        if tty:
            master, slave = pty.openpty()
            opened.append(slave)
            copy = os.dup(stdout)
            terminal = threading.Thread(target=_copy, args=(master, copy), daemon=True)
            terminal.start()
            yield (slave, slave, stderr), terminal
        else:
            null = os.open(os.devnull, os.O_RDONLY)
            opened.append(null)
            yield (null, stdout, stderr), None
    finally:
        for number in opened:
            os.close(number)


def _copy(source: int, target: int) -> None:
    """Copy until end of file; a terminal's master gives EIO when the last slave is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(source, 65536):
            os.write(target, data)
    os.close(source)
    os.close(target)


def _run_on_tty(command: Sequence[str], seconds: float) -> Done:
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=ENVIRONMENT)
    os.close(slave)
    said = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                said.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        status = process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        os.close(master)
    return Done(status, said.decode(errors="replace"), "")
