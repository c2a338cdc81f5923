"""From an action until it is listed in approvals, and from the approval until it goes on:

    python bench/held.py [--actions N] [--rounds N] [--json]

One action after the other, each held by a challenge: a tool call at the gateway, a connect under
`hullwatch run`, an open in a container that `hullwatch guard` asks about (root, runc). Who acts
tells when it began and went on; who approves looks what waits every millisecond, so that much is
in `listed`. The person's own command, and the person, are not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from figures import Figures, Kind, cut, in_turns
from permit import Guarded

from hullwatch.decide.desk import DeskError, ask, desks
from support import images
from support.needs import missing
from support.runc import Runc

__all__ = ["parts"]

LISTED = Kind("held: from the action until it is listed", "ms")
GOES_ON = Kind("held: from the approval until it goes on", "ms")
PATIENCE = 60.0  # s that an action may take
POLICY = """@id("ask") @effect("challenge") @deadline("1m")
forbid (principal, action == Action::"{action}", resource) when {{ {when} }};
"""
# Who acts: begins, waits, and tells both times of the one clock of this machine.
ACTOR = """
import json, os, socket, subprocess, sys, time
count, more = int(sys.argv[1]), sys.argv[2:]
def call(number):
    params = {"name": "write", "arguments": {"number": number}}
    asked = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    gateway.stdin.write(json.dumps(asked).encode() + b"\\n")
    gateway.stdin.flush()
    assert "result" in json.loads(gateway.stdout.readline())
def connect(number):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", 9))
def opened(number):
    os.close(os.open("/etc/named", os.O_RDONLY))
act = {"call": call, "connect": connect, "open": opened}[more[0]]
if act is call:
    gateway = subprocess.Popen(more[1:], stdin=-1, stdout=-1)
for number in range(count):
    began = time.monotonic_ns()
    act(number)
    print(began, time.monotonic_ns(), flush=True)
"""
SERVER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}), flush=True)
"""
HULLWATCH = (sys.executable, "-m", "hullwatch")


@contextmanager
def gateway(folder: Path, count: int) -> Iterator[list[str]]:
    policy = folder / "gateway.cedar"
    policy.write_text(POLICY.format(action="tool-call", when='resource.name == "write"'))
    server = [sys.executable, "-c", SERVER]
    through = [*HULLWATCH, "mcp", "--name", "bench", "--policy", str(policy), "--", *server]
    yield [sys.executable, "-c", ACTOR, str(count + 1), "call", *through]


@contextmanager
def run(folder: Path, count: int) -> Iterator[list[str]]:
    policy = folder / "run.cedar"
    policy.write_text(POLICY.format(action="connect", when="resource is Address"))
    command = [sys.executable, "-c", ACTOR, str(count + 1), "connect"]
    yield [*HULLWATCH, "run", "--name", "bench", "--policy", str(policy), "--", *command]


@contextmanager
def guard(folder: Path, count: int) -> Iterator[list[str]]:
    with Runc(images.build(images.PYTHON)) as runc:
        container = runc.start(["sleep", "3600"], name="bench")
        (container.bundle.rootfs / "etc/named").write_text("x")
        asked = POLICY.format(action="open-read", when='resource.path == "/etc/named"')
        guarded = Guarded(container, asked, folder / "log")
        try:
            actor = ["python3", "-c", ACTOR, str(count + 1), "open"]
            yield [*runc.command, "exec", container.id, *actor]
        finally:
            guarded.keeper.close()


GUARDED = "an open, by hullwatch guard"
WAYS = {
    "a tool call, by the gateway": gateway,
    "a connect, by hullwatch run": run,
    GUARDED: guard,
}


def waiting() -> tuple[Path, str] | None:
    """What waits: its desk and id."""
    for path in desks():
        with suppress(OSError, DeskError, KeyError):  # one that has ended
            for one in ask(path, ask="list")["held"]:
                return path, one["held"]
    return None


def approve(actor: subprocess.Popen[str], before: str) -> tuple[str, int]:
    """The next one that waits: its id, and when it was seen and approved, monotonic ns."""
    limit = time.monotonic() + PATIENCE
    while (found := waiting()) is None or found[1] == before:
        if actor.poll() is not None or time.monotonic() > limit:
            raise SystemExit(f"nothing waits; who acts ended with {actor.poll()}")
        time.sleep(0.001)
    path, ident = found
    seen = time.monotonic_ns()
    ask(path, ask="answer", held=ident, yes=True, why="bench")
    return ident, seen


def turn(way: str, count: int, figures: Figures) -> None:
    """One round of one way."""
    listed, went_on = [], []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ |= {
            "HULLWATCH_APPROVALS": str(folder / "desks"),
            "HULLWATCH_DECISIONS": str(folder / "log"),
            "HULLWATCH_MCP_STATE": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        (folder / "desks").mkdir()
        with WAYS[way](folder, count) as command:
            actor = subprocess.Popen(command, stdout=-1, text=True)
            assert actor.stdout
            before = ""
            for number in range(count + 1):
                before, approved = approve(actor, before)
                began, ended = map(int, actor.stdout.readline().split())
                if number:  # the first has the start of everything in it
                    listed.append(approved - began)
                    went_on.append(ended - approved)
            actor.wait()
    figures.add(LISTED, way, cut(listed))
    figures.add(GOES_ON, way, cut(went_on))


def parts(count: int, figures: Figures) -> list[tuple[str, Callable[[], None]]]:
    """What can be measured here; of the rest, the reason."""
    found: list[tuple[str, Callable[[], None]]] = []
    for way in WAYS:
        why = (missing("runc", "ip") or "") if way == GUARDED else ""
        if why:
            figures.missing[way] = why
        else:
            found.append((way, partial(turn, way, count, figures)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--actions", type=int, default=20, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = Figures()
    in_turns(options.rounds, parts(options.actions, figures))
    figures.show(options.rounds, options.json)


if __name__ == "__main__":
    main()
