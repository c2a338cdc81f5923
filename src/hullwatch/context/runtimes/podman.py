"""podman: containers/storage, of the system or of the user whose slice the cgroup is in."""

import msgspec

from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes import storage
from hullwatch.context.runtimes.query import Query

__all__ = ["find"]


def find(query: Query, roots: Roots) -> Facts | None:
    said = storage.find(query, roots)
    if said is None:
        return None
    return msgspec.structs.replace(said, runtime=said.runtime or "podman")
