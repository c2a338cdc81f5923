"""Exit codes, and errors as one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import TypeVar

__all__ = ["CommandError", "ExitCode", "sensor_error", "the_one"]

_T = TypeVar("_T")

_ERRNO = re.compile(r"^\[Errno \d+\] ")


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


def the_one(
    found: Iterable[_T], ident: str, what: str, listed: str, id_of: Callable[[_T], str]
) -> _T:
    """That whose id begins so; CommandError where none does, or several do. what: in words;
    listed: the command that has them all."""
    close = [one for one in found if id_of(one).startswith(ident)]
    if len(close) == 1:
        return close[0]
    if close:
        names = ", ".join(id_of(one) for one in close[:5])
        raise CommandError(f"{what} {ident}: several begin so: {names}")
    raise CommandError(f"{what} {ident}: no such one; `{listed}` has them")


class CommandError(Exception):
    """Ends a command with a line on stderr and a code. details: further lines, in others' words."""

    def __init__(
        self, message: str, code: ExitCode = ExitCode.NO, details: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


def sensor_error(error: Exception) -> CommandError:
    """Why the sensor cannot run: one line, then what libbpf and the kernel's verifier said."""
    said = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    first, *more = said or [type(error).__name__]
    first = _ERRNO.sub("", first)
    if more:
        first += "; `hullwatch doctor` says what this kernel allows"
    return CommandError(first, ExitCode.SENSOR, more)
