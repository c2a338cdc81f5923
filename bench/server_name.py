"""What it costs that the kernel reads which server a TLS client asks for, before it leaves:

    python bench/server_name.py [--sends N] [--hellos N] [--rounds N] [--json]          (root)

A process in a cgroup of its own, as a container has one, sends over one connection that is open,
and opens others that each begin with a ClientHello: with a sensor and no policy, with policies
about addresses, and with policies about names of hosts. All take turns within a round; medians of
the rounds, in ns a send and a hello. That names are read is proved by one that is forbidden.
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

from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Log
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
        guarding = Guarding(sensor.guard, follow, log, (), pins, lambda _: None, lambda *_: None)
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
                    if found["read"] != (name == "names of hosts") or not found["others"]:
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
