"""What an attack on a container is, for tests/live/test_attacks_pack.py."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NETWORK_TOOL", "SHELL", "UPPER", "Attack"]

# Rules that many attacks meet beside the one they are about.
SHELL = "Shell started by an AI agent"
UPPER = "Program that is not in the image run by an AI agent"
NETWORK_TOOL = "Network tool started in an AI container"


class Attack(NamedTuple):
    """code: for the driver. found: rule → the object of its one finding (a regular expression).
    by: the name of the process that did it. privileged: needs a container with all rights.
    told: the agent is told of it over its socket, so a recording made beside it has none of it."""

    name: str
    code: str
    found: dict[str, str]
    by: str = "python3"
    privileged: bool = False
    told: bool = False
