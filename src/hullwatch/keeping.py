"""Content's side of the agent: what was said in chosen workloads, into files of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hullwatch.agent.content import Content
from hullwatch.agent.secrets.key import Key
from hullwatch.context.workload import Workload
from hullwatch.store.content import ContentFiles

__all__ = ["Keeping"]

_PRUNE = 10.0  # s


class Keeping:
    """content: None where no workload is chosen; then it only removes what is over its time.

    KeyUnusable, OSError: without its key nothing may be kept.
    """

    def __init__(
        self,
        store: Path,
        patterns: tuple[str, ...],
        limit: int,
        keep: float,
        max_bytes: int,
        lookup: Callable[[int], Workload],
        canaries: Iterable[str] = (),
    ) -> None:
        self._files = ContentFiles(store, keep, max_bytes)
        self._keep, self._most = keep, max_bytes
        self._due = 0.0
        self.content: Content | None = None
        if patterns:
            folder = store / "mcp"  # one key for all hashes of an installation
            folder.mkdir(mode=0o700, exist_ok=True)
            known = dict.fromkeys(canaries, "canary")
            self.content = Content(patterns, limit, Key.load(folder / "hash.key"), lookup, known)

    def tick(self, force: bool = False) -> None:
        """Once a second. OSError: what could not be written is counted, and lost."""
        content = self.content
        if content is not None and (items := content.take()):
            try:
                self._files.add(items)
            except OSError:
                content.kept -= len(items)
                content.drop("not written", len(items))
                raise
        if (now := time.monotonic()) >= self._due or force:
            self._due = now + min(_PRUNE, max(1.0, self._keep / 60))
            self._files.prune(keep=content is not None)

    def stats(self) -> dict[str, Any]:
        """For `status`: of which workloads content is kept, how much, and what was left out."""
        found: dict[str, Any] = {"bytes": self._files.bytes, "removed": self._files.removed}
        if self.content is not None:
            found |= {
                "workloads": list(self.content.patterns),
                "limit": self.content.limit,
                "keep": self._keep,
                "max_bytes": self._most,
                "kept": self.content.kept,
                "dropped": dict(self.content.dropped),
            }
        return found
