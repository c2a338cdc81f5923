"""Probes on the TLS functions of the files that processes use, put there as these are seen.

A probe is on a file: the first process that maps a library has it hooked for all others, on the
host and in every container that has the same file.

It takes CAP_SYS_ADMIN (a probe by perf_event_open(2), /proc/PID/map_files), CAP_SYS_PTRACE (what
processes of other users map) and CAP_DAC_READ_SEARCH.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from hullwatch.sensor.tlsfiles import FileKey, Found, TlsFiles

__all__ = ["Answer", "Probe", "Program", "Reading", "Uprobes", "returns_are_safe"]

MAX_FILES, MAX_PROBES = 512, 4096  # a probe costs two file descriptors


def returns_are_safe(release: str, machine: str) -> bool:
    """Do return probes spare programs under seccomp?

    In Linux 6.11 they became a system call of x86-64 (190fec72df4a), which ends programs whose
    filter refuses it; 6.14 and 6.12.14 let it pass every filter.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    version = tuple(int(number or 0) for number in found.groups()) if found else (0,)
    broken = (6, 11) <= version < (6, 14) and not (6, 12, 14) <= version < (6, 13)
    return machine != "x86_64" or not broken


class Probe(Protocol):
    def close(self) -> None: ...


class Program(Protocol):
    """As libbpf.Program, or prober.py's."""

    def attach_uprobe(self, path: str, offset: int, at_return: bool) -> Probe:
        """OSError."""
        ...


class Reading(NamedTuple):
    """What can be read of a process's TLS. opaque: what cannot, even where something is tapped."""

    state: Literal["tapped", "opaque", "none"] = "none"
    kinds: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()


class Answer(NamedTuple):
    """What was found of a process."""

    pid: int
    reading: Reading


@dataclass
class _File:
    links: list[Probe]
    failed: str = ""
    processes: set[int] = field(default_factory=set)


class Uprobes:
    """`look` at a process to have the files it uses hooked. For one thread, and takes as long as
    reading the files does (prober.py has a process for it). `close` takes all probes away."""

    def __init__(
        self,
        programs: Mapping[str, Program],
        *,
        files: int = MAX_FILES,
        probes: int = MAX_PROBES,
    ) -> None:
        self._programs = programs
        self._max_files, self._max_probes = files, probes
        system = os.uname()
        self._returns = returns_are_safe(system.release, system.machine)
        self._tls = TlsFiles()
        self._files: OrderedDict[FileKey, _File] = OrderedDict()  # longest unseen first
        self._failures: dict[str, int] = {}

    def look(self, pid: int) -> Reading:
        self.ended(pid)  # what it used before, it may not use any more
        kinds: set[str] = set()
        opaque: list[str] = []
        for key, found, path in self._tls.of(pid):
            if found.opaque:
                opaque.append(found.opaque)
            if not found.hooks:
                continue
            failed = self._attached(key, found, path, pid)
            if failed:
                opaque.append(f"{', '.join(found.kinds)}: {failed}")
            else:
                kinds.update(found.kinds)
        state: Literal["tapped", "opaque", "none"]
        state = "tapped" if kinds else "opaque" if opaque else "none"
        return Reading(state, tuple(sorted(kinds)), tuple(dict.fromkeys(opaque)))

    def ended(self, pid: int) -> None:
        for file in self._files.values():
            file.processes.discard(pid)

    def counts(self) -> dict[str, int]:
        probes = sum(len(file.links) for file in self._files.values())
        return {"files": len(self._files), "probes": probes, "examined": self._tls.examined}

    def failures(self) -> dict[str, int]:
        """Why files are not hooked, or were not even read -> how many."""
        return self._failures | self._tls.unreadable

    def close(self) -> None:
        for file in self._files.values():
            _detach(file)
        self._files.clear()

    def _attached(self, key: FileKey, found: Found, path: str, pid: int) -> str:
        """Hook the file unless it is; why that failed, or nothing."""
        file = self._files.get(key)
        if not self._returns and any(hook.at_return for hook in found.hooks):
            return self._fail(
                "not hooked, as this kernel's return probes end programs under seccomp"
            )
        if file is None:
            if not self._room(len(found.hooks)):
                return self._fail("not hooked, as many other files are")
            file = _File([])
            try:
                for hook in found.hooks:
                    program = self._programs[hook.program]
                    file.links.append(program.attach_uprobe(path, hook.offset, hook.at_return))
            except OSError as error:
                _detach(file)
                file.failed = self._fail(f"not hooked: {os.strerror(error.errno or 0)}")
        self._files[key] = file
        self._files.move_to_end(key)
        file.processes.add(pid)
        return file.failed

    def _fail(self, why: str) -> str:
        self._failures[why] = self._failures.get(why, 0) + 1
        return why

    def _room(self, probes: int) -> bool:
        """Take probes off files that no process uses any more, as far as it takes."""
        for key in list(self._files):
            used = sum(len(file.links) for file in self._files.values())
            if len(self._files) < self._max_files and used + probes <= self._max_probes:
                return True
            file = self._files[key]
            file.processes = {pid for pid in file.processes if os.path.exists(f"/proc/{pid}")}
            if not file.processes:
                _detach(file)
                del self._files[key]
        used = sum(len(file.links) for file in self._files.values())
        return len(self._files) < self._max_files and used + probes <= self._max_probes


def _detach(file: _File) -> None:
    for link in file.links:
        link.close()
    file.links.clear()
