"""What policy says, written into the kernel (kernel/guard.h).

guard.begin(...)      a generation beside the one in force: what is told apart
guard.put(...)        its answers, of one kind of workload after the other
guard.hold(...)       who is guarded, as which kind
guard.commit()        from now on this generation
"""

from __future__ import annotations

import errno
import ipaddress
import struct
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hullwatch.sensor.labels import Network
from hullwatch.sensor.libbpf import BpfError, Map
from hullwatch.sensor.patterns import Tables
from hullwatch.sensor.programs import Programs
from hullwatch.sensor.wire import (
    GUARD_ASKED,
    GUARD_KEY,
    GUARD_NAME,
    GUARD_NET,
    GUARD_PORT,
    GUARD_SCOPE,
    GUARD_SEEN,
    GUARD_VALUE,
    GUARDED,
    PATH_STATE,
    TABLE_HOSTS,
)

__all__ = ["ANY_ADDRESS", "FIRST_STATE", "Answers", "End", "Guard", "GuardError", "mapped"]

End = tuple[bytes, int]
"""(address as `mapped` has it, port). Without an address: the port of any that has no name; without
both: any end."""
ANY_ADDRESS = bytes(16)

FIRST_STATE = (16_384, 24_576)
"""Where the states of a generation's automata are, by generation & 1."""
ALIVE = 10  # s that an agent may be silent before it is taken for gone
_GUARDED = struct.Struct("<4I")
_KEY = struct.Struct("<IIIBBHII")
_VALUE = struct.Struct("<HHI")
_NET = struct.Struct("<I4s16s")
_NAME = struct.Struct("<II16s")
_PORT = struct.Struct("<II")
_SCOPE = struct.Struct("<II")
_SEEN = struct.Struct("<II16s")
_ASKED = struct.Struct("<II")
assert _GUARDED.size == GUARDED.itemsize and _KEY.size == GUARD_KEY.itemsize
assert _VALUE.size == GUARD_VALUE.itemsize and _NET.size == GUARD_NET.itemsize
assert _NAME.size == GUARD_NAME.itemsize and _PORT.size == GUARD_PORT.itemsize
assert _SCOPE.size == GUARD_SCOPE.itemsize and _SEEN.size == GUARD_SEEN.itemsize
assert _ASKED.size == GUARD_ASKED.itemsize


class GuardError(Exception):
    """The kernel has no room for all that policy says."""


class Answers(NamedTuple):
    """One answer. facts: bits of hw_guard_key; now, orphaned: enum hw_holds."""

    action: int
    facts: int
    row: int
    port: int
    now: int
    orphaned: int
    tool: int = 0
    name: int = 0


def mapped(address: str | Network) -> tuple[bytes, int]:
    """An address or network as the kernel has it: 16 bytes, IPv4 mapped, and bits."""
    network = ipaddress.ip_network(str(address))
    if network.version == 4:
        return bytes(10) + b"\xff\xff" + network.network_address.packed, network.prefixlen + 96
    found = network.network_address.ipv4_mapped
    if found is not None and network.prefixlen >= 96:
        return network.network_address.packed, network.prefixlen
    return network.network_address.packed, network.prefixlen


class Guard:
    """For one thread, but for `alive` and `asked`, which are for another."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        maps = programs.object.map
        self._guarded = maps("guarded")
        self._answers = maps("guard_answers")
        self._nets = maps("guard_nets")
        self._ports = maps("guard_ports")
        self._names = maps("guard_names")
        self._tools = maps("guard_tools")
        self._profiles = maps("guard_profiles")
        self._seen = maps("guard_seen")
        self._answered = maps("guard_answered")
        self._carried = maps("guard_carried")
        self._asked = maps("guard_asked")
        self._asked_of: tuple[dict[int, tuple[int, int]], tuple[int, int]] = {}, (0, 0)
        self._scopes: dict[int, dict[int, int]] = {}  # cgroup -> generation -> scope
        self._made: dict[int, list[tuple[str, bytes]]] = {}  # by generation, to be removed
        self._old: list[int] = []  # generations that were in force
        self.generation = 0
        """In force; 0: none."""
        self._last = 0  # that was in force: what is known of a path bears its number

    # -- a generation -----------------------------------------------------------------------

    def begin(
        self,
        tables: Tables,
        networks: Mapping[Network, int],
        ports: Iterable[int],
        facts: int,
        hosts: Tables | None = None,
        secrets: bool = False,
        new: bool = False,
    ) -> int:
        """The next generation; what an unfinished one left is removed first. networks: to rows.
        hosts: gives server names their numbers; its states follow those of `tables`. None: names
        that TLS clients ask for are not asked about. secrets: kinds of secrets are; new: what no
        baseline has is told apart."""
        generation = self._last + 1
        self.abandon(generation)
        self.sweep()
        self._made[generation] = []
        try:
            self._tell_apart(generation, networks, ports)
            self._put_states(generation, tables, 0, 1)
            if hosts is not None:
                self._put_states(generation, hosts, len(tables.states), TABLE_HOSTS)
        except BaseException:
            self.abandon(generation)
            raise
        settings = self._programs.settings
        settings["policy_facts"][0][generation & 1] = np.uint32(facts)
        settings["policy_hosts"][0][generation & 1] = np.uint32(hosts is not None)
        settings["policy_secrets"][0][generation & 1] = np.uint32(secrets)
        settings["policy_new"][0][generation & 1] = np.uint32(new)
        return generation

    def _put_states(self, generation: int, tables: Tables, after: int, table: int) -> None:
        """after: so many states of the generation are others'. table: the first of such."""
        states = self._programs.object.map("path_states")
        data, size = tables.states.tobytes(), PATH_STATE.itemsize
        first = FIRST_STATE[generation & 1] + after
        for number in range(len(tables.states)):
            states.update(
                struct.pack("<I", first + number), data[number * size : (number + 1) * size]
            )
        key = struct.pack("<I", table + (generation & 1))
        self._programs.object.map("path_table").update(key, tables.table.tobytes())

    def _tell_apart(
        self, generation: int, networks: Mapping[Network, int], ports: Iterable[int]
    ) -> None:
        made = self._made[generation]
        for network, row in networks.items():
            addr, bits = mapped(network)
            key = _NET.pack(bits + 32, generation.to_bytes(4, "big"), addr)
            self._put(self._nets, key, struct.pack("<I", row), made)
        for port in ports:
            key = _PORT.pack(generation, port)
            self._put(self._ports, key, struct.pack("<H", port), made)

    def first_state(self) -> int:
        """Of the generation that `begin` will give."""
        return FIRST_STATE[self._last + 1 & 1]

    def put(self, generation: int, scope: int, answers: Iterable[Answers]) -> int:
        """How many. GuardError."""
        made, count = self._made[generation], 0
        for one in answers:
            key = _KEY.pack(
                generation, scope, one.facts, one.action, one.tool, one.port, one.row, one.name
            )
            self._put(self._answers, key, _VALUE.pack(one.now, one.orphaned, 0), made)
            count += 1
        return count

    def put_name(self, generation: int, scope: int, address: str, name: int) -> None:
        """An address has these names from now on, for workloads of this scope. 0: none."""
        key = _NAME.pack(generation, scope, mapped(address)[0])
        if name:
            self._put(self._names, key, struct.pack("<I", name), self._made[generation])
        else:
            self._names.delete(key)

    def put_profile(self, generation: int, scope: int, profile: int) -> None:
        """Whose baseline a scope's is; 0: all that it does counts as known. GuardError."""
        key, value = _SCOPE.pack(generation, scope), struct.pack("<I", profile)
        self._put(self._profiles, key, value, self._made[generation])

    def see(self, profile: int, ends: Iterable[End]) -> list[End]:
        """A baseline has these, of any generation. Those that there is no room for."""
        lost = []
        for address, port in ends:
            try:
                self._put(self._seen, _SEEN.pack(profile, port, address), b"\1", [])
            except GuardError:
                lost.append((address, port))
        return lost

    def unsee(self, profile: int, ends: Iterable[End]) -> None:
        for address, port in ends:
            self._seen.delete(_SEEN.pack(profile, port, address))

    def answered(self, cgroup: int, ts: int) -> None:
        """A DNS answer of that time has been looked at. ts: CLOCK_BOOTTIME ns."""
        key = struct.pack("<Q", cgroup)
        last = self._answered.lookup(key)
        if last is not None and int.from_bytes(last, "little") <= ts:
            self._answered.delete(key)

    def commit(self, generation: int, number: int = 0) -> None:
        """In force from now on. The one before is there until `sweep`: who was about to be judged
        by it finds its answers. number: of what is to be held elsewhere, as in `asked`."""
        self._programs.settings["policy_asked"][0][generation & 1] = np.uint32(number)
        if self.generation:
            self._old.append(self.generation)
        self.generation = self._last = generation
        self.alive()
        self._programs.set(policy=generation)

    def sweep(self) -> None:
        """Remove what was in force: some time after `commit`."""
        while self._old:
            self._remove(self._old.pop())

    def abandon(self, generation: int) -> None:
        """Remove what was begun and is not to be in force."""
        self._remove(generation)

    def end(self) -> None:
        """Nothing is guarded any more."""
        self._programs.set(policy=0)
        self.sweep()
        self._remove(self.generation)
        self.generation = 0

    def allowed(self) -> dict[tuple[int, int], int]:
        """(scope, action) -> how often it was allowed in this generation."""
        keys, values = self._answers.table(GUARD_KEY, GUARD_VALUE)
        found: dict[tuple[int, int], int] = {}
        for at in np.flatnonzero((values["allowed"] > 0) & (keys["generation"] == self.generation)):
            which = int(keys["scope"][at]), int(keys["action"][at])
            found[which] = found.get(which, 0) + int(values["allowed"][at])
        return found

    def put_tool(self, span: int, tool: int) -> None:
        """A call of it runs. tool: 1 to 255, as in the answers."""
        self._tools.update(struct.pack("<Q", span), struct.pack("<I", tool))

    def ask_tools(self, on: bool) -> None:
        self._programs.set(policy_tools=int(on))

    def alive(self) -> None:
        """Say so each second: else only policies that fail closed go on stopping anything."""
        until = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + ALIVE * 10**9 >> 30) + 1
        self._programs.set(policy_alive=until)

    def asked(self, held: Mapping[int, tuple[int, int]], by: tuple[int, int]) -> None:
        """Opens, and execs, of these containers, by cgroup, are held elsewhere: as which numbers;
        0: they are not. by: processes, on both of which that depends. Where it is not the number of
        the generation in force, of no such container, or one of the two has ended, `Holds.ASKED` is
        a block. GuardError."""
        before, keepers = self._asked_of
        if (held, by) == (before, keepers):
            return
        for gone in before.keys() - held.keys():
            self._asked.delete(struct.pack("<Q", gone))
        for cgroup, numbers in held.items():
            self._put(self._asked, struct.pack("<Q", cgroup), _ASKED.pack(*numbers), [])
        if by != keepers:  # the kernel takes back the same, when one of them ends
            self._programs.settings["policy_keepers"][0][:] = np.array(by, np.uint32)
        self._asked_of = dict(held), by

    # -- who ------------------------------------------------------------------------------

    def hold(self, generation: int, cgroup: int, scope: int) -> None:
        """A container's cgroup is of this scope, with all that is below it."""
        scopes = self._scopes.setdefault(cgroup, {})
        scopes[generation] = scope
        for old in [one for one in scopes if one < self.generation]:
            del scopes[old]
        halves = [(0, 0), (0, 0)]
        for at, of in sorted(scopes.items()):
            halves[at & 1] = (at, of)
        value = _GUARDED.pack(halves[0][0], halves[1][0], halves[0][1], halves[1][1])
        self._put(self._guarded, struct.pack("<Q", cgroup), value, [])
        self._changed()

    def let_go(self, cgroup: int) -> None:
        self._carried.delete(struct.pack("<Q", cgroup))
        if self._scopes.pop(cgroup, None) is not None:
            self._guarded.delete(struct.pack("<Q", cgroup))
            self._changed()

    def _changed(self) -> None:
        changes = int(self._programs.settings["policy_changes"][0])
        self._programs.set(policy_changes=changes + 1 & 0xFFFFFFFF)

    # -- maps ------------------------------------------------------------------------------

    def _put(self, to: Map, key: bytes, value: bytes, made: list[tuple[str, bytes]]) -> None:
        try:
            to.update(key, value)
        except BpfError as error:
            if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
                raise
            name = to.name
            raise GuardError(f"{name} has no room for more") from None
        made.append((to.name, key))

    def _remove(self, generation: int) -> None:
        for name, key in self._made.pop(generation, []):
            self._programs.object.map(name).delete(key)

    def stats(self) -> dict[str, int]:
        made = self._made.get(self.generation, [])
        answers = sum(name == "guard_answers" for name, _ in made)
        return {"generation": self.generation, "answers": answers, "guarded": len(self._scopes)}
