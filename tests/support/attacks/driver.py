"""Runs inside a container: each attack in a child of its own, one after the other.

Usage: driver.py ATTACKS.json, a list of [name, code]. Code sees `run`, `install`, `call`, `signal`,
`ask_model`, `tool`, `touch` and this module's imports. Prints one line of JSON for each:
{"attack": name, "error": text or null}
What an attack needs and would be an event of its own (listeners, planted files) is made before.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str) -> int:
    """A program; what it says does not matter."""
    none = subprocess.DEVNULL
    return subprocess.run(
        argv, stdin=none, stdout=none, stderr=none, timeout=60, check=False
    ).returncode


def install(code: str) -> int:
    """Python code in the place of a package's hook: in a child of `node /usr/bin/npm install`."""
    hook = f"import os, subprocess\nif os.fork():\n  os.wait(); os._exit(0)\n{code}"
    return run("/opt/node", "-c", hook, "/usr/bin/npm", "install", "left-pad")


def call(number: int, *arguments: object) -> int:
    """A raw system call; -1 where it fails."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *words))


def touch(path: str, text: str = "x\n", mode: str = "w") -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode) as file:
        file.write(text)


def signal(kind: str, subject: str, detail: str) -> None:
    """Tell the agent, as its gateway does."""
    told = {"kind": kind, "subject": subject, "detail": detail, "time": time.time_ns()}
    with socket.socket(socket.AF_UNIX) as agent, agent.makefile("rb") as answers:
        agent.connect("/run/hullwatch/calls.sock")
        agent.sendall(json.dumps({"signal": told}).encode() + b'\n{"served": true}\n')
        assert b"ok" in answers.readline(), "the agent does not listen"


def ask_model(provider: str, model: str) -> None:
    """Tell of a model call, as a framework does."""
    call = {"id": 7, "kind": "model", "source": "context", "name": model, "begin": time.time_ns()}
    begin = {"begin": call | {"server": provider}, "scope": "process"}
    with socket.socket(socket.AF_UNIX) as agent, agent.makefile("rb") as answers:
        agent.connect("/run/hullwatch/calls.sock")
        agent.sendall(json.dumps(begin).encode() + b"\n")
        assert b"ok" in answers.readline(), "the agent does not listen"


@contextlib.contextmanager
def tool(name: str) -> Iterator[None]:
    """What this process does meanwhile is for a call of a tool."""
    call = {"id": os.getpid(), "kind": "tool", "source": "context", "name": name}
    begin = {"begin": call | {"begin": time.time_ns()}, "scope": "process"}
    with socket.socket(socket.AF_UNIX) as agent, agent.makefile("rb") as answers:
        agent.connect("/run/hullwatch/calls.sock")
        agent.sendall(json.dumps(begin).encode() + b"\n")
        assert b"ok" in answers.readline(), "the agent does not listen"
        yield


def query(name: str) -> bytes:
    """A DNS query for an A record (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def resolve(name: str) -> str:
    """Ask the server of serve_names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(60)
        asking.connect(("127.0.0.1", 53))
        asking.send(query(name))
        return socket.inet_ntoa(asking.recv(512)[-4:])


def serve_names(address: str) -> None:
    """Every name has this address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def serve() -> None:
        while True:
            asked, sender = server.recvfrom(512)
            record = b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 60, 4) + socket.inet_aton(address)
            head = asked[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
            server.sendto(head + asked[12:] + record, sender)

    threading.Thread(target=serve, daemon=True).start()


def listen(*ports: int) -> None:
    """Take connections on every address, and close them."""

    def serve(server: socket.socket) -> None:
        while True:
            server.accept()[0].close()

    for port in ports:
        server = socket.create_server(("0.0.0.0", port))
        threading.Thread(target=serve, args=(server,), daemon=True).start()


def main() -> None:
    with open(sys.argv[1]) as file:
        attacks = json.load(file)
    listen(25, 80, 443, 853, 4444, 9050, 10250)
    serve_names("203.0.113.9")
    for name, code in attacks:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            error = None
            try:
                exec(code, globals())
            except BaseException:
                error = traceback.format_exc()
            os.write(writing, json.dumps({"attack": name, "error": error}).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            print(pipe.read().decode(), flush=True)
        os.waitpid(pid, 0)
    print("done", flush=True)


if __name__ == "__main__":
    main()
