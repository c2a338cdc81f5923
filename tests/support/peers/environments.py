"""Where the peers are installed (`make peers`), and which of them are missing."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["HOME", "NODE", "NODE_MODULES", "PROGRAMS", "PYTHONS", "missing", "node_env", "python"]

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[2] / "build" / "peers"
PROGRAMS = HERE / "programs"
PYTHONS = ("python1", "python2", "vendors", "node")
"""The virtual environments; `node` holds Node and npm, which come as a Python package."""
NODE = HOME / "bin" / "node"
NODE_MODULES = HOME / "npm" / "node_modules"


def python(environment: str) -> Path:
    """The interpreter of one of PYTHONS."""
    return HOME / environment / "bin" / "python"


def node_env() -> dict[str, str]:
    """What makes our CommonJS programs find the packages."""
    return {"NODE_PATH": str(NODE_MODULES)}


def missing() -> str | None:
    """Why no peer can be driven here; None if all can."""
    wanted = [python(name) for name in PYTHONS] + [NODE, NODE_MODULES]
    gone = [str(path) for path in wanted if not os.path.exists(path)]
    return f"needs the peers, {gone[0]} is missing: make peers" if gone else None
