"""SQLite side of the store: everything but events. One writer, any number of readers (WAL)."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hullwatch.context.workload import Workload
from hullwatch.store import clock
from hullwatch.store.errors import StoreError
from hullwatch.store.finding import COLUMNS, finding_row
from hullwatch.store.tables import MIGRATIONS, signed

__all__ = ["CountRow", "LossRow", "SequenceRow", "Session", "State", "connect"]

MINUTE, HOUR = 60 * 10**9, 3600 * 10**9
COUNT_ROWS = 20_000
"""Distinct (cgroup, class, object) kept in an hour; the rest is folded into one object."""
OTHERS = "(others)"
RULE_SETS = 64
"""Sessions whose rules are remembered by their hashes."""


class LossRow(NamedTuple):
    stage: str
    cls: str
    cgroup: int
    count: int  # type: ignore[assignment]


class CountRow(NamedTuple):
    """`count` events of class `cls` on `object` by `cgroup` that were counted, not stored."""

    cgroup: int
    cls: str
    object: str
    count: int  # type: ignore[assignment]


class SequenceRow(NamedTuple):
    """How far a sequence has come under one key. expires: unix ns. body '': no longer at all.
    of_boot: means nothing after a reboot."""

    rule: str
    key: str
    hash: str
    of_boot: bool
    expires: int
    body: str


class Session(NamedTuple):
    """One run of the agent, as every later reader needs to know it."""

    tier: str = ""
    kernel: str = ""
    mode: str = ""
    rules: str = ""
    version: str = ""
    pid: int = 0


def connect(path: Path, write: bool = False, timeout: float = 2.0) -> sqlite3.Connection:
    """Open the database; sqlite3.Error if that cannot be done."""
    if write:
        link = sqlite3.connect(path, timeout, isolation_level=None, check_same_thread=False)
        link.execute("PRAGMA journal_mode=WAL")
        # FULL: a finding that was accepted survives power loss, not only a kill.
        link.execute("PRAGMA synchronous=FULL")
        link.execute("PRAGMA journal_size_limit=4194304")
        link.execute("PRAGMA cache_size=-1024")
        return link
    name = path.resolve().as_uri()
    try:
        link = sqlite3.connect(f"{name}?mode=ro", timeout, isolation_level=None, uri=True)
        link.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # WAL needs a -shm file. Where none can be made (read-only media) nobody writes either.
        link = sqlite3.connect(f"{name}?immutable=1", timeout, isolation_level=None, uri=True)
        link.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return link


def migrate(link: sqlite3.Connection, path: Path) -> None:
    version = link.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            path,
            f"made by a newer Hullwatch (schema {version}, this one knows {len(MIGRATIONS)})",
            "use that version, or another --store",
        )
    for step in range(version, len(MIGRATIONS)):
        link.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[step]} PRAGMA user_version={step + 1}; COMMIT;"
        )


class State:
    """The writing end. Methods raise sqlite3.Error; nothing is half done after one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = connect(path, write=True)
        migrate(self.link, path)
        self.boot = 0

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE ... COMMIT; joins one that is already open.

        durable: on disk when it returns. Without, a kill loses nothing either, but a loss of power
        may lose it, up to the next durable one; and nobody waits for the disk.
        """
        link = self.link
        if link.in_transaction:
            yield link
            return
        link.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        link.execute("BEGIN IMMEDIATE")
        try:
            yield link
            link.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                link.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self.link.close()

    def begin_session(self, session: Session) -> int:
        """Note the boot and this run; runs that never ended are closed as killed."""
        reading = clock.now()
        with self.transaction() as link:
            link.execute(
                "INSERT OR IGNORE INTO boots (boot_id, first_seen) VALUES (?, ?)",
                (reading.boot, reading.wall),
            )
            (self.boot,) = link.execute(
                "SELECT boot FROM boots WHERE boot_id = ?", (reading.boot,)
            ).fetchone()
            for number, seen in link.execute(
                "SELECT session, seen FROM sessions WHERE ended IS NULL"
            ).fetchall():
                link.execute(
                    "UPDATE sessions SET ended = seen, how = 'killed' WHERE session = ?",
                    (number,),
                )
                self.notice(
                    "killed", f"session {number} ended without a goodbye, last seen {_iso(seen)}"
                )
            made = link.execute(
                "INSERT INTO sessions (boot, pid, started, mono, tier, kernel, mode, rules,"
                " version, seen) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    self.boot,
                    session.pid,
                    reading.wall,
                    reading.boottime,
                    session.tier,
                    session.kernel,
                    session.mode,
                    session.rules,
                    session.version,
                    reading.wall,
                ),
            )
        return int(made.lastrowid or 0)

    def describe_session(self, number: int, session: Session) -> None:
        """Tier, mode and rules as they turned out, or changed."""
        with self.transaction() as link:
            link.execute(
                "UPDATE sessions SET tier=?, kernel=?, mode=?, rules=?, version=?, pid=?"
                " WHERE session=?",
                (
                    session.tier,
                    session.kernel,
                    session.mode,
                    session.rules,
                    session.version,
                    session.pid,
                    number,
                ),
            )

    def keep_rules(self, digest: str, hashes: Mapping[str, str]) -> None:
        """What the rules of a set meant, by name: a later set is held against it."""
        with self.transaction(durable=False) as link:
            link.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                (f"rules:{digest}", msgspec.json.encode(dict(hashes)).decode()),
            )
            link.execute(
                "DELETE FROM meta WHERE key LIKE 'rules:%' AND substr(key, 7) NOT IN"
                " (SELECT ? UNION SELECT rules FROM (SELECT rules FROM sessions"
                " WHERE rules IS NOT NULL ORDER BY session DESC LIMIT ?))",
                (digest, RULE_SETS),
            )

    def beat(self, session: int, how: str | None = None) -> clock.Reading:
        """Move the store's clock on; with `how`, end the session."""
        with self.transaction() as link:
            reading = clock.advance(self.last_reading(), clock.now())
            link.execute(
                "INSERT OR REPLACE INTO meta VALUES ('clock', ?)",
                (msgspec.json.encode(reading).decode(),),
            )
            link.execute("UPDATE sessions SET seen=? WHERE session=?", (reading.wall, session))
            if how is not None:
                link.execute(
                    "UPDATE sessions SET ended=?, how=? WHERE session=?",
                    (reading.wall, how, session),
                )
        return reading

    def last_reading(self) -> clock.Reading | None:
        row = self.link.execute("SELECT value FROM meta WHERE key='clock'").fetchone()
        return clock.Reading(*msgspec.json.decode(row[0])) if row else None

    def notice(self, kind: str, text: str) -> None:
        with self.transaction() as link:
            link.execute(
                "INSERT INTO notices (time, mono, kind, text) VALUES (?,?,?,?)",
                (time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), kind, text),
            )

    def add_findings(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Insert, or fold into the row of the same id: counts and times only grow."""
        columns = ", ".join(COLUMNS)
        marks = ", ".join(f":{name}" for name in COLUMNS)
        with self.transaction() as link:
            link.executemany(
                f"""INSERT INTO findings ({columns}) VALUES ({marks})
                ON CONFLICT (id) DO UPDATE SET
                    first = min(first, excluded.first), last = max(last, excluded.last),
                    count = max(count, excluded.count),
                    priority = CASE WHEN excluded.severity > severity
                        THEN excluded.priority ELSE priority END,
                    severity = max(severity, excluded.severity), spans = CASE
                        WHEN excluded.count >= count THEN excluded.spans ELSE spans END, body = CASE
                        WHEN excluded.count >= count THEN excluded.body ELSE body END""",
                [finding_row(body, self.boot) for body in bodies],
            )

    def open_findings(self, since: int, limit: int) -> list[bytes]:
        """Bodies of findings met since then (unix ns), with the counts of their folding."""
        rows = self.link.execute(
            "SELECT body, first, last, count FROM findings WHERE last >= ?"
            " ORDER BY last DESC LIMIT ?",
            (since, limit),
        ).fetchall()
        return [
            msgspec.json.encode(
                msgspec.json.decode(body) | {"first": first, "last": last, "count": count}
            )
            for body, first, last, count in reversed(rows)
        ]

    def put_workloads(self, workloads: Iterable[Workload]) -> None:
        """Insert or replace what is known of a cgroup of this boot."""
        moment = time.time_ns()
        with self.transaction() as link:
            link.executemany(
                """INSERT INTO workloads VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
                ON CONFLICT (boot, cgroup) DO UPDATE SET
                    state=excluded.state, container_id=excluded.container_id,
                    runtime=excluded.runtime, name=excluded.name, image=excluded.image,
                    image_repository=excluded.image_repository, image_tag=excluded.image_tag,
                    image_digest=excluded.image_digest, pod=excluded.pod,
                    namespace=excluded.namespace, pod_uid=excluded.pod_uid, role=excluded.role,
                    role_source=excluded.role_source, privileged=excluded.privileged,
                    start_time=excluded.start_time, cgroup_path=excluded.cgroup_path,
                    updated=excluded.updated, body=excluded.body""",
                [
                    (
                        self.boot,
                        signed(w.cgroup),
                        w.state,
                        w.container_id,
                        w.runtime,
                        w.name,
                        w.image,
                        w.image_repository,
                        w.image_tag,
                        w.image_digest,
                        w.pod,
                        w.namespace,
                        w.pod_uid,
                        w.role,
                        w.role_source,
                        w.privileged,
                        w.start_ts,
                        w.cgroup_path,
                        moment,
                        moment,
                        msgspec.json.encode(w).decode(),
                    )
                    for w in workloads
                ],
            )

    def add_losses(self, losses: Iterable[LossRow]) -> None:
        moment = time.time_ns()
        with self.transaction() as link:
            link.executemany(
                """INSERT INTO losses VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET
                    count = count + excluded.count, last = excluded.last""",
                [
                    (
                        moment // MINUTE * MINUTE,
                        self.boot,
                        row.stage,
                        row.cls,
                        signed(row.cgroup),
                        row.count,
                        moment,
                        moment,
                    )
                    for row in losses
                ],
            )

    def put_sequences(self, rows: Iterable[SequenceRow]) -> None:
        """Replace the rows of these keys, and drop what has expired."""
        with self.transaction(durable=False) as link:
            for row in rows:
                key = (row.rule, row.key)
                if not row.body:
                    link.execute("DELETE FROM sequence_state WHERE rule = ? AND key = ?", key)
                    continue
                boot = self.boot if row.of_boot else None
                link.execute(
                    "INSERT OR REPLACE INTO sequence_state VALUES (?,?,?,?,?,?)",
                    (*key, row.hash, boot, row.expires, row.body),
                )
            link.execute("DELETE FROM sequence_state WHERE expires < ?", (time.time_ns(),))

    def sequences(self) -> list[SequenceRow]:
        """What still holds, in this boot."""
        found = self.link.execute(
            "SELECT rule, key, hash, boot IS NOT NULL, expires, body FROM sequence_state"
            " WHERE expires >= ? AND (boot IS NULL OR boot = ?)",
            (time.time_ns(), self.boot),
        )
        return [
            SequenceRow(rule, key, hash_, bool(of), *rest) for rule, key, hash_, of, *rest in found
        ]

    def add_counts(self, counts: Iterable[CountRow]) -> None:
        moment = time.time_ns()
        bucket = moment // HOUR * HOUR
        with self.transaction() as link:
            (held,) = link.execute(
                "SELECT count(*) FROM counts WHERE bucket = ?", (bucket,)
            ).fetchone()
            rows = list(counts)
            if held + len(rows) <= COUNT_ROWS:
                link.executemany(
                    "INSERT INTO counts VALUES (?,?,?,?,?,?,?,?)"
                    " ON CONFLICT (bucket, boot, cgroup, class, object)"
                    " DO UPDATE SET count = count + excluded.count, last = excluded.last",
                    (
                        (bucket, self.boot, signed(row.cgroup), *row[1:], moment, moment)
                        for row in rows
                    ),
                )
                return
            for row in rows:
                object_ = row.object
                for _ in range(2):
                    key = (bucket, self.boot, signed(row.cgroup), row.cls, object_)
                    if link.execute(
                        "UPDATE counts SET count = count + ?, last = ? WHERE bucket = ?"
                        " AND boot = ? AND cgroup = ? AND class = ? AND object = ?",
                        (row.count, moment, *key),
                    ).rowcount:
                        break
                    if held < COUNT_ROWS or object_ == OTHERS:
                        link.execute(
                            "INSERT INTO counts VALUES (?,?,?,?,?,?,?,?)",
                            (*key, row.count, moment, moment),
                        )
                        held += 1
                        break
                    object_ = OTHERS


def _iso(moment: int | None) -> str:
    if not moment:
        return "never"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment / 1e9))
