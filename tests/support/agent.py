"""A real agent under test: `hullwatch up` in a process of its own, with a store of its own.

`settle()` returns when all that happened before it was called has been read and judged, so that a
test may also assert what was *not* found. Findings are asked of the store, as a user sees them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from hullwatch.daemon import Options
from hullwatch.demo.watcher import Watcher
from hullwatch.store.catalog import Catalog
from hullwatch.store.query import Reader
from support.scratch import REPOSITORY, poll

__all__ = ["Agent"]

PACK = REPOSITORY / "rules"
_DAEMON = Path(__file__).with_name("agent_main.py")
_FENCE = """
- rule: Fence
  desc: A mark in the stream of events.
  condition: evt.type in (execve, execveat) and proc.args contains "hullwatch-fence"
  output: fence %proc.args
  priority: DEBUG
"""
_LONG = 120.0


class Agent(Watcher):
    """options: those of hullwatch.daemon.Options. rules: files or folders; default: the pack.
    wrapper: a command that runs the agent's."""

    def __init__(
        self,
        store: Path,
        *,
        rules: Sequence[Path] = (PACK,),
        wrapper: Sequence[str] = (),
        **options: Any,
    ) -> None:
        fence = store.with_name(store.name + "-fence.yaml")
        fence.write_text(_FENCE)
        asked = msgspec.json.encode(Options(store=store, **options), enc_hook=str).decode()
        command = [*wrapper, sys.executable, str(_DAEMON), asked, *map(str, rules), str(fence)]
        super().__init__(store, command=command, seconds=_LONG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        ended = self.process.poll()
        self.stop()
        if kind is not None and ended is not None:  # what was waited for never came for this
            print(f"the agent had ended by then ({ended}): {self.words()}", file=sys.stderr)

    def settle(self) -> None:
        """Twice: when the second mark has come, so has all that was before the first."""
        for _ in range(2):
            before = self._fences()
            subprocess.run(["/bin/true", "hullwatch-fence"], check=True)
            try:
                poll(
                    lambda before=before: self._fences() > before,  # type: ignore[misc]
                    seconds=_LONG,
                    waiting_for="a mark in the stream",
                )
            except TimeoutError as error:
                state = (
                    f"ended: {self.process.poll()}, followed: {self._reader.is_alive()},"
                    f" status: {self.status()}"
                )
                raise TimeoutError(f"{error}; {state}; {self.words()}") from None
        poll(
            lambda: not (self.status() or {}).get("held"),
            seconds=_LONG,
            waiting_for="events that are held until their container is known",
        )

    def _fences(self) -> int:
        return sum(one["count"] for one in list(self.findings.values()) if one["rule"] == "Fence")

    def stored(self, container: str | None = None) -> list[dict[str, Any]]:
        """Findings in the store but for the marks; of one container (full id) if given."""
        with Catalog(self.store) as catalog:
            found = [
                json.loads(body) | {"count": count}
                for body, count in catalog.rows("SELECT body, count FROM findings ORDER BY time")
            ]
        return [
            one
            for one in found
            if one["rule"] != "Fence" and container in (None, one["container_full_id"])
        ]

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of the store as `hullwatch hunt` sees it."""
        with Reader(self.store) as reader:
            rows: list[dict[str, Any]] = reader.query(sql, *values).table.to_pylist()
        return rows
