"""What one source says of one container; several are laid over each other."""

from typing import Any

import msgspec

from hullwatch.context.image import parse_image
from hullwatch.context.workload import Workload

__all__ = ["Facts", "merge", "to_workload"]


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: this source does not say."""

    source: str
    """The file or socket this is from."""
    container_id: str | None = None
    runtime: str | None = None
    name: str | None = None
    image: str | None = None
    image_digest: str | None = None
    image_id: str | None = None
    labels: dict[str, str] | None = None
    pod_labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    pod: str | None = None
    namespace: str | None = None
    pod_uid: str | None = None
    qos: str | None = None
    sandbox_id: str | None = None
    is_sandbox: bool | None = None
    attempt: int | None = None
    role: str | None = None
    privileged: bool | None = None
    host_namespaces: frozenset[str] | None = None
    start_ts: int | None = None
    rootfs: str | None = None
    bundle: str | None = None
    cgroups_path: str | None = None
    """As the spec asked for it: a path, maybe relative, or ``slice:prefix:name``."""
    cgroup_path: str | None = None
    """As the runtime recorded it: the path in the v2 tree."""
    containerd_namespace: str | None = None
    problem: str | None = None
    """Something that was there and could not be used."""


_NOT_CARRIED = frozenset(
    {
        "source",
        "cgroups_path",
        "cgroup_path",
        "containerd_namespace",
        "problem",
        "is_sandbox",
        "role",
    }
)
_MAPS = frozenset(("labels", "pod_labels", "annotations"))


def merge(first: Facts, second: Facts) -> Facts:
    """Both sources; where both speak the first wins, and maps are joined."""
    joined: dict[str, Any] = {}
    for field in Facts.__struct_fields__:
        a, b = getattr(first, field), getattr(second, field)
        joined[field] = {**b, **a} if field in _MAPS and a and b else b if a is None else a
    return Facts(**joined)


_MAX_LABELS, _MAX_LABEL = 128, 1024


def _bounded(labels: dict[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in labels.items() if len(k) <= _MAX_LABEL and len(v) <= _MAX_LABEL}
    return dict(sorted(kept.items())[:_MAX_LABELS])


def to_workload(blank: Workload, facts: Facts) -> Workload:
    """A resolved value; ``reason`` names what could not be learnt."""
    known = {
        field: value
        for field in Facts.__struct_fields__
        if field not in _NOT_CARRIED and (value := getattr(facts, field)) is not None
    }
    for field in _MAPS:
        known[field] = _bounded(known.get(field) or {})
    missing: list[str] = []
    image = facts.image
    if image is None:
        missing.append("image not named by its runtime")
        if facts.is_sandbox:
            missing = ["a pod sandbox: its runtime names no image"]
    else:
        parsed = parse_image(image)
        known["image_repository"], known["image_tag"] = parsed.repository, parsed.tag
        known.setdefault("image_digest", parsed.digest)
        if known["image_digest"] is None:
            missing.append("image digest not known")
    if facts.problem:
        missing.append(facts.problem)
    return msgspec.structs.replace(blank, state="resolved", reason="; ".join(missing), **known)
