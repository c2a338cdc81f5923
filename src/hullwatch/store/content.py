"""Redacted content of calls: files of its own in the store, which go after a time of their own.

`content/CONTAINER.BEGIN-UNTIL.NUMBER.jsonl`, mode 0600: what was said in one span of time, an item
(agent/content.py) a line. UNTIL is when the whole file is removed, whatever an agent that comes
later keeps. Times are unix s.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hullwatch.agent.content import Item

__all__ = ["ContentFiles", "Held", "held", "purge", "read"]

FOLDER = "content"
MAX_FILES = 4096
_SPANS = 24  # files that a workload's time is cut into: an item may go that much too early
_PARTS = 16  # of all that is kept, in one file at most
_AHEAD = 60  # s that a file may have begun in the future; else the clock was set back
_NAME = re.compile(r"([\w-]{1,128})\.(\d{1,12})-(\d{1,12})\.(\d{1,6})\.jsonl", re.ASCII)
_decode = msgspec.json.Decoder(Item).decode


class _File(NamedTuple):
    path: Path
    container: str
    begin: int
    until: int
    number: int
    bytes: int


class Held(msgspec.Struct):
    """What is kept of one workload. since, until: unix s; until: when the last of it goes."""

    container: str
    workload: str
    image: str
    items: int
    bytes: int
    since: int
    until: int


class ContentFiles:
    """The writing end. keep: s; max_bytes: of all workloads; now: unix s. OSError is the caller's.

    removed: files that went by their age or for want of room.
    """

    def __init__(
        self, root: Path, keep: float, max_bytes: int, now: Callable[[], float] = time.time
    ) -> None:
        self._root, self._keep, self._most, self._now = root, int(keep), max_bytes, now
        self._span = max(1, self._keep // _SPANS)
        self.removed = 0
        self.bytes = 0

    def add(self, items: Iterable[Item]) -> None:
        """Each into its container's file of now."""
        by_container: dict[str, list[bytes]] = {}
        for item in items:
            by_container.setdefault(_plain(item.container), []).append(msgspec.json.encode(item))
        if not by_container:
            return
        folder = self._root / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for container, lines in by_container.items():
            # A line that a kill cut does not take the next one with it.
            data = b"\n" + b"\n".join(lines) + b"\n"
            path = self._path(folder, container)
            # Opened anew each time: a purge in between has removed it.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:
                file.write(data)
            self.bytes += len(data)

    def prune(self, keep: bool = True) -> None:
        """Remove what is over its time, and the oldest of what is too much. keep: this agent's own
        time holds, too, where it is shorter than that of files which are there."""
        files = sorted(_files(self._root), key=lambda one: (one.begin, one.number))
        now = self._now()
        total = sum(one.bytes for one in files)
        left = len(files)
        for one in files:
            until = min(one.until, one.begin + self._keep) if keep else one.until
            if now >= until or one.begin > now + _AHEAD or total > self._most or left > MAX_FILES:
                one.path.unlink(missing_ok=True)
                total -= one.bytes
                left -= 1
                self.removed += 1
        self.bytes = total

    def _path(self, folder: Path, container: str) -> Path:
        begin = int(self._now()) // self._span * self._span
        until, number = begin + self._keep, 0
        while True:
            path = folder / f"{container}.{begin}-{until}.{number}.jsonl"
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size >= self._most // _PARTS:
                    number += 1
                    continue
            return path


def read(root: Path, call: int, now: float | None = None) -> list[Item]:
    """What is kept of a call, in its order."""
    found = [item for one in _current(root, now) for item in _items(one) if item.call == call]
    return sorted(found, key=lambda item: item.time)


def held(root: Path, now: float | None = None) -> list[Held]:
    """By workload, the one that goes first first."""
    found: dict[str, Held] = {}
    for one in _current(root, now):
        for item in _items(one):
            row = found.get(item.container)
            if row is None:
                row = found[item.container] = Held(
                    item.container, item.workload, item.image, 0, 0, one.begin, one.until
                )
            row.items += 1
            row.bytes += len(item.text.encode("utf-8", "replace"))
            row.since, row.until = min(row.since, one.begin), max(row.until, one.until)
    return sorted(found.values(), key=lambda row: row.until)


def purge(root: Path, container: str | None = None) -> int:
    """Remove what is kept, of one container (full id) or of all. How many files that were."""
    gone = [one for one in _files(root) if container is None or one.container == _plain(container)]
    for one in gone:
        one.path.unlink(missing_ok=True)
    return len(gone)


def _current(root: Path, now: float | None) -> list[_File]:
    """What is over its time is not shown, even if no agent was there to remove it."""
    moment = time.time() if now is None else now
    return [one for one in _files(root) if moment < one.until]


def _files(root: Path) -> Iterator[_File]:
    try:
        entries = list(os.scandir(root / FOLDER))
    except FileNotFoundError:
        return
    for entry in entries:
        found = _NAME.fullmatch(entry.name)
        if found is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            size = entry.stat(follow_symlinks=False).st_size
            begin, until, number = map(int, found.groups()[1:])
            yield _File(Path(entry.path), found[1], begin, until, number, size)


def _items(one: _File) -> Iterator[Item]:
    try:
        lines = one.path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in filter(None, lines):
        with contextlib.suppress(msgspec.DecodeError):  # cut by a kill
            yield _decode(line)


def _plain(container: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", container)[:128]
