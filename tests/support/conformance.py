"""What tests found out about single rules, one JSON object a line, for the table of all content.

The file is named by HULLWATCH_CONFORMANCE; without it nothing is written.
"""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["record"]


def record(content: str, rule: str, **facts: Any) -> None:
    """content: falco, sigma or own. facts: loads, live, near_miss, replay, reason."""
    path = os.environ.get("HULLWATCH_CONFORMANCE")
    if not path:
        return
    with open(path, "a") as file:
        file.write(json.dumps({"content": content, "rule": rule, **facts}) + "\n")
