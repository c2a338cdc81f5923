"""Policies in force, as the demo puts them there and sees what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hullwatch.decide.log import Log, LogError
from hullwatch.demo.gated import hullwatch
from hullwatch.demo.runc import Container
from hullwatch.demo.scratch import poll
from hullwatch.demo.watcher import Watcher

__all__ = ["POLICIES", "kernel_holds", "put_into_force", "stop_of"]

POLICIES = Path(__file__).with_name("policies.cedar")


def put_into_force(watcher: Watcher) -> dict[str, Any]:
    """With `hullwatch policy apply`; what the agent says of it once the kernel has it."""
    store = ("--store", str(watcher.store))
    hullwatch("policy", "apply", str(POLICIES), "--note", "hullwatch demo", *store)
    return kernel_holds(watcher, lambda said: said["policies"] and said["guarded"])


def kernel_holds(watcher: Watcher, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """`policy` of the agent's status, as soon as it fits. TimeoutError."""

    def said() -> dict[str, Any] | None:
        found = (watcher.status() or {}).get("policy")
        return found if found and fits(found) else None

    told: dict[str, Any] = poll(said, seconds=30, waiting_for="policies in the kernel")
    return told


def stop_of(store: Path, container: Container) -> dict[str, Any] | None:
    """The entry of the decision log for the container's connection that was stopped; None: none."""
    try:
        log = Log(store, write=False)
        try:
            entries = log.entries(kinds=("verdict",))
        finally:
            log.close()
    except LogError:
        return None
    for entry in reversed(entries):
        who, what = entry.principal, (str(entry.effect), entry.action)
        if who == f"Workload:{container.name}" and what == ("block", "connect"):
            found: dict[str, Any] = msgspec.to_builtins(entry)
            return found
    return None
