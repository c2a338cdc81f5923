"""The decision log: what was asked and decided, by whom and why, in an order that can be proved.

One SQLite file beside the store, of mode 0600, written by whoever decides; each entry carries a
keyed hash of itself and of the one before. How far the log has come stands in a second file, the
head, which may lie elsewhere: a chain alone does not show that its end was cut off. Values of
arguments are never in it, only their keyed hash.

Whoever may read the key can write a whole new log and a new head. That, and putting back an old log
together with its old head, is seen only against a head that was noted elsewhere (`verify`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from hullwatch.decide.question import Decision, Effect, Fail, Mode, Question

__all__ = ["Checked", "Entry", "Head", "Log", "LogError", "directory"]

Kind = Literal[
    "verdict", "allows", "held", "agreed", "approved", "denied", "expired", "cancelled", "lost",
    "revoked", "policies", "blocks",
]  # fmt: skip
"""allows, blocks: how often a remembered answer was given again. agreed: one of several who have to
approve. lost: whoever held it has ended. What comes after `held` names it. policies: another set is
in force from here on, or stays in force since the new one cannot be used."""
ENDS = ("approved", "denied", "expired", "cancelled", "lost")

FILE, KEY, HEAD = "decisions.db", "decisions.key", "decisions.head"
_ROOT = Path("/var/lib/hullwatch")
_FIRST = bytes(32)
_WAIT = 1.0  # s for another writer
_BATCH = 1000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind TEXT NOT NULL, held TEXT NOT NULL,
    body BLOB NOT NULL, mac BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS decisions_held ON decisions (held, kind) WHERE held != '';
CREATE INDEX IF NOT EXISTS decisions_kind ON decisions (kind, time);
CREATE TRIGGER IF NOT EXISTS decisions_kept BEFORE DELETE ON decisions
    BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS decisions_unchanged BEFORE UPDATE ON decisions
    BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;
"""


class LogError(Exception):
    """The log cannot be used: where, what, mend."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """number: from 1. time: unix ns. principal, resource: `Kind:id`. server: of a tool. question:
    its hash. arguments: the keyed hash of a call's. took: ns. tier: which enforcement point.
    identity: who asked, as the kernel says. tool_call: its id, as `hullwatch calls` has it. held:
    the id of what waited. deadline, expires: unix ns. by, why: who answered, and what was said.
    scope: how far an approval reaches, `once` unless widened. count: of `allows` and `blocks`.
    owner: which process holds it."""

    number: int = 0
    time: int = 0
    kind: Kind = "verdict"
    principal: str = ""
    action: str = ""
    resource: str = ""
    server: str = ""
    effect: Effect = Effect.ALLOW
    wanted: Effect = Effect.ALLOW
    mode: Mode = Mode.ENFORCE
    policies: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    fail: Fail = Fail.CLOSED
    reason: str = ""
    version: str = ""
    took: int = 0
    tier: str = ""
    identity: str = ""
    tool_call: str = ""
    question: str = ""
    arguments: str = ""
    held: str = ""
    deadline: int = 0
    by: str = ""
    why: str = ""
    scope: str = ""
    expires: int = 0
    count: int = 0
    owner: str = ""

    @classmethod
    def of(cls, question: Question, decision: Decision, tier: str, time: int) -> Entry:
        """A verdict, without who asked."""
        return cls(
            time=time,
            principal=f"{question.principal.kind}:{question.principal.id}",
            action=question.action,
            resource=f"{question.resource.kind}:{question.resource.id}",
            effect=decision.effect,
            wanted=decision.wanted,
            mode=Mode.ENFORCE if decision.effect is decision.wanted else Mode.OBSERVE,
            policies=decision.policies,
            failed=decision.failed,
            reason=decision.reason,
            version=decision.version,
            took=decision.took,
            tier=tier,
            question=question.hash(),
            arguments=str(question.context.get("arguments", "")),
        )


_DECODER = msgspec.json.Decoder(Entry)


class Head(NamedTuple):
    """How far a log has come: the last entry's number and its hash, written `NUMBER:HASH`."""

    number: int = 0
    mac: bytes = _FIRST

    def __str__(self) -> str:
        return f"{self.number}:{self.mac.hex()}"

    @classmethod
    def of(cls, text: str) -> Head:
        """ValueError for what is none."""
        number, _, digest = text.strip().partition(":")
        mac = bytes.fromhex(digest)
        if len(mac) != 32 or int(number) < 0:
            raise ValueError("a head is NUMBER:HASH, as `hullwatch decisions verify` says it")
        return cls(int(number), mac)


class Checked(NamedTuple):
    """entries: how many there are. bad: number of the first entry that is not as it was written, 0:
    none. what: what is wrong with it, or with the end; '' if nothing is."""

    entries: int
    bad: int
    what: str
    head: Head

    @property
    def ok(self) -> bool:
        return not self.what


def directory() -> Path:
    """root: the store; a user: below XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return _ROOT
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = str(Path.home() / ".local" / "state")
    return Path(base) / "hullwatch"


class Log:
    """folder: of the log and its key, made where they are not there. head: the head's file, by
    default in the same folder; whoever writes there and here can cut the end off unseen.

    Methods raise LogError. Several processes may write at once.
    """

    def __init__(self, folder: Path, head: Path | None = None, *, write: bool = True) -> None:
        self.path = folder / FILE
        self._head = head or folder / HEAD
        self._noted: list[Entry] = []
        self._headless = False  # what was written last is not in the head yet
        if not write and not self.path.exists():
            raise LogError(f"{folder}: no decisions here; `hullwatch mcp --policy` makes some")
        try:
            if write:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Before SQLite sees it: its journal takes the mode of the file.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            self._key = _key(folder / KEY, write)
            self._link = sqlite3.connect(
                self.path if write else f"{self.path.resolve().as_uri()}?mode=ro",
                _WAIT,
                isolation_level=None,
                uri=not write,
            )
            if write:
                self._link.execute("PRAGMA journal_mode=WAL")
                self._link.execute("PRAGMA synchronous=FULL")
                self._link.executescript(_SCHEMA)
                if not self._last().number and not self._head.exists():
                    # From the first entry on a head that is missing was taken away.
                    self._write_head(Head())
        except (OSError, sqlite3.Error) as error:
            raise LogError(f"{self.path}: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(LogError):
            self.flush()
        self._link.close()

    # --- writing --------------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """Written with the next one, or by `flush`: for what nobody waits for."""
        self._noted.append(entry)
        if len(self._noted) >= _BATCH:
            self.flush()

    @property
    def waiting(self) -> int:
        """Entries that `note` took and that are not written yet."""
        return len(self._noted)

    def flush(self) -> None:
        if self._noted or self._headless:
            self.append()

    def append(self, *entries: Entry) -> Head:
        """On the disk when it returns."""
        waiting = [*self._noted, *entries]
        with self._working() as link:
            link.execute("BEGIN IMMEDIATE")
            try:
                last = before = self._last()
                for entry in waiting:
                    numbered = msgspec.structs.replace(entry, number=last.number + 1)
                    body = msgspec.json.encode(numbered)
                    last = Head(numbered.number, self._mac(last.mac, body))
                    row = (numbered.number, entry.time, entry.kind, entry.held, body, last.mac)
                    link.execute("INSERT INTO decisions VALUES (?,?,?,?,?,?)", row)
                link.execute("COMMIT")
            except BaseException:
                link.execute("ROLLBACK")
                raise
            self._noted.clear()
            self._headless = True
            self._advance(before, last)
            self._headless = False
        return last

    def _advance(self, before: Head, last: Head) -> None:
        """Move the head on, unless it does not fit what was there: then it stays as evidence. After
        the commit, so a kill in between leaves it behind, never ahead."""
        fd = os.open(self._head, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            head = self._read_head(os.pread(fd, 512, 0))
            if head is not None and head.number < last.number and self._holds(head):
                os.pwrite(fd, self._said(last), 0)
        finally:
            os.close(fd)

    def _write_head(self, head: Head) -> None:
        self._head.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            fd = os.open(self._head, flags, 0o600)
            os.write(fd, self._said(head))
            os.close(fd)

    # --- reading --------------------------------------------------------------------------

    def story(self, principal: str) -> list[dict[str, Any]]:
        """The last of what was decided about it, for whoever has to answer."""
        self.flush()
        found = [one for one in self.entries(newest=200) if one.principal == principal]
        names = "time kind action resource effect policies reason tool_call count".split()
        return [{name: getattr(one, name) for name in names} for one in found[-10:]]

    def entries(
        self, since: int = 0, kinds: Iterable[str] = (), after: int = 0, newest: int = 0
    ) -> list[Entry]:
        """Oldest first. since: unix ns. after: a number. newest: at most so many of the end."""
        names = tuple(kinds)
        where = "number > ? AND time >= ?"
        if names:
            where += f" AND kind IN ({','.join('?' * len(names))})"
        limit = f" LIMIT {int(newest)}" if newest else ""
        with self._working() as link:
            rows = link.execute(
                f"SELECT body FROM decisions WHERE {where} ORDER BY number DESC{limit}",
                (after, since, *names),
            ).fetchall()
            return [_DECODER.decode(body) for (body,) in reversed(rows)]

    def about(self, held: str) -> list[Entry]:
        """All entries that name what was held, oldest first; those that are not as they were
        written are left out."""
        with self._working() as link:
            rows = link.execute(
                "SELECT number, body, mac FROM decisions WHERE held = ? ORDER BY number", (held,)
            ).fetchall()
            return [_DECODER.decode(body) for row in rows if (body := self._proved(*row))]

    def open(self) -> list[Entry]:
        """Entries of what is held and has not ended."""
        marks = ",".join("?" * len(ENDS))
        with self._working() as link:
            rows = link.execute(
                "SELECT body FROM decisions AS it WHERE kind = 'held' AND NOT EXISTS"
                " (SELECT 1 FROM decisions AS later WHERE later.held = it.held"
                f" AND later.held != '' AND later.kind IN ({marks})) ORDER BY number",
                ENDS,
            ).fetchall()
            return [_DECODER.decode(body) for (body,) in rows]

    def widened(self, now: int) -> list[Entry]:
        """Approvals that reach further than one action, and are in force. Each is proved by itself:
        a row that somebody else wrote grants nothing."""
        with self._working() as link:
            rows = link.execute(
                "SELECT number, body, mac FROM decisions AS it WHERE kind ="
                " 'approved' AND NOT EXISTS (SELECT 1 FROM decisions AS later WHERE"
                " later.held = it.held AND later.held != '' AND later.kind = 'revoked')"
            ).fetchall()
            found = [_DECODER.decode(body) for row in rows if (body := self._proved(*row))]
        return [entry for entry in found if entry.scope != "once" and entry.expires > now]

    def verify(self, noted: Head | None = None) -> Checked:
        """Every entry against the one before it, and the end against the head. noted: a head that
        was written down elsewhere, too."""
        with self._working() as link:
            link.execute("BEGIN")  # of one moment, while others write
            try:
                # Before the rows: what is added meanwhile is no damage.
                kept = self._kept_head()
                rows = link.execute("SELECT * FROM decisions ORDER BY number")
                last = Head()
                wanted = [head for head in (kept, noted) if head is not None and head.number]
                for number, time, kind, held, body, mac in rows:
                    what = self._wrong(last, number, (time, kind, held), body, mac)
                    for head in wanted:
                        if not what and head.number == number and head.mac != mac:
                            what = "another one than the head knows: the log was made anew"
                    if what:
                        return Checked(last.number, last.number + 1, what, last)
                    last = Head(number, mac)
            finally:
                link.execute("ROLLBACK")
        for head in wanted:
            if head.number > last.number:
                cut = f"cut off: the head knows of {head.number} entries, {last.number} are there"
                return Checked(last.number, last.number + 1, cut, last)
        if kept is None:
            return Checked(last.number, 0, f"{self._head}: the head is missing or not ours", last)
        return Checked(last.number, 0, "", last)

    def _wrong(
        self, last: Head, number: int, columns: tuple[object, ...], body: object, mac: object
    ) -> str:
        if number != last.number + 1:
            return "removed" if number > last.number + 1 else "not in order"
        if not isinstance(body, bytes) or mac != self._mac(last.mac, body):
            return "changed, or not the one that followed the entry before"
        entry = _DECODER.decode(body)
        if (number, *columns) != (entry.number, entry.time, entry.kind, entry.held):
            return "its columns do not say what it says"
        return ""

    def _proved(self, number: int, body: bytes, mac: bytes) -> bytes:
        """The body, where its hash follows from the row before it; else nothing."""
        row = self._link.execute(
            "SELECT mac FROM decisions WHERE number = ?", (number - 1,)
        ).fetchone()
        before = row[0] if row else _FIRST if number == 1 else b""
        return body if mac == self._mac(before, body) else b""

    def _holds(self, head: Head) -> bool:
        if not head.number:
            return True
        row = self._link.execute(
            "SELECT mac FROM decisions WHERE number = ?", (head.number,)
        ).fetchone()
        return bool(row and row[0] == head.mac)

    def _last(self) -> Head:
        row = self._link.execute(
            "SELECT number, mac FROM decisions ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return Head(*row) if row else Head()

    # --- hashes ---------------------------------------------------------------------------

    def _mac(self, before: bytes, body: bytes) -> bytes:
        return blake2b(before + body, key=self._key, digest_size=32).digest()

    def _said(self, head: Head) -> bytes:
        """Of one length, so that a write in place leaves nothing of the one before."""
        text = f"{head.number:020}:{head.mac.hex()}".encode()
        return text + b" " + self._mac(b"head", text).hex().encode() + b"\n"

    def _read_head(self, data: bytes) -> Head | None:
        text, _, mac = data.strip().partition(b" ")
        try:
            head = Head.of(text.decode("ascii"))
        except ValueError:
            return None
        return head if hmac.compare_digest(self._mac(b"head", text).hex().encode(), mac) else None

    def _kept_head(self) -> Head | None:
        try:
            return self._read_head(self._head.read_bytes()[:512])
        except OSError:
            return None

    @contextlib.contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._link
        except (OSError, sqlite3.Error, msgspec.MsgspecError) as error:
            raise LogError(f"{self.path}: {error}") from None


def _key(path: Path, make: bool) -> bytes:
    """32 random bytes of mode 0600, made on first use. OSError."""
    if make and not path.exists():
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(32))
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):  # whoever comes second takes the first one's
                os.link(fresh, path)
        finally:
            os.close(fd)
            fresh.unlink()
    key = path.read_bytes()
    if len(key) != 32:
        raise OSError(f"{path}: not a key of 32 bytes")
    return key
