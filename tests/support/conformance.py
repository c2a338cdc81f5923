"""What a run found out about each rule, for a table of conformance made later.

One line of JSON a rule, appended to the file that HULLWATCH_CONFORMANCE names; nothing is written
where that is not set. Runs of several test files may write to the same file.
"""

from __future__ import annotations

import json
import os

__all__ = ["VARIABLE", "record"]

VARIABLE = "HULLWATCH_CONFORMANCE"


def record(content: str, rule: str, **facts: bool | str | None) -> None:
    """content: falco, sigma, own. facts: loads, live, near_miss, replay (None: untried), reason."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps({"content": content, "rule": rule, **facts}) + "\n"
    # One write in append mode: lines of runs side by side do not mix.
    with open(path, "ab", buffering=0) as file:
        file.write(line.encode())
