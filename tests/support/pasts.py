"""A store with a little of everything that policies are asked about, and the same live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hullwatch.agent.semconv import SECRET_KINDS
from hullwatch.context.call import Call
from hullwatch.context.enriched import Enriched, ProcessImage
from hullwatch.context.workload import Workload
from hullwatch.detect.scene import address_data
from hullwatch.sensor.batch import Loss
from hullwatch.sensor.wire import Class, Label, Mark, ProcMark, StrKind
from hullwatch.store.state import CountRow
from support.enriched import Builder
from support.stores import settle, writer

API, SNI, BARE = "203.0.113.5:443", "203.0.113.9:443", "198.51.100.7:8443"
NAMES = {API: ("api.example.com", "www.example.com")}
"""What DNS told the agent's container."""
CALL = 77
_ADDR, _DNS, _TEXT, _SNI = (
    int(kind) for kind in (StrKind.ADDR, StrKind.DNS, StrKind.TEXT, StrKind.SNI)
)


class Past:
    """Two containers, `agent` of example/agent:1 and `worker` of acme/worker:2, an hour ago."""

    def __init__(self) -> None:
        self.builder = b = Builder()
        b.wall_offset = time.time_ns() - 3600 * 10**9 - b.clock
        b.workloads.items[2] = Workload(
            cgroup=78, cgroup_path="/docker/w", state="resolved", container_id="d" * 64,
            name="worker", image="acme/worker:2",
        )  # fmt: skip
        shim = b.process(50, name="shim", workload=0, cgroup=1)
        self.agent = b.process(100, shim, euid=1000)
        self.git = b.process(101, self.agent, name="git", marks=int(ProcMark.UPPER))
        self.worker = b.process(200, shim, workload=2, cgroup=78, name="worker")
        for one in (shim, self.agent, self.git, self.worker):
            self.exec(one)
        self._files()
        self._network()
        self._rights()

    def exec(self, process: ProcessImage) -> None:
        argv = "".join(word + "\0" for word in process.argv).encode()
        self.builder.event(
            "exec", process, process.exepath, argv, kind2=int(StrKind.ARGV), ret=0
        )  # fmt: skip

    def open(self, path: str, process: ProcessImage | None = None, **columns: Any) -> None:
        self.builder.event("open", process or self.agent, path, **{"ret": 3} | columns)

    def connect(self, to: str, process: ProcessImage | None = None, **columns: Any) -> None:
        data = address_data(to)
        self.builder.event("connect", process or self.agent, data, kind=_ADDR, **columns)

    def dns(self, name: str, answers: str) -> None:
        self.builder.event("dns", self.agent, name, answers, kind=_DNS, kind2=_TEXT, flags=1)

    def _files(self) -> None:
        self.open("/app/main.py", marks=int(Mark.LOWER))
        self.open("/srv/site-packages/new.pth", marks=int(Mark.UPPER))
        for at in range(5):
            self.open(f"/data/out/part-{at}", flags=1)
        self.open("/data/state.db", flags=2)
        self.open("/tmp/tmp.A1b2C3d4", flags=1)
        self.open("/run/secrets/db", labels=int(Label.SECRET))
        self.open("/root/.aws/credentials", ret=-2)  # is not there
        self.open("/data", marks=int(Mark.DIR))
        self.open("/data/for-a-call", span=CALL)
        self.builder.event("mmap", self.agent, "/usr/lib/x.so")
        self.builder.event("open", self.agent, ret=3)  # its path was lost
        self.open("/srv/work", self.worker, flags=1)

    def _network(self) -> None:
        self.dns("api.example.com", "203.0.113.5 203.0.113.6")
        self.dns("www.example.com", "203.0.113.5")
        self.connect(API, dest="www.example.com", labels=int(Label.SECRET))
        self.connect(BARE, ret=-115)
        self.connect("192.0.2.200:1", ret=-111)  # refused
        self.connect("127.0.0.1:8080")
        self.connect("10.0.0.2:53")
        self.connect("/run/agent.sock")
        data = address_data(SNI)
        self.builder.event("tls", self.agent, "sni.example", data, kind=_SNI, kind2=_ADDR)
        self.connect(SNI, dest="sni.example")
        self.builder.event("listen", self.agent, address_data("0.0.0.0:9000"), kind=_ADDR)
        self.connect("10.1.1.1:5432", self.worker)

    def _rights(self) -> None:
        self.builder.event("setid", self.agent, num=33)
        self.builder.event("mount", self.agent, "/mnt")

    def live(self) -> Enriched:
        return self.builder.build()

    def store(self, root: Path, enriched: Enriched | None = None) -> Path:
        """All of it as an agent would have stored it."""
        store = writer(root)
        store.put_workloads(self.builder.workloads.items.values())
        store.write(enriched or self.live())
        begin = time.time_ns() - 3600 * 10**9
        told: dict[str, Any] = {
            "kind": "tool",
            "source": "tap",
            "name": "search",
            "server": "web",
            "cgroup": 77,
        }
        model = {"kind": "model", "name": "m-1", "server": "openai"}
        store.put_calls(
            [
                Call(id=CALL, begin=begin, **told),
                Call(id=78, begin=begin, **told | {"attributes": {SECRET_KINDS: "a,b"}}),
                Call(id=79, begin=begin, **told | model),
                Call(id=80, begin=begin, **told | {"cgroup": 1, "client": "desk", "name": "send"}),
            ],
            {},
        )
        store.add_counts(
            [
                CountRow(77, "open", "/app/main.py", 7),
                CountRow(77, "open", "/etc/counted", 40),
                CountRow(77, "open", "", 3),
            ]
        )
        store.add_losses([Loss("bulk", int(Class.OPEN), 77, 9)])
        store.close()
        settle(root)
        return root
