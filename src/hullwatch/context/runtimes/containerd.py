"""containerd: the task's bundle, ``<state>/io.containerd.runtime.v2.task/<namespace>/<id>``.

containerd ``docs/ops.md`` and ``runtime/v2/bundle.go``. Images of containers that CRI did not
make are known only to its API: `hullwatch.context.cri`.
"""

import posixpath

import msgspec

from hullwatch.context.disk import Roots, list_names, safe_id
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes.bundle import read_bundle
from hullwatch.context.runtimes.query import Query

__all__ = ["TASKS", "find", "namespace_of"]

TASKS = "io.containerd.runtime.v2.task"


def namespace_of(bundle: str) -> str | None:
    """The containerd namespace a bundle's path names; None if it is not a containerd task's."""
    parts = bundle.split("/")
    if TASKS not in parts:
        return None
    at = parts.index(TASKS)
    return parts[at + 1] if len(parts) == at + 3 else None


def find(query: Query, roots: Roots) -> Facts | None:
    if not safe_id(query.container_id) or query.rootless_uid is not None:
        return None
    tasks = list(roots.containerd_tasks)
    bundle = query.hint.bundle if query.hint else None
    if bundle and namespace_of(bundle):
        tasks.insert(0, posixpath.dirname(posixpath.dirname(bundle)))
    for root in tasks:
        known = query.namespace and safe_id(query.namespace)
        for namespace in [query.namespace or ""] if known else list_names(root, 64):
            here = f"{root}/{namespace}/{query.container_id}"
            said = read_bundle(here, query.container_id, roots)
            if said is not None:
                return msgspec.structs.replace(
                    said,
                    runtime="docker" if namespace == "moby" else "containerd",
                    containerd_namespace=namespace,
                )
    return None
