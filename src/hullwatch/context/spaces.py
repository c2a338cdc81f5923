"""Which namespaces a process runs in, by its pid: what the kernel told when it began, else /proc.

/proc/PID/ns of another process needs CAP_SYS_PTRACE (namespaces(7)), which an agent has given up
by the time it is asked. So the rows of execs and of the snapshot at start are remembered; what
joins another namespace later without an exec is told as it was.
"""

from pathlib import Path

import numpy as np

from hullwatch.sensor.wire import PROC

__all__ = ["NAMESPACES", "Spaces"]

NAMESPACES = tuple(name for name in PROC.names or () if name.startswith("ns_"))
_MAX_PROCESSES = 65_536
_PID_MASK = (1 << 22) - 1


class Spaces:
    """One thread tells of starts and ends, any may ask."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, tuple[int, ...]]] = {}  # pid → process key, inodes
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def began(self, procs: np.ndarray) -> None:
        """PROC[n]: execs and the snapshot at start."""
        for pid, key, *inodes in procs[["pid", "proc", *NAMESPACES]].tolist():
            if len(self._shared) > 4096:
                self._shared.clear()
            found = tuple(inodes)
            self._known[pid] = (key, self._shared.setdefault(found, found))
        while len(self._known) > _MAX_PROCESSES:  # ends that were lost
            del self._known[next(iter(self._known))]

    def ended(self, keys: list[int]) -> None:
        """Process keys; a pid that another has by now stays."""
        for key in keys:
            if self._known.get(key & _PID_MASK, (0, ()))[0] == key:
                del self._known[key & _PID_MASK]

    def of(self, pid: int, name: str, proc: str = "/proc") -> int | None:
        """Inode of one's namespace: name is pid, mnt, net, user, uts, ipc or cgroup. None if it
        cannot be told."""
        known = self._known.get(pid)
        if known is not None:
            return known[1][NAMESPACES.index(f"ns_{name}")]
        try:
            return Path(proc, str(pid), "ns", name).stat().st_ino
        except OSError:
            return None

    def host(self, name: str, proc: str = "/proc") -> int | None:
        """The host's: process 1's, or ours where that may not be seen."""
        found = self.of(1, name, proc)
        if found is not None:
            return found
        try:
            return Path("/proc/self/ns", name).stat().st_ino
        except OSError:
            return None
