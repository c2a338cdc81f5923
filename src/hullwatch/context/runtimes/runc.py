"""runc, crun and their like: the state directory names the bundle."""

import posixpath

import msgspec

from hullwatch.context.disk import DiskError, Roots, list_names, read_json, safe_id
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes.bundle import read_bundle, unix_ns
from hullwatch.context.runtimes.query import Query

__all__ = ["find", "find_by_cgroup"]


class RuncState(msgspec.Struct, frozen=True):
    """``<root>/<id>/state.json`` (runc ``libcontainer/container.go`` State, BaseState)."""

    class Config(msgspec.Struct, frozen=True):
        labels: tuple[str, ...] | None = None
        rootfs: str | None = None

    created: str | None = None
    config: Config | None = None
    cgroup_paths: dict[str, str] | None = None


class CrunStatus(msgspec.Struct, frozen=True, rename={"cgroup_path": "cgroup-path"}):
    """``<root>/<id>/status`` (crun ``src/libcrun/status.c``)."""

    bundle: str | None = None
    created: str | None = None
    rootfs: str | None = None
    cgroup_path: str | None = None


def _directories(query: Query, roots: Roots) -> list[tuple[str, str]]:
    """(runtime, state root) in the order of likelihood."""
    found: list[tuple[str, str]] = []
    if query.hint is not None and query.hint.root:
        found.append((query.oci_name, query.hint.root))
    if query.rootless_uid is not None:
        run = [
            roots.runc_rootless.format(uid=query.rootless_uid, name=name)
            for name in ("runc", "crun")
        ]
        return found + [(posixpath.basename(root), root) for root in run]
    found += [(posixpath.basename(root), root) for root in roots.runc]
    if query.namespace:
        found += [("containerd", f"{root}/{query.namespace}") for root in roots.containerd_runc]
    return found + [("docker", root) for root in roots.docker_runc]


def _below_mount(path: str | None) -> str | None:
    """runc records where the directory is mounted; the path inside the v2 tree is what counts."""
    for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if path and path.startswith(mount + "/"):
            return path[len(mount) :]
    return path


def find(query: Query, roots: Roots) -> Facts | None:
    if not safe_id(query.container_id):
        return None
    for runtime, root in _directories(query, roots):
        here = posixpath.join(root, query.container_id)
        state: RuncState | None = read_json(f"{here}/state.json", RuncState)
        bundle = rootfs = created = cgroup = None
        if state is not None:
            labels = (state.config and state.config.labels) or ()
            bundle = next((x[7:] for x in reversed(labels) if x.startswith("bundle=")), None)
            rootfs = state.config and state.config.rootfs
            created = state.created
            cgroup = (state.cgroup_paths or {}).get("")
        else:
            status: CrunStatus | None = read_json(f"{here}/status", CrunStatus)
            if status is None:
                continue
            bundle, created, rootfs = status.bundle, status.created, status.rootfs
            cgroup = status.cgroup_path
        said = read_bundle(bundle, query.container_id, roots) if bundle else None
        if said is None:
            problem = None if bundle is None else f"{bundle}/config.json: gone"
            said = Facts(source=here, container_id=query.container_id, problem=problem)
        return msgspec.structs.replace(
            said,
            runtime=said.runtime or runtime,
            start_ts=unix_ns(created) or said.start_ts,
            rootfs=rootfs or said.rootfs,
            cgroup_path=_below_mount(cgroup),
        )
    return None


def find_by_cgroup(path: str, roots: Roots) -> Facts | None:
    """The container whose state says that it lives at this path, or around it.

    For one that was given a cgroup of another name than its id, and was running before we were.
    At most 256 states are read.
    """
    for root in roots.runc:
        for name in list_names(root, 256):
            try:
                said = find(Query(name), msgspec.structs.replace(roots, runc=(root,)))
            except DiskError:  # another container's trouble
                continue
            own = said and said.cgroup_path
            if own and own != "/" and (path == own or path.startswith(own + "/")):
                return said
    return None
