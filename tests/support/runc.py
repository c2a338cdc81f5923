"""The containers of the demo (hullwatch.demo.runc) with the tests' own folder and names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hullwatch.demo import runc
from hullwatch.demo.image import Image
from hullwatch.demo.runc import ENVIRONMENT, Container, Done, RuncError, cgroup2_root
from support.scratch import session

__all__ = [
    "ENVIRONMENT",
    "Container",
    "Done",
    "Network",
    "Runc",
    "RuncError",
    "cgroup2_root",
    "delete_all",
]


class Network(runc.Network):
    """A named network namespace with loopback up, for containers that shall share one."""

    prefix = "hwtest-"


class Runc(runc.Runc):
    """Starts containers below session() and removes all of them at close()."""

    def __init__(self, image: Image) -> None:
        super().__init__(image, session())


def delete_all(sessions: Sequence[Path]) -> None:
    """Delete containers whose bundle lies below one of `sessions`, and networks of dead runs."""
    runc.delete_all(sessions, Network.prefix)
