"""Which name an address was asked for: DNS answers and TLS server names, kept per container."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Names"]

_MAX_CONTAINERS = 4096
_MAX_NAMES = 2048
# Programs keep addresses longer than the records' time to live.
_MIN_KEPT_NS = 3600 * 1_000_000_000


class Names:
    """cgroup -> address text -> name. Bounded; the oldest go first."""

    def __init__(self) -> None:
        self._held: OrderedDict[int, OrderedDict[str, tuple[str, int]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(of) for of in self._held.values())

    def __bool__(self) -> bool:
        return bool(self._held)

    def learn(self, cgroup: int, address: str, name: str, now: int, ttl_ns: int = 0) -> None:
        """`name` stood for `address` at `now` (CLOCK_BOOTTIME ns)."""
        of = self._held.setdefault(cgroup, OrderedDict())
        self._held.move_to_end(cgroup)
        of[address] = (name, now + max(ttl_ns, _MIN_KEPT_NS))
        of.move_to_end(address)
        if len(of) > _MAX_NAMES:
            of.popitem(last=False)
        if len(self._held) > _MAX_CONTAINERS:
            self._held.popitem(last=False)

    def of(self, cgroup: int, address: str, now: int) -> str:
        """The name, '' if none is known (any more)."""
        of = self._held.get(cgroup)
        name, until = of.get(address, ("", 0)) if of is not None else ("", 0)
        return name if now < until else ""

    def knows(self, cgroup: int) -> bool:
        return cgroup in self._held

    def forget(self, cgroup: int) -> None:
        self._held.pop(cgroup, None)
