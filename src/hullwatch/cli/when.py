"""Times on the command line: `10m`, `2h`, `7d`, or ISO 8601."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import typer

__all__ = ["parse_duration", "parse_time"]

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_UNITS = {"ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9, "d": 86400e9, "w": 7 * 86400e9}


def parse_time(text: str | None, option: str | None = None) -> int | None:
    """Unix ns; typer.BadParameter says what is understood. Times without a zone are UTC."""
    if text is None:
        return None
    if found := _AGO.fullmatch(text.strip()):
        return time.time_ns() - int(float(found[1]) * _UNITS[found[2]])
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: give a time ago (30s, 10m, 2h, 7d) or ISO 8601 (2026-01-31T09:30)",
            param_hint=option,
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000) * 1000


def parse_duration(text: str, option: str | None = None) -> float:
    """Seconds of `90s`, `12h`, `7d`; typer.BadParameter says what is understood."""
    found = _AGO.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(
            f"{text!r}: give a duration such as 90s, 12h or 7d", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]] / 1e9
