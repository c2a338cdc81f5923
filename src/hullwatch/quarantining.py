"""Quarantines joined to the kernel and the cgroups: what is asked for is held to, second by second.

A container that comes back under its id, or an agent that starts anew, finds it in force again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from hullwatch.context.processes import ProcessTable
from hullwatch.context.workload import Workload
from hullwatch.decide.quarantine import How, Quarantine
from hullwatch.sensor.cut import Cut

__all__ = ["Quarantining"]

_MOST_SEEN = 500  # processes that are written down


class Containers(Protocol):
    """Resolver is one."""

    v2_root: str | None

    def of_container(self, container_id: str) -> list[Workload]: ...
    def stats(self) -> dict[str, int]: ...


class Quarantining:
    def __init__(self, cut: Cut, containers: Containers, processes: ProcessTable) -> None:
        self._cut = cut
        self._containers = containers
        self._processes = processes

    def follow(self, asked: Sequence[Quarantine]) -> list[Quarantine]:
        """Do what is asked for, all of it; those whose state changed, to be kept.

        What is not there may still be looked up: then nothing is said of it, and least of all that
        a frozen container was let go."""
        unsure = self._containers.stats()["state_pending"] > 0
        there = {one.id: self._containers.of_container(one.container_id) for one in asked}
        wanted = {
            one.id: [workload.cgroup for workload in there[one.id]]
            for one in asked
            if not one.lifted and not self._own(there[one.id])
        }
        held = self._cut.hold(cgroup for cgroups in wanted.values() for cgroup in cgroups)
        changed: list[Quarantine] = []
        frozen = {
            workload.cgroup
            for one in asked
            if not one.lifted and one.how is How.FREEZE
            for workload in there[one.id]
        }
        for one in asked:
            if unsure and not there[one.id]:
                continue
            seen = one.seen
            if not one.applied and not one.lifted and there[one.id]:
                seen = self._seen(there[one.id])  # before any of them is ended
            state = self._state(one, there[one.id], held, frozen)
            if state != one.state:
                applied = one.applied or (time.time_ns() if state == "in force" else 0)
                changed.append(
                    msgspec.structs.replace(one, state=state, applied=applied, seen=seen)
                )
        return changed

    def _state(
        self, one: Quarantine, there: list[Workload], held: frozenset[int], frozen: set[int]
    ) -> str:
        """Freeze, kill or let go; what has come of it."""
        try:
            if one.lifted:
                if one.how is How.FREEZE:
                    self._write(
                        (workload for workload in there if workload.cgroup not in frozen),
                        "cgroup.freeze",
                        "0",
                    )
                return "lifted"
            if not there:
                return "gone" if one.applied else "failed: no such container runs here now"
            if self._own(there):
                return "failed: it is the agent's own container"
            if one.how is How.FREEZE:
                self._write(there, "cgroup.freeze", "1")
            elif one.how is How.KILL:
                self._write(there, "cgroup.kill", "1")
        except OSError as error:
            return f"failed: {error.strerror}: {error.filename}"
        if not held.issuperset(workload.cgroup for workload in there):
            return "failed: too many are cut off from the network"
        return "in force"

    def _own(self, there: list[Workload]) -> bool:
        return any(os.getpid() in self._pids(workload) for workload in there)

    def _path(self, workload: Workload) -> Path:
        return Path(f"{self._containers.v2_root}{workload.cgroup_path}")

    def _pids(self, workload: Workload) -> list[int]:
        try:
            return [
                int(line)
                for line in (self._path(workload) / "cgroup.procs").read_text().split("\n")
                if line
            ]
        except (OSError, ValueError):  # gone meanwhile
            return []

    def _write(self, there: Iterable[Workload], name: str, value: str) -> None:
        for workload in there:
            path = self._path(workload) / name
            try:
                if name != "cgroup.freeze" or path.read_text().strip() != value:
                    path.write_text(value)
            except FileNotFoundError:
                if path.parent.exists():  # not the cgroup: the kernel has no such file
                    raise

    def _seen(self, there: list[Workload]) -> str:
        """The processes in it, as events tell of them."""
        cgroups = {workload.cgroup for workload in there}
        living = [image for image in self._processes.living() if image.cgroup in cgroups]
        rows = [
            {
                "pid": image.pid,
                "exe": image.exepath,
                "cmdline": " ".join(image.argv),
                "uid": image.uid,
                "started": image.started,
            }
            for image in living[:_MOST_SEEN]
        ]
        return msgspec.json.encode(rows).decode()
