"""The SQLite tables, as migrations: step N brings user_version N-1 to N. Append, never edit.

64-bit ids are unsigned everywhere else; SQLite's integers are signed, so they are stored in two's
complement (`signed`, `unsigned`). Times are ns: *_time and time are unix, mono is CLOCK_BOOTTIME.
"""

from __future__ import annotations

__all__ = ["MIGRATIONS", "signed", "unsigned"]


def signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;

    CREATE TABLE boots (boot INTEGER PRIMARY KEY, boot_id TEXT UNIQUE, first_seen INTEGER);

    -- One run of the agent. ended NULL: it runs, or was killed; seen: its last sign of life.
    CREATE TABLE sessions (
        session INTEGER PRIMARY KEY, boot INTEGER, pid INTEGER, started INTEGER, mono INTEGER,
        tier TEXT, kernel TEXT, mode TEXT, rules TEXT, version TEXT,
        seen INTEGER, ended INTEGER, how TEXT);

    -- kind tail|parquet; state open|sealed|live|quarantined. One row is the whole truth about a
    -- piece of history, so the switch from tail to Parquet is one UPDATE.
    CREATE TABLE segments (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, state TEXT, file TEXT,
        session INTEGER, boot INTEGER,
        rows INTEGER DEFAULT 0, bytes INTEGER DEFAULT 0, crc INTEGER,
        min_time INTEGER, max_time INTEGER, min_mono INTEGER, max_mono INTEGER,
        cgroups TEXT, lived INTEGER, reason TEXT DEFAULT '');

    CREATE TABLE findings (
        id TEXT PRIMARY KEY, time INTEGER, first INTEGER, last INTEGER, count INTEGER,
        rule TEXT, priority TEXT, severity INTEGER, output TEXT, tags TEXT,
        event TEXT, object TEXT, pid INTEGER, proc INTEGER, cgroup INTEGER,
        container_id TEXT, container TEXT, image TEXT, pod TEXT, namespace TEXT,
        span INTEGER, boot INTEGER, body TEXT);
    CREATE INDEX findings_last ON findings (last);

    CREATE TABLE workloads (
        boot INTEGER, cgroup INTEGER, state TEXT, container_id TEXT, runtime TEXT, name TEXT,
        image TEXT, image_repository TEXT, image_tag TEXT, image_digest TEXT,
        pod TEXT, namespace TEXT, pod_uid TEXT, role TEXT, role_source TEXT, privileged INTEGER,
        start_time INTEGER, cgroup_path TEXT, first_seen INTEGER, updated INTEGER, body TEXT,
        PRIMARY KEY (boot, cgroup)) WITHOUT ROWID;
    CREATE INDEX workloads_container ON workloads (container_id);

    -- bucket: the minute, in which the first of them was written down.
    CREATE TABLE losses (
        bucket INTEGER, boot INTEGER, stage TEXT, class TEXT, cgroup INTEGER, count INTEGER,
        first INTEGER, last INTEGER, PRIMARY KEY (bucket, boot, stage, class, cgroup))
        WITHOUT ROWID;

    -- Events that were counted instead of stored (detect mode). bucket: the hour.
    CREATE TABLE counts (
        bucket INTEGER, boot INTEGER, cgroup INTEGER, class TEXT, object TEXT, count INTEGER,
        first INTEGER, last INTEGER, PRIMARY KEY (bucket, boot, cgroup, class, object))
        WITHOUT ROWID;

    -- What the store itself has to report: recovery, quarantine, full disk, clock steps.
    CREATE TABLE notices (
        id INTEGER PRIMARY KEY, time INTEGER, mono INTEGER, kind TEXT, text TEXT);
    """,
    """
    -- How far each sequence of the rules has come, by key. hash: of the sequence; expires: unix ns;
    -- boot: the only one it means something in, NULL for any.
    CREATE TABLE sequence_state (
        rule TEXT, key TEXT, hash TEXT, boot INTEGER, expires INTEGER, body TEXT,
        PRIMARY KEY (rule, key)) WITHOUT ROWID;
    CREATE INDEX sequence_state_expires ON sequence_state (expires);
    """,
    """
    ALTER TABLE findings ADD COLUMN suppressed_by TEXT;

    -- Who keeps which findings quiet, why, and until when. removed: when it was taken back; kept,
    -- since findings name it.
    CREATE TABLE suppressions (
        id TEXT PRIMARY KEY, rule TEXT, condition TEXT, owner TEXT, reason TEXT,
        created INTEGER, expires INTEGER, removed INTEGER DEFAULT 0) WITHOUT ROWID;

    -- Rules as agents loaded them. since: first time with this hash; never: why it cannot match on
    -- the tier, in the mode and with the programs of the last agent; '' if it can.
    CREATE TABLE rules (
        name TEXT PRIMARY KEY, hash TEXT, since INTEGER, loaded INTEGER, never TEXT) WITHOUT ROWID;
    """,
    """
    -- What each image normally does; see store/baselines.py. accepted: [[kind, pattern], ...];
    -- containers: ids, one for each bit of an entry's containers (hexadecimal).
    CREATE TABLE baselines (
        image TEXT PRIMARY KEY, name TEXT, first INTEGER, learning INTEGER, locked INTEGER,
        accepted TEXT DEFAULT '[]', containers TEXT DEFAULT '[]', revision INTEGER DEFAULT 0,
        forgotten INTEGER) WITHOUT ROWID;
    CREATE TABLE baseline_entries (
        image TEXT, kind TEXT, name TEXT, first INTEGER, last INTEGER, count INTEGER,
        containers TEXT, PRIMARY KEY (image, kind, name)) WITHOUT ROWID;
    """,
    """
    -- Calls of tools and models. body: the attributes, JSON. ended NULL: it runs.
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY, kind TEXT, source TEXT, name TEXT, server TEXT, client TEXT,
        parent INTEGER, pid INTEGER, cgroup INTEGER, begun INTEGER, ended INTEGER, status TEXT,
        error TEXT, request_bytes INTEGER, response_bytes INTEGER, boot INTEGER, body TEXT);
    CREATE INDEX calls_begun ON calls (begun);

    -- Numbers of the calls that a finding was met in, the first few.
    ALTER TABLE findings ADD COLUMN spans TEXT;

    -- What an ambiguous span stands for: calls that ran in one process at the same time, by their
    -- numbers with blanks between.
    CREATE TABLE call_sets (span INTEGER PRIMARY KEY, calls TEXT, seen INTEGER);
    CREATE INDEX call_sets_seen ON call_sets (seen);
    """,
    """
    -- Containers set apart: decide/quarantine.py.
    CREATE TABLE quarantines (
        id TEXT PRIMARY KEY, container_id TEXT, container TEXT, how TEXT, owner TEXT, reason TEXT,
        created INTEGER, lifted INTEGER DEFAULT 0, applied INTEGER DEFAULT 0,
        state TEXT DEFAULT '', seen TEXT DEFAULT '[]') WITHOUT ROWID;
    """,
    """
    -- Since when it was done for certain; NULL: from the first on. 0: it was only tried, and policy
    -- may have stopped it.
    ALTER TABLE baseline_entries ADD COLUMN sure INTEGER;
    """,
)
