"""Which canaries are planted, and where: a folder of rules, one a canary.

The first line of a rule's file says what was planted. Beside them lies the key of the values'
hashes: who has the hashes and not the key cannot even ask whether a credential is a canary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

__all__ = ["FOLDER", "FOLDER_BY", "KEY", "NAME", "Planted", "first_line", "read"]

FOLDER = Path("/etc/hullwatch/rules/canaries")
FOLDER_BY = "HULLWATCH_CANARIES"
"""The variable that names another one."""
KEY = "hash.key"
_MARK = "# canary "
NAME = re.compile(r"[0-9a-f]{8}\.yaml")
_MAX_LINE = 64 << 10  # bytes


class Planted(msgspec.Struct):
    """A canary. file: here; path: as those see it who should not; size, ino: of the file that was
    made; made, changed: unix s and ns. marks: what its values are recognised by, `Canaries`."""

    id: str
    form: str
    file: str
    path: str
    container: str
    size: int
    ino: int
    made: int
    changed: int
    marks: dict[str, int] = {}


def first_line(one: Planted) -> str:
    """Of the file of its rule."""
    return _MARK + msgspec.json.encode(one).decode()


def read(files: Iterable[Path]) -> tuple[list[tuple[Path, Planted]], list[str]]:
    """Canaries with the files of their rules, oldest first; and why a file has none, or could not
    be read."""
    found: list[tuple[Path, Planted]] = []
    problems: list[str] = []
    for path in files:
        try:
            with path.open("rb") as file:
                line = file.readline(_MAX_LINE).decode()
            one = msgspec.json.decode(line.removeprefix(_MARK), type=Planted)
            if path.stem != one.id or not Path(one.file).is_absolute():
                raise ValueError("not as it was written")
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}:1: no canary's rule ({error}); left out")
        else:
            found.append((path, one))
    return sorted(found, key=lambda one: one[1].made), problems
