"""Drive a server through a real client, and tell what must have happened.

The client is a process of its own, on an SDK of its own (`client_*` in programs/); nothing of the
SDKs is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from support.peers.environments import NODE, PROGRAMS, node_env, python
from support.peers.listener import Listener
from support.peers.servers import Ask, Place, Server, Transport
from support.peers.truth import Truth, new_run, token
from support.scratch import poll

__all__ = ["CLIENTS", "Client", "DriveError", "Era", "Served", "drive", "serve"]

Client = Literal["py1", "py2", "ts1", "ts2"]
Era = Literal["auto", "old", "new"]
"""old: initialize and sessions. new: 2026-07-28, which py2 and ts2 speak. auto: what both can."""
CLIENTS: dict[Client, list[str]] = {
    "py1": [str(python("python1")), str(PROGRAMS / "client_py1.py")],
    "py2": [str(python("python2")), str(PROGRAMS / "client_py2.py")],
    "ts1": [str(NODE), str(PROGRAMS / "client_ts1.cjs")],
    "ts2": [str(NODE), str(PROGRAMS / "client_ts2.cjs")],
}
_START_S = 60
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")  # of our environment, for servers and clients


class DriveError(RuntimeError):
    """A client or a server did not do its part; what it said is in the text."""


class Served(NamedTuple):
    """A server that listens. pid: of the process that answers."""

    server: Server
    url: str
    pid: int


def _environment(server: Server, folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"NO_PROXY": "*"} | server.environment(folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def serve(server: Server, folder: Path, transport: Transport = "http") -> Iterator[Served]:
    """Start it over Streamable HTTP; it is ended at the end."""
    environment = _environment(server, folder)
    port = _free_port()
    log = folder / f"{server.name}.log"
    with log.open("wb") as said:
        running = subprocess.Popen(
            server.command(transport, folder),
            env=environment | ({"PORT": str(port)} if server.asked_port else {}),
            stdin=subprocess.DEVNULL,
            stdout=said if server.asked_port else subprocess.PIPE,
            stderr=said,
        )
    try:
        if running.stdout:
            line = running.stdout.readline()
            if not line:
                raise DriveError(f"{server.name} did not listen: …{log.read_text()[-2000:]}")
            port = json.loads(line)["port"]
        poll(lambda: _answers(port), seconds=_START_S, waiting_for=f"{server.name} on port {port}")
        yield Served(server, f"http://127.0.0.1:{port}/mcp", running.pid)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        if running.stdout:
            running.stdout.close()


def drive(
    server: Server,
    client: Client = "py1",
    *,
    folder: Path,
    calls: int = 16,
    concurrency: int = 1,
    tools: Sequence[str] = (),
    transport: Transport = "stdio",
    url: str | None = None,
    via: Sequence[str] = (),
    era: Era = "auto",
    timeout: float = 120,
) -> list[Truth]:
    """So many calls of `tools` (all that the server's row has, in turn), `concurrency` at a time.

    stdio: the client starts `[*via, *command]`. http, http-json: it speaks to `url`, or if there is
    none, to a server that is started for it. folder: for the files of the calls and the server.
    Truths are in the order in which calls were answered. DriveError: no client, or not all answers;
    TimeoutError: what was asked for never happened.
    """
    run = new_run()
    names = tools or tuple(server.acts)
    with contextlib.ExitStack() as stack:
        if transport != "stdio" and url is None:
            url = stack.enter_context(serve(server, folder, transport)).url
        listener = stack.enter_context(Listener())
        asks: dict[str, tuple[str, Ask]] = {}
        for number in range(calls):
            tool = names[number % len(names)]
            at = Place(token(run, number), folder, listener.port)
            asks[at.token] = (tool, server.acts[tool](at))
        plan = {
            "calls": [
                {"token": one, "tool": tool, "arguments": ask.arguments}
                for one, (tool, ask) in asks.items()
            ],
            "concurrency": concurrency,
            "era": era,
            "url": url or "",
            "command": [] if url else [*via, *server.command("stdio", folder)],
            "env": _environment(server, folder),
        }
        hello, *lines = _converse(client, plan, timeout)
        if len(lines) != calls:
            raise DriveError(f"{client} to {server.name}: {len(lines)} answers to {calls} calls")
        truths = [_truth(hello["protocol"], line, *asks[line["token"]]) for line in lines]
        _settle(truths, listener.reached)
    return truths


def _converse(client: Client, plan: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            CLIENTS[client],
            input=json.dumps(plan).encode(),
            env=environment | {"NO_PROXY": "*"} | node_env(),
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
        raise DriveError(f"{client} took more than {timeout} s: …{said[-2000:]}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise DriveError(f"{client} ended with {done.returncode}: …{said[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _truth(protocol: str, line: dict[str, Any], tool: str, ask: Ask) -> Truth:
    told: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        told = json.loads(line["text"])
    ours = isinstance(told, dict) and told.keys() == {"pid", "pids"}
    return Truth(
        tool=tool,
        token=line["token"],
        begin=line["begin"],
        end=line["end"],
        rpc_id=line["rpc_id"],
        ok=line["ok"] == ask.ok,
        text=line["text"][:200],
        protocol=protocol,
        pid=told["pid"] if ours else 0,
        pids=tuple(told["pids"]) if ours else (),
        processes=ask.processes,
        files=ask.files,
        destinations=ask.destinations,
    )


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # whoever inherits it may be slow to reap


def _settle(truths: list[Truth], reached: set[int]) -> None:
    """Until all that was asked for has happened, and what was started is gone: some of it outlives
    its call on purpose."""
    pids = [pid for truth in truths for pid in truth.pids]
    ports = {to.port for truth in truths if truth.ok for to in truth.destinations}
    poll(
        lambda: ports <= reached and not any(map(_runs, pids)),
        seconds=_START_S,
        waiting_for="what the calls started",
    )
