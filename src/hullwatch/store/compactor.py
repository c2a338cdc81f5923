"""Starts compact.py as a child process, one at a time, and reaps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hullwatch
from hullwatch.store.retention import Limits

__all__ = ["Compactor"]


class Compactor:
    def __init__(self, root: Path, limits: Limits) -> None:
        self.root, self.limits = root, limits
        self._child: subprocess.Popen[bytes] | None = None
        self._again: int | None = None

    def start(self, session: int) -> None:
        """Run one now, or once more when the one that runs has ended."""
        if self._child is not None and self._child.poll() is None:
            self._again = session
            return
        self._again = None
        package = Path(hullwatch.__file__).resolve().parent.parent
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            # -P: the working directory is no place to import from.
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "hullwatch.store.compact", str(self.root)),
                    *("--session", str(session)),
                    *("--max-bytes", str(self.limits.max_bytes)),
                    *("--max-age", str(self.limits.max_age)),
                    *("--findings-age", str(self.limits.findings_age)),
                ],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError:
            self._child = None

    def poll(self) -> str:
        """'' or why the last one failed."""
        child = self._child
        if child is None or child.poll() is None:
            return ""
        self._child = None
        problem = ""
        if child.stderr:
            text = child.stderr.read().decode("utf-8", "replace").strip()
            child.stderr.close()
            if child.returncode:
                problem = text.splitlines()[-1] if text else f"ended with {child.returncode}"
        if self._again is not None:
            self.start(self._again)
        return problem

    def close(self, timeout: float = 10.0) -> None:
        """It may finish; it is safe to be killed."""
        child = self._child
        if child is None:
            return
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stderr:
            child.stderr.close()
        self._child = None
