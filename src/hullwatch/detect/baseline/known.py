"""What a baseline knows of one image, as policies are told it: a value, for any thread or process.

`first_seen` of a policy is what no container of the image has done before; where the baseline is
locked, what it does not have: it learns no more.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from hullwatch.context.workload import Workload
from hullwatch.detect.baseline.objects import ANY, group_of, within

__all__ = ["LEARNING", "LOCKED", "NOTHING", "Contacts", "Known", "Normal", "has", "no_baseline"]

LEARNING, LOCKED = "learning", "locked"


class Known(NamedTuple):
    """image: the key of its profile. edition: of that. state: none, learning or locked. settled:
    unix ns until which all counts as known. names: by kind of kinds.py. accepted: (kind, pattern)
    that a person has."""

    image: str
    edition: int
    state: str
    settled: int = 0
    names: Mapping[str, frozenset[str]] = {}
    accepted: frozenset[tuple[str, str]] = frozenset()


NOTHING = Known("", 0, "none")


class Normal(Protocol):
    """What is known of a workload's image; None: it is of this edition still."""

    def __call__(self, workload: Workload, edition: int = -1) -> Known | None: ...


def no_baseline(workload: Workload, edition: int = -1) -> Known | None:
    """Where there are none."""
    return None if edition == NOTHING.edition else NOTHING


def has(names: frozenset[str], accepted: Iterable[tuple[str, str]], kind: str, name: str) -> bool:
    """Whether the names of a kind have this one, or a person has accepted it."""
    if name in names or ANY in names or group_of(kind, name) in names:
        return True
    return any(of == kind and within(pattern, kind, name) for of, pattern in accepted)


class Contacts:
    """The destinations that a baseline has, by what is known of one before it is contacted: a name,
    or an address alone. every: there were more than it could hold, so none is new."""

    def __init__(self, known: Known) -> None:
        said = {pattern for kind, pattern in known.accepted if kind == "connect"}
        said |= known.names.get("connect", frozenset())
        self.every = ANY in said
        self._ports: dict[str, set[int]] = {}
        for name in said:
            host, _, port = name.rpartition(":")
            if host and port.isdecimal():  # else a Unix socket
                self._ports.setdefault(host, set()).add(int(port))

    def by_address(self) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
        for host, ports in self._ports.items():
            with contextlib.suppress(ValueError):
                address = ipaddress.ip_address(host.strip("[]"))
                yield from ((address, port) for port in ports)

    def of_any_address(self) -> frozenset[int]:
        """Ports of so many addresses that one more is not new."""
        return frozenset(self._ports.get("{ip}", ()))

    def of_name(self, name: str) -> frozenset[int]:
        """Ports that a domain name was contacted at, or so many others of its domain."""
        group = group_of("connect", f"{name}:0").removesuffix(":0")
        return frozenset((*self._ports.get(name, ()), *self._ports.get(group, ())))
