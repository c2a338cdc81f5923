"""`hullwatch seccomp-agent`: decides for containers whose runtime hands it their listener."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from hullwatch.cli.asking import NOBODY, Asking, asking, asks, at_desk, tell_flood
from hullwatch.cli.decisions import HeadFile, LogFolder
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import asked_set
from hullwatch.cli.run import Policy
from hullwatch.cli.seccomp_profile import DEFAULT_SOCKET
from hullwatch.cli.show import print_json, safe, say

if TYPE_CHECKING:
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.following import Following
    from hullwatch.holding import Holder, Workload

__all__ = ["register"]

_MAX_STATE = 1 << 18  # bytes that a runtime may say of a container
_MAX_FDS = 8
_PATIENCE = 5.0  # s that it may take
_UCRED = struct.Struct("3i")
_FD = "seccompFd"


class _State(msgspec.Struct):
    """runtime-spec 1.1, runtime.md: state."""

    id: str = ""
    annotations: dict[str, str] = {}


class _Handed(msgspec.Struct):
    """runtime-spec 1.1, config-linux.md: containerProcessState. pid: of the process that the filter
    was installed for."""

    fds: list[str] = []
    pid: int = 0
    metadata: str = ""
    state: _State = msgspec.field(default_factory=_State)


def register(app: typer.Typer) -> None:
    app.command("seccomp-agent")(seccomp_agent)


@asks
def seccomp_agent(
    policy: Policy,
    listen: Annotated[
        Path, typer.Option("--listen", metavar="SOCKET", help="As the profile's listenerPath.")
    ] = DEFAULT_SOCKET,
    store: Store = DEFAULT_STORE,
    log: LogFolder = None,
    head: HeadFile = None,
    told: Asking = NOBODY,
    json: Json = False,
) -> None:
    """Ask policies before containers open, execute, connect or listen, until it is ended.

    Containers have to be started with the profile that `hullwatch seccomp-profile` prints, and
    after this: a runtime does not start one whose listener is not there.
    """
    told = told.checked(True)
    engine, following = asked_set(policy, store)
    asyncio.run(_serve(engine, following, listen, log, head, told, json))


async def _serve(
    engine: Engine,
    following: Following | None,
    path: Path,
    folder: Path | None,
    head: Path | None,
    told: Asking,
    as_json: bool,
) -> None:
    from hullwatch.cli.decisions import open_log
    from hullwatch.holding import Holder, untold
    from hullwatch.sensor.seccomp.listener import lock

    lock()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with open_log(folder, head, write=True) as log:
        holder = Holder(engine, log, following=following, tell=say)
        holder.approvals.on_flood = tell_flood
        async with at_desk(holder), asking(told, holder.approvals):
            sock = _listening(path)
            door = _Door(holder, as_json)
            accepting = asyncio.create_task(door.open(sock))
            for text in untold(engine):
                say(safe(text))
            say(f"listening on {path}")
            await stop.wait()
            accepting.cancel()
            sock.close()
            with contextlib.suppress(OSError):
                path.unlink()


def _listening(path: Path) -> socket.socket:
    """Of mode 0600: only the runtime's user."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise OSError(98, "another one listens there")
            path.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(64)
    except OSError as error:
        sock.close()
        said = error.strerror or str(error)
        raise CommandError(f"--listen {path}: {said}", ExitCode.SENSOR) from None
    return sock


class _Door:
    """Where runtimes come: a connection, one message with the listener, and the end of it."""

    def __init__(self, holder: Holder, as_json: bool) -> None:
        self._holder = holder
        self._json = as_json
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            link, _ = await loop.sock_accept(sock)
            task = asyncio.create_task(self._take(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _take(self, link: socket.socket) -> None:
        with link:
            peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            uid = _UCRED.unpack(peer)[1]
            if uid not in (0, os.geteuid()):
                say(f"somebody else's runtime was refused: uid {uid}")
                return
            fds: list[int] = []
            try:
                async with asyncio.timeout(_PATIENCE):
                    handed = await _message(link, fds)
                fd = fds[handed.fds.index(_FD)]
                workload = _workload(handed)
                over = self._holder.watch(fd, workload)
                fds.remove(fd)
            except (OSError, TimeoutError, ValueError, IndexError, msgspec.MsgspecError) as error:
                say(f"a container was not taken: {safe(error or type(error).__name__)}")
                return
            finally:
                for one in fds:
                    os.close(one)
        self._tell("held", workload)
        await over.wait()
        self._tell("ended", workload)

    def _tell(self, what: str, workload: Workload) -> None:
        if self._json:
            print_json({"event": what, "name": workload.name, "container": workload.container})
        else:
            print(f"{what} {safe(workload.name)} {safe(workload.container[:12])}", flush=True)


async def _message(link: socket.socket, fds: list[int]) -> _Handed:
    """The descriptors come with the first bytes; the message may come in pieces."""
    link.setblocking(False)
    data = b""
    while len(data) <= _MAX_STATE:
        await _readable(link)
        piece, control, _, _ = link.recvmsg(1 << 16, socket.CMSG_SPACE(4 * _MAX_FDS))
        for level, kind, body in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += struct.unpack(f"={len(body) // 4}i", body[: len(body) // 4 * 4])
        data += piece
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(data, type=_Handed)
        if not piece:
            break
    return msgspec.json.decode(data, type=_Handed)


async def _readable(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(link, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(link)


def _workload(handed: _Handed) -> Workload:
    """As the sensor names containers, from what their runtime says. No other name than its id may
    be had: then that."""
    from hullwatch.context.runtimes.bundle import facts_from_annotations
    from hullwatch.holding import Workload, file_of

    facts = facts_from_annotations(handed.state.annotations, "the runtime")
    own, said = facts.name or "", handed.state.annotations | (facts.labels or {})
    known = {
        "kind": said.get("hullwatch.kind") or said.get("io.hullwatch.kind") or "",
        "container": own or handed.state.id,
        "image": facts.image or "",
        "image_digest": facts.image_digest or "",
        "namespace": facts.namespace or "",
    }
    name = handed.metadata or own or handed.state.id
    return Workload(name, handed.state.id, known, handed.pid, file_of(handed.pid))
