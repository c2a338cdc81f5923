"""A call that was told of, and what is known of where it ran."""

from __future__ import annotations

import msgspec

from hullwatch.context.call import Call

__all__ = ["NOBODY", "Peer", "Received", "Where"]


class Peer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who sent it, as the kernel says. On a Unix socket: pid and uid as the agent sees them, and
    inner_pid, the same process's pid in its own namespace. On TCP: address and port."""

    pid: int = 0
    inner_pid: int = 0
    uid: int = -1
    address: str = ""
    port: int = 0


NOBODY = Peer()


class Where(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the sender says of the process that made the call, all but `peer`. pid: as that process
    sees itself, so in a container it is not the host's. Empty and 0: not said."""

    pid: int = 0
    container_id: str = ""
    pod_uid: str = ""
    host: str = ""
    service: str = ""
    peer: Peer = NOBODY

    @property
    def host_pid(self) -> int:
        """The pid on the host where the kernel vouches for it, else 0. What comes through a
        collector is not its own: the pid it names is another than the peer's."""
        peer = self.peer
        return peer.pid if self.pid in (0, peer.inner_pid, peer.pid) else 0


class Received(msgspec.Struct, frozen=True):
    """Call.pid is `where.host_pid`."""

    call: Call
    where: Where
