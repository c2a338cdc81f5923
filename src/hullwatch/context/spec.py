"""An OCI bundle's ``config.json``: what it says of a container, and nothing secret.

``process.env`` and ``process.args`` are not in the types below, so the decoder skips them: no
value of theirs ever becomes a Python object. (OCI runtime-spec 1.2, ``config.md``.)
"""

from collections.abc import Mapping

import msgspec

__all__ = ["Spec", "host_namespaces", "is_privileged", "kept_annotations"]


class Capabilities(msgspec.Struct, frozen=True):
    bounding: tuple[str, ...] | None = None


class Process(msgspec.Struct, frozen=True):
    capabilities: Capabilities | None = None


class Root(msgspec.Struct, frozen=True):
    path: str = ""


class Mount(msgspec.Struct, frozen=True):
    destination: str = ""
    type: str | None = None
    options: tuple[str, ...] | None = None


class Namespace(msgspec.Struct, frozen=True):
    type: str = ""
    path: str | None = None


class Seccomp(msgspec.Struct, frozen=True):
    """Only that there is one."""


class Linux(msgspec.Struct, frozen=True):
    namespaces: tuple[Namespace, ...] | None = None
    cgroupsPath: str | None = None
    maskedPaths: tuple[str, ...] | None = None
    readonlyPaths: tuple[str, ...] | None = None
    seccomp: Seccomp | None = None


class Spec(msgspec.Struct, frozen=True):
    root: Root | None = None
    process: Process | None = None
    mounts: tuple[Mount, ...] | None = None
    annotations: dict[str, str] | None = None
    linux: Linux | None = None


# Capabilities through CAP_SYS_RAWIO… 37 of kernel 3.16 (CAP_AUDIT_READ); 38 to 40 came with 5.8 and
# 5.9, and runtimes leave out what the kernel or they themselves do not know.
_PRIVILEGED_CAPS = frozenset(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
    ]
)
_NAMESPACES = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "mount": "mnt",
    "user": "user",
    "cgroup": "cgroup",
    "uts": "uts",
}
_HOST_PATHS = tuple(f"/proc/1/ns/{name}" for name in _NAMESPACES.values())


def is_privileged(spec: Spec) -> bool | None:
    """What ``--privileged`` makes of a spec; None where the spec does not say enough.

    CRI's words for privileged (api.proto, LinuxContainerSecurityContext): all capabilities,
    nothing masked, sysfs writable, no seccomp. So: every capability of kernel 3.16 in the
    bounding set, no maskedPaths, no readonlyPaths, no seccomp filter, and no read-only /sys.
    Docker's own record (HostConfig.Privileged) wins over this derivation where there is one.
    """
    if spec.process is None or spec.linux is None:
        return None
    bounding = spec.process.capabilities and spec.process.capabilities.bounding
    if not _PRIVILEGED_CAPS.issubset(bounding or ()):
        return False
    linux = spec.linux
    if linux.maskedPaths or linux.readonlyPaths or linux.seccomp is not None:
        return False
    sysfs = [mount for mount in spec.mounts or () if mount.destination == "/sys"]
    return not any("ro" in (mount.options or ()) for mount in sysfs)


def host_namespaces(spec: Spec) -> frozenset[str] | None:
    """Namespaces shared with the host: those the spec does not list.

    ``runtime-spec``, config-linux.md: a type that is not listed is inherited from the runtime,
    which runs on the host. One with a path is joined: the pod's, or the host's own if the path
    is that of process 1.
    """
    if spec.linux is None:
        return None
    listed = spec.linux.namespaces or ()
    own = {_NAMESPACES.get(space.type) for space in listed if space.path not in _HOST_PATHS}
    return frozenset(name for name in _NAMESPACES.values() if name not in own)


# Annotations that are kept. Whatever else people hang on pods (kubectl's last-applied
# configuration, tool settings, tokens) stays where it is.
_KEPT = (
    "io.hullwatch.",
    "io.kubernetes.cri.",
    "io.kubernetes.cri-o.",
    "io.kubernetes.container.",
    "io.kubernetes.pod.",
    "io.container.manager",
    "io.podman.annotations.",
    "org.opencontainers.image.",
    "org.systemd.property.",
    "kubernetes.io/config.source",
    "container.apparmor.security.beta.kubernetes.io/",
    "nerdctl/name",
    "nerdctl/namespace",
    "nerdctl/platform",
    "sidecar.istio.io/status-port",
)
# Values that hold whole documents: other annotations, labels or environments as JSON.
_DROPPED = (
    "io.kubernetes.cri.pod-annotations",
    "io.kubernetes.cri-o.Annotations",
    "io.kubernetes.cri-o.Labels",
    "io.kubernetes.cri-o.Volumes",
    "io.kubernetes.cri-o.CNIResult",
    "io.kubernetes.cri-o.Metadata",
    "io.kubernetes.cri-o.PodLinuxResources",
    "io.kubernetes.cri-o.PodLinuxOverhead",
    "io.kubernetes.container.terminationMessage",
)
_MAX_VALUE = 1024
_MAX_KEPT = 64


def kept_annotations(annotations: Mapping[str, str] | None) -> dict[str, str]:
    """The annotations that may be stored: by prefix, values of at most 1,024 characters."""
    kept = {
        key: value
        for key, value in (annotations or {}).items()
        if key.startswith(_KEPT) and not key.startswith(_DROPPED) and len(value) <= _MAX_VALUE
    }
    return dict(sorted(kept.items())[:_MAX_KEPT])
