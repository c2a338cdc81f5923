"""Hatch build hook: what a wheel carries besides the Python sources.

The rule pack as hullwatch/rules, the policies as hullwatch/policies, and the BPF programs, compiled
for every architecture. An editable install may skip the compiling with HULLWATCH_BPF=skip, as the
Makefile does, which builds the objects by its own rule only when a source changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """Adds rules/ and policies/; runs `python -m hullwatch.kernel.build` on what is packaged."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Raises SystemExit with the compiler's own message where it fails."""
        if self.target_name == "wheel" and version != "editable":
            # An editable install reads those of the tree; a copy would go stale.
            build_data["force_include"]["rules"] = "hullwatch/rules"
            build_data["force_include"]["policies"] = "hullwatch/policies"
        if os.environ.get("HULLWATCH_BPF") == "skip":
            return
        path = os.pathsep.join(
            filter(None, [str(Path(self.root, "src")), os.environ.get("PYTHONPATH")])
        )
        done = subprocess.run(
            [sys.executable, "-m", "hullwatch.kernel.build"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        if done.returncode:
            raise SystemExit("hatch_build: BPF build failed; it needs clang, llvm and libbpf-dev")
