"""A tool that changes something: it puts a copy away."""

from __future__ import annotations

import shutil
from pathlib import Path

NAME = "archive_report"
DESCRIPTION = "Put a copy of a report into the archive."
_ARCHIVE = Path("/srv/archive")


def call(arguments: dict[str, str]) -> str:
    _ARCHIVE.mkdir(exist_ok=True)
    copy = shutil.copy(arguments["path"], _ARCHIVE)
    return f"{copy} is kept."
