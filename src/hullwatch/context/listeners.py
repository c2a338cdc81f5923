"""Who listens where: so that a gateway which only knows its server's port can name the server."""

from __future__ import annotations

from collections import OrderedDict

from hullwatch.context.enriched import ProcessImage
from hullwatch.context.processes import ProcessTable
from hullwatch.context.spaces import NAMESPACES

__all__ = ["Listeners"]

MAX_PORTS = 4_096
_NET = NAMESPACES.index("ns_net")


class Listeners:
    """The last process seen to listen on each port of each network namespace. Bounded; one thread
    learns, any may ask."""

    def __init__(self, processes: ProcessTable) -> None:
        self._processes = processes
        self._ports: OrderedDict[tuple[int, int], ProcessImage] = OrderedDict()

    def learn(self, image: ProcessImage, port: int) -> None:
        self._ports[image.namespaces[_NET], port] = image
        while len(self._ports) > MAX_PORTS:
            self._ports.popitem(last=False)

    def behind(self, asking: int, port: int) -> tuple[int, ...]:
        """The process (tgid) that listens on a port of the namespace that another (tgid) is in, and
        its descendants; () if none was seen since the agent started."""
        living = self._processes.living()
        asker = next((one for one in living if one.pid == asking), None)
        if asker is None:
            return ()
        found = self._ports.get((asker.namespaces[_NET], port))
        if found is None:
            return ()
        return tuple(one.pid for one in living if one.key == found.key or _below(one, found.key))


def _below(image: ProcessImage, key: int) -> bool:
    above = image.parent
    for _ in range(64):
        if above is None:
            return False
        if above.key == key:
            return True
        above = above.parent
    return False
