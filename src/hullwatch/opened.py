"""What policies are asked about a file that is opened: here, for events (questions.py) as for opens
that wait for an answer (permits/), where each import is paid for in memory.

For reading, a file is a file, a secret where its path is the place of one, and code where who opens
it loads such; for writing it is a file.
"""

from __future__ import annotations

from hullwatch.agent.plugins import kind_of, loads
from hullwatch.agent.secrets.paths import classify_path
from hullwatch.decide.question import Entity, Value

__all__ = ["OPENS", "READING", "WRITING", "loaded_as", "things"]

READING = ("open-read", "use-secret", "load-plugin")
WRITING = ("open-write",)
OPENS = (*READING, *WRITING)


def things(path: str, upper: bool | None = None, plugin: str = "") -> dict[str, Entity]:
    """By the action that is asked about it. upper: the writable layer has it; None: not known.
    plugin: as `loaded_as`."""
    layer: dict[str, Value] = {} if upper is None else {"upper": upper}
    file = Entity("Path", path, layer)
    found = {"open-read": file, "open-write": file}
    if kind := classify_path(path):
        found["use-secret"] = Entity("Secret", path, {"kind": kind})
    if plugin:
        found["load-plugin"] = Entity("Path", path, {"plugin": plugin, **layer})
    return found


def loaded_as(path: str, *programs: str, mapped: bool = False) -> str:
    """The kind of code that a program, by its names or paths, loads such a file as; '': it only
    reads it. mapped: as in `kind_of`."""
    kind = kind_of(path, mapped)
    return kind if kind and loads(kind, *programs) else ""
