"""Which call did it: how often Hullwatch is right, with servers and clients that no one here wrote.

    python bench/attribution.py [--through gateway|tap|tap-http] [--calls N] [--at 1 8 32]
                                [--servers NAME ...] [--clients NAME ...]

`make peers` first; needs root. For each server a real client makes N calls, so many at a time,
under an agent that records everything: through the gateway, or with nothing between them, over
standard streams or HTTP, as the tap hears them. Each call bears a token of its own, so what
it must have caused is known without any tracer. Printed: precision (of the events given to one
call, those given to the right one), recall (of the processes, files and destinations that had to be
seen, those that were given to their call alone) and the share of answers that name several calls.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from support.agent import Agent  # noqa: E402
from support.peers.attributed import attributed  # noqa: E402
from support.peers.drive import Client, drive, serve  # noqa: E402
from support.peers.environments import missing  # noqa: E402
from support.peers.score import Score, table  # noqa: E402
from support.peers.servers import server  # noqa: E402
from support.peers.truth import Truth  # noqa: E402

SERVERS = (
    *("worker-py1-sync", "worker-py1-thread", "worker-py2-async", "worker-ts1", "worker-ts2"),
    *("filesystem", "git-py1", "fetch-py2"),
)


def gateway(folder: Path) -> list[str]:
    """The command that stands before a server's."""
    return [
        *("env", f"HULLWATCH_CALLS={folder / 'calls.sock'}"),
        *(sys.executable, "-m", "hullwatch", "mcp", "--state", str(folder / "pins"), "--"),
    ]


class Drive(NamedTuple):
    server: str
    client: Client
    folder: Path
    calls: int
    at: int

    def run(self, through: str, gateway: list[str]) -> list[Truth]:
        more: dict[str, Any] = {"calls": self.calls, "concurrency": self.at}
        one = server(self.server)
        if through == "tap-http":
            with serve(one, self.folder, "http") as served:
                url = served.url
                return drive(served.server, self.client, folder=self.folder, url=url, **more)
        via = gateway if through == "gateway" else []
        return drive(one, self.client, folder=self.folder, via=via, **more)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--through", choices=("gateway", "tap", "tap-http"), default="gateway", help="who tells"
    )
    options.add_argument("--calls", type=int, default=64)
    options.add_argument("--at", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--servers", nargs="+", default=SERVERS)
    options.add_argument("--clients", nargs="+", default=["py1", "ts2"])
    chosen = options.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    scores: dict[str, Score] = {}
    missed = made = 0
    with tempfile.TemporaryDirectory(prefix="hullwatch-attribution-") as place:
        folder = Path(place)
        socket, tap = folder / "calls.sock", chosen.through != "gateway"
        with Agent(folder / "store", record=True, calls=socket, tap=tap) as agent:
            for number, name in enumerate(chosen.servers):
                client = chosen.clients[number % len(chosen.clients)]
                for at in chosen.at:
                    here = folder / f"{name}-{at}"
                    here.mkdir()
                    begun = time.monotonic()
                    of = Drive(name, client, here, chosen.calls, at)
                    if chosen.through == "tap-http" and "http" not in server(name).transports:
                        continue
                    truths = of.run(chosen.through, gateway(folder))
                    agent.settle()
                    time.sleep(1.5)  # calls are written once a second
                    who, found = attributed(folder / "store", truths)
                    scores[f"{name} {client} x{at}"] = found
                    made += len(truths)
                    missed += len(who.missed) + len(who.extra)
                    spent = time.monotonic() - begun
                    print(f"{name} by {client}, {at} at a time: {spent:.1f} s", file=sys.stderr)
    print(table(scores))
    print(f"\n{made} calls made, {made - missed} of them told one by one by the {chosen.through}")


if __name__ == "__main__":
    main()
