"""Where runtimes keep their files, and how those files are read: bounded, and only files."""

import os
import stat
from typing import Any

import msgspec

from hullwatch.context.spaces import Spaces

__all__ = ["DiskError", "Roots", "list_names", "read_json", "safe_id"]

MAX_FILE = 4 << 20


class Roots(msgspec.Struct, frozen=True, kw_only=True):
    """Every path that is looked into. In an agent with the host mounted at ``/host``, use `under`.

    Rootless homes are globs of one ``*`` a folder level.
    """

    proc: str = "/proc"
    cgroup_prefix: str = ""
    """Directory of the v2 tree that stands for the root: of a nested host (kind) its own cgroup."""
    runc: tuple[str, ...] = ("/run/runc", "/run/crun")
    runc_rootless: str = "/run/user/{uid}/{name}"
    containerd_runc: tuple[str, ...] = ("/run/containerd/runc",)
    containerd_tasks: tuple[str, ...] = (
        "/run/containerd/io.containerd.runtime.v2.task",
        "/run/k3s/containerd/io.containerd.runtime.v2.task",
        "/run/k0s/containerd/io.containerd.runtime.v2.task",
        "/var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task",
        "/run/docker/containerd/daemon/io.containerd.runtime.v2.task",
    )
    docker_runc: tuple[str, ...] = ("/run/docker/runtime-runc/moby", "/run/containerd/runc/moby")
    docker_data: tuple[str, ...] = ("/var/lib/docker",)
    docker_rootless: str = "{home}/.local/share/docker"
    storage: tuple[str, ...] = ("/var/lib/containers/storage",)
    storage_run: tuple[str, ...] = ("/run/containers/storage",)
    storage_rootless: str = "{home}/.local/share/containers/storage"
    storage_run_rootless: str = "/run/user/{uid}/containers"
    passwd: str = "/etc/passwd"
    sockets: tuple[str, ...] = (
        "/run/containerd/containerd.sock",
        "/run/k3s/containerd/containerd.sock",
        "/run/k0s/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock",
        "/run/crio/crio.sock",
        "/run/cri-dockerd.sock",
    )
    socket_owners: tuple[int, ...] = (0,)
    """Users whose sockets and servers are believed."""
    spaces: Spaces = msgspec.field(default_factory=Spaces)
    """Asked instead of ``proc`` for namespaces, as far as it knows them."""

    def under(self, host: str) -> "Roots":
        """The same paths below ``host`` (a mount of the host's root)."""
        moved: dict[str, Any] = {}
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field in ("cgroup_prefix", "socket_owners", "spaces"):
                continue
            if isinstance(value, tuple):
                moved[field] = tuple(host + path for path in value)
            elif field in ("docker_rootless", "storage_rootless"):
                moved[field] = host + value
            else:
                moved[field] = host + value
        return msgspec.structs.replace(self, **moved)

    def home(self, uid: int) -> str | None:
        """Home of a user, from the host's passwd; None if it names none."""
        try:
            with open(self.passwd, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    fields = line.split(":")
                    if len(fields) > 5 and fields[2] == str(uid):
                        return fields[5] or None
        except OSError:
            pass
        return None


class DiskError(Exception):
    """A runtime's file that is there but could not be used; the message names it."""


def safe_id(name: str) -> bool:
    """May this be one component of a path?"""
    return 0 < len(name) <= 255 and "/" not in name and "\0" not in name and name not in (".", "..")


def read_json(path: str, kind: type | None = None, max_bytes: int = MAX_FILE) -> Any:
    """The JSON in a regular file, decoded to ``kind``; None if there is no such file.

    The last component may not be a link, and opening never waits (a FIFO put in a file's place
    must not hold the agent up). Raises DiskError for a file that is not regular, too large,
    unreadable, or not such JSON.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise DiskError(f"{path}: not a regular file")
        if status.st_size > max_bytes:
            raise DiskError(f"{path}: {status.st_size} bytes, over the limit of {max_bytes}")
        data = bytearray()
        while len(data) <= max_bytes and (chunk := os.read(fd, 1 << 20)):
            data += chunk
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise DiskError(f"{path}: over the limit of {max_bytes} bytes")
    wanted: Any = kind if kind is not None else Any
    try:
        try:
            return msgspec.json.decode(data, type=wanted)
        except UnicodeDecodeError:  # Go's decoder takes it too, with replacement characters
            return msgspec.json.decode(data.decode("utf-8", "replace"), type=wanted)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DiskError(f"{path}: {error}") from None


def list_names(directory: str, limit: int = 1000) -> list[str]:
    """Names of the directories in a directory; empty if it cannot be read."""
    names: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
                if len(names) >= limit:
                    break
    except OSError:
        return []
    return names
