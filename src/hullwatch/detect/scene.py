"""Enriched batches made by hand: for rule cases, tests and benchmarks.

The same dtypes, dictionary and tables as the live path, so that the engine cannot tell.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import replace
from typing import Any

import numpy as np

from hullwatch.context.call import Call
from hullwatch.context.calls import Calls
from hullwatch.context.enriched import Enriched, ProcessImage, Program, Tables
from hullwatch.context.image import parse_image
from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.syscalls import op_of
from hullwatch.sensor.wire import EVENT, StrKind

__all__ = ["HOST", "Scene", "address_data", "make_image"]

HOST = Workload(cgroup=1, cgroup_path="/", state="host", container_id="", name="host")
START = 100_000_000_000  # CLOCK_BOOTTIME ns of the first event
WALL = 1_700_000_000_000_000_000
_PROGRAM = Program(
    *(None, 0, 1, "", "", (), "", (), "", 0, 0, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0, (), 0, 0, 0, 0, False)
)


def make_image(**fields: Any) -> ProcessImage:
    """An image of which only this is known; fields are its own and its program's."""
    parent = fields.get("parent")
    program = {name: fields[name] for name in Program.__slots__ if name in fields}
    own: dict[str, Any] = dict.fromkeys(ProcessImage.__slots__, 0) | {"parent": None}
    own |= {name: fields[name] for name in own if name in fields}
    own["program"] = replace(_PROGRAM, above=parent.program if parent else None, **program)
    return ProcessImage(**own)


def address_data(text: str) -> bytes:
    """struct hw_addr for '1.2.3.4:80', '[::1]:80', '1.2.3.4' or '/run/x.sock' ('@x': abstract)."""
    if text[:1] in ("/", "@"):
        path = text.encode()
        return struct.pack("<HH", socket.AF_UNIX, 0) + (
            b"\0" + path[1:] if path[:1] == b"@" else path
        )
    host, port = text, "0"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":") or "0"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    ip = ipaddress.ip_address(host)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return struct.pack("<HH", family, int(port)) + ip.packed


class Scene:
    """Tables and events under construction. Slot 0 is an unknown process, and the host."""

    def __init__(self) -> None:
        self.dictionary = Dictionary()
        self.images: list[ProcessImage] = [make_image()]
        self.workloads: list[Workload] = [HOST]
        self.names: dict[int, str] = {}
        self.calls = Calls()
        self._events: list[np.ndarray] = []
        self._rows: list[tuple[int, int]] = []
        self._ids: dict[tuple[int, bytes], int] = {}
        self._last_id = 0
        self._pid = 1000
        self._released: tuple[int, ...] = ()
        self._ts = START

    # Tables protocols

    def image(self, slot: int) -> ProcessImage:
        return self.images[slot]

    def workload(self, slot: int) -> Workload:
        return self.workloads[slot]

    def tables(self) -> Tables:
        return Tables(self.dictionary, self, self, self.calls)

    # Building

    def string(self, text: str | bytes, kind: int = int(StrKind.PATH)) -> int:
        """The dictionary id of a text; 0 for an empty one."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        if not data:
            return 0
        known = self._ids.get((kind, data))
        if known is None:
            self._last_id += 1
            known = self._ids[kind, data] = self._last_id
            self.dictionary.add((String(known, kind, 0, len(data), data),))
        return known

    def forget_strings(self, base: int) -> None:
        """Ids below base are gone; a text of theirs gets another."""
        self.dictionary.forget_below(base)
        self._ids = {text: ident for text, ident in self._ids.items() if ident >= base}

    def address(self, text: str) -> int:
        return self.string(address_data(text), int(StrKind.ADDR)) if text else 0

    def container(self, **fields: object) -> int:
        """A workload's slot. image is taken apart; state defaults to 'resolved'."""
        given: dict[str, object] = {
            "cgroup": 1000 + len(self.workloads),
            "cgroup_path": f"/test/{len(self.workloads)}",
            "state": "resolved",
            "container_id": f"{len(self.workloads):064x}",
            "privileged": False,
            "start_ts": WALL,
            **fields,
        }
        if given["state"] == "pending":
            given = {k: given[k] for k in ("cgroup", "cgroup_path", "state")}
        image = given.get("image")
        if isinstance(image, str):
            reference = parse_image(image)
            given.setdefault("image_repository", reference.repository)
            given.setdefault("image_tag", reference.tag)
            given.setdefault("image_digest", reference.digest)
        self.workloads.append(Workload(**given))  # type: ignore[arg-type]
        return len(self.workloads) - 1

    def call(self, **fields: Any) -> int:
        """The span of a call; kind defaults to a tool's, source to the gateway."""
        ident = len(self.calls) + 1
        given: dict[str, Any] = {
            "kind": "tool",
            "source": "gateway",
            "name": "tool",
            "begin": WALL,
            **fields,
        }
        self.calls.put(Call(id=ident, **given))
        return ident

    def process(self, name: str, **fields: object) -> int:
        """A process image's slot. parent is a slot; argv defaults to the name alone."""
        self._pid += 1
        slot = len(self.images)
        parent = fields.pop("parent", None)
        above = self.images[int(str(parent))] if parent is not None else None
        workload = int(str(fields.get("workload", above.workload if above else 0)))
        given: dict[str, object] = {
            "slot": slot,
            "key": (slot << 22) | self._pid,
            "exec_id": slot,
            "parent": above,
            "workload": workload,
            "cgroup": self.workloads[workload].cgroup,
            "name": name[:15],
            "exepath": f"/usr/bin/{name}",
            "argv": (name,),
            "cwd": "/",
            "pid": self._pid,
            "vpid": self._pid,
            "vpgid": self._pid,
            "pgid": self._pid,
            "sid": self._pid,
            "started": START - 60_000_000_000,
            "exec_ts": START - 60_000_000_000,
            "exe_ino": 7,
            "exe_ctime": WALL,
            "exe_mtime": WALL,
            "known": True,
            **fields,
        }
        self.images.append(make_image(**given))
        return slot

    def event(
        self,
        cls: int,
        image: int,
        *,
        call: str = "",
        obj: int = 0,
        obj2: int = 0,
        name: str = "",
        **columns: int,
    ) -> int:
        """Add an event; columns are those of struct hw_event. Returns its row."""
        process = self.images[image]
        event = np.zeros(1, EVENT)
        event["ts"] = self._ts
        self._ts += 1_000_000
        event["cls"], event["obj"], event["obj2"] = cls, obj, obj2
        event["op"] = op_of(call) if call else 0
        event["proc"], event["cgroup"], event["tid"] = process.key, process.cgroup, process.pid
        for column, value in columns.items():
            event[column] = value
        if name:
            self.names[len(self._events)] = name
        self._events.append(event)
        self._rows.append((image, process.workload))
        return len(self._events) - 1

    def wait(self, duration: int) -> None:
        """The next event is ns after the one before."""
        self._ts += duration - 1_000_000

    def enriched(self) -> Enriched:
        """All events so far as one batch; building goes on with an empty one."""
        events = np.concatenate(self._events) if self._events else np.empty(0, EVENT)
        rows = np.array(self._rows, np.int32).reshape(-1, 2)
        made = Enriched(
            Batch(events=events, wall_offset=WALL - START),
            rows[:, 0].copy(),
            rows[:, 1].copy(),
            self.names,
            tables=self.tables(),
        )
        self._events, self._rows, self.names = [], [], {}
        return made
