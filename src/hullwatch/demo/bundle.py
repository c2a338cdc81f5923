"""An OCI bundle: a folder with config.json and, as root folder, an overlay over an image.

The overlay gives every container a writable layer of its own, so "a program that was not in the
image" is a fact of the file system here as it is in production.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hullwatch.demo.image import Image
from hullwatch.demo.scratch import mount, remove_tree

__all__ = ["Bundle", "Mount", "make", "new_id"]

# What Docker grants by default, in the order of capabilities(7).
_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP "
    "CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SYS_CHROOT CAP_MKNOD CAP_AUDIT_WRITE CAP_SETFCAP"
).split()
# Bits 0 to 40, for a privileged container: all that this process may hand on.
_ALL_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
_DEFAULT_PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
_MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Mount:
    """A bind mount from the host."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, ready for runc."""

    id: str
    name: str
    image: Image
    folder: Path
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def rootfs(self) -> Path:
        """The merged root folder, as the container sees it."""
        return self.folder / "rootfs"

    @property
    def upper(self) -> Path:
        """The writable layer."""
        return self.folder / "upper"

    def remove(self) -> None:
        """Unmount and delete."""
        remove_tree(self.folder)


def new_id() -> str:
    """A container id as Docker and containerd make them: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def bounding_capabilities() -> list[str]:
    """The names of the capabilities in this process's bounding set."""
    status = Path("/proc/self/status").read_text()
    bits = int(
        next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16
    )
    return [f"CAP_{name}" for bit, name in enumerate(_ALL_CAPABILITIES) if bits >> bit & 1]


def make(
    home: Path,
    image: Image,
    argv: Sequence[str],
    *,
    name: str,
    env: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    network: str | Path = "own",
    mounts: Sequence[Mount] = (),
    tty: bool = False,
    privileged: bool = False,
    host_pid: bool = False,
    user: int = 0,
    cwd: str = "/",
    cgroup: str | None = None,
    container_id: str | None = None,
) -> Bundle:
    """Write a bundle below `home`/bundles and mount its root folder.

    `network` is "own" (a new namespace, runc brings its loopback up), "host", or the path of a
    namespace to join. `cgroup` is a cgroup path; runc's default is the id below its own cgroup.
    """
    identity = container_id or new_id()
    folder = home / "bundles" / identity
    for part in ("upper", "work", "rootfs"):
        (folder / part).mkdir(parents=True)
    layers = f"lowerdir={image.rootfs},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    mount("overlay", folder / "rootfs", "overlay", options=layers)
    told = {
        "org.opencontainers.image.ref.name": image.reference,
        "io.hullwatch.name": name,
        "io.hullwatch.image": image.reference,
        "io.hullwatch.image.digest": image.digest,
        **(annotations or {}),
    }
    config = _config(
        argv,
        env or {},
        told,
        network,
        mounts,
        tty=tty,
        privileged=privileged,
        host_pid=host_pid,
        user=user,
        cwd=cwd,
    )
    config["hostname"] = name[:63]
    if cgroup is not None:
        config["linux"]["cgroupsPath"] = cgroup
    (folder / "config.json").write_text(json.dumps(config))
    return Bundle(identity, name, image, folder, told)


def _config(
    argv: Sequence[str],
    env: Mapping[str, str],
    annotations: Mapping[str, str],
    network: str | Path,
    mounts: Sequence[Mount],
    *,
    tty: bool,
    privileged: bool,
    host_pid: bool,
    user: int,
    cwd: str,
) -> dict[str, Any]:
    """config.json of runtime-spec 1.0. It has no rlimits: to set them takes CAP_SYS_RESOURCE, which
    a virtual machine's root may lack."""
    bounding = bounding_capabilities()
    granted = bounding if privileged else [cap for cap in _CAPABILITIES if cap in bounding]
    names = [*(() if host_pid else ("pid",)), "ipc", "uts", "mount"]
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        names.append("cgroup")
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in names]
    if network == "own":
        namespaces.append({"type": "network"})
    elif network != "host":
        namespaces.append({"type": "network", "path": os.fspath(network)})
    access = "rw" if privileged else "ro"
    binds = [
        {
            "destination": m.target,
            "type": "bind",
            "source": os.fspath(m.source),
            "options": ["rbind", "rw" if m.writable else "ro"],
        }
        for m in mounts
    ]
    linux: dict[str, Any] = {"namespaces": namespaces}
    if privileged:
        linux["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        linux["maskedPaths"] = list(_MASKED)
        linux["readonlyPaths"] = list(_READ_ONLY)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": tty,
            "user": {"uid": user, "gid": user},
            "args": list(argv),
            "env": [_DEFAULT_PATH, "HOME=/root", *(f"{key}={value}" for key, value in env.items())],
            "cwd": cwd,
            "capabilities": dict.fromkeys(
                ("bounding", "effective", "permitted", "inheritable"), granted
            ),
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            {
                "destination": "/sys",
                "type": "sysfs" if network == "own" or privileged else "bind",
                "source": "sysfs" if network == "own" or privileged else "/sys",
                "options": ["nosuid", "noexec", "nodev", access]
                if network == "own" or privileged
                else ["rbind", "nosuid", "noexec", "nodev", "ro"],
            },
            *binds,
        ],
        "linux": linux,
        "annotations": dict(annotations),
    }
