"""Renew requirements.lock and requirements-dev.lock from pyproject.toml: `make lock`.

Both hold hashes of every file of a release, so one lock serves x86-64 and arm64, and no index
address: pip asks the one it is set up with. The second lock contains the first, same versions.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# file → extras of pyproject.toml, and the lock whose versions hold for it.
LOCKS: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("requirements.lock", ("build", "sigma"), None),
    ("requirements-dev.lock", ("build", "sigma", "dev"), "requirements.lock"),
)


def main() -> None:
    """Write both locks; raises CalledProcessError with uv's message printed."""
    uv = Path(sys.executable).with_name("uv")
    for name, extras, constraint in LOCKS:
        command = [str(uv), "pip", "compile", "pyproject.toml", "--generate-hashes", "--upgrade"]
        command += ["--universal", "--python-version", "3.11", "--no-config", "-q"]
        command += ["--custom-compile-command", "make lock", "-o", name]
        for extra in extras:
            command += ["--extra", extra]
        if constraint:
            command += ["--constraint", constraint]
        subprocess.run(command, cwd=ROOT, check=True)
        print(f"lock: wrote {name}")


if __name__ == "__main__":
    main()
