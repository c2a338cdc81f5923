"""The image that all containers of the day share, made once and kept in build/day.

One root folder serves under many names (bench.test/postgres, bench.test/agent ...): the programs
are there in each, and a container runs those that its name says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hullwatch.demo.image import Image

__all__ = ["CACHE", "Day", "prepare"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "build" / "day"
_RECIPE = (
    "image.sh",
    "index.py",
    "project.json",
    "servers.json",
    "sdists.txt",
    "servers.txt",
    "wheels.txt",
)
_MEND = "it needs debootstrap (apt-get install debootstrap) and reaches Debian, PyPI and npm, once"


@dataclass(frozen=True)
class Day:
    """root: the image's root folder. cache: the downloads, mounted at /cache."""

    root: Path
    cache: Path
    digest: str

    def image(self, name: str) -> Image:
        return Image(f"bench.test/{name}:1", self.digest, self.root)


def prepare(say: Callable[[str], None]) -> Day:
    """The image, made if its recipe has changed. SystemExit says what is missing."""
    key = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _RECIPE)).hexdigest()
    home = CACHE / key[:16]
    day = Day(home / "root", home / "cache", f"sha256:{key}")
    if (home / "done").exists():
        return day
    if shutil.which("debootstrap") is None:
        raise SystemExit(f"no image in {CACHE}, and none can be made: {_MEND}")
    shutil.rmtree(CACHE, ignore_errors=True)  # of older recipes too
    home.mkdir(parents=True)
    log = CACHE / "image.log"
    say(f"making the image, two to ten minutes, once (log: {log})")
    command = ["bash", str(HERE / "image.sh"), str(HERE), str(day.root), str(day.cache)]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as making,
    ):
        assert making.stdout
        for line in making.stdout:
            file.write(line)
            file.flush()
            if line.startswith("== "):
                say(f"  {line[3:].strip()}")
    if making.returncode:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-15:]))
        raise SystemExit(f"the image could not be made: {_MEND}")
    (home / "done").touch()
    os.sync()
    return day
