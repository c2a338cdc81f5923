"""One try at saying whose cgroup it is, from files only. No state, no waiting, no threads."""

import posixpath
from pathlib import Path
from typing import NamedTuple

import msgspec

from hullwatch.context.cgroups import CgroupIdentity, candidates, claim, identify, is_host
from hullwatch.context.creator import CreatorHint, read_creator
from hullwatch.context.disk import DiskError, Roots, read_json
from hullwatch.context.facts import Facts, merge
from hullwatch.context.runtimes import RUNTIMES, runtimes_for
from hullwatch.context.runtimes.bundle import read_bundle
from hullwatch.context.runtimes.containerd import namespace_of
from hullwatch.context.runtimes.query import Query
from hullwatch.context.runtimes.runc import find_by_cgroup
from hullwatch.context.workload import Creator

__all__ = ["Answer", "look", "running_shim", "shim_address"]

# Runtimes whose containers are known by their path alone: no image, and the id is the name.
_NAMED_BY_PATH = frozenset({"lxc", "systemd-nspawn"})
# Runtimes that keep no name beside the id.
_UNNAMED = frozenset({"runc", "crun", "youki", "runsc"})


class Answer(NamedTuple):
    """``facts``, or ``host``, or neither: not known yet, and ``reason`` says why."""

    facts: Facts | None = None
    host: bool = False
    reason: str = ""
    else_host: bool = False
    """If no runtime claims it before long, it is the host's."""
    nested_id: str | None = None


def look(path: str, creator: Creator | None, roots: Roots) -> Answer:
    """Try once. Never raises; a file that cannot be used is told in the reason."""
    local = path
    prefix = roots.cgroup_prefix.rstrip("/")
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        local = path[len(prefix) :] or "/"
    hint = _usable(creator, roots)
    identity = identify(local)
    try:
        if identity is not None:
            return _known_form(local, identity, hint, creator, roots)
        return _free_form(local, hint, creator, roots)
    except DiskError as error:
        return Answer(reason=str(error), else_host=False)


def _usable(creator: Creator | None, roots: Roots) -> CreatorHint | None:
    """The creator's hint, unless it ran where its paths mean other files than they do here."""
    if creator is None:
        return None
    hint = read_creator(creator)
    if hint.bundle is None:
        return hint
    theirs = creator.mnt_ns or roots.spaces.of(creator.pid, "mnt", roots.proc)
    ours = (roots.spaces.host("mnt", roots.proc), Path("/proc/self/ns/mnt").stat().st_ino)
    # None: it has ended; what it says is checked against the path all the same.
    return hint if theirs is None or theirs in ours else hint._replace(bundle=None, root=None)


def _known_form(
    path: str,
    identity: CgroupIdentity,
    hint: CreatorHint | None,
    creator: Creator | None,
    roots: Roots,
) -> Answer:
    """A path whose grammar names the container."""
    own = identity.trusted
    nested = identity.container_id if identity.outer is not None else None
    if own.runtime in _NAMED_BY_PATH:
        said = Facts(
            source=own.container_path,
            container_id=own.container_id,
            runtime=own.runtime,
            name=own.container_id.replace("\\x2d", "-"),
        )
        return Answer(said, nested_id=nested)
    query = Query(
        own.container_id,
        own.namespace,
        own.rootless_uid,
        hint if nested is None else None,
        creator.exe if creator else "",
    )
    facts: Facts | None = None
    for row in runtimes_for(own.runtime):
        found = row.find(query, roots)
        if found is not None:
            facts = merge(facts, found) if facts else found
    ours = hint is not None and hint.container_id == own.container_id and nested is None
    if ours and hint is not None and hint.bundle and (facts is None or facts.bundle is None):
        found = _from_bundle(hint.bundle, own.container_id, roots)
        if found is not None:
            facts = merge(facts, found) if facts else found
    if facts is None and nested is None and hint is not None and hint.kind == "shim":
        # One shim has the containers of a pod, and is named and placed as the sandbox is.
        beside = hint.bundle and posixpath.join(posixpath.dirname(hint.bundle), own.container_id)
        facts = _from_bundle(beside, own.container_id, roots) if beside else None
    if facts is None:
        return Answer(reason="its runtime has no files about it", nested_id=nested)
    runtime = own.runtime or facts.runtime or _oci_name(creator)
    facts = msgspec.structs.replace(
        facts,
        container_id=own.container_id,
        runtime=runtime,
        name=facts.name or (own.container_id if runtime in _UNNAMED else None),
        pod_uid=facts.pod_uid or own.pod_uid,
        qos=own.qos,
        containerd_namespace=facts.containerd_namespace or own.namespace,
    )
    return Answer(facts, nested_id=nested)


def _oci_name(creator: Creator | None) -> str:
    return (posixpath.basename(creator.exe) if creator else "") or "runc"


def _from_bundle(bundle: str, container_id: str, roots: Roots) -> Facts | None:
    said = read_bundle(bundle, container_id, roots)
    if said is None:
        return None
    namespace = namespace_of(bundle)
    runtime = said.runtime or (namespace and ("docker" if namespace == "moby" else "containerd"))
    return msgspec.structs.replace(said, runtime=runtime, containerd_namespace=namespace)


def _free_form(
    path: str, hint: CreatorHint | None, creator: Creator | None, roots: Roots
) -> Answer:
    """A path that any name may stand in: the bundle or a state file has to claim it."""
    if hint is not None and hint.container_id and hint.bundle:
        said = _from_bundle(hint.bundle, hint.container_id, roots)
        relation = claim(path, said.cgroups_path or "", hint.container_id) if said else ""
        if relation == "above":
            return Answer(host=True, reason="a directory on the way to a container's")
        if said is not None and relation:
            said = msgspec.structs.replace(said, runtime=said.runtime or _oci_name(creator))
            return Answer(_finished(said))
    if is_host(path) and not _odd_scope(path):
        return Answer(host=True)
    for namespace, container_id, here in candidates(path):
        query = Query(container_id, namespace, None, hint, creator.exe if creator else "")
        for row in RUNTIMES:
            if not row.free_ids or (namespace is None) != (row.name == "runc"):
                continue
            found = row.find(query, roots)
            if found and _owns(found, here, container_id):
                return Answer(_finished(found))
    found = find_by_cgroup(path, roots)
    if found is not None:
        return Answer(_finished(found))
    if is_host(path):
        return Answer(reason="no container runtime claims it", else_host=True)
    foreign = hint is not None and hint.kind == "foreign"
    return Answer(reason="no container runtime claims it", else_host=foreign)


def _owns(said: Facts, path: str, container_id: str) -> bool:
    if said.cgroup_path is not None:
        return said.cgroup_path == path
    return claim(path, said.cgroups_path or "", container_id) == "self"


def _finished(said: Facts) -> Facts:
    """With free-form ids the id is a name that somebody chose."""
    return (
        said
        if said.name or said.is_sandbox
        else msgspec.structs.replace(said, name=said.container_id)
    )


def _odd_scope(path: str) -> bool:
    """A scope that systemd or a session did not name: ``runc-myid.scope`` is a container's."""
    leaf = posixpath.basename(path)
    known = ("session-", "run-", "init.scope", "app-", "user@", "crio-conmon-", "libpod-conmon-")
    return leaf.endswith(".scope") and "-" in leaf and not leaf.startswith(known)


def shim_address(creator: Creator | None, bundle: str | None, roots: Roots) -> str | None:
    """containerd's socket, out of the command line of the shim: the parent of the runc that made
    the container, while that runs, and from then on of the container's first process, whose pid
    the bundle has."""
    if creator is not None:
        hint = read_creator(creator)
        if hint.kind == "shim":
            return hint.address
        if address := _parents_address(creator.pid, roots):
            return address
    try:
        pid = read_json(f"{bundle}/init.pid", int, 64) if bundle else None
    except DiskError:  # being written
        pid = None
    return _parents_address(pid, roots) if pid else None


def running_shim(cgroup: str, roots: Roots) -> Creator | None:
    """The shim of a container that runs, whoever saw it being made: the parent of a process in the
    cgroup (a directory) that is in another one. None if there is none, or it may not be seen."""
    try:
        with open(f"{cgroup}/cgroup.procs", encoding="ascii") as file:
            inside = [int(line) for line in file.readlines(4096)]
    except (OSError, ValueError):
        return None
    for pid in inside[:8]:
        parent = _parent(pid, roots)
        if parent and parent not in inside:
            shim = _shim_of(parent, roots)
            if shim is not None:
                return shim
    return None


def _parents_address(pid: int, roots: Roots) -> str | None:
    parent = _parent(pid, roots)
    shim = _shim_of(parent, roots) if parent else None
    return read_creator(shim).address if shim else None


def _parent(pid: int, roots: Roots) -> int:
    """0: it has none that can be seen, or has ended."""
    try:
        with open(f"{roots.proc}/{pid}/stat", "rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _shim_of(pid: int, roots: Roots) -> Creator | None:
    try:
        with open(f"{roots.proc}/{pid}/cmdline", "rb") as file:
            words = file.read(65536).split(b"\0")[:-1]
    except OSError:
        return None
    try:
        cwd = str(Path(f"{roots.proc}/{pid}/cwd").readlink())
    except OSError:  # takes CAP_SYS_PTRACE
        cwd = ""
    argv = tuple(word.decode("utf-8", "replace") for word in words)
    found = Creator(pid, argv[0] if argv else "", argv, cwd)
    return found if read_creator(found).kind == "shim" else None
