"""Docker: ``<data root>/containers/<id>/config.v2.json`` and ``hostconfig.json``.

moby ``container/container.go`` (Container), ``image/store.go`` and ``reference/store.go``
(``repositories.json``: tag or digest → image id). ``Config.Env`` is not in the types below and
is skipped by the decoder.
"""

import posixpath

import msgspec

from hullwatch.context.disk import DiskError, Roots, list_names, read_json, safe_id
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes.bundle import unix_ns
from hullwatch.context.runtimes.query import Query

__all__ = ["find"]


class ContainerConfig(msgspec.Struct, frozen=True):
    Image: str | None = None
    Labels: dict[str, str] | None = None


class ContainerState(msgspec.Struct, frozen=True):
    StartedAt: str | None = None


class Descriptor(msgspec.Struct, frozen=True):
    digest: str | None = None


class Container(msgspec.Struct, frozen=True):
    ID: str | None = None
    Name: str | None = None
    Created: str | None = None
    Image: str | None = None
    Config: ContainerConfig | None = None
    State: ContainerState | None = None
    ImageManifest: Descriptor | None = None


class HostConfig(msgspec.Struct, frozen=True):
    Privileged: bool | None = None


class RepositoryStore(msgspec.Struct, frozen=True):
    Repositories: dict[str, dict[str, str]] = {}


def find(query: Query, roots: Roots) -> Facts | None:
    if not safe_id(query.container_id):
        return None
    data_roots: tuple[str, ...] = roots.docker_data
    if query.rootless_uid is not None:
        home = roots.home(query.rootless_uid)
        data_roots = (roots.docker_rootless.format(home=home),) if home else ()
    for root in data_roots:
        here = f"{root}/containers/{query.container_id}"
        path = f"{here}/config.v2.json"
        container: Container | None = read_json(path, Container)
        if container is None:
            continue
        host: HostConfig | None = read_json(f"{here}/hostconfig.json", HostConfig)
        config = container.Config or ContainerConfig()
        labels = config.Labels or {}
        manifest = container.ImageManifest and container.ImageManifest.digest
        return Facts(
            source=path,
            runtime="docker",
            container_id=query.container_id,
            name=(container.Name or "").removeprefix("/") or None,
            image=config.Image,
            image_digest=manifest or _repo_digest(root, config.Image, container.Image),
            image_id=container.Image,
            labels=labels,
            privileged=host.Privileged if host else None,
            start_ts=unix_ns((container.State or ContainerState()).StartedAt)
            or unix_ns(container.Created),
            pod=labels.get("io.kubernetes.pod.name"),
            namespace=labels.get("io.kubernetes.pod.namespace"),
            pod_uid=labels.get("io.kubernetes.pod.uid"),
            sandbox_id=labels.get("io.kubernetes.sandbox.id"),
            is_sandbox=(
                labels["io.kubernetes.docker.type"] == "podsandbox"
                if "io.kubernetes.docker.type" in labels
                else None
            ),
            role=labels.get("io.hullwatch.role"),
        )
    return None


def _repo_digest(root: str, reference: str | None, image_id: str | None) -> str | None:
    """The registry digest of an image id, of the same repository where there are several."""
    if not image_id:
        return None
    for driver in list_names(posixpath.join(root, "image"), 8):
        try:
            path = f"{root}/image/{driver}/repositories.json"
            known: RepositoryStore | None = read_json(path, RepositoryStore)
        except DiskError:  # the digest stays unknown; the container is known all the same
            continue
        found: str | None = None
        for repository, references in (known.Repositories if known else {}).items():
            for name, target in references.items():
                _, at, digest = name.partition("@")
                if at and target == image_id:
                    found = found or digest
                    if reference and reference.startswith(repository):
                        return digest
        if found:
            return found
    return None
