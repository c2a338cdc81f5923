"""The container runtimes that are known: a table row each.

A new runtime is a file with ``find(query, roots)`` and a row here.
"""

from collections.abc import Callable
from typing import NamedTuple

from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes import containerd, crio, docker, podman, runc
from hullwatch.context.runtimes.query import Query

__all__ = ["RUNTIMES", "Runtime", "runtimes_for"]


class Runtime(NamedTuple):
    name: str
    find: Callable[[Query, Roots], Facts | None]
    """Facts from its files, or None if it does not know the id. Raises DiskError."""
    free_ids: bool
    """May its ids be any name, so that no path's grammar knows them?"""


RUNTIMES: tuple[Runtime, ...] = (
    Runtime("docker", docker.find, free_ids=False),
    Runtime("containerd", containerd.find, free_ids=True),
    Runtime("cri-o", crio.find, free_ids=False),
    Runtime("podman", podman.find, free_ids=False),
    Runtime("runc", runc.find, free_ids=True),
)


_BY_NAME = {row.name: row for row in RUNTIMES}


def runtimes_for(name: str | None) -> tuple[Runtime, ...]:
    """The rows to ask for a container of the named runtime: its own, then the runc it stands on."""
    row = _BY_NAME.get(name or "")
    if row is None:
        return RUNTIMES
    return (row,) if row.name == "runc" else (row, _BY_NAME["runc"])
