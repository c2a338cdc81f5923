"""The set that is in force, and those before it: `policy/` in the state directory.

    policy/log.jsonl           one entry for each change, each with the hash of the one before
    policy/sets/VERSION.json   the files of a set as they were, policies and cases

What is in force is what the last whole entry of the log says: a change is one append, so a reader
sees the old set or the new one. An entry that a crash cut short is none. An entry that was changed
afterwards breaks the chain of hashes, and is told.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from hullwatch.decide.cases import Case, case_files, cases_of, read_text
from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import PolicyError
from hullwatch.decide.source import read_files

__all__ = ["Applied", "AppliedError", "Entry", "Set"]


class AppliedError(Exception):
    """The log or a set that it names cannot be used, or there is none to go back to."""


class Set(msgspec.Struct, frozen=True):
    """(text, path) of policies and of their cases, as they were when they were applied."""

    policies: tuple[tuple[str, str], ...]
    cases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Set:
        """Of files and folders, with the cases beside them; PolicyError."""
        policies, problems = read_files(paths)
        if problems:
            raise PolicyError(problems)
        cases = ((read_text(path), str(path)) for path in case_files(paths))
        return cls(tuple(policies), tuple(cases))

    def engine(self) -> Engine:
        """PolicyError where a newer schema refuses what an older one took."""
        return Engine.of(self.policies)

    def tests(self) -> list[Case]:
        return [case for text, path in self.cases for case in cases_of(text, path)]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """at: unix ns. version: of the set in force from then on. chain: the hash of this entry and, by
    `before`, of all that came before it."""

    at: int
    what: Literal["apply", "rollback"]
    version: str
    by: str
    note: str = ""
    before: str = ""
    chain: str = ""

    def sealed(self) -> Entry:
        said = msgspec.json.encode(msgspec.structs.replace(self, chain=""))
        return msgspec.structs.replace(self, chain=blake2b(said, digest_size=16).hexdigest())


class Applied:
    """root: the state directory. path: of the log. AppliedError and OSError wherever it cannot be
    read or written."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "policy"
        self.path = self.folder / "log.jsonl"

    def log(self) -> list[Entry]:
        """All changes, oldest first; none before the first one."""
        return self._read()[0]

    def current(self) -> Entry | None:
        entries = self.log()
        return entries[-1] if entries else None

    def set(self, version: str) -> Set:
        """AppliedError where there is none, or its file was changed."""
        return self._usable(version)[0]

    def engine(self, version: str = "") -> Engine | None:
        """Of a set, as `set`; by default of the one in force."""
        entry = self.current() if not version else None
        version = entry.version if entry is not None else version
        return self._usable(version)[1] if version else None

    def _usable(self, version: str) -> tuple[Set, Engine]:
        path = self._path(version)
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Set)
        except FileNotFoundError:
            raise AppliedError(f"no set {version} was applied") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AppliedError(f"{path}: damaged: {error}") from None
        engine = found.engine()
        if engine.version != version:
            raise AppliedError(f"{path}: was changed after it was applied")
        return found, engine

    def apply(self, new: Set, at: int, by: str, note: str = "") -> Entry:
        """Put a set into force that was checked and tested."""
        version = new.engine().version
        with self._changing():
            entries, end = self._read()
            self._write(self._path(version), msgspec.json.encode(new))
            return self._append(entries, end, "apply", version, at, by, note)

    def rollback(self, to: str, at: int, by: str, note: str = "") -> Entry:
        """Back to the set before, or to a version (or its beginning) that was in force.

        Once more goes one further back: what was rolled back is not returned to.
        """
        with self._changing():
            entries, end = self._read()
            past = _in_force(entries)[:-1]
            fits = [version for version in past if version.startswith(to)]
            if not fits:
                said = f"no set {to} was in force before" if to else "there is no set before"
                raise AppliedError(said)
            version = fits[-1]
            self.set(version)
            return self._append(entries, end, "rollback", version, at, by, note)

    def _path(self, version: str) -> Path:
        if not version.isalnum():
            raise AppliedError(f"{version!r} is no version")
        return self.folder / "sets" / f"{version}.json"

    def _read(self) -> tuple[list[Entry], int]:
        """The entries, and where the last whole one ends."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        entries: list[Entry] = []
        before = ""
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise AppliedError(f"{self.path}:{number}: damaged") from None
            if entry.before != before or entry.sealed().chain != entry.chain:
                raise AppliedError(f"{self.path}:{number}: was changed after it was written")
            before = entry.chain
            entries.append(entry)
        return entries, len(whole)

    def _append(
        self,
        entries: list[Entry],
        end: int,
        what: Literal["apply", "rollback"],
        version: str,
        at: int,
        by: str,
        note: str,
    ) -> Entry:
        before = entries[-1].chain if entries else ""
        made = Entry(at=at, what=what, version=version, by=by, note=note, before=before).sealed()
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, end)  # what a crash cut short
            os.pwrite(file, msgspec.json.encode(made) + b"\n", end)
            os.fsync(file)
        finally:
            os.close(file)
        return made

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, of all processes."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _in_force(entries: Iterable[Entry]) -> list[str]:
    """The sets that a rollback may go through, the one in force last."""
    sets: list[str] = []
    for entry in entries:
        if entry.what == "rollback" and entry.version in sets:
            del sets[len(sets) - sets[::-1].index(entry.version) :]
        elif not sets or sets[-1] != entry.version:
            sets.append(entry.version)
    return sets
