"""CRI-O: containers/storage; the spec's annotations carry the pod."""

import msgspec

from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts
from hullwatch.context.runtimes import storage
from hullwatch.context.runtimes.query import Query

__all__ = ["find"]


def find(query: Query, roots: Roots) -> Facts | None:
    said = storage.find(query, roots)
    if said is None or said.runtime == "podman":
        return None
    return msgspec.structs.replace(said, runtime="cri-o")
