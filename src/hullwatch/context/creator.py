"""What a runtime's command line says about the container it is making. Pure."""

import posixpath
import re
from itertools import pairwise
from typing import Literal, NamedTuple

from hullwatch.context.workload import Creator

__all__ = ["CreatorHint", "read_creator"]

# Options that take a value, so that the id is not mistaken for one (runc run(8), crun(1)).
_VALUED = frozenset(
    (
        "root log log-format criu rootless cgroup-manager config bundle b console-socket pid-file"
        " preserve-fds f file monitor image-path work-path parent-path manage-cgroups-mode"
        " lsm-profile lsm-mount-context status-fd page-server empty-ns"
    ).split(" ")
)
_MAKES = frozenset({"run", "create", "restore"})
_OCI = re.compile(r"(?:docker-|nvidia-container-|sysbox-|kata-)?(?:runc|crun|youki|runsc|runtime)")
_SHIM = re.compile(r"containerd-shim[a-z0-9-]*")
_OTHERS = re.compile(
    r"conmon(?:rs)?|systemd|systemd-nspawn|lxc|lxc-[a-z]+|lxd|incusd|buildkitd|ecs-agent"
)


class CreatorHint(NamedTuple):
    kind: Literal["oci", "shim", "other", "foreign"]
    """oci: runc and its like; shim: containerd's; other: a runtime that tells us nothing;
    foreign: not a program that makes containers, as far as its name goes."""
    container_id: str | None = None
    bundle: str | None = None
    root: str | None = None
    namespace: str | None = None
    address: str | None = None


def read_creator(creator: Creator) -> CreatorHint:
    """Take a command line apart; never raises. Relative paths are joined to the cwd."""
    name = posixpath.basename(creator.exe or (creator.argv[0] if creator.argv else ""))
    name = name.removesuffix(" (deleted)")
    argv0 = posixpath.basename(creator.argv[0]) if creator.argv else ""
    if _SHIM.fullmatch(name) or _SHIM.fullmatch(argv0):
        return _read_shim(creator)
    if _OCI.fullmatch(name) or _OCI.fullmatch(argv0):
        return _read_oci(creator)
    return CreatorHint("other" if _OTHERS.fullmatch(name) else "foreign")


def _absolute(cwd: str, path: str | None) -> str | None:
    if path is None or posixpath.isabs(path):
        return path and posixpath.normpath(path)
    return posixpath.normpath(posixpath.join(cwd, path)) if posixpath.isabs(cwd) else None


def _read_oci(creator: Creator) -> CreatorHint:
    values: dict[str, str] = {}
    words: list[str] = []
    argv = list(creator.argv[1:257])
    while argv:
        word = argv.pop(0)
        if word == "--":
            words.extend(argv)
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        option, equals, value = word.lstrip("-").partition("=")
        if equals:
            values[option] = value
        elif option in _VALUED and argv:
            values[option] = argv.pop(0)
    if len(words) < 2 or words[0] not in _MAKES:
        return CreatorHint("oci", root=_absolute(creator.cwd, values.get("root")))
    return CreatorHint(
        "oci",
        container_id=words[1],
        bundle=_absolute(creator.cwd, values.get("bundle", values.get("b", "."))),
        root=_absolute(creator.cwd, values.get("root")),
    )


def _read_shim(creator: Creator) -> CreatorHint:
    """``containerd-shim-runc-v2 -namespace NS -id ID -address SOCK``, its cwd the bundle.

    containerd ``runtime/v2/shim/util_unix.go`` and ``runtime/v2/README.md``.
    """
    argv = list(creator.argv[1:65])
    values: dict[str, str] = {}
    for option, value in pairwise(argv):
        if option.startswith("-"):
            values.setdefault(option.lstrip("-"), value)
    bundle = _absolute(creator.cwd, values.get("bundle", creator.cwd or None))
    return CreatorHint(
        "shim",
        container_id=values.get("id"),
        bundle=bundle,
        namespace=values.get("namespace"),
        address=_absolute(creator.cwd, values.get("address")),
    )
