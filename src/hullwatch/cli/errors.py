"""Exit codes, and errors as one line."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CommandError", "ExitCode"]


class ExitCode(IntEnum):
    """What every command returns. Documented in docs/ and in `hullwatch --help`."""

    OK = 0
    NO = 1  # the answer is no: not found, a check or a test failed
    USAGE = 2  # the command line is wrong
    STORE = 3  # the store is missing, busy, unreadable or damaged
    AGENT = 4  # no agent is running, or it refuses
    QUERY = 5  # a hunt that cannot be run, or ran into a limit
    CONTENT = 6  # rules, policies or captures that cannot be loaded
    SENSOR = 7  # the kernel or our rights do not allow it
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command with a line on stderr and a code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.NO) -> None:
        super().__init__(message)
        self.code = code
