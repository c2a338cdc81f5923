"""Users and groups by number, from the host's passwd and group files.

A container's own /etc/passwd may say otherwise; `Accounts` is a protocol so that a later stage
can answer for one workload. Until then the host's names are used everywhere, and a number that
the host does not know has no name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = ["Accounts", "HostAccounts", "User"]

_MAX_FILE = 4 * 1024 * 1024


class User(NamedTuple):
    name: str
    home: str
    shell: str


class Accounts(Protocol):
    """workload: the slot whose point of view is asked for."""

    def user(self, uid: int, workload: int) -> User | None: ...
    def group(self, gid: int, workload: int) -> str | None: ...


@dataclass(slots=True)
class HostAccounts:
    """Read once; `HostAccounts.read()` for the files of this host, or give the tables."""

    users: dict[int, User] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, passwd: str = "/etc/passwd", group: str = "/etc/group") -> HostAccounts:
        """Never raises: a file that cannot be read has no entries."""
        found = cls()
        for parts in _lines(passwd, 7):
            found.users.setdefault(int(parts[2]), User(parts[0], parts[5], parts[6]))
        for parts in _lines(group, 3):
            found.groups.setdefault(int(parts[2]), parts[0])
        return found

    def user(self, uid: int, workload: int) -> User | None:
        return self.users.get(uid)

    def group(self, gid: int, workload: int) -> str | None:
        return self.groups.get(gid)


def _lines(path: str, count: int) -> list[list[str]]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE).decode("utf-8", "backslashreplace")
    except OSError:
        return []
    rows = (line.split(":") for line in text.splitlines())
    return [row for row in rows if len(row) >= count and row[2].isdigit()]
