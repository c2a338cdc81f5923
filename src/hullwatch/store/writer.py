"""The agent's end of the store: one object that takes events, findings, losses and metadata.

Only the IPC tail and SQLite are written here; Parquet is another process's work (compact.py).
Nothing raises once it runs: what cannot be stored is counted, and said, until it can be again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from hullwatch.context.call import Call
from hullwatch.context.enriched import Enriched
from hullwatch.context.workload import Workload
from hullwatch.decide.quarantine import Quarantine
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.values import Changes, EntryRow, ProfileRow
from hullwatch.detect.suppress import Suppression
from hullwatch.sensor.batch import Loss
from hullwatch.store import baselines, calls, loaded, lock, quarantines, suppressions
from hullwatch.store.backlog import Backlog
from hullwatch.store.compactor import Compactor
from hullwatch.store.errors import StoreError
from hullwatch.store.reserve import Reserve
from hullwatch.store.retention import Limits
from hullwatch.store.schema import CLASS_NAMES
from hullwatch.store.segments import NOTHING, bounds
from hullwatch.store.state import CountRow, SequenceRow, Session, State
from hullwatch.store.tail import TailFile
from hullwatch.store.window import Window, losses_of

__all__ = ["Settings", "StoreStats", "Writer"]

SECOND = 10**9
T = TypeVar("T")


class Settings(NamedTuple):
    """flush_*: when the window is written. seal_*: when a tail is closed. Bytes, ns."""

    flush_ns: int = SECOND
    flush_rows: int = 8_192
    flush_bytes: int = 8 << 20
    seal_rows: int = 500_000
    seal_bytes: int = 64 << 20
    seal_ns: int = 3600 * SECOND
    reserve_bytes: int = 4 << 20
    headroom: int = 16 << 20
    """Free bytes wanted before writing is tried again after a full disk."""
    counts_rows: int = 1_000
    retry_ns: int = 2 * SECOND
    beat_ns: int = 10 * SECOND
    tidy_ns: int = 600 * SECOND
    limits: Limits = Limits()
    compaction: bool = True


class StoreStats(msgspec.Struct):
    """For `status`: what was stored and what not, since this session began."""

    path: str
    events: int = 0
    bytes: int = 0
    findings: int = 0
    lost: int = 0
    pending: int = 0
    findings_reserved: int = 0
    findings_waiting: int = 0
    stalled: str = ""
    segments: int = 0


class Writer:
    """Open with StoreError or StoreBusy; every other method keeps going whatever the disk does.

    Call `tick` a few times a second. Methods may be called from several threads.
    """

    def __init__(
        self,
        root: Path | str,
        session: Session = Session(),
        settings: Settings = Settings(),
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.root = Path(root)
        self.settings = settings
        self._now = now
        self._mutex = threading.RLock()
        self._described = session._replace(pid=session.pid or os.getpid())
        self._lock = lock.acquire(self.root)
        try:
            self._open()
        except (OSError, sqlite3.Error, StoreError) as error:
            os.close(self._lock)
            if isinstance(error, StoreError):
                raise
            if isinstance(error, OSError):
                raise lock.explain(self.root, error) from error
            raise StoreError(
                self.root / "state.db",
                str(error),
                "move it away to start a new one, or choose another --store",
            ) from error
        self._stats = StoreStats(str(self.root))
        self._tail: TailFile | None = None
        self._seq = 0
        self._bounds = NOTHING
        self._tail_since = 0
        self._stall = ""
        self._stalled_at = self._stall_lost = 0
        self._wall_offset: int | None = None
        moment = now()
        self._flushed = self._beaten = self._tidied = moment
        self._retry_at = 0
        self._evidence = False
        self._compactor = Compactor(self.root, settings.limits) if settings.compaction else None
        self._restore()
        self._tidy()

    def _open(self) -> None:
        for name in ("tail", "segments"):
            (self.root / name).mkdir(exist_ok=True)
        self._state = State(self.root / "state.db")
        self._session = self._state.begin_session(self._described)
        # Of SQLite, at the last look: it moves when another process writes.
        self._baseline_version = self._suppression_version = -1
        self._in_reserve: set[str] = set()
        self._db_inode = (self.root / "state.db").stat().st_ino
        self._backlog = Backlog()
        if (mode := stat.S_IMODE(self.root.stat().st_mode)) & 0o022:
            self._backlog.notice(
                "open", f"others may write in {self.root} (mode {mode:04o}): chmod 700 {self.root}"
            )
        self._reserve: Reserve | None = None
        try:
            self._reserve = Reserve(self.root / "reserve", self.settings.reserve_bytes)
        except OSError as error:
            self._backlog.notice(
                "reserve", f"no reserve for findings could be made: {error.strerror}"
            )
        self.boot = self._state.boot
        self._window = Window(self.boot)

    @property
    def session(self) -> int:
        return self._session

    # --- what the daemon hands in ---------------------------------------------------------

    def write(self, enriched: Enriched) -> None:
        """Take a batch's rows; call while its tables live."""
        with self._mutex:
            self._watch_clock(enriched.batch.wall_offset)
            if self._stall:
                self._lose(losses_of(enriched.batch.events))
                return
            self._window.add(enriched)
            full = self._window.rows >= self.settings.flush_rows
            if full or self._window.nbytes >= self.settings.flush_bytes:
                self.flush()

    def add_findings(self, findings: Iterable[Any]) -> None:
        """Durable when it returns, or held in the reserve. A known id is folded into its row."""
        with self._mutex:
            bodies = [msgspec.to_builtins(finding) for finding in findings]
            if not bodies:
                return
            self._stats.findings += len(bodies)
            if self._backlog.workloads:  # a finding's container is known as soon as the finding is
                self._put_backlog()
            self._save(bodies)
            self._evidence = True

    def show_evidence(self) -> None:
        """Write the events that findings were made of, if not just done: somebody may look soon.
        Apart from `add_findings`, so that nobody waits for it to be told of the finding."""
        with self._mutex:
            if self._evidence and self._now() - self._flushed > self.settings.flush_ns // 10:
                self.flush()

    def add_losses(self, losses: Iterable[Loss]) -> None:
        with self._mutex:
            for loss in losses:
                name = CLASS_NAMES[loss.cls] if 0 < loss.cls < len(CLASS_NAMES) else "any"
                self._backlog.lose(loss.stage, name, loss.cgroup, loss.count)

    def add_counts(self, counts: Iterable[CountRow]) -> None:
        """Events that were counted in the kernel or by the governor instead of stored."""
        with self._mutex:
            self._backlog.count(counts)

    def put_workloads(self, workloads: Iterable[Workload]) -> None:
        """New or better metadata; reaches rows already stored, at query time."""
        with self._mutex:
            for workload in workloads:
                self._backlog.workload(workload)

    def put_calls(self, changed: list[Call], sets: dict[int, tuple[int, ...]]) -> bool:
        """Whether they were written."""
        if not changed and not sets:
            return True

        def put() -> None:
            with self._state.transaction(durable=False) as link:
                calls.put(link, self._state.boot, changed, sets)

        with self._mutex:
            return self._try(put)

    def put_sequences(self, rows: list[SequenceRow]) -> bool:
        """Whether they were written; a kill loses none of them then."""
        with self._mutex:
            return not rows or self._try(lambda: self._state.put_sequences(rows))

    def sequences(self) -> list[SequenceRow]:
        """What was kept of sequences under way, as of the start."""
        found: list[SequenceRow] = []
        with self._mutex:
            self._try(lambda: found.extend(self._state.sequences()))
        return found

    def add_baselines(self, changes: Changes) -> bool:
        """What was learnt; False: not written, so keep it. A kill loses nothing that was."""
        if not changes:
            return True
        with self._mutex:

            def put() -> None:
                with self._state.transaction(durable=False) as link:
                    baselines.put(link, changes)

            return self._try(put)

    def keep_baselines(self, learnt: Baselines, counts: bool) -> list[ProfileRow]:
        """Write what was learnt since, take in what people decided; once a second.

        counts: write also how often known things came. Returns the images decided about.
        """
        with self._mutex:
            decided = self._baseline_news(learnt)
            for row in decided:
                if not row.first:  # forgotten: what is not written yet goes as well
                    learnt.load(row, ())
            changes = learnt.changes(counts)
            if not self.add_baselines(changes):
                self._baseline_version = -1  # the disk is full, say: all of it again the next time
                return []
            learnt.saved(changes)
            return [row for row in decided if self._take_in(learnt, row)]

    def _take_in(self, learnt: Baselines, row: ProfileRow) -> bool:
        link = self._state.link
        if not self._try(lambda: learnt.load(row, baselines.entries_of(link, row.image))):
            self._baseline_version = -1  # look again
        return row.image in learnt.profiles

    def _baseline_news(self, learnt: Baselines) -> list[ProfileRow]:
        """Looks only where another process has written anything, or the last look failed."""
        found: list[ProfileRow] = []
        known = {image: profile.revision for image, profile in learnt.profiles.items()}

        def look() -> None:
            (version,) = self._state.link.execute("PRAGMA data_version").fetchone()
            if version != self._baseline_version:
                found.extend(baselines.news(self._state.link, known))
                self._baseline_version = version

        self._try(look)
        return found

    def baseline_rows(self) -> list[tuple[ProfileRow, list[EntryRow]]]:
        """All that is stored of baselines, for the start."""
        found: list[tuple[ProfileRow, list[EntryRow]]] = []
        with self._mutex:
            link = self._state.link
            self._try(
                lambda: found.extend(
                    (row, baselines.entries_of(link, row.image)) for row in baselines.profiles(link)
                )
            )
        return found

    def notice(self, kind: str, text: str) -> None:
        """Something an operator should read in `status`."""
        with self._mutex:
            self._backlog.notice(kind, text)

    def describe(self, session: Session) -> None:
        """Tier, mode or rules have changed."""
        with self._mutex:
            self._described = session._replace(pid=session.pid or os.getpid())
            self._try(lambda: self._state.describe_session(self._session, self._described))

    def keep_rules(self, digest: str, hashes: Mapping[str, str]) -> None:
        """digest: as in the Session; rule to hash of what it means."""
        with self._mutex:
            self._try(lambda: self._state.keep_rules(digest, hashes))

    def runs(self, rules: Iterable[loaded.LoadedRule]) -> None:
        """These rules are run from now on."""
        with self._mutex:
            self._try(lambda: loaded.put(self._state, rules, time.time_ns()))

    # --- what the daemon asks -------------------------------------------------------------

    def open_findings(self, since: int, limit: int) -> list[bytes]:
        """Findings of earlier runs that were met since then, oldest first, as JSON."""
        with self._mutex:
            try:
                return self._state.open_findings(since, limit)
            except sqlite3.Error:
                return []

    def suppressions(self) -> list[Suppression] | None:
        """Those that are in force, if another process wrote since the last call; else None."""
        with self._mutex:
            try:
                (version,) = self._state.link.execute("PRAGMA data_version").fetchone()
                if version == self._suppression_version:
                    return None
                found = suppressions.read(self._state.link, time.time_ns())
            except sqlite3.Error:
                return None
            self._suppression_version = version
            return [one for one in found if not one.removed]

    def quarantines(self) -> list[Quarantine]:
        """Those for which something is to be done; sqlite3.Error if they cannot be read."""
        with self._mutex:
            return quarantines.read(self._state.link, only_open=True)

    def quarantine(self, one: Quarantine) -> None:
        """At a policy's word: once as long as that holds. sqlite3.Error."""
        with self._mutex:
            for other in quarantines.read(self._state.link, only_open=True):
                same = other.container_id == one.container_id and other.owner == one.owner
                if same and not other.lifted:
                    return
            quarantines.add(self._state, one)

    def keep_quarantine(self, one: Quarantine) -> None:
        """What was done about one; sqlite3.Error if it could not be written."""
        with self._mutex:
            quarantines.keep(self._state, one)

    # --- time -----------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due. Cheap when nothing is."""
        with self._mutex:
            moment = self._now()
            settings = self.settings
            if self._stall and moment >= self._retry_at:
                self._retry_at = moment + settings.retry_ns
                self._resume()
            if moment - self._flushed >= settings.flush_ns:
                self.flush()
                self._look()
            elif len(self._backlog.counts) >= settings.counts_rows:
                self._put_backlog()  # many small transactions: no finding waits for a large one
            if self._tail and moment - self._tail_since >= settings.seal_ns:
                self._seal()
            if moment - self._beaten >= settings.beat_ns:
                self._beaten = moment
                self._try(lambda: self._state.beat(self._session))
                if self._backlog.findings or self._reserved():
                    self._restore()
            if moment - self._tidied >= settings.tidy_ns:
                self._tidy()
            if self._compactor and (problem := self._compactor.poll()):
                self._backlog.notice("compaction", problem)

    def flush(self) -> None:
        """Write down all that waits."""
        with self._mutex:
            self._flushed = self._now()
            self._evidence = False
            self._put_backlog()
            if not self._window.rows or self._stall:
                return
            at_stake = self._window.held()
            try:
                if self._tail is None:
                    self._begin_tail()
                assert self._tail is not None
                batch = self._window.take()
                before = self._tail.size
                self._tail.append(batch)
            except (OSError, sqlite3.Error) as error:
                self._window.drop()
                self._enter_stall(error)
                for events in at_stake:
                    self._lose(losses_of(events))
                return
            self._bounds = self._bounds.merged(bounds(batch))
            self._stats.events += batch.num_rows
            self._stats.bytes += self._tail.size - before
            if (
                self._tail.rows >= self.settings.seal_rows
                or self._tail.size >= self.settings.seal_bytes
            ):
                self._seal()

    def close(self, how: str = "stopped") -> None:
        with self._mutex:
            self.flush()
            if self._tail:
                self._seal(spawn=False)
            self._put_backlog()
            if self._compactor:
                self._compactor.close()
            self._try(lambda: self._state.beat(self._session, how))
            with contextlib.suppress(sqlite3.Error):
                self._state.close()
            if self._reserve is not None:
                self._reserve.close()
            os.close(self._lock)

    def stats(self) -> StoreStats:
        with self._mutex:
            stats = self._stats
            stats.pending = self._window.rows
            stats.stalled = self._stall
            stats.findings_reserved = self._reserved()
            stats.findings_waiting = len(self._backlog.findings)
            return msgspec.structs.replace(stats)

    # --- tails ----------------------------------------------------------------------------

    def _begin_tail(self) -> None:
        with self._state.transaction() as link:
            made = link.execute(
                "INSERT INTO segments (kind, state, session, boot) VALUES ('tail','open',?,?)",
                (self._session, self.boot),
            )
            seq = int(made.lastrowid or 0)
            name = f"tail/{seq:010d}.arrows"
            link.execute("UPDATE segments SET file=? WHERE seq=?", (name, seq))
            path = self.root / name
            path.parent.mkdir(exist_ok=True)
            # A new row's file is nobody's yet: what lies there is left of one that failed here.
            path.unlink(missing_ok=True)
            tail = TailFile(path)  # inside: a row without a file must not stay
        self._tail, self._seq = tail, seq
        self._tail_since, self._bounds = self._now(), NOTHING
        self._stats.segments += 1

    def _seal(self, spawn: bool = True) -> None:
        tail, self._tail = self._tail, None
        if tail is None:
            return
        tail.close()
        self._backlog.seals.append((self._seq, tail.size, self._bounds))
        self._put_backlog()
        if spawn:
            self._tidy()

    def _tidy(self) -> None:
        self._tidied = self._now()
        if self._compactor:
            self._compactor.start(self._session)

    def _look(self) -> None:
        """Somebody may have removed our files while we hold them open."""
        removed: TailFile | None = None
        if self._tail is not None and self._tail.vanished():
            removed = self._tail
            self._backlog.notice("vanished", f"{removed.path} was removed while being written")
            self._lose(Counter({(0, 0): removed.rows}))
        try:
            gone = (self.root / "state.db").stat().st_ino != self._db_inode
        except OSError:
            gone = True
        if gone:
            if self._tail is not None:
                self._tail.close(sync=False)  # the new manifest does not know it
                self._tail = None
            self._reopen()
        elif removed:
            self._seal(spawn=False)

    def _reopen(self) -> None:
        waiting = self._backlog
        try:
            fd = lock.acquire(self.root)
            os.close(self._lock)
            self._lock = fd
            if self._reserve is not None:
                self._reserve.close()
            self._state.close()
            self._open()
        except (OSError, sqlite3.Error, StoreError) as error:
            self._backlog = waiting
            self._enter_stall(error)
            return
        waiting.seals.clear()
        waiting.notice("vanished", f"{self.root} was removed while in use; a new store was begun")
        self._backlog = waiting

    # --- trouble --------------------------------------------------------------------------

    def _enter_stall(self, error: Exception) -> None:
        what = getattr(error, "strerror", None) or str(error)
        if self._tail:
            self._seal(spawn=False)
        if not self._stall:
            self._stalled_at, self._stall_lost = self._now(), 0
            self._backlog.notice(
                "stalled",
                f"{self.root}: {what}; events are counted as lost until it can be written",
            )
            self._tidy()
        self._stall = what
        self._retry_at = self._now() + self.settings.retry_ns

    def _resume(self) -> None:
        try:
            free = os.statvfs(self.root)
            if free.f_bavail * free.f_frsize < self.settings.headroom:
                return
            self._begin_tail()
        except (OSError, sqlite3.Error) as error:
            self._stall = getattr(error, "strerror", None) or str(error)
            return
        self._stall = ""
        seconds = (self._now() - self._stalled_at) / SECOND
        self._backlog.notice(
            "resumed",
            f"{self.root}: can be written again after {seconds:.0f} s;"
            f" {self._stall_lost} events were lost",
        )
        self._restore()

    def _lose(self, lost: Counter[tuple[int, int]]) -> None:
        for (cls, cgroup), count in lost.items():
            name = CLASS_NAMES[cls] if 0 < cls < len(CLASS_NAMES) else "any"
            self._backlog.lose("store", name, cgroup, count)
            self._stats.lost += count
            self._stall_lost += count

    def _save(self, bodies: list[dict[str, Any]]) -> None:
        if self._backlog.findings or self._reserved():
            waiting = True  # keep their order; tick restores them
        else:
            waiting = not self._try(lambda: self._state.add_findings(bodies))
        if not waiting:
            return
        for body in bodies:
            ident, data = str(body["id"]), msgspec.json.encode(body)
            # Each once: what a loud one adds must not take the room of a new one.
            with contextlib.suppress(OSError):
                if (
                    self._reserve is not None
                    and ident not in self._in_reserve
                    and self._reserve.add(data)
                ):
                    self._in_reserve.add(ident)
                    continue
            if not self._backlog.finding(ident, data):
                self._backlog.lose("store", "finding", 0, 1)
                self._stats.lost += 1

    def _reserved(self) -> int:
        return len(self._reserve) if self._reserve is not None else 0

    def _restore(self) -> None:
        """Findings that wait in the reserve or in memory, to SQLite."""
        held = (self._reserve.held() if self._reserve is not None else []) + list(
            self._backlog.findings.values()
        )
        if held and self._try(
            lambda: self._state.add_findings([msgspec.json.decode(data) for data in held])
        ):
            self._backlog.findings.clear()
            with contextlib.suppress(OSError):
                if self._reserve is not None and self._reserved():
                    self._reserve.empty()
                    self._in_reserve.clear()
            self._backlog.notice("restored", f"{len(held)} findings moved from the reserve")

    def _put_backlog(self) -> None:
        if self._backlog:
            self._try(lambda: self._backlog.put(self._state))

    def _try(self, action: Callable[[], T]) -> bool:
        try:
            action()
        except sqlite3.Error:
            return False
        return True

    def _watch_clock(self, offset: int) -> None:
        last, self._wall_offset = self._wall_offset, offset
        if last is not None and abs(offset - last) > SECOND:
            self._backlog.notice(
                "clock",
                f"the wall clock was stepped by {(offset - last) / SECOND:+.3f} s;"
                " time columns follow it, mono does not",
            )
