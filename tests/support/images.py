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
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hullwatch.demo import image
from hullwatch.demo.image import busybox, fill_busybox, fill_python, python
from support.scratch import CACHE, scratch

__all__ = ["BUSYBOX", "PAUSE", "PYTHON", "Image", "Recipe", "build"]

RECIPE_VERSION = 1
_EPOCH = "1970-01-01T00:00:00Z"
_PAUSE_SOURCE = Path(__file__).with_name("pause.c")


@dataclass(frozen=True)
class Recipe:
    """How to make an image: `fill` writes its root folder, `inputs` are files that determine it."""

    reference: str
    fill: Callable[[Path], None]
    inputs: Callable[[], Iterable[Path]]
    entrypoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image(image.Image):
    """A built image. `digest` is that of its manifest, as a registry would give it."""

    archive: Path


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
    "hullwatch.test/busybox:1", fill_busybox, lambda: [busybox()], entrypoint=("/bin/sh",)
)
PYTHON = Recipe(
    "hullwatch.test/python:3",
    fill_python,
    lambda: [busybox(), python()],
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
