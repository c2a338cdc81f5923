"""What it costs that pipes and TLS are listened to.

    python bench/tap.py [--rounds N]

Needs root. Side by side in each round: no sensor, the sensor, the sensor with the tap. Loads:
single bytes through a pipe (what each system call costs more), a pipe as fast as it goes of what is
no JSON, and of lines of JSON-RPC to a server that is listened to (small calls; and a result of
1 MB), and a TLS connection with its own library hooked. Printed: MB/s or calls/s, and ratios to
what it is without the sensor; and for 100 MB/s of results through a pipe, what part of a CPU the
two programs and the watcher take.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from hullwatch.agent.tap import Listener  # noqa: E402
from hullwatch.sensor.programs import RingSizes  # noqa: E402
from hullwatch.sensor.sensor import Sensor  # noqa: E402
from hullwatch.sensor.uprobes import Uprobes  # noqa: E402
from support.tls.server import certificate  # noqa: E402

HOW = ("nothing", "sensor", "tap")
# The loads are programs of their own: the agent's process is not watched.
SINGLE = """
import os, time
a, b = os.pipe()
begin = time.perf_counter()
for _ in range(200_000):
    os.write(b, b"x"); os.read(a, 1)
print(400_000 / (time.perf_counter() - begin))
"""
BULK = """
import os, sys, time
piece = b"0123456789abcdef" * 4096
a, b = os.pipe()
if os.fork() == 0:
    os.close(a)
    for _ in range(6000): os.write(b, piece)
    os._exit(0)
os.close(b)
begin, got = time.perf_counter(), 0
while data := os.read(a, 65536): got += len(data)
print(got / 1e6 / (time.perf_counter() - begin))
"""
SERVER = """
import json, os, sys
more = "y" * int(sys.argv[1])
left = b""
while data := os.read(0, 1 << 20):
    *lines, left = (left + data).split(b"\\n")
    for line in lines:
        ident = json.loads(line)["id"]
        whole = b'{"jsonrpc":"2.0","id":%d,"result":{"content":"%s"}}\\n' % (ident, more.encode())
        while whole: whole = whole[os.write(1, whole):]
"""
CALLS = """
import json, subprocess, sys, time
count, size = int(sys.argv[1]), sys.argv[2]
server = subprocess.Popen([sys.executable, "-c", sys.argv[3], size], stdin=-1, stdout=-1)
params = {"name": "echo", "arguments": {"text": "x" * 100}}
def ask(number):
    whole = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    server.stdin.write(json.dumps(whole).encode() + b"\\n"); server.stdin.flush()
    return len(server.stdout.readline())
ask(0)
begin = time.perf_counter()
got = sum(ask(number) for number in range(1, count))
spent = time.perf_counter() - begin
print(got / 1e6 / spent if int(size) else (count - 1) / spent)
"""
PACED = """
import json, resource, subprocess, sys, time
server = subprocess.Popen([sys.executable, "-c", sys.argv[1], "1000000"], stdin=-1, stdout=-1)
params = {"name": "echo", "arguments": {"text": "x" * 100}}
begin = time.perf_counter()
for number in range(500):
    time.sleep(max(0, begin + number / 100 - time.perf_counter()))
    whole = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    server.stdin.write(json.dumps(whole).encode() + b"\\n"); server.stdin.flush()
    server.stdout.readline()
spent = time.perf_counter() - begin
server.stdin.close(); server.wait()
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(100 * sum(one.ru_utime + one.ru_stime for one in used) / spent)
"""
TLS = """
import socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
made = context.wrap_socket(raw)
print("ready", flush=True); sys.stdin.readline()
piece = b"x" * 16384
made.sendall(b"POST /upload HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 163840000\\r\\n\\r\\n")
begin = time.perf_counter()
for _ in range(10_000): made.sendall(piece)
print(163.84 / (time.perf_counter() - begin))
"""


class Watch:
    """A sensor in a thread, as the agent has it."""

    def __init__(self, tap: bool) -> None:
        self.sensor = Sensor(rings=RingSizes(tap=4 << 20))
        self.heard = 0
        self.lost = 0
        self._end = False
        self.listener = Listener(self.sensor.tap, self._count, lambda text: "#")
        self.sensor.on_pieces = lambda pieces: self.listener.take(pieces, 0)
        self.sensor.start()
        self.uprobes: Uprobes | None = None
        if tap:
            self.sensor.tap.start()
            self.uprobes = Uprobes(self.sensor._programs.object.programs)
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _count(self, call: object) -> None:
        self.heard += 1

    def _drain(self) -> None:
        while not self._end:
            self.sensor.wait(0.2)
            time.sleep(0.002)
            self.lost += sum(
                loss.count for loss in self.sensor.drain().losses if loss.stage == "tap"
            )

    def close(self) -> None:
        self._end = True
        self._thread.join()
        if self.uprobes is not None:
            self.uprobes.close()
        self.sensor.close()


@contextmanager
def watching(how: str) -> Iterator[Watch | None]:
    watch = None if how == "nothing" else Watch(how == "tap")
    try:
        yield watch
    finally:
        if watch is not None:
            watch.close()


def program(code: str, *words: str) -> Callable[[Watch | None], float]:
    def run(_: Watch | None) -> float:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], check=True, stdout=subprocess.PIPE
        )
        return float(done.stdout)

    return run


def tls(context: ssl.SSLContext) -> Callable[[Watch | None], float]:
    def swallow(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with context.wrap_socket(peer, server_side=True) as made:
            while made.recv(1 << 16):
                pass

    def run(watch: Watch | None) -> float:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=swallow, args=(listening,), daemon=True).start()
            port = str(listening.getsockname()[1])
            client = subprocess.Popen(
                [sys.executable, "-c", TLS, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert client.stdin and client.stdout
            assert client.stdout.readline() == b"ready\n"
            if watch is not None and watch.uprobes is not None:
                assert watch.uprobes.look(client.pid).state == "tapped"
            out, _ = client.communicate(b"\n")
        return float(out)

    return run


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("needs root")
    with tempfile.TemporaryDirectory(prefix="hullwatch-tap-") as place:
        loads: dict[str, tuple[str, Callable[[Watch | None], float]]] = {
            "single bytes, a pipe": ("calls/s", program(SINGLE)),
            "64 KiB writes, a pipe": ("MB/s", program(BULK)),
            "tool calls, a pipe": ("calls/s", program(CALLS, "3000", "0", SERVER)),
            "results of 1 MB, a pipe": ("MB/s", program(CALLS, "200", "1000000", SERVER)),
            "16 KiB writes, TLS": ("MB/s", tls(certificate(Path(place)))),
        }
        found: dict[str, dict[str, list[float]]] = {}
        told: dict[str, tuple[int, int]] = {}
        for turn in range(chosen.rounds):
            for name, (_, load) in loads.items():
                for how in HOW[turn % 3 :] + HOW[: turn % 3]:
                    with watching(how) as watch:
                        found.setdefault(name, {}).setdefault(how, []).append(load(watch))
                        if watch is not None and how == "tap":
                            time.sleep(0.3)
                            told[name] = watch.heard, watch.lost
                print(f"round {turn + 1}: {name}", file=sys.stderr)
    paced = {}
    for how in HOW:
        with watching(how) as watch:
            before, begin = time.process_time(), time.perf_counter()
            of_load = program(PACED, SERVER)(watch)
            own = 100 * (time.process_time() - before) / (time.perf_counter() - begin)
            paced[how] = of_load, own if watch is not None else 0.0
    rows = []
    for name, (unit, _) in loads.items():
        plain, sensor, tap = (statistics.median(found[name][how]) for how in HOW)
        rows.append((name, unit, plain, sensor, tap, sensor / plain, tap / plain, tap / sensor))
    if chosen.json:
        print(json.dumps({"rows": rows, "told": told, "paced": paced}))
        return
    print(f"{'':26}{'':9}{'nothing':>10}{'sensor':>10}{'tap':>10}{'s/n':>7}{'t/n':>7}{'t/s':>7}")
    for name, unit, *numbers in rows:
        values = "".join(f"{value:>10.1f}" for value in numbers[:3])
        print(f"{name:26}{unit:9}{values}" + "".join(f"{value:>7.2f}" for value in numbers[3:]))
    for name, (heard, lost) in told.items():
        if heard or lost:
            print(f"{name}: {heard} beginnings and ends told, {lost} pieces lost")
    print("100 MB/s of results, percent of a CPU, the programs and the watcher:")
    for how, (of_load, own) in paced.items():
        print(f"  {how:10}{of_load:8.1f}{own:8.1f}")


if __name__ == "__main__":
    main()
