"""What kernel/guard.h does with the maps that sensor/guard.py writes, said again over dictionaries.

No kernel is claimed to run here: this is the oracle's other half, so that millions of questions can
be put to the answers of a plan. What the kernel itself does with them: tests/live/test_guard.py.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hullwatch.agent.secrets.labels import path_patterns
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry
from hullwatch.decide.quarantine import Quarantine
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.guarding import Guarding, Opening
from hullwatch.sensor.guard import Guard, mapped
from hullwatch.sensor.libbpf import BpfError
from hullwatch.sensor.patterns import compiled
from hullwatch.sensor.wire import (
    FACT_NEW,
    FACT_UPPER,
    GUARD_ROWS,
    NAME_ALONE,
    PATH_STATE,
    PATH_TABLE,
    ROW_ANY,
    ROW_SAID,
    ROW_SECRET,
    ROW_UNKNOWN,
    SETTINGS,
    TABLE_HOSTS,
    Action,
    Holds,
)

__all__ = ["PASSES", "STOPPED", "TOLD", "Kernel", "Noted", "Steered", "Table"]

PASSES, TOLD, STOPPED = "passes", "told", "stopped"
_PLACES = compiled(path_patterns(()))
_LISTS = int(Holds.PERMIT | Holds.LISTED | Holds.WOULD_PERMIT | Holds.WOULD_LIST)


class Table:
    """A map. room: entries; None: any number."""

    def __init__(self, name: str, room: int | None = None) -> None:
        self.name = name
        self.room = room
        self.held: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes) -> None:
        if self.room is not None and key not in self.held and len(self.held) >= self.room:
            raise BpfError(errno.E2BIG, f"update of {self.name}")
        self.held[bytes(key)] = bytes(value)

    def lookup(self, key: bytes) -> bytes | None:
        return self.held.get(bytes(key))

    def table(self, key: np.dtype[Any], value: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.frombuffer(b"".join(self.held), key),
            np.frombuffer(b"".join(self.held.values()), value),
        )

    def delete(self, key: bytes) -> bool:
        return self.held.pop(bytes(key), None) is not None


class _Asked(NamedTuple):
    """As struct guard. without: bits of enum hw_holds that do not count."""

    generation: int
    scope: int
    facts: int
    action: int
    port: int = 0
    name: int = 0
    tool: int = 0


class Kernel:
    """In the place of sensor/programs.py: its maps and settings, and what the kernel asks them."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.settings = np.zeros(1, SETTINGS)
        self.object = self

    def map(self, name: str) -> Table:
        return self.tables.setdefault(name, Table(name))

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self.settings[name] = np.uint32(value)

    # -- questions -------------------------------------------------------------------------

    def path(
        self,
        cgroup: int,
        action: str,
        path: bytes,
        *,
        second: bytes | None = None,
        labels: int = 0,
        upper: bool = False,
        privilege: int = 0,
        unknown: bool = False,
        opened: bool = False,
        mapped: bool = False,
    ) -> str:
        """second: where it lies in its own file system, if it is mounted once more. opened: or run,
        and not renamed, linked, changed or received. mapped: of an exec, by a program."""
        asked = self._asked(cgroup, action, labels)
        if asked is None:
            return PASSES
        if self._facts & FACT_UPPER and upper and action != "use-secret":
            asked = asked._replace(facts=asked.facts | FACT_UPPER)
        asked = asked._replace(port=privilege)
        held = int(Holds.ASKED) if self._is_asked(cgroup, action) else 0
        asks = held if opened and not unknown else 0
        found = [self._row(asked, ROW_ANY)]
        if mapped and found[0] and (whole := self._row(_any_layer(asked), ROW_ANY)):
            found[0] = found[0][0] & ~(held & whole[0]), found[0][1]
        if found[0] is None:
            return PASSES
        find = self._secret if action == "use-secret" else self._rows
        if unknown:
            found.append(self._row(asked, ROW_UNKNOWN))
        without = orphaned = 0
        for names in (path, second):
            for row in find(names) if names is not None else ():
                if row:
                    said = self._row(asked, row, without, orphaned)
                    if said is None:
                        said = self._row(asked, ROW_UNKNOWN, without, orphaned)
                    found.append(said)
            if names is path:
                without = orphaned = _LISTS
                if any(one and one[0] & asks for one in found):
                    found = [one and (one[0] & ~asks, one[1]) for one in found]
                    without |= asks
        return self._says(found)

    def end(self, cgroup: int, action: str, address: str, port: int, *, labels: int = 0) -> str:
        asked = self._asked(cgroup, action, labels)
        if asked is None:
            return PASSES
        asked, row = self._place(asked, address, port)
        if asked.action == Action.CONNECT:
            key = struct.pack("<II16s", asked.generation, asked.scope, mapped(address)[0])
            name = self.map("guard_names").held.get(key)
            asked = asked._replace(name=struct.unpack("<I", name)[0] if name else 0)
            asked = self._with_baseline(asked, (address, port))
        said = self._row(asked, row)
        if said is None:
            said = self._row(asked._replace(port=0, name=0), ROW_UNKNOWN)
        return self._says([said])

    def hello(
        self, cgroup: int, address: str, port: int, name: bytes | None, *, labels: int = 0
    ) -> str:
        """A TLS client asks for a server of this name, in lower case; None: it cannot be read."""
        asked = self._asked(cgroup, "connect", labels)
        if asked is None or not self.settings["policy_hosts"][0][asked.generation & 1]:
            return PASSES
        asked, row = self._place(asked, address, port)
        asked = self._with_baseline(asked, (address, port))
        number = 0
        if name is not None:
            number = self._rows(b"/" + name.removesuffix(b"."), TABLE_HOSTS)[0]
            assert number, "each name has a number"
        alone, said = asked._replace(name=NAME_ALONE), asked._replace(name=number)
        return self._says([self._row(alone, row), self._row(said, ROW_SAID)])

    def socket(self, cgroup: int, *, labels: int = 0) -> str:
        """One whose packets no hook sees."""
        asked = self._asked(cgroup, "connect", labels)
        if asked is None:
            return PASSES
        return self._says([self._row(self._with_baseline(asked), ROW_UNKNOWN)])

    # -- as guard.h does --------------------------------------------------------------------

    @property
    def _generation(self) -> int:
        return int(self.settings["policy"][0])

    @property
    def _facts(self) -> int:
        return int(self.settings["policy_facts"][0][self._generation & 1])

    def _asked(self, cgroup: int, action: str, labels: int) -> _Asked | None:
        generation = self._generation
        value = self.map("guarded").held.get(struct.pack("<Q", cgroup))
        if not generation or value is None:
            return None
        *generations, first, second = struct.unpack("<4I", value)
        half = generation & 1
        if generations[half] != generation:
            return None
        facts = labels & self._facts & ~FACT_UPPER
        number = int(Action[action.replace("-", "_").upper()])
        return _Asked(generation, (first, second)[half], facts, number)

    def _row(
        self, asked: _Asked, row: int, without: int = 0, orphaned_without: int = 0
    ) -> tuple[int, int] | None:
        key = struct.pack(
            "<IIIBBHII",
            *(asked.generation, asked.scope, asked.facts),
            *(asked.action, asked.tool, asked.port, row, asked.name),
        )
        found = self.map("guard_answers").held.get(key)
        if found is None:
            return None
        now, orphaned, _ = struct.unpack("<HHI", found)
        return now & ~without, orphaned & ~orphaned_without

    def _place(self, asked: _Asked, address: str, port: int) -> tuple[_Asked, int]:
        number = asked.generation
        named = self.map("guard_ports").held.get(struct.pack("<II", number, port))
        row = self._longest(number.to_bytes(4, "big") + mapped(address)[0])
        port = struct.unpack("<H", named)[0] if named else 0
        return asked._replace(port=port), ROW_ANY if row is None else row

    def _with_baseline(self, asked: _Asked, end: tuple[str, int] | None = None) -> _Asked:
        """As guard_new."""
        scope = struct.pack("<II", asked.generation, asked.scope)
        profile = struct.unpack("<I", self.map("guard_profiles").held.get(scope, bytes(4)))[0]
        if not profile or not self.settings["policy_new"][0][asked.generation & 1]:
            return asked
        keys = [struct.pack("<II16s", profile, 0, b"")]
        if end is not None:
            address, port = mapped(end[0])[0], end[1]
            if scope + address not in self.map("guard_names").held:
                keys.append(struct.pack("<II16s", profile, port, b""))
            keys.append(struct.pack("<II16s", profile, port, address))
        seen = any(key in self.map("guard_seen").held for key in keys)
        return asked if seen else asked._replace(facts=asked.facts | FACT_NEW)

    def _rows(self, path: bytes, first: int = 1) -> list[int]:
        """Of each automaton, as path_match (kernel/label.h)."""
        table = np.frombuffer(
            self.map("path_table").held[struct.pack("<I", first + (self._generation & 1))],
            PATH_TABLE,
        )[0]
        rows = [0] * (GUARD_ROWS // 2)
        for number in range(int(table["count"])):
            state = int(table["starts"][number])
            backwards = int(table["reversed"]) >> number & 1
            for byte in reversed(path) if backwards else path:
                state = int(self._state(state)["next"][table["class_of"][byte]])
            rows[number] = int(self._state(state)["labels"])
        return rows

    def _is_asked(self, cgroup: int, action: str) -> bool:
        found = self.map("guard_asked").held.get(struct.pack("<Q", cgroup))
        opens, execs = struct.unpack("<II", found or bytes(8))
        number = int(self.settings["policy_asked"][0][self._generation & 1])
        keeps = bool(self.settings["policy_keepers"][0][0])
        return keeps and number != 0 and (execs if action == "exec" else opens) == number

    def _secret(self, path: bytes) -> list[int]:
        """The same, where its place among those of secrets is all that counts."""
        if not self.settings["policy_secrets"][0][self._generation & 1]:
            raise AssertionError("asked, and the place of no path is looked at")
        _, rank = _PLACES.found(path)
        return [ROW_SECRET | rank if rank else 0, *([0] * (GUARD_ROWS // 2 - 1))]

    def _state(self, number: int) -> np.void:
        found = np.frombuffer(self.map("path_states").held[struct.pack("<I", number)], PATH_STATE)
        return found[0]

    def _longest(self, data: bytes) -> int | None:
        wanted = int.from_bytes(data, "big")
        best: tuple[int, int | None] = (-1, None)
        for key, value in self.map("guard_nets").held.items():
            bits, held = struct.unpack_from("<I", key)[0], int.from_bytes(key[4:], "big")
            if bits > best[0] and wanted >> 160 - bits == held >> 160 - bits:
                best = bits, struct.unpack("<I", value)[0]
        return best[1]

    def _says(self, found: list[tuple[int, int] | None]) -> str:
        now = orphaned = 0
        for one in found:
            if one is not None:
                now, orphaned = now | one[0], orphaned | one[1]
        if _stops(now) or _stops(orphaned):
            here = time.clock_gettime_ns(time.CLOCK_BOOTTIME) >> 30
            alive = here <= int(self.settings["policy_alive"][0])
            if _stops(now if alive else orphaned):
                return STOPPED
            if _stops(now):
                return PASSES
        return TOLD if _stops(now >> 3 & 7) else PASSES


def _any_layer(asked: _Asked) -> _Asked:
    return asked._replace(facts=asked.facts & ~FACT_UPPER)


def _stops(holds: int) -> bool:
    """The three bits of what is enforced; moved by three, of what would be."""
    lists = int(Holds.LISTED | Holds.PERMIT)
    return bool(holds & (Holds.BLOCK | Holds.ASKED)) or holds & lists == Holds.LISTED


class Noted:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.waiting = 0

    def note(self, entry: Entry) -> None:
        self.entries.append(entry)

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Steered:
    """The agent's part of it without an agent: what is to be done is done by `turn`, here."""

    def __init__(
        self,
        resolvers: tuple[str, ...] = (),
        log: Callable[[], Any] = Noted,
        opens: Opening | None = None,
        baselines: Baselines | None = None,
    ) -> None:
        self.kernel = Kernel()
        self.guard = Guard(self.kernel)  # type: ignore[arg-type]
        self.problem = ""
        self.said: list[str] = []
        self._engine: Engine | None = None
        self.apart: list[Quarantine] = []
        self.none = False
        self.guarding = Guarding(
            self.guard,
            self,
            log,
            resolvers,
            self,
            self.apart.append,
            lambda kind, text: self.said.append(f"{kind}: {text}"),
            opens,
            (baselines or Baselines()).known,
        )

    # In the place of sensor/pins.py.
    def hold(self) -> None: ...
    def let_go(self) -> None: ...
    def take_over(self) -> None: ...

    def apply(self, *texts: str) -> Engine:
        self._engine = engine = Engine.of([(text, f"{at}.cedar") for at, text in enumerate(texts)])
        return engine

    def follow(self) -> Engine | None:
        engine, self._engine = self._engine, None
        return engine

    def turn(self) -> None:
        self.guarding._work.put(None)
        self.guarding._run()
