"""The command line: each command is one file here, a query over the store or a word to the agent.

A module is imported only when its command is asked for: the agent must not pay for the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from hullwatch.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    import typer

__all__ = ["COMMANDS", "build", "main"]

# Command -> module with `register(app)`, in the order of --help.
COMMANDS: dict[str, str] = {
    "up": "hullwatch.cli.up",
    "demo": "hullwatch.cli.demo",
    "doctor": "hullwatch.cli.doctor",
    "status": "hullwatch.cli.status",
    "findings": "hullwatch.cli.findings",
    "tree": "hullwatch.cli.tree",
    "events": "hullwatch.cli.events",
    "hunt": "hullwatch.cli.hunt",
    "rules": "hullwatch.cli.rules",
    "record": "hullwatch.cli.record",
    "replay": "hullwatch.cli.replay",
}

_HELP = """Hullwatch: runtime security for containerised AI workloads.

Exit codes: 0 done; 1 the answer is no; 2 wrong usage; 3 store; 4 agent not reachable; 5 query;
6 rules or captures that cannot be loaded; 7 kernel or rights; 130 interrupted.
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

    @app.callback()
    def hullwatch() -> None:
        """Callback: keeps a single registered command a subcommand."""

    hullwatch.__doc__ = _HELP
    word = next((arg for arg in argv or [] if not arg.startswith("-")), "")
    completing = "_HULLWATCH_COMPLETE" in os.environ
    names = [word] if word in COMMANDS and not completing else list(COMMANDS)
    for name in names:
        module = COMMANDS[name]
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(app)
    return app


def main(argv: list[str] | None = None) -> int:
    """Entry point of `hullwatch`: never a traceback for what can be foreseen."""
    from hullwatch.control import ControlError
    from hullwatch.store.errors import QueryError, StoreError

    arguments = sys.argv[1:] if argv is None else argv
    try:
        build(arguments)(args=arguments, prog_name="hullwatch")
    except QueryError as error:
        return _fail(error, ExitCode.QUERY)
    except StoreError as error:
        return _fail(error, ExitCode.STORE)
    except ControlError as error:
        return _fail(error, ExitCode.AGENT)
    except CommandError as error:
        return _fail(error, error.code)
    except BrokenPipeError:
        # The reader has gone (| head). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    return ExitCode.OK


def _fail(error: Exception, code: ExitCode) -> int:
    from hullwatch.cli.show import say

    say(str(error))
    return int(code)
