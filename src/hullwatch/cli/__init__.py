"""The command line: each command is one file here, a query over the store or a word to the agent.

A module is imported only when its command is asked for: the agent must not pay for the others.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING

from hullwatch.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

__all__ = ["COMMANDS", "build", "main"]

# Command -> module with `register(app)`, in the order of --help.
COMMANDS: dict[str, str] = {
    "up": "hullwatch.cli.up",
    "demo": "hullwatch.cli.demo",
    "doctor": "hullwatch.cli.doctor",
    "status": "hullwatch.cli.status",
    "findings": "hullwatch.cli.findings",
    "suppress": "hullwatch.cli.suppress",
    "quarantine": "hullwatch.cli.quarantine",
    "guard": "hullwatch.cli.guard",
    "tree": "hullwatch.cli.tree",
    "calls": "hullwatch.cli.calls",
    "call": "hullwatch.cli.call",
    "content": "hullwatch.cli.content",
    "routes": "hullwatch.cli.routes",
    "events": "hullwatch.cli.events",
    "hunt": "hullwatch.cli.hunt",
    "mcp": "hullwatch.cli.mcp",
    "run": "hullwatch.cli.run",
    "seccomp-agent": "hullwatch.cli.seccomp_agent",
    "seccomp-profile": "hullwatch.cli.seccomp_profile",
    "approvals": "hullwatch.cli.approvals",
    "decisions": "hullwatch.cli.decisions",
    "rules": "hullwatch.cli.rules",
    "policy": "hullwatch.cli.policy",
    "baseline": "hullwatch.cli.baseline",
    "labels": "hullwatch.cli.labels",
    "secrets": "hullwatch.cli.secrets",
    "canary": "hullwatch.cli.canary",
    "plugins": "hullwatch.cli.plugins",
    "record": "hullwatch.cli.record",
    "replay": "hullwatch.cli.replay",
    "backtest": "hullwatch.cli.backtest",
    "otlp": "hullwatch.cli.otlp",
}

# What writing to a full disk, a dead disk or a file limit gives, where it is the output.
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

_HELP = """Hullwatch: runtime security for containerised AI workloads.

Exit codes: 0 done; 1 the answer is no; 2 wrong usage; 3 store; 4 agent not reachable; 5 query;
6 rules, policies or captures that cannot be loaded; 7 kernel or rights; 130 interrupted.
"""


def build(argv: list[str] | None = None) -> typer.Typer:
    """The app with the command of argv, or with all of them (help, completion)."""
    import typer

    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from hullwatch import __version__

            print(f"hullwatch {__version__}")
            raise typer.Exit

    # As a default and not Annotated, since annotations are looked up in the module: no typer there.
    flag = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Show the version and exit."
    )

    @app.callback()
    def hullwatch(version: bool = flag) -> None:
        """Callback: keeps a single registered command a subcommand."""

    hullwatch.__doc__ = _HELP
    word = next((arg for arg in argv or [] if not arg.startswith("-")), "")
    completing = "_HULLWATCH_COMPLETE" in os.environ
    names = [word] if word in COMMANDS and not completing else list(COMMANDS)
    for name in names:
        module = COMMANDS[name]
        importlib.import_module(module).register(app)
    return app


def main(argv: list[str] | None = None) -> int:
    """Entry point of `hullwatch`: never a traceback for what can be foreseen."""
    from hullwatch.control import ControlError
    from hullwatch.store.errors import ContainerUnknown, QueryError, StoreError

    arguments = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A workload's file name must not end a command whose terminal lacks a letter of it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except QueryError as error:
        return _fail(error, ExitCode.QUERY)
    except ContainerUnknown as error:
        return _fail(error, ExitCode.NO)
    except StoreError as error:
        return _fail(error, ExitCode.STORE)
    except ControlError as error:
        return _fail(error, ExitCode.AGENT)
    except CommandError as error:
        return _fail(error, error.code, error.details)
    except BrokenPipeError:
        # The reader has gone (| head).
        _drop_output()
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except PermissionError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: permission denied; run as root", ExitCode.SENSOR)
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            raise
        _drop_output()
        return _fail(f"the answer cannot be written: {error.strerror}", ExitCode.NO)


def _run(arguments: list[str]) -> int:
    try:
        build(arguments)(args=arguments, prog_name="hullwatch")
        code: object = ExitCode.OK
    except SystemExit as end:
        code = end.code
    # Here and not when Python ends: what cannot be written is then an error like others.
    sys.stdout.flush()
    return code if isinstance(code, int) else ExitCode.OK


def _drop_output() -> None:
    """Python would complain again when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception | str, code: ExitCode, details: Sequence[str] = ()) -> int:
    from hullwatch.cli.show import say

    say(str(error))
    for line in details:
        say(f"  {line}")
    return int(code)
