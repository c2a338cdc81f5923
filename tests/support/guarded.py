"""Policies for one container of a test, put into force as an operator does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["apply", "hullwatch"]


def hullwatch(*argv: str) -> str:
    """What a command said on stdout; it has to end well."""
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(store: Path, text: str) -> None:
    """`context.container` is asked for where it is, as not every workload has one."""
    file = store.parent / "set.cedar"
    file.write_text(
        text.replace("context.container ==", "context has container && context.container ==")
    )
    hullwatch("policy", "apply", str(file), "--store", str(store))
