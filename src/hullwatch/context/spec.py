"""An OCI bundle's ``config.json``: what it says of a container, and nothing secret.

``process.env`` and ``process.args`` are not in the types below, so the decoder skips them: no
value of theirs ever becomes a Python object. (OCI runtime-spec 1.2, ``config.md``.)
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hullwatch.context.spaces import Spaces

__all__ = [
    "Spec",
    "grantable",
    "host_namespaces",
    "is_privileged",
    "kept_annotations",
]


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


# In the order of their bits, up to what kernel 3.16 had (include/uapi/linux/capability.h): later
# ones (37 AUDIT_READ to 40 CHECKPOINT_RESTORE) are left out by runtimes that do not know them.
_CAPABILITIES = tuple(
    (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP"
        " LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER"
        " SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE"
        " SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
        " MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND"
    ).split(" ")
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


def grantable(proc: str = "/proc") -> frozenset[str]:
    """The capabilities a runtime on this host can hand out: process 1's bounding set."""
    try:
        with open(f"{proc}/1/status", encoding="utf-8") as lines:
            line = next((line for line in lines if line.startswith("CapBnd:")), "")
        bits = int(line.split()[1], 16)
    except (OSError, ValueError, IndexError):
        bits = -1
    return frozenset(f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if bits >> bit & 1)


def is_privileged(spec: Spec, proc: str = "/proc") -> bool | None:
    """What ``--privileged`` makes of a spec; None where the spec does not say enough.

    CRI's words for privileged (api.proto, LinuxContainerSecurityContext): all capabilities,
    nothing masked, sysfs writable, no seccomp. So: every capability this host can grant (and
    SYS_ADMIN) in the bounding set, no maskedPaths, no readonlyPaths, no seccomp filter, and no
    read-only /sys. Docker's own record (HostConfig.Privileged) wins over this derivation.
    """
    if spec.process is None or spec.linux is None:
        return None
    bounding = spec.process.capabilities and spec.process.capabilities.bounding
    if not (grantable(proc) | {"CAP_SYS_ADMIN"}).issubset(bounding or ()):
        return False
    linux = spec.linux
    if linux.maskedPaths or linux.readonlyPaths or linux.seccomp is not None:
        return False
    sysfs = [mount for mount in spec.mounts or () if mount.destination == "/sys"]
    return not any("ro" in (mount.options or ()) for mount in sysfs)


def host_namespaces(
    spec: Spec, proc: str = "/proc", spaces: Spaces | None = None
) -> frozenset[str] | None:
    """Namespaces shared with the host: not listed, or joined and the host's.

    ``runtime-spec``, config-linux.md: a type that is not listed is inherited from the runtime,
    which runs on the host. One with a path is joined: a pod's, which with hostNetwork or hostPID
    is the host's (process 1's) under another name.
    """
    if spec.linux is None:
        return None
    known = spaces or Spaces()
    own = {
        name
        for space in spec.linux.namespaces or ()
        if (name := _NAMESPACES.get(space.type)) and not _joins_host(space.path, name, proc, known)
    }
    return frozenset(_NAMESPACES.values()) - own


def _joins_host(path: str | None, name: str, proc: str, spaces: Spaces) -> bool:
    if not path:
        return False
    if process := re.fullmatch(rf"/proc/(\d{{1,10}})/ns/{name}", path):
        pid = int(process[1])
        # None: the process that held it has ended: a pod's own, then.
        joined = spaces.of(pid, name, proc)
        return pid == 1 or (joined is not None and joined == spaces.host(name, proc))
    try:
        return Path(path).stat().st_ino == spaces.host(name, proc)
    except OSError:
        return False


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
