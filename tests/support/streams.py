"""What a sensor might hand on: batches of a small world whose processes live, act and end.

Everything by one seed. Strings are interned and forgotten as the kernel and the sensor do it; ids
of a process change where a batch begins.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from hullwatch.context.workload import Workload
from hullwatch.detect.scene import address_data
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.syscalls import op_of
from hullwatch.sensor.wire import EVENT, PROC, Class, Mark, StrKind
from support import scenes
from support.enriched import WALL

SECOND = 10**9
WORKLOADS = (
    Workload(cgroup=1, cgroup_path="/", state="host", container_id=""),
    Workload(
        cgroup=77, cgroup_path="/docker/a", state="resolved", container_id="a" * 64,
        name="agent", image="acme/agent:3", labels={"app": "x"}, privileged=True,
        start_ts=WALL, pod="p", namespace="prod",
    ),
    Workload(cgroup=78, cgroup_path="/docker/b", state="resolved", container_id="b" * 64),
    Workload(cgroup=79, cgroup_path="/x", state="unknown", reason="test"),
)  # fmt: skip
PATHS = (
    *(path.encode() for path in scenes.PATHS),
    *(b"/tmp/\xff\xfe", "/tmp/‮x".encode(), b"/tmp/a b", b"/" + b"d/" * 300, b"x\ny"),
)
COMMS = (b"bash", b"sh", b"python3", b"a b", "日本語日本".encode()[:15], b"\xff\xfe" * 7, b"")
ARGV = (
    (), ("",), ("sh",), ("sh", "-c", "id; id"), ("a", "", "b"), ("a", "", ""), (" ",),
    ("x", "y" * 2000), ("日本", "é"), ("cat", "\\xff"),
)  # fmt: skip
ENV = ((), ("PATH",), ("PATH", "HTTP_PROXY", "HOME"))
ADDRESSES = (*scenes.ADDRESSES, "1.2.3.4", "2001:db8::2", "0.0.0.0:0")


class Stream:
    """`batches(n)` gives the next n; call it again for more of the same world."""

    def __init__(self, seed: int, processes: int = 8) -> None:
        self.rng = random.Random(seed)
        self.clock = 100 * SECOND
        self.offset = WALL
        self.ids: dict[tuple[int, bytes], int] = {}
        self.next_id = 1
        self.epochs = [1, 1]
        self.living: dict[int, int] = {}  # key -> cgroup
        self.parents: dict[int, int] = {}
        self.pid = 100
        self.exec_id = 0
        self._clear()
        for _ in range(processes):
            self._born(Class.TASK)

    def _clear(self) -> None:
        self.events: list[np.ndarray] = []
        self.procs: list[np.ndarray] = []
        self.strings: list[String] = []

    # -- parts -----------------------------------------------------------------------------

    def tick(self) -> int:
        self.clock += self.rng.choice((1, 2, 1000, 1_000_000, 700_000_000))
        return self.clock

    def string(self, data: bytes, kind: int = int(StrKind.PATH)) -> int:
        if not data:
            return 0
        ident = self.ids.get((kind, data))
        if ident is None:
            ident = self.ids[kind, data] = self.next_id
            self.next_id += self.rng.choice((1, 2))
            self.strings.append(String(ident, kind, 0, len(data), data))
        return ident

    def event(self, cls: int, key: int, ts: int = 0, **columns: int) -> None:
        row = np.zeros(1, EVENT)
        row["ts"] = ts or self.tick()
        row["cls"], row["proc"], row["cgroup"] = cls, key, self.living.get(key, 1)
        row["tid"] = key & 0x3FFFFF
        for name, value in columns.items():
            row[name] = value
        self.events.append(row)

    def _key(self, ts: int) -> int:
        self.pid += 1
        return (ts >> 16) << 22 | self.pid

    def _born(self, cls: int) -> None:
        """A process of the snapshot."""
        ts = self.tick()
        key = self._key(ts - self.rng.randrange(1, 90 * SECOND))
        self.parents[key] = self.rng.choice([0, *self.living])
        self.living[key] = self.rng.choice(WORKLOADS).cgroup
        self._image(cls, key, ts)

    def _image(self, cls: int, key: int, ts: int) -> None:
        rng, row = self.rng, np.zeros(1, PROC)
        self.exec_id += 1
        row["ts"], row["cls"], row["proc"], row["parent"] = ts, cls, key, self.parents[key]
        row["cgroup"], row["exec_id"] = self.living[key], self.exec_id
        row["pid"] = row["tid"] = key & 0x3FFFFF
        row["start"] = ((key >> 22) << 16) + rng.randrange(1 << 16)
        for name in ("cap_effective", "cap_permitted", "cap_inheritable"):
            row[name] = rng.choice((0, 1 << 21, (1 << 41) - 1))
        for name in ("uid", "gid", "euid", "egid", "loginuid"):
            row[name] = rng.choice((0, 33, 1000, 0xFFFFFFFF))
        for name in ("vpid", "pgid", "vpgid", "sid"):
            row[name] = rng.choice((1, 77, key & 0x3FFFFF))
        for name in PROC.names or ():
            if name.startswith("ns_"):
                row[name] = rng.choice((0xEFFFFFFC, 4026532000))
        row["tty"] = rng.choice((0, 34816))
        row["exe_ino"], row["exe_ctime"] = rng.randrange(1 << 40), WALL + rng.randrange(SECOND)
        row["exe_mtime"] = WALL - rng.randrange(SECOND)
        row["marks"] = rng.choice((0, 1, 4, 1 << 10))
        row["comm"] = rng.choice(COMMS)
        row["exe"] = self.string(rng.choice(PATHS))
        argv = "".join(word + "\0" for word in rng.choice(ARGV)).encode()
        row["argv"] = self.string(argv, int(StrKind.ARGV))
        env = "".join(word + "\0" for word in rng.choice(ENV)).encode()
        row["env"] = self.string(env, int(StrKind.ENV))
        row["cwd"] = self.string(rng.choice((b"/", b"/root", b"")))
        row["script"] = self.string(rng.choice((b"", b"/s.py")), int(StrKind.RAW))
        self.procs.append(row)
        said = {name: int(row[name][0]) for name in ("op", "labels")}
        self.event(
            cls, key, ts, num=int(row["exe_ino"][0]), num2=self.exec_id, obj=int(row["exe"][0]),
            obj2=int(row["argv"][0]), flags=int(row["marks"][0]), **said,
            marks=0 if row["exe"][0] else int(Mark.STR_LOST),
        )  # fmt: skip

    def _fork(self, key: int) -> None:
        ts = self.tick()
        child = self._key(ts)
        self.event(Class.FORK, key, ts, num=child, num2=child & 0x3FFFFF)
        self.living[child] = self.living[key]
        self.parents[child] = key

    def _ids(self, key: int) -> Batch:
        done = self.take()
        rng = self.rng
        if rng.random() < 0.5:
            ids = rng.choice((0, 33, 1000)) << 32 | rng.choice((0, 33))
            self.event(
                Class.SETID, key, num=33, num2=ids, flags=rng.choice((0, 33)), op=op_of("setuid"),
                ret=rng.choice((0, -1)),
            )  # fmt: skip
        else:
            self.event(Class.CAPSET, key, num=1 << 21, num2=(1 << 41) - 1, op=op_of("capset"))
        return done

    def _act(self, key: int) -> None:
        rng = self.rng
        cls = rng.choice(
            [c for c in scenes.CALLS if c not in (Class.EXEC, Class.FORK, Class.EXIT, Class.SETID)]
            + [Class.MMAP, Class.FLOW, Class.DNS, Class.TLS, Class.VM_ACCESS, Class.MEMFD]
        )
        columns: dict[str, int] = {"ret": rng.choice(scenes.RESULTS)}
        calls = scenes.CALLS.get(cls, ("",))
        call = rng.choice(calls)
        columns["op"] = op_of(call) if call else 0
        columns["num"], columns["num2"] = rng.randrange(1 << 63), rng.randrange(1 << 40)
        columns["labels"], columns["span"] = rng.choice((0, 3)), rng.choice((0, 9))
        columns["flags"] = rng.choice(scenes.FLAGS)
        columns["marks"] = rng.choice((0, 0, int(Mark.DIR), int(Mark.ATTEMPT), int(Mark.IO_URING)))
        addr = int(StrKind.ADDR)
        if cls == Class.DNS:
            columns |= {"flags": 1, "num2": rng.choice((0, 60, 7200))}
            columns["obj"] = self.string(rng.choice((b"evil.example", b"a.b")), int(StrKind.DNS))
            columns["obj2"] = self.string(b"10.0.0.1 8.8.8.8", int(StrKind.TEXT))
        elif cls == Class.TLS:
            columns["obj"] = self.string(b"sni.example", int(StrKind.SNI))
            columns["obj2"] = self.string(address_data("10.0.0.1:443"), addr)
            columns["flags"] = 0
        elif cls in (Class.CONNECT, Class.ACCEPT, Class.LISTEN, Class.SEND, Class.DUP, Class.FLOW):
            where = rng.choice(ADDRESSES)
            data = address_data(where)
            family = int.from_bytes(data[:2], "little")
            columns["flags"] = family << 16 | 1 << 8 | 6
            columns["obj"] = self.string(data, addr)
            client = rng.choice(("", "@client", "/run/c.sock") if family == 1 else scenes.CLIENTS)
            columns["obj2"] = self.string(address_data(client), addr) if client else 0
            columns["port"] = rng.choice((0, 53, 40000))
        elif cls == Class.SOCKET:
            columns["flags"] = rng.choice(scenes.SOCKETS)
        else:
            kind = rng.choice((int(StrKind.PATH), int(StrKind.RAW), int(StrKind.JOINED)))
            columns["obj"] = self.string(rng.choice(PATHS), kind)
            if rng.random() < 0.5:
                columns["obj2"] = self.string(rng.choice(PATHS), int(StrKind.RAW))
        self.event(cls, key, **columns)

    # -- batches ---------------------------------------------------------------------------

    def take(self) -> Batch:
        """What has happened since the last one."""
        rng = self.rng
        if rng.random() < 0.1:
            self.offset += rng.choice((-200_000_000, 1, 999, 200_000_001))
        made = Batch(
            events=np.concatenate(self.events) if self.events else np.empty(0, EVENT),
            procs=np.concatenate(self.procs) if self.procs else np.empty(0, PROC),
            strings=tuple(self.strings),
            dict_base=self.epochs[0],
            wall_offset=self.offset,
            drained=self.clock,
            tier="tracepoint",
        )
        self._clear()
        if rng.random() < 0.1:  # an epoch: what is said again gets a new id
            self.epochs = [self.epochs[1], self.next_id]
            self.ids.clear()
        return made

    def batches(self, count: int, events: int = 12) -> list[Batch]:
        found: list[Batch] = []
        for _ in range(count):
            for _ in range(self.rng.randrange(1, events)):
                key = self.rng.choice(list(self.living))
                what = self.rng.random()
                if what < 0.1:
                    self._fork(key)
                elif what < 0.2:
                    self._image(Class.EXEC, key, self.tick())
                elif what < 0.25 and len(self.living) > 3:
                    self.event(Class.EXIT, key)
                    del self.living[key]
                elif what < 0.32:
                    found.append(self._ids(key))
                elif what < 0.35:  # one that the sensor has never heard of
                    self.event(Class.OPEN, 5 << 22 | 7, obj=self.string(b"/etc/shadow"))
                else:
                    self._act(key)
            found.append(self.take())
        return found


def fields() -> Any:
    """Every rule field with arguments that can be told apart, as `Source`s by label."""
    from hullwatch.detect.fields import TABLE
    from hullwatch.detect.fields.args import argument_names
    from hullwatch.detect.language.ast import FieldRef
    from hullwatch.detect.source import source_of

    refs = []
    for name, field in TABLE.items():
        if field.parts or name == "evt.num":  # evt.num counts what the engine has seen
            continue
        arguments: dict[str, tuple[str | None, ...]] = {
            "": (None,), "index": ("0", "1", "3"), "index?": (None, "0", "1", "3"), "key": ("app",),
        }  # fmt: skip
        refs += [FieldRef(name, argument) for argument in arguments[field.arg]]
    from hullwatch.detect.fields import args

    for name in argument_names():
        refs.append(FieldRef(f"evt.arg.{name}", None))
        if args.argument(name, True) is not None:
            refs.append(FieldRef(f"evt.rawarg.{name}", None))
    return {str(ref): source_of(ref) for ref in refs}
