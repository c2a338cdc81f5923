"""What this host's own files say of names: `/etc/hosts` and `/etc/resolv.conf`. What cannot be read
says nothing."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from pathlib import Path

__all__ = ["hosts", "name_servers"]

_MOST = 1 << 20  # characters of a file


def hosts(path: Path = Path("/etc/hosts")) -> Mapping[str, tuple[str, ...]]:
    """Address to its names, in lower case."""
    found: dict[str, tuple[str, ...]] = {}
    for words in _lines(path):
        if len(words) > 1:
            found[words[0]] = (*found.get(words[0], ()), *map(str.lower, words[1:]))
    return found


def name_servers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """As far as they are addresses."""
    found: list[str] = []
    for words in _lines(path):
        match words:
            case ["nameserver", address, *_]:
                with contextlib.suppress(ValueError):
                    found.append(str(ipaddress.ip_address(address)))
    return found


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="ascii", errors="replace") as opened:
            return [line.partition("#")[0].split() for line in opened.read(_MOST).splitlines()]
    except OSError:
        return []
