"""What is asked of a runtime's files."""

import posixpath
from typing import NamedTuple

from hullwatch.context.creator import CreatorHint

__all__ = ["Query"]


class Query(NamedTuple):
    container_id: str
    namespace: str | None = None
    """containerd namespace, if the path or the shim names it."""
    rootless_uid: int | None = None
    """Set: only this user's own runtimes are asked, never the system's."""
    hint: CreatorHint | None = None
    creator_exe: str = ""

    @property
    def oci_name(self) -> str:
        return posixpath.basename(self.creator_exe) or "runc"
