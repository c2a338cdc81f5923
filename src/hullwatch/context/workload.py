"""The value that says whose cgroup it is, and the hint about who made it."""

from typing import Literal

import msgspec

__all__ = ["Creator", "Role", "RoleSource", "State", "Workload"]

State = Literal["host", "pending", "resolved", "unknown"]
Role = Literal["main", "init", "sidecar", "sandbox", ""]
RoleSource = Literal["declared", "inferred", ""]


class Creator(msgspec.Struct, frozen=True):
    """The process that made a cgroup, as the kernel saw it at cgroup_mkdir.

    A hint, not an authority: it says where to look, and what is found there is checked
    against the cgroup's path.
    """

    pid: int
    exe: str
    argv: tuple[str, ...] = ()
    cwd: str = ""
    mnt_ns: int = 0
    """Inode of the mount namespace that it began in; 0: not told."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose cgroup this is. ``None`` means not known (yet); ``''`` and ``0`` do not.

    ``state``:
      * ``host``: no container; the cgroup belongs to the host itself.
      * ``pending``: looks like a container (or may be one); still being resolved.
      * ``resolved``: a container. ``reason`` then names what could not be learnt, if anything.
      * ``unknown``: given up for now; ``reason`` says why.
    """

    cgroup: int
    """cgroup v2 id: the inode number of the directory in the v2 tree."""
    cgroup_path: str
    state: State
    reason: str = ""

    container_id: str | None = None
    """The full id; ``''`` on the host."""
    nested_id: str | None = None
    """Id of a container inside this one, as its cgroup claims (docker in docker, kind).

    The claim is the outer container's own word, so the identity stays the outer one's.
    """
    runtime: str | None = None
    name: str | None = None
    image: str | None = None
    """The reference as given, e.g. ``nginx:1.27`` or ``ghcr.io/a/b@sha256:…``."""
    image_repository: str | None = None
    image_tag: str | None = None
    image_digest: str | None = None
    """Digest of the manifest or index, ``sha256:…``: what a registry knows it by."""
    image_id: str | None = None
    """Digest of the image's config: what the node knows it by."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    pod_labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    """Only those of an allow-list of prefixes; see `spec.kept_annotations`."""

    pod: str | None = None
    namespace: str | None = None
    pod_uid: str | None = None
    qos: str | None = None
    sandbox_id: str | None = None
    attempt: int | None = None
    role: Role = ""
    role_source: RoleSource = ""

    privileged: bool | None = None
    """As Falco's ``container.privileged``; how it is derived: `spec.is_privileged`."""
    host_namespaces: frozenset[str] | None = None
    """Which of pid, net, ipc, mnt, user, cgroup, uts are the host's."""
    start_ts: int = 0
    """Unix time in ns; 0: not known."""
    rootfs: str | None = None
    bundle: str | None = None
    created_by: str | None = None
    """Executable of the process that made the cgroup."""

    @property
    def is_container(self) -> bool:
        return self.state == "resolved"
