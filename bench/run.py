"""What `hullwatch run` adds to an open, a connect and an exec: with nobody asking, with a policy
about other calls, and with one about these.

    python bench/run.py [--calls N] [--rounds N] [--json]

The three ways are measured in turns within one run, by the same program; the figure is the median
of the rounds, ratios are to the first way. Every call is allowed, so that what is left is the way.
An exec is that of /bin/true with its fork and exit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACTIONS = {"open": "open-read", "connect": "connect", "exec": "exec"}
OTHER = "listen"
WAYS = ("none", "others", "asked")

WORK = """
import os, socket, sys, time
what, calls = sys.argv[1], int(sys.argv[2])
door = socket.create_server(("127.0.0.1", 0), backlog=64)

def open_():
    os.close(os.open("/etc/hostname", os.O_RDONLY))

def connect():
    made = socket.socket()
    made.connect(door.getsockname())
    door.accept()[0].close()
    made.close()

def exec_():
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

call = {"open": open_, "connect": connect, "exec": exec_}[what]
for _ in range(20):
    call()
began = time.perf_counter()
for _ in range(calls):
    call()
print((time.perf_counter() - began) / calls * 1e6)
"""


def policy(folder: Path, action: str) -> Path:
    path = folder / f"{action}.cedar"
    kind = {"exec": "Binary", "open-read": "Path"}.get(action, "Address")
    head = f'forbid (principal, action == Action::"{action}", resource is {kind})'
    when = 'when { resource has path && resource.path like "/nowhere/*" }'
    path.write_text(f'@id("bench") {head} {when};\n')
    return path


def once(folder: Path, what: str, calls: int, way: str) -> float:
    command = [sys.executable, "-c", WORK, what, str(calls)]
    if way != "none":
        asked = policy(folder, ACTIONS[what] if way == "asked" else OTHER)
        hullwatch = [sys.executable, "-m", "hullwatch", "run", "--name", "bench"]
        command = [*hullwatch, "--policy", str(asked), "--log", str(folder / "log"), "--", *command]
    env = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "HULLWATCH_APPROVALS": str(folder / "desks"),
    }
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for what in ACTIONS:
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            calls = given.calls // 4 if what == "exec" else given.calls
            for _ in range(given.rounds):
                for way in WAYS:
                    taken[way].append(once(folder, what, calls, way))
            found = {way: statistics.median(of) for way, of in taken.items()}
            row = {
                "call": what,
                **{f"{way}_us": round(us, 1) for way, us in found.items()},
                **{f"{way}_ratio": round(found[way] / found["none"], 2) for way in WAYS[1:]},
            }
            if given.json:
                print(json.dumps(row), flush=True)
            else:
                print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
