"""Small Enriched batches for tests of what comes after context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hullwatch.context.enriched import Enriched, ProcessImage, Tables
from hullwatch.context.workload import Workload
from hullwatch.detect.scene import make_image
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.events import BY_NAME
from hullwatch.sensor.wire import EVENT, StrKind

WALL = 1_700_000_000_000_000_000
CONTAINER = "c" * 64


def image(slot: int, pid: int, parent: ProcessImage | None = None, **fields: Any) -> ProcessImage:
    """A process image with plausible fields; override any of them."""
    name = fields.pop("name", "python3")
    values: dict[str, Any] = dict(  # noqa: C408
        slot=slot, key=(1000 + slot) << 22 | pid, exec_id=slot, parent=parent, workload=1,
        cgroup=77, name=name, exepath=f"/usr/bin/{name}", argv=(name,), cwd="/app",
        env_names=("PATH", "HOME"), script="", pid=pid, vpid=1, pgid=pid, vpgid=1, sid=pid,
        uid=1000, gid=1000, euid=1000, egid=1000, loginuid=-1, tty=0, cap_effective=0,
        cap_permitted=0, cap_inheritable=0, namespaces=(0,) * 7, marks=0, exe_ino=1, exe_ctime=0,
        exe_mtime=0, started=1, exec_ts=1, known=True,
    )  # fmt: skip
    return make_image(**values | fields)


@dataclass
class Slots:
    """Stands in for the process and workload tables."""

    items: dict[int, Any] = field(default_factory=dict)

    def image(self, slot: int) -> Any:
        return self.items[slot]

    def workload(self, slot: int) -> Any:
        return self.items[slot]


class Builder:
    """Collects rows, gives an Enriched. Strings are interned as the kernel does it."""

    def __init__(self) -> None:
        self.dictionary = Dictionary()
        self.images = Slots({0: image(0, 0, known=False, name="")})
        self.workloads = Slots(
            {
                0: Workload(cgroup=1, cgroup_path="/", state="host", container_id=""),
                1: Workload(
                    cgroup=77,
                    cgroup_path="/docker/x",
                    state="resolved",
                    container_id=CONTAINER,
                    name="agent",
                    image="example/agent:1",
                ),
            }
        )
        self.ids: dict[tuple[int, bytes], int] = {}
        self.clock = 5_000_000_000
        self.wall_offset = WALL
        self.tier = "tracepoint"
        self._rows: list[tuple[Any, ...]] = []
        self._names: dict[int, str] = {}

    def intern(self, text: str | bytes, kind: int = int(StrKind.PATH)) -> int:
        data = text if isinstance(text, bytes) else text.encode()
        ident = self.ids.get((kind, data))
        if ident is None:
            ident = self.ids[(kind, data)] = len(self.ids) + 1
            self.dictionary.add((String(ident, kind, 0, len(data), data),))
        return ident

    def process(self, pid: int, parent: ProcessImage | None = None, **fields: Any) -> ProcessImage:
        made = image(len(self.images.items), pid, parent, **fields)
        self.images.items[made.slot] = made
        return made

    def event(
        self,
        cls: str,
        image: ProcessImage | int = 0,
        obj: str | bytes = b"",
        obj2: str | bytes = b"",
        kind: int = int(StrKind.PATH),
        kind2: int = int(StrKind.RAW),
        dest: str = "",
        **fields: Any,
    ) -> Builder:
        slot = image if isinstance(image, int) else image.slot
        held = self.images.items[slot]
        self.clock += 1000
        row = np.zeros(1, EVENT)[0]
        row["ts"], row["cls"] = self.clock, BY_NAME[cls].cls
        row["proc"], row["tid"], row["cgroup"] = held.key, held.pid, held.cgroup
        row["obj"] = self.intern(obj, kind) if obj else 0
        row["obj2"] = self.intern(obj2, kind2) if obj2 else 0
        for name, value in fields.items():
            row[name] = value
        if dest:
            self._names[len(self._rows)] = dest
        self._rows.append((row.copy(), slot, held.workload))
        return self

    def build(self) -> Enriched:
        rows, self._rows = self._rows, []
        names, self._names = self._names, {}
        events = np.array([row for row, _, _ in rows], EVENT) if rows else np.empty(0, EVENT)
        return self.wrap(events, [slot for _, slot, _ in rows], [at for _, _, at in rows], names)

    def wrap(
        self,
        events: np.ndarray,
        images: Sequence[int] | np.ndarray,
        workloads: Sequence[int] | np.ndarray,
        names: dict[int, str] | None = None,
        released: Iterable[int] = (),
    ) -> Enriched:
        return Enriched(
            batch=Batch(events=events, wall_offset=self.wall_offset, tier=self.tier),
            image=np.asarray(images, np.int32),
            workload=np.asarray(workloads, np.int32),
            names=names or {},
            released_images=tuple(released),
            tables=Tables(self.dictionary, self.images, self.workloads),
        )

    def many(self, count: int, cls: str = "open", paths: int = 100, images: int = 20) -> Enriched:
        """`count` rows over `paths` distinct objects and `images` distinct processes."""
        slots = [self.process(1000 + at, name=f"worker{at}").slot for at in range(images)]
        ids = np.array([self.intern(f"/data/file-{at}.bin") for at in range(paths)], np.uint32)
        events = np.zeros(count, EVENT)
        events["ts"] = self.clock + np.arange(count, dtype=np.uint64) * 1000
        self.clock += count * 1000
        events["cls"] = BY_NAME[cls].cls
        at = np.arange(count)
        image_of = np.array(slots, np.int32)[at % images]
        keys = np.array([self.images.items[slot].key for slot in slots], np.uint64)
        events["proc"], events["cgroup"] = keys[at % images], 77
        events["tid"] = (events["proc"] & np.uint64((1 << 22) - 1)).astype(np.uint32)
        events["obj"], events["num"] = ids[(at * 7) % paths], 42
        events["op"] = 2
        return self.wrap(events, image_of, np.ones(count, np.int32))
