"""The command line as a user calls it, in a process of its own; its answer is read as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["cli"]


def cli(store: Path, *argv: str) -> list[dict[str, Any]]:
    """What `hullwatch ARGV --json` prints of a store, a value a line; a failure fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", *argv, "--json", "--store", store],
        capture_output=True,
        timeout=200,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
