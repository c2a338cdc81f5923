"""containers/storage, shared by podman and CRI-O.

``<graph or run root>/overlay-containers/<id>/userdata/config.json`` is the bundle's spec;
``overlay-containers/containers.json`` (``volatile-containers.json`` for ``--rm``) has names and a
``metadata`` document with the image's name; ``overlay-images/images.json`` its digest
(containers/storage ``containers.go``, ``images.go``; libpod ``storage.go`` for the metadata).
"""

import contextlib
from typing import NamedTuple

import msgspec

from hullwatch.context.disk import DiskError, Roots, read_json, safe_id
from hullwatch.context.facts import Facts, merge
from hullwatch.context.runtimes.bundle import read_bundle, unix_ns
from hullwatch.context.runtimes.query import Query

__all__ = ["find"]

_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")


class StoredContainer(msgspec.Struct, frozen=True):
    id: str = ""
    names: tuple[str, ...] | None = None
    image: str | None = None
    metadata: str | None = None
    created: str | None = None


class StoredImage(msgspec.Struct, frozen=True):
    id: str = ""
    digest: str | None = None


class Metadata(msgspec.Struct, frozen=True, rename="kebab"):
    image_name: str | None = None
    image_id: str | None = None
    name: str | None = None
    pod_name: str | None = None
    pod_id: str | None = None


class _Place(NamedTuple):
    graph: tuple[str, ...]
    run: tuple[str, ...]


def _place(query: Query, roots: Roots) -> _Place:
    if query.rootless_uid is None:
        return _Place(roots.storage, roots.storage_run)
    home = roots.home(query.rootless_uid)
    graph = (roots.storage_rootless.format(home=home),) if home else ()
    return _Place(graph, (roots.storage_run_rootless.format(uid=query.rootless_uid),))


def find(query: Query, roots: Roots) -> Facts | None:
    if not safe_id(query.container_id):
        return None
    place = _place(query, roots)
    said: Facts | None = None
    for root in (*place.graph, *place.run):
        for driver in _DRIVERS:
            userdata = f"{root}/{driver}-containers/{query.container_id}/userdata"
            found = read_bundle(userdata, query.container_id, roots)
            if found is None:
                continue
            stored = _stored(root, driver, query.container_id)
            said = merge(stored, found) if stored else found
            if said.runtime == "cri-o" or stored is not None:
                return said
    return said


def _stored(root: str, driver: str, container_id: str) -> Facts | None:
    for name in ("containers.json", "volatile-containers.json"):
        path = f"{root}/{driver}-containers/{name}"
        entries: list[StoredContainer] = read_json(path, list[StoredContainer]) or []
        entry = next((e for e in entries if e.id == container_id), None)
        if entry is None:
            continue
        about = Metadata()
        with contextlib.suppress(msgspec.DecodeError):
            about = msgspec.json.decode(entry.metadata or "{}", type=Metadata)
        crio = about.pod_id is not None
        return Facts(
            source=path,
            container_id=container_id,
            # CRI-O's names are k8s_<container>_<pod>_…; the annotation has the plain one.
            name=None if crio else about.name or next(iter(entry.names or ()), None),
            image=about.image_name or None,
            image_id=f"sha256:{entry.image}" if entry.image else None,
            image_digest=_digest(root, driver, entry.image),
            start_ts=unix_ns(entry.created),
        )
    return None


def _digest(root: str, driver: str, image: str | None) -> str | None:
    try:
        images = read_json(f"{root}/{driver}-images/images.json", list[StoredImage]) or []
    except DiskError:  # the digest stays unknown; the container is known all the same
        return None
    return next((found.digest for found in images if image and found.id == image), None)
