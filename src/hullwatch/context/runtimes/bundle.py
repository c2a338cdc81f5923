"""Facts out of an OCI bundle: its config.json, and the annotations runtimes put in it."""

import posixpath
from collections.abc import Mapping
from datetime import datetime

import msgspec

from hullwatch.context import spec as oci
from hullwatch.context.disk import Roots, read_json
from hullwatch.context.facts import Facts

__all__ = ["facts_from_annotations", "read_bundle", "unix_ns"]

# field → annotations that hold it, best first. What a runtime writes itself stands before what
# whoever started the container may have written: a pod's author cannot pass for another image.
# Sources: containerd pkg/cri/annotations, cri-o pkg/annotations, kubelet kuberuntime/labels.go,
# nerdctl pkg/labels, OCI image-spec annotations.md.
_NAMES: dict[str, tuple[str, ...]] = {
    "name": (
        "io.kubernetes.cri.container-name",
        "io.kubernetes.container.name",
        "nerdctl/name",
        "io.hullwatch.name",
        "org.opencontainers.image.title",
    ),
    "image": (
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri-o.ImageName",
        "nerdctl/image",
        "io.hullwatch.image",
        "org.opencontainers.image.ref.name",
        "org.opencontainers.image.base.name",
    ),
    "image_digest": ("io.hullwatch.image.digest", "org.opencontainers.image.base.digest"),
    "pod": (
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.pod.name",
        "io.kubernetes.cri-o.KubeName",
    ),
    "namespace": (
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.cri-o.Namespace",
    ),
    "pod_uid": ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"),
    "sandbox_id": ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"),
    "role": ("io.hullwatch.role",),
}
_TYPE = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
_CRIO_IMAGES = (
    "io.kubernetes.cri-o.ImageRef",
    "io.kubernetes.cri-o.ImageRepoDigests",
    "io.kubernetes.cri-o.Image",
)
_MANAGERS = {"libpod": "podman", "cri-o": "cri-o"}


def unix_ns(stamp: str | None) -> int | None:
    """RFC 3339 with up to nine decimals, as Go writes it, to Unix ns; None for zero or nonsense."""
    if not stamp or stamp.startswith("0001-"):
        return None
    whole, dot, rest = stamp.partition(".")
    digits = ""
    zone = rest
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))][:9]
        zone = rest.lstrip("0123456789")
        stamp = whole + zone
    try:
        seconds = int(datetime.fromisoformat(stamp).timestamp())
    except (ValueError, OverflowError, OSError):
        return None
    return seconds * 1_000_000_000 + int(digits.ljust(9, "0") or 0)


def facts_from_annotations(annotations: Mapping[str, str], source: str) -> Facts:
    """What the annotations alone say."""
    said: dict[str, str] = {}
    for field, keys in _NAMES.items():
        value = next((annotations[key] for key in keys if annotations.get(key)), None)
        if value is not None:
            said[field] = value
    kind = next((annotations[key] for key in _TYPE if annotations.get(key)), None)
    is_sandbox = None if kind is None else kind == "sandbox"
    if is_sandbox:
        said["name"] = said.get("pod", said.get("name", ""))
    image_id = None
    for key in _CRIO_IMAGES:
        for value in annotations.get(key, "").split(","):
            _, at, digest = value.partition("@")
            if at and digest.startswith("sha256:"):
                said.setdefault("image_digest", digest)
            elif len(value) == 64 and image_id is None:
                image_id = "sha256:" + value
    attempt = annotations.get("io.kubernetes.container.restartCount", "")
    labels = None
    if text := annotations.get("io.kubernetes.cri-o.Labels"):
        try:
            labels = msgspec.json.decode(text, type=dict[str, str])
        except msgspec.DecodeError:
            labels = None
    return Facts(
        source=source,
        is_sandbox=is_sandbox,
        image_id=image_id,
        attempt=int(attempt) if attempt.isascii() and attempt.isdigit() else None,
        labels=labels,
        annotations=oci.kept_annotations(annotations),
        start_ts=unix_ns(annotations.get("io.kubernetes.cri-o.Created")),
        runtime=_MANAGERS.get(annotations.get("io.container.manager", "")),
        **said,  # type: ignore[arg-type]
    )


def read_bundle(bundle: str, container_id: str | None, roots: Roots) -> Facts | None:
    """Facts of the bundle in a directory; None if it has no config.json. Raises DiskError.

    Only config.json is opened; nothing under the bundle's rootfs ever is.
    """
    path = posixpath.join(bundle, "config.json")
    spec: oci.Spec | None = read_json(path, oci.Spec)
    if spec is None:
        return None
    said = facts_from_annotations(spec.annotations or {}, path)
    rootfs = spec.root.path if spec.root else None
    return msgspec.structs.replace(
        said,
        container_id=container_id,
        privileged=oci.is_privileged(spec, roots.proc),
        host_namespaces=oci.host_namespaces(spec, roots.proc, roots.spaces),
        rootfs=posixpath.normpath(posixpath.join(bundle, rootfs)) if rootfs else None,
        bundle=bundle,
        cgroups_path=(spec.linux and spec.linux.cgroupsPath) or "",
    )
