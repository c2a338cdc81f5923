"""Main, init, sidecar or sandbox: what part a container plays in its pod.

Declared: the annotation or label ``io.hullwatch.role``, or the runtime's container type
``sandbox``. Kubernetes keeps the rest in the pod spec, which no runtime is given: CRI hands over
an init container just like any other. So without a declaration the role is *inferred* and says so:

1. the name, then the image, is in ``roles.toml`` (init before sidecar: ``vault-agent-init`` is
   not the ``vault-agent``);
2. it ended, with exit code 0 where the runtime tells, before another container of its sandbox was
   made: init (`ended_before`; the kubelet starts init containers one by one, each after the one
   before it ended);
3. otherwise main.

What cannot be told: a restartable init container (``restartPolicy: Always``, Kubernetes' own kind
of sidecar) looks like a main one that was started early; unless its name or image is in the table
it needs the declaration.
"""

import fnmatch
import tomllib
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from hullwatch.context.workload import Role, RoleSource, Workload

__all__ = ["declared_role", "ended_before", "with_role"]

_ROLES: tuple[Role, ...] = ("main", "init", "sidecar", "sandbox")


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    text = resources.files("hullwatch.context").joinpath("roles.toml").read_text("utf-8")
    table: dict[str, Any] = tomllib.loads(text)
    return table


def _listed(word: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(word, pattern) for pattern in patterns)


def declared_role(word: str | None, is_sandbox: bool | None) -> Role:
    """The role that was declared; ``''`` if none was."""
    if is_sandbox:
        return "sandbox"
    return next((role for role in _ROLES if role == word), "")


def with_role(workload: Workload, declared: str | None, is_sandbox: bool | None) -> Workload:
    """The value with its role. A container in no pod, of which nothing is declared, has none."""
    role = declared_role(declared, is_sandbox)
    source: RoleSource = "declared" if role else ""
    if not role and (workload.pod or workload.pod_uid or workload.sandbox_id):
        role, source = _inferred(workload), "inferred"
    return msgspec.structs.replace(workload, role=role, role_source=source)


def _inferred(workload: Workload) -> Role:
    name = (workload.name or "").lower()
    image = (workload.image_repository or "").rsplit("/", 1)[-1].lower()
    listed: tuple[Role, Role] = ("init", "sidecar")
    for role in listed:
        if _listed(name, _table()[role]["names"]):
            return role
    for role in listed:
        if image and _listed(image, _table()[role]["images"]):
            return role
    return "main"


def ended_before(earlier: Workload, later: Workload, exit_code: int | None) -> Workload:
    """``earlier`` had ended when ``later`` was made in the same sandbox: is it an init container?

    Not if it was declared, failed, or is the same container restarted.
    """
    if earlier.role_source != "inferred" or earlier.role != "main" or exit_code not in (None, 0):
        return earlier
    if later.name == earlier.name or later.role == "sandbox":
        return earlier
    return msgspec.structs.replace(earlier, role="init", role_source="inferred")
