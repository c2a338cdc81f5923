"""Container identity out of a cgroup path: a pure parser, one table row per form.

Where the forms come from: moby ``daemon/oci_linux.go`` (cgroupfs ``/docker/<id>``, systemd
``system.slice:docker:<id>``), containerd ``pkg/cri/server`` (``<pod slice>:cri-containerd:<id>``
and ``<pod>/<id>``), cri-o ``internal/config/cgmgr`` (``crio-``, ``crio-conmon-``), podman
``libpod/container_internal_linux.go`` (``libpod-``, ``libpod-payload-``, ``libpod-conmon-``),
kubelet ``pkg/kubelet/cm`` (``kubepods``, pod uid with ``_`` under systemd), LXC ``lxc.payload.``,
systemd ``systemd-nspawn@.service`` and ``machine-*.scope``, the ECS agent (``/ecs/<task>/<id>``).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = [
    "CgroupIdentity",
    "candidates",
    "claim",
    "container_of",
    "identify",
    "is_foreign",
    "is_host",
    "systemd_path",
]

_MAX_PATH = 4096
_HEX64 = r"[0-9a-f]{64}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_MACHINE = r"[A-Za-z0-9_.\\:-]{1,250}"


class CgroupIdentity(NamedTuple):
    """What a path alone says.

    ``container_id`` is the innermost container's, and ``outer`` the one around it, if any:
    a container that may write to its cgroup can name a directory in it as it likes, so only
    the outermost identity (`trusted`) is the host runtime's own word.
    """

    runtime: str | None  # None: several runtimes use this form
    container_id: str
    container_path: str  # the container's own directory; the given path may continue below it
    pod_uid: str | None = None
    qos: str | None = None
    namespace: str | None = None  # containerd's
    rootless_uid: int | None = None  # under user.slice/user-<uid>.slice
    outer: "CgroupIdentity | None" = None

    @property
    def trusted(self) -> "CgroupIdentity":
        found = self
        while found.outer is not None:
            found = found.outer
        return found


class _Form(NamedTuple):
    runtime: str | None
    directory: re.Pattern[str]
    parent: re.Pattern[str] | None = None
    depth: int | None = None  # only with so many directories above


def _form(
    runtime: str | None, directory: str, parent: str | None = None, depth: int | None = None
) -> _Form:
    above = re.compile(parent) if parent else None
    return _Form(runtime, re.compile(directory), above, depth)


# First match wins; each pattern is anchored, and none can backtrack over more than one name.
_FORMS: tuple[_Form, ...] = (
    _form("docker", rf"docker-(?P<id>{_HEX64})(?:\.scope)?"),
    _form("containerd", rf"(?:cri-containerd|containerd|nerdctl)-(?P<id>{_HEX64})(?:\.scope)?"),
    _form("cri-o", rf"crio-(?P<id>{_HEX64})(?:\.scope)?"),
    _form("podman", rf"libpod-(?:payload-)?(?P<id>{_HEX64})(?:\.scope)?"),
    _form("docker", rf"cri-dockerd-(?P<id>{_HEX64})(?:\.scope)?"),
    _form("kata", rf"kata_(?P<id>{_HEX64})"),
    # A cgroupsPath in systemd form, handed to a cgroupfs driver, stays one literal directory.
    _form("docker", rf"[\w.\\-]{{1,255}}:docker:(?P<id>{_HEX64})"),
    _form("containerd", rf"[\w.\\-]{{1,255}}:(?:cri-containerd|nerdctl):(?P<id>{_HEX64})"),
    _form("cri-o", rf"[\w.\\-]{{1,255}}:crio:(?P<id>{_HEX64})"),
    _form("podman", rf"[\w.\\-]{{1,255}}:libpod:(?P<id>{_HEX64})"),
    _form("lxc", rf"lxc\.payload\.(?P<id>{_NAME})"),
    _form("lxc", rf"(?P<id>{_NAME})", parent=r"lxc|lxc\.payload", depth=1),
    _form("systemd-nspawn", rf"systemd-nspawn@(?P<id>{_MACHINE})\.service"),
    _form("systemd-nspawn", rf"machine-(?!qemu|lxc|libpod)(?P<id>{_MACHINE})\.scope"),
    _form("docker", rf"(?P<id>{_HEX64})", parent=r"docker"),
    _form("buildkit", r"(?P<id>[0-9a-z]{25})", parent=r"buildkit"),
    # A containerd namespace is any name: believed only with a full id and at the top.
    _form("containerd", rf"(?P<id>{_HEX64})", parent=rf"(?!.*\.(?:slice|scope)$){_NAME}", depth=1),
    _form(None, rf"(?P<id>{_HEX64})", depth=0),
)
_IN_POD = _form(None, rf"(?P<id>{_HEX64})")
_ECS = _form("docker", rf"(?P<id>{_HEX64}|[0-9a-f]{{32}}-[0-9]{{1,12}})")
_UUID = "[0-9a-f]{{8}}{0}[0-9a-f]{{4}}{0}[0-9a-f]{{4}}{0}[0-9a-f]{{4}}{0}[0-9a-f]{{12}}"
# A static pod's uid is a 32-digit hash (kubelet, config/common.go).
_POD = re.compile(rf"pod(?P<uid>{_UUID.format('-')}|[0-9a-f]{{32}})")
_POD_SLICE = re.compile(
    r"[\w.-]{0,128}?kubepods(?:-(?P<qos>burstable|besteffort))?"
    rf"-pod(?P<uid>{_UUID.format('_')}|[0-9a-f]{{32}})\.slice(?::[a-z-]{{0,32}}:{_HEX64})?"
)
_USER_SLICE = re.compile(r"user-(?P<uid>[0-9]{1,10})\.slice")
# The runtime's own processes beside a container: the host's.
_MONITOR = re.compile(r"(?:crio-conmon-|libpod-conmon-|lxc\.monitor\.).*|lxc\.monitor")
_HOST_TOPS = frozenset({"system.slice", "user.slice", "init.scope", "machine.slice", "kubepods"})


def identify(path: str) -> CgroupIdentity | None:
    """The container a cgroup path names, or None. Pure, total, linear in the path's length.

    Free-form ids (plain runc, ``ctr``) are in no path's grammar: see `candidates`.
    """
    if len(path) > _MAX_PATH:
        return None
    parts = [part for part in path.split("/") if part]
    found: CgroupIdentity | None = None
    pod_uid = qos = qos_dir = None
    rootless: int | None = None
    for at, part in enumerate(parts):
        if found is None:
            if _MONITOR.fullmatch(part):
                return None
            user = _USER_SLICE.fullmatch(part)
            if user and at and parts[at - 1] == "user.slice":
                rootless = int(user["uid"])
        if part in ("burstable", "besteffort"):
            qos_dir = part
        if pod := _POD_SLICE.fullmatch(part):
            pod_uid, qos = pod["uid"].replace("_", "-"), pod["qos"] or "guaranteed"
        elif pod := _POD.fullmatch(part):
            pod_uid, qos = pod["uid"], qos_dir or "guaranteed"
        hit = _container(parts, at, pod_uid is not None)
        if hit is not None:
            form, container_id = hit
            named = form.runtime == "containerd" and form.depth == 1
            found = CgroupIdentity(
                runtime=form.runtime,
                container_id=container_id,
                container_path="/" + "/".join(parts[: at + 1]),
                pod_uid=pod_uid,
                qos=qos,
                namespace=parts[at - 1] if named else None,
                rootless_uid=rootless,
                outer=found,
            )
            pod_uid = qos = qos_dir = None
    return found


def _container(parts: list[str], at: int, in_pod: bool) -> tuple[_Form, str] | None:
    part = parts[at]
    parent = parts[at - 1] if at else ""
    if in_pod and (hit := _IN_POD.directory.fullmatch(part)):
        return _IN_POD, hit["id"]
    in_task = at >= 2 and "ecs" in (parts[at - 2], parts[max(at - 3, 0)])
    if in_task and (hit := _ECS.directory.fullmatch(part)):
        return _ECS, hit["id"]
    for form in _FORMS:
        if form.depth is not None and form.depth != at:
            continue
        if form.parent is not None and not form.parent.fullmatch(parent):
            continue
        if hit := form.directory.fullmatch(part):
            return form, hit["id"]
    return None


def is_host(path: str) -> bool:
    """Is a path that names no container certainly the host's own?

    True for the root, systemd's top slices and what is under them, pod and QoS directories
    and the runtimes' monitors. Anything else may be a runtime with free-form ids.
    """
    if identify(path) is not None:
        return False
    parts = [part for part in path.split("/") if part]
    if not parts or any(_MONITOR.fullmatch(part) for part in parts):
        return True
    return parts[0] in _HOST_TOPS or parts[0].endswith((".slice", ".scope", ".service"))


def candidates(path: str) -> Iterator[tuple[str | None, str, str]]:
    """(containerd namespace or None, container id, container path) that a path may stand for.

    For runtimes with free-form ids: each directory may be a container, outermost first; only
    a state file can confirm one. At most eight directories are considered.
    """
    parts = [part for part in path.split("/") if part][:8]
    for at, part in enumerate(parts):
        if len(part) > 255:
            continue
        here = "/" + "/".join(parts[: at + 1])
        name = part.removesuffix(".scope") if part.endswith(".scope") else part
        if at:
            yield parts[at - 1], name, here
        yield None, name, here
        if part.endswith(".scope") and "-" in name:
            yield None, name.split("-", 1)[1], here


def systemd_path(cgroups_path: str) -> str | None:
    """``slice:prefix:name`` of a config.json as a cgroup path; None where it is not of that form.

    ``a-b.slice`` lies in ``a.slice`` (systemd.slice(5)); with a prefix the unit is
    ``prefix-name.scope`` (runc ``libcontainer/cgroups/systemd/common.go``).
    """
    if cgroups_path.count(":") != 2 or "/" in cgroups_path:
        return None
    parent, prefix, name = cgroups_path.split(":")
    stem = f"{prefix}-{name}" if prefix else name
    unit = name if name.endswith(".slice") else f"{stem}.scope"
    parent = parent or "system.slice"
    if not parent.endswith(".slice"):
        return None
    stems = parent.removesuffix(".slice").split("-")
    slices = ["-".join(stems[: n + 1]) + ".slice" for n in range(len(stems)) if stems != [""]]
    return "/" + "/".join([*slices, unit])


def claim(path: str, cgroups_path: str, container_id: str) -> Literal["self", "below", "above", ""]:
    """Does a container whose spec says ``cgroups_path`` own the cgroup at ``path``?

    ``self``: it is the container's directory; ``below``: inside it; ``above``: a parent made on
    the way to it; ``''``: none of these. The spec's path may be relative to where the runtime
    runs, so it is looked for as a run of directories; without one the id is the directory.
    """
    literal = cgroups_path if cgroups_path.count(":") == 2 else None
    wanted = systemd_path(cgroups_path) or cgroups_path or container_id
    runs = [[part for part in wanted.split("/") if part]]
    if literal and systemd_path(cgroups_path):
        runs.append([literal])
    parts = [part for part in path.split("/") if part]
    for run in runs:
        size = len(run)
        for start in range(len(parts) - size + 1):
            if size and parts[start : start + size] == run:
                return "self" if start + size == len(parts) else "below"
    for run in runs:
        for size in range(len(run) - 1, 0, -1):
            if parts[-size:] == run[:size]:
                return "above"
    return ""


def container_of(pid: int) -> str:
    """The id in a process's cgroup path, as runtimes write it; '' on the host."""
    try:
        path = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    parts = path.replace("-", "/").replace(".scope", "").replace(":", "/").split("/")
    ids = (one.strip() for one in parts)
    return next((one for one in ids if len(one) == 64 and set(one) <= set("0123456789abcdef")), "")


def is_foreign(pid: int) -> bool:
    """Whether a process is in a container, by its cgroup or its pid namespace, and not in ours.

    Root in a container has the host's number of root, so a user's number alone tells nothing where
    a container was given our sockets. True for a process that nothing can be said of.
    """
    depth = _pid_depth(pid)
    return (
        not depth
        or depth > _pid_depth(os.getpid())
        or container_of(pid) not in ("", container_of(os.getpid()))
    )


def _pid_depth(pid: int) -> int:
    """Pid namespaces that it is in, as seen from ours; 0: there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^NSpid:(.*)$", status, re.MULTILINE)
    return len(found[1].split()) if found else 0
