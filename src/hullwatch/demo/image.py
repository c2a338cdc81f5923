"""Root folders for containers, made of programs on this machine: no registry need be in reach."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Image", "busybox", "digest_of", "fill_busybox", "fill_python", "python", "write"]

# Parts of the standard library that no container here needs, and that make up half of it.
_SKIP = {"test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "turtledemo", "pydoc_data"}


@dataclass(frozen=True)
class Image:
    """A root folder under a name. `digest`: sha256 of what it holds."""

    reference: str
    digest: str
    rootfs: Path

    @property
    def name(self) -> str:
        """The last word of the reference, without tag."""
        return self.reference.rpartition("/")[2].partition(":")[0]


def write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    """A text file in a root folder, its directories made as needed."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def busybox() -> Path:
    """Debian's static busybox; FileNotFoundError says how to get it."""
    for candidate in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(candidate).exists():
            return Path(candidate)
    raise FileNotFoundError("no busybox: apt-get install busybox-static")


def python() -> Path:
    """Debian's own interpreter: its libraries and its standard library lie in known places."""
    return Path("/usr/bin/python3").resolve(strict=True)


def fill_busybox(root: Path) -> None:
    """A few hundred applets, and the files of /etc that programs ask for."""
    for folder in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var/log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    program = root / "bin" / "busybox"
    shutil.copy2(busybox(), program)
    # Hard links, as in the busybox image that all use: /proc/PID/exe then names the applet.
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        target = root / "bin" / applet
        if not target.exists():
            os.link(program, target)
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
    write(root, "etc/group", "root:x:0:\napp:x:1000:\n")
    write(root, "etc/shadow", "root:*:19000:0:99999:7:::\napp:*:19000:0:99999:7:::\n", 0o600)
    write(root, "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    write(root, "etc/hostname", "container\n")


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries and the loader that ldd(1) names, by the paths it gives."""
    done = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False)
    found = set()
    for line in done.stdout.splitlines():
        for word in line.split():
            if word.startswith("/") and not word.endswith(":"):
                found.add(Path(word))
    return found


def fill_python(root: Path) -> None:
    """busybox and Debian's Python with its standard library."""
    fill_busybox(root)
    for folder in ("usr/bin", "usr/lib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    program = python()
    shutil.copy2(program, root / "usr/bin" / program.name)
    for link in ("python3", "python"):
        (root / "usr/bin" / link).symlink_to(program.name)
    library = Path("/usr/lib") / program.name

    def skipped(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n in _SKIP or n.startswith("config-") or n.endswith(".opt")}

    shutil.copytree(library, root / "usr/lib" / program.name, symlinks=True, ignore=skipped)
    for path in _libraries([program, *library.glob("lib-dynload/*.so")]):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path.resolve(), target)


def digest_of(root: Path) -> str:
    """sha256 over the names and contents of a root folder, in sorted order."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        total.update(os.fsencode(path.relative_to(root)) + b"\0")
        if path.is_symlink():
            total.update(os.fsencode(path.readlink()))
        elif path.is_file():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()}"
