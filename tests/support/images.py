"""Container images made on this machine, since no registry may be in reach.

Each is a root folder (the lower layer of a runc container's overlay) and an OCI image archive (what
`ctr images import` takes), reproducible for the same programs: equal input gives an equal digest.
They are kept in build/images between runs, keyed by their input; a VM guest, which sees that folder
read-only, uses the host's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.scratch import CACHE, scratch

__all__ = ["BUSYBOX", "PAUSE", "PYTHON", "Image", "Recipe", "build"]

RECIPE_VERSION = 1
_EPOCH = "1970-01-01T00:00:00Z"
_PAUSE_SOURCE = Path(__file__).with_name("pause.c")
# Parts of the standard library that no container here needs, and that make up half of it.
_SKIP = {"test", "tests", "idlelib", "lib2to3", "tkinter", "ensurepip", "turtledemo", "pydoc_data"}


@dataclass(frozen=True)
class Recipe:
    """How to make an image: `fill` writes its root folder, `inputs` are files that determine it."""

    reference: str
    fill: Callable[[Path], None]
    inputs: Callable[[], Iterable[Path]]
    entrypoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """A built image. `digest` is that of its manifest, as a registry would give it."""

    reference: str
    digest: str
    rootfs: Path
    archive: Path

    @property
    def name(self) -> str:
        """The last word of the reference, without tag."""
        return self.reference.rpartition("/")[2].partition(":")[0]


def _write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


def _busybox() -> Path:
    for candidate in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(candidate).exists():
            return Path(candidate)
    raise FileNotFoundError("no busybox: apt-get install busybox-static")


def _python() -> Path:
    """Debian's own interpreter: its libraries and its standard library lie in known places."""
    return Path("/usr/bin/python3").resolve(strict=True)


def _fill_busybox(root: Path) -> None:
    for folder in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "var/log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)
    program = root / "bin" / "busybox"
    shutil.copy2(_busybox(), program)
    # Hard links, as in the busybox image that all use: /proc/PID/exe then names the applet.
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        target = root / "bin" / applet
        if not target.exists():
            os.link(program, target)
    _write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n")
    _write(root, "etc/group", "root:x:0:\napp:x:1000:\n")
    _write(root, "etc/shadow", "root:*:19000:0:99999:7:::\napp:*:19000:0:99999:7:::\n", 0o600)
    _write(root, "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    _write(root, "etc/hostname", "container\n")


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries and the loader that ldd(1) names, by the paths it gives."""
    done = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False)
    found = set()
    for line in done.stdout.splitlines():
        for word in line.split():
            if word.startswith("/") and not word.endswith(":"):
                found.add(Path(word))
    return found


def _fill_python(root: Path) -> None:
    _fill_busybox(root)
    for folder in ("usr/bin", "usr/lib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    python = _python()
    shutil.copy2(python, root / "usr/bin" / python.name)
    for link in ("python3", "python"):
        (root / "usr/bin" / link).symlink_to(python.name)
    library = Path("/usr/lib") / python.name

    def skipped(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n in _SKIP or n.startswith("config-") or n.endswith(".opt")}

    shutil.copytree(library, root / "usr/lib" / python.name, symlinks=True, ignore=skipped)
    for path in _libraries([python, *library.glob("lib-dynload/*.so")]):
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path.resolve(), target)


def _fill_pause(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(
            "no C compiler for the pause image: apt-get install clang libc6-dev"
        )
    subprocess.run(
        [compiler, "-static", "-Os", "-s", "-o", str(root / "pause"), str(_PAUSE_SOURCE)],
        check=True,
    )


BUSYBOX = Recipe(
    "hullwatch.test/busybox:1", _fill_busybox, lambda: [_busybox()], entrypoint=("/bin/sh",)
)
PYTHON = Recipe(
    "hullwatch.test/python:3",
    _fill_python,
    lambda: [_busybox(), _python()],
    entrypoint=("/usr/bin/python3",),
)
PAUSE = Recipe(
    "hullwatch.test/pause:1", _fill_pause, lambda: [_PAUSE_SOURCE], entrypoint=("/pause",)
)


def build(recipe: Recipe) -> Image:
    """The image of a recipe, from build/images if it has been made before."""
    key = hashlib.sha256(f"{RECIPE_VERSION} {recipe.reference} {recipe.entrypoint}".encode())
    for path in recipe.inputs():
        key.update(path.read_bytes())
    name = f"{recipe.reference.rpartition('/')[2].partition(':')[0]}-{key.hexdigest()[:16]}"
    homes = [CACHE, scratch() / "images"]
    for home in homes:
        if (home / name / "image.json").exists():
            return _load(home / name)
    home = homes[0] if _writable(homes[0]) else homes[1]
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home) as made:
        place = Path(made) / "image"
        recipe.fill(place / "rootfs")
        (place / "rootfs").chmod(0o755)
        digest = _write_archive(recipe, place / "rootfs", place / "image.tar")
        (place / "image.json").write_text(
            json.dumps({"reference": recipe.reference, "digest": digest})
        )
        try:
            place.rename(home / name)
        except OSError:
            # Another run was faster; its image is the same.
            if not (home / name / "image.json").exists():
                raise
    return _load(home / name)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _load(place: Path) -> Image:
    told = json.loads((place / "image.json").read_text())
    return Image(told["reference"], told["digest"], place / "rootfs", place / "image.tar")


def _neutral(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owner and times out: they differ from one checkout to the next."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _layer(rootfs: Path) -> bytes:
    """The root folder as an uncompressed layer, in sorted order, hard links kept."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(rootfs.rglob("*")):
            tar.add(path, str(path.relative_to(rootfs)), recursive=False, filter=_neutral)
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _write_archive(recipe: Recipe, rootfs: Path, target: Path) -> str:
    """An OCI image layout as one tar file (image-spec 1.0); returns the manifest's digest."""
    layer = _layer(rootfs)
    config = _json(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "created": _EPOCH,
            "config": {
                "Entrypoint": list(recipe.entrypoint),
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [_sha256(layer)]},
            "history": [{"created": _EPOCH, "created_by": "hullwatch tests"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": recipe.reference,
        "org.opencontainers.image.ref.name": recipe.reference.rpartition(":")[2],
    }
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (config, layer, manifest):
            _add(tar, "blobs/sha256/" + _sha256(blob).partition(":")[2], blob)
    return _sha256(manifest)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _sha256(data), "size": len(data)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
