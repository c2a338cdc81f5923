"""A tool whose work cannot be taken back."""

from __future__ import annotations

from pathlib import Path

NAME = "delete_report"
DESCRIPTION = "Delete a report."


def call(arguments: dict[str, str]) -> str:
    Path(arguments["path"]).unlink()
    return f"{arguments['path']} is deleted."
