"""What it costs that the kernel reads which server a TLS client asks for, before it leaves; and
that it looks whether the image of a container has contacted an end before:

    python bench/server_name.py [--sends N] [--hellos N] [--rounds N] [--json]          (root)

A process in a cgroup of its own, as a container has one, sends over one connection that is open,
and opens others that each begin with a ClientHello: with a sensor and no policy, with policies
about addresses, with the same about ends that are first seen, and with policies about names of
hosts. All take turns within a round; medians of the rounds, in ns a send and a hello. That names
are read, and baselines looked at, is proved by one that is forbidden.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from guard import Set, container, place, until

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Log
from hullwatch.detect.baseline.baselines import Baselines, image_key
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.guarding import Guarding
from hullwatch.sensor.pins import Pins
from hullwatch.sensor.sensor import Sensor

HEAD = 'forbid (principal, action == Action::"connect", resource is'
SETS = {
    "no policy": (),
    "addresses": tuple(
        f'{HEAD} Address) when {{ resource has ip && resource.ip.isInRange(ip("10.{n}.0.0/16")) }};'
        for n in range(20)
    ),
    "first seen": tuple(
        f'{HEAD} Address) when {{ resource has ip && resource.ip.isInRange(ip("{within}")) }}'
        " when { resource has port && resource.port == 9 }"
        " when { context has first_seen && context.first_seen };"
        for within in ("127.0.0.0/8", *(f"10.{n}.0.0/16" for n in range(19)))
    ),
    "names of hosts": tuple(
        f'{HEAD} Host) when {{ resource.name like "*.host{n}.example" }};' for n in range(20)
    ),
}
WORKER = r"""
import json, socket, ssl, sys, time
sends, hellos = map(int, sys.argv[1:])
server = socket.create_server(("127.0.0.1", 0), backlog=64)

def link():
    client = socket.create_connection(server.getsockname())
    client.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, 1)
    peer, _ = server.accept()
    peer.settimeout(0.3)
    return client, peer

def hello(name):
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.wrap_bio(into, out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return out.read()

def arrives(data):
    client, peer = link()
    client.sendall(data)
    try:
        return bool(peer.recv(10000))
    except TimeoutError:
        return False

def timed(client, data):
    began = time.perf_counter_ns()
    client.send(data)
    return time.perf_counter_ns() - began

good, split = hello("a.good.example"), hello("b.host7.example")
found = {"read": not arrives(split), "others": arrives(good)}
found["new"] = socket.socket().connect_ex(("127.0.0.1", 9)) == 1  # EPERM
client, peer = link()
client.send(b"GET / ")
took = []
for number in range(sends):
    took.append(timed(client, b"x" * 64))
    peer.recv(10000)
found["send"] = took
took = []
for _ in range(hellos):
    client, peer = link()
    took.append(timed(client, good))
    client.close()
    peer.close()
found["hello"] = took
print(json.dumps(found))
"""


def run(group: Path, sends: int, hellos: int, watch: Any) -> dict[str, Any]:
    """What the worker found."""

    def join() -> None:
        (group / "cgroup.procs").write_text("0")

    command = [sys.executable, "-c", WORKER, str(sends), str(hellos)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=join)
    while True:
        try:
            said, _ = child.communicate(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            watch()
    if child.returncode:
        raise SystemExit(f"the worker ended with {child.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


def contacted(workload: Workload) -> Baselines:
    """Of its image: as much as a baseline has, and long ago."""
    found, key = Baselines(), image_key(workload)
    names = (f"10.{n >> 8}.{n & 255}.1:443" for n in range(1_000))
    rows = [EntryRow(key, "connect", name, 1, 1, 1, ()) for name in names]
    found.load(ProfileRow(key, key, 1, 0, None, (), 0), rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sends", type=int, default=20_000)
    parser.add_argument("--hellos", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SETS}
    with place() as (group, folder):
        sensor, follow = Sensor(), Set()
        log, pins = (lambda: Log(folder / "log")), Pins(dict)
        nothing: tuple[Any, ...] = (lambda _: None, lambda *_: None, None)
        normal = contacted(container(0, 0)).known
        guarding = Guarding(sensor.guard, follow, log, (), pins, *nothing, normal)
        try:
            sensor.start()
            guarding.start()
            guarding.found([container(0, group.stat().st_ino)])

            def watch() -> None:
                sensor.drain()
                guarding.tick()

            for _ in range(options.rounds):
                for name, texts in SETS.items():
                    follow.next = engine = Engine.of([("\n".join(texts), "bench.cedar")])
                    until(lambda e=engine: guarding.stats()["version"] == e.version, watch)
                    found = run(group, options.sends, options.hellos, watch)
                    right = found["read"], found["new"], found["others"]
                    if right != (name == "names of hosts", name == "first seen", True):
                        raise SystemExit(f"{name}: not what the policies say")
                    rows[name].append(found)
        finally:
            guarding.close()
            sensor.close()
    said = {
        name: {
            what: round(statistics.median(statistics.median(one[what]) for one in some))
            for what in ("send", "hello")
        }
        for name, some in rows.items()
    }
    if options.json:
        print(json.dumps(said))
        return
    print(f"kernel {os.uname().release}; ns, medians of {options.rounds} rounds")
    for name, row in said.items():
        print(f"  {name:<16} a send {row['send']:>8,}   a hello {row['hello']:>8,}")


if __name__ == "__main__":
    main()
