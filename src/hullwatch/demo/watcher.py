"""An agent (`hullwatch up`) in a process of its own, and what it finds, as it finds it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hullwatch.control import ControlError, ask, follow
from hullwatch.demo.scratch import ends_with_us, poll

__all__ = ["Watcher", "WatcherError"]

_SOCKET = "control.sock"


class WatcherError(RuntimeError):
    """The agent did not start, or ended; the message holds its last words."""


class Watcher:
    """Starts on construction and returns once the agent watches (WatcherError).

    command: what runs it, where it is not `hullwatch up --store STORE` with `arguments`.
    on_finding: called in a thread of its own with each finding as plain values; a repeat has the
    id of the first and a higher count.
    """

    def __init__(
        self,
        store: Path,
        arguments: Sequence[str] = (),
        *,
        command: Sequence[str] = (),
        on_finding: Callable[[dict[str, Any]], None] | None = None,
        log: Path | None = None,
        seconds: float = 120,
    ) -> None:
        self.store = store
        self.log = log or store.with_name(store.name + ".log")
        self.findings: dict[str, dict[str, Any]] = {}
        """By id, the newest state of each."""
        self._on_finding = on_finding
        self._changed = threading.Condition()
        standard = (sys.executable, "-m", "hullwatch", "up", "--store", str(store), "--json")

        with self.log.open("ab") as log_file:
            self.process = subprocess.Popen(
                (*(command or standard), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,  # Ctrl-C is ours to hand on, in the right order
                preexec_fn=ends_with_us(),
            )
        following = threading.Event()
        self._reader = threading.Thread(target=self._follow, args=(following,), daemon=True)
        try:
            self._until(lambda: self.status() is not None, seconds)
            self._reader.start()
            # Before the first event: the control socket is up while the sensor is still loading.
            self._until(following.is_set, seconds)
            self._until(lambda: (self.status() or {}).get("watching"), seconds)
        except BaseException:
            self.kill()
            raise

    def _until(self, question: Callable[[], Any], seconds: float) -> None:
        def asked() -> bool:
            if self.process.poll() is not None:
                raise WatcherError(f"the agent ended ({self.process.returncode}): {self.words()}")
            return bool(question())

        try:
            poll(asked, seconds=seconds, waiting_for="the agent to watch")
        except TimeoutError as error:
            raise WatcherError(f"{error}: {self.words()}") from None

    def words(self) -> str:
        """The end of what the agent has written."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def status(self) -> dict[str, Any] | None:
        """As `hullwatch status`; None while the agent cannot be reached."""
        try:
            answer: dict[str, Any] | None = ask(self.store / _SOCKET)
        except ControlError:
            return None
        return answer

    def _follow(self, following: threading.Event) -> None:
        with contextlib.suppress(ControlError, OSError):
            for value in follow(self.store / _SOCKET, "findings"):
                following.set()
                if value is None or "dropped" in value:
                    continue
                with self._changed:
                    self.findings[value["id"]] = value
                    self._changed.notify_all()
                if self._on_finding is not None:
                    self._on_finding(value)

    def wait_for(
        self, fits: Callable[[dict[str, Any]], bool], seconds: float
    ) -> dict[str, Any] | None:
        """The first finding that fits; None if none comes in time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for finding in self.findings.values():
                    if fits(finding):
                        return finding
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    return None
                self._changed.wait(min(left, 0.5))

    def stop(self, seconds: float = 60) -> int:
        """End it in order: what it has seen is stored. Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._reader.is_alive():
            self._reader.join(5)
        return self.process.returncode

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()
