"""A capture of a run, made beside the agent under test by `hullwatch record`, and its replay."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from hullwatch.detect.engine import Engine
from hullwatch.detect.output import escape
from hullwatch.detect.ruleset import load
from hullwatch.replay import Capture, Replay
from support.scratch import poll

__all__ = ["Recording"]

_LONG = 120.0


class Recording:
    """Records from entry to exit of the `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path.with_name(path.name + ".log")

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hullwatch", "record", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        poll(self._begun, seconds=_LONG, waiting_for="the recorder to begin")
        size = self.path.stat().st_size
        # Something always happens on a machine: once it is in the file, the sensor is attached.
        poll(
            lambda: self.path.stat().st_size > size,
            seconds=_LONG,
            waiting_for="the recorder to write",
        )
        return self

    def _begun(self) -> bool:
        said = self._log.read_text(errors="replace")
        assert self._process.poll() is None, said
        return self.path.exists() and self.path.stat().st_size > 0 and "recording" in said

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_LONG)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def findings(self, rules: Iterable[Path]) -> tuple[set[tuple[str, str, str]], int]:
        """(rule, full container id, object) of all that rules find in it; and what was lost."""
        replay = Replay(Capture(self.path), load([*rules]))
        found = {(one.rule, one.container_full_id, one.object) for batch in replay for one in batch}
        return found, replay.lost

    def matches(self, rules: Iterable[Path]) -> set[tuple[str, str, str]]:
        """The same of everything that rules match, before any of it folds."""
        loaded = load([*rules])
        engine, replay = Engine(loaded), Replay(Capture(self.path), loaded)
        return {
            (one.rule.name, one.row.workload.container_id or "", escape(one.row.obj.text))
            for enriched in replay.enriched()
            for one in engine.match(enriched)
            if one.row.obj is not None
        }
