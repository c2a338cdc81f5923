"""`hullwatch run`: a command whose system calls are decided on, without root and without BPF."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from hullwatch.cli.asking import NOBODY, Asking, asking, asks, at_desk, tell_flood
from hullwatch.cli.decisions import HeadFile, LogFolder
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Store
from hullwatch.cli.policies import asked_set
from hullwatch.cli.show import safe, say

if TYPE_CHECKING:
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.following import Following
    from hullwatch.holding import Holder

__all__ = ["Policy", "register"]

_COMMAND = "hullwatch.run.command"
_STATUS = struct.Struct("=Bi")  # what the child says: which step, and its descriptor or error
_LISTENS, _NOT_HELD, _NOT_RUN = range(3)
_NOT_FOUND, _NOT_ALLOWED = 127, 126  # as shells have it
_PR_SET_CHILD_SUBREAPER = 36

Policy = Annotated[
    list[str],
    typer.Option(
        "--policy",
        metavar="PATH|applied",
        help="Ask these policies (a .cedar file or a folder of them; may be repeated). `applied`:"
        " the set that `hullwatch policy apply` put into force, and every change of it.",
    ),
]


class _Command(TyperCommand):
    """What follows `--` is the command line to run, and no option of ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = args[at + 1 :]
            args = args[:at]
        return list(super().parse_args(ctx, args))


def register(app: typer.Typer) -> None:
    app.command("run", cls=_Command, options_metavar="[OPTIONS] -- COMMAND...")(run)


@asks
def run(
    ctx: typer.Context,
    policy: Policy,
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="It is Workload::NAME to policies. Default: COMMAND's."
        ),
    ] = "",
    store: Store = DEFAULT_STORE,
    log: LogFolder = None,
    head: HeadFile = None,
    told: Asking = NOBODY,
) -> None:
    """Run a command and ask policies before it opens, executes, connects or listens.

    Needs no root, no BPF and no agent: `hullwatch run --policy my.cedar -- npm start`. What
    policies do not speak of is not asked about and costs nothing. What they challenge waits until
    somebody answers in `hullwatch approvals`. All that the command starts is held, too.

    Exit code: the command's; 128 and the number of a signal that ended it; 126 where it may not be
    run; 127 where there is no such command.
    """
    command: list[str] = ctx.meta.get(_COMMAND, [])
    if not command:
        raise CommandError(
            "run: give a command, as in `hullwatch run --policy my.cedar -- npm start`",
            ExitCode.USAGE,
        )
    told = told.checked(True)
    engine, following = asked_set(policy, store)
    named = name or os.path.basename(command[0])
    from hullwatch.holding import spoken_of, untold
    from hullwatch.sensor.seccomp import filter as filters

    actions = spoken_of(engine, named)
    if not actions:
        said = (
            f"--policy: no policy speaks of what Workload::{named} executes, opens or connects to"
        )
        raise CommandError(said, ExitCode.CONTENT)
    for text in untold(engine):
        say(safe(text))
    path = shutil.which(command[0])
    if path is None:
        say(f"{safe(command[0])}: no such command")
        raise typer.Exit(_NOT_FOUND)
    # Before anything makes threads.
    child = _Child(os.path.abspath(path), command, filters.program(filters.rules(actions)))
    try:
        code = asyncio.run(_serve(child, engine, following, named, log, head, told))
    except BaseException:
        child.end()
        raise
    sys.stdout.flush()
    os._exit(code)  # not to wait for a thread that waits for a file system


async def _serve(
    child: _Child,
    engine: Engine,
    following: Following | None,
    name: str,
    folder: Path | None,
    head: Path | None,
    told: Asking,
) -> int:
    from hullwatch.cli.decisions import open_log
    from hullwatch.holding import Holder, Workload

    with open_log(folder, head, write=True) as log:
        holder = Holder(engine, log, os.getpid(), following=following, tell=say)
        holder.approvals.on_flood = tell_flood
        async with at_desk(holder), asking(told, holder.approvals):
            over = asyncio.Event()
            loop = asyncio.get_running_loop()

            def ended() -> None:
                if child.reap():
                    over.set()

            loop.add_signal_handler(signal.SIGCHLD, ended)
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, child.signal, number)
            for number in (signal.SIGINT, signal.SIGQUIT):
                loop.add_signal_handler(number, lambda: None)  # the terminal told the child, too
            holder.watch(child.listener, Workload(name))
            child.go()
            ended()
            await over.wait()
    return child.code(holder)


class _Child:
    """The command, from its fork on. It installs the filter by itself, as only it can. Its listener
    is fetched (pidfd_getfd) and not sent: to send may be what the filter asks about."""

    def __init__(self, path: str, command: list[str], program: bytes) -> None:
        ours, theirs = os.pipe()
        held, go = os.pipe()
        self._said, self._go = ours, go
        self._status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.close(ours)
            os.close(go)  # so that our end is noticed
            _become(path, command, program, theirs, held)
        os.close(theirs)
        os.close(held)
        step, value = self._read()
        if step != _LISTENS:
            self.end()
            why = os.strerror(value)
            raise CommandError(f"run: this kernel does not let it be held: {why}", ExitCode.SENSOR)
        self.listener = self._fetch(value)
        from hullwatch.sensor.seccomp.abi import prctl
        from hullwatch.sensor.seccomp.listener import lock

        lock()
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that all of it stays below us: it may not approve

    def _fetch(self, fd: int) -> int:
        from hullwatch.sensor.seccomp.abi import pidfd_getfd

        pidfd = os.pidfd_open(self.pid)
        try:
            return pidfd_getfd(pidfd, fd)
        except OSError as error:
            self.end()
            said = f"run: the command cannot be looked into: {error.strerror}"
            raise CommandError(f"{said} (kernel.yama.ptrace_scope?)", ExitCode.SENSOR) from None
        finally:
            os.close(pidfd)

    def _read(self) -> tuple[int, int]:
        data = os.read(self._said, _STATUS.size)
        return _STATUS.unpack(data) if len(data) == _STATUS.size else (-1, 0)

    def go(self) -> None:
        os.write(self._go, b"!")
        os.close(self._go)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def reap(self) -> bool:
        """Whoever has ended, those that were left to us too. Whether the command has.

        Each by its number, once it has ended: to wait for any would take what other threads of ours
        are told of those that they trace."""
        for pid in _ended():
            with contextlib.suppress(ChildProcessError):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found == self.pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def code(self, holder: Holder) -> int:
        step, value = self._read()
        if step == _NOT_RUN:
            refused = holder.counts["refused"] and value == 1
            say(f"the command was not run: {'by policy' if refused else os.strerror(value)}")
            return _NOT_ALLOWED
        status = self._status or 0
        return status if status >= 0 else 128 - status


def _ended() -> list[int]:
    """Children that wait to be waited for."""
    pids: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread, or the child, has gone
            for pid in map(int, task.read_text().split()):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    pids.append(pid)
    return pids


def _become(path: str, command: list[str], program: bytes, said: int, held: int) -> NoReturn:
    """In the child. Once the filter is there nothing but reads and writes until it runs."""
    from hullwatch.sensor.seccomp.listener import confine, install, lock

    step, environment = _NOT_HELD, dict(os.environ)
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        lock(False)  # a change of user may have locked it; its parent has to look in
        confine()
        listener = install(program)
        os.write(said, _STATUS.pack(_LISTENS, listener))
        step = _NOT_RUN
        if os.read(held, 1):
            os.close(listener)
            os.execve(path, command, environment)
    except OSError as error:
        os.write(said, _STATUS.pack(step, error.errno or 0))
    finally:
        os._exit(_NOT_ALLOWED)
