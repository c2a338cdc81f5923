"""What a container did, as a value: its process tree, and what each process touched.

Pure but for `tell`, which asks the store. The CLI draws it, `--json` prints it.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hullwatch.agent.secrets.paths import classify_path
from hullwatch.sensor.events import POLICY_ACTIONS, POLICY_DONE
from hullwatch.sensor.labels import bits_of, names_of

if TYPE_CHECKING:
    from hullwatch.store.query import Reader

__all__ = ["Connection", "Deed", "Files", "Process", "Stop", "Story", "flat", "tell"]

PROCESSES = 20_000
OBJECTS = 50_000
CALLS = 5_000
_WRITES = 0o3
_CREATES = 0o100
_COMM = 15  # bytes of a process's name: TASK_COMM_LEN without the NUL

FILE_CLASSES = (
    "open", "rename", "unlink", "link", "symlink", "mkdir", "rmdir", "chmod", "chown",
)  # fmt: skip
NET_CLASSES = ("connect", "send", "flow", "accept", "bind", "listen", "tls")
_LIFE_CLASSES = ("exec", "task", "fork", "exit")


class Files(msgspec.Struct):
    """Files below one directory that one process touched: how often with success, how often
    without, and which."""

    directory: str
    read: int = 0
    written: int = 0
    other: int = 0
    failed: int = 0
    names: list[str] = []


class Connection(msgspec.Struct):
    """One destination of one process. what: connect, accept, listen, ..."""

    what: str
    address: str
    name: str | None
    count: int
    failed: int
    bytes_out: int = 0
    bytes_in: int = 0


class Deed(msgspec.Struct):
    """Anything else worth a line: a secret read, a ptrace, a mount."""

    what: str
    object: str
    count: int


class Stop(msgspec.Struct):
    """What policy stopped, or would have (done: observed, see sensor/events.py). first: when, of
    `count` alike. policies, reason: as the log of decisions has them, where that was asked."""

    action: str
    done: str
    object: str
    name: str | None
    count: int
    first: datetime
    policies: list[str] = []
    reason: str = ""


class Process(msgspec.Struct):
    """One process. commands: its programs in order of exec; `children` are processes."""

    proc: int
    pid: int
    parent: int | None
    name: str
    commands: list[str] = []
    exe: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    exit_status: int | None = None
    marks: list[str] = []
    labels: list[str] = []
    """Where what it knows came from, docs/labels.md."""
    files: list[Files] = []
    connections: list[Connection] = []
    secrets: list[Deed] = []
    deeds: list[Deed] = []
    stopped: list[Stop] = []
    setup: list[Deed] = []
    """What the container's runtime did in this process before the container's first program."""
    findings: list[dict[str, Any]] = []
    calls: list[str] = []
    """Tool and model calls that it acted for, in words; `~` where it may have been another's."""
    calls_by_time: list[str] = []
    """Calls of OTLP that ran in its time: candidates, not from the kernel. See docs/otlp.md."""
    children: list[Process] = []
    same: int = 1
    """So many processes alike were folded into this one."""

    @property
    def quiet(self) -> bool:
        """Nothing to tell but that it ran."""
        return not (
            self.files or self.connections or self.secrets or self.deeds or self.findings
            or self.stopped or self.calls or self.calls_by_time or self.children
        )  # fmt: skip


class Story(msgspec.Struct):
    """workload: its metadata. counted: events that were counted, not stored. cut: what was left
    out because there was too much of it."""

    workload: dict[str, Any]
    processes: list[Process]
    findings: list[dict[str, Any]]
    counted: list[dict[str, Any]]
    losses: int
    cut: list[str]


def tell(
    reader: Reader,
    where: str,
    since: int | None = None,
    until: int | None = None,
    call: int | None = None,
) -> Story:
    """The story of the rows that `where` (SQL over events) selects; QueryError.

    since, until (unix ns): of findings, counts and losses those that reach into that time.
    call: the rows are one call's, not a container's from its start.
    """
    cut: list[str] = []

    def ask(sql: str, limit: int, what: str) -> list[dict[str, Any]]:
        answer = reader.query(sql, limit=limit)
        if answer.truncated:
            cut.append(f"only the first {limit} {what} are told")
        rows: list[dict[str, Any]] = answer.table.to_pylist()
        return rows

    lives = ask(
        "SELECT boot, proc, parent, pid, name, exe, cmdline, class, time, flags, num,"
        f" proc_mark_names, labels FROM events WHERE {where} AND class IN {_LIFE_CLASSES}"
        " ORDER BY boot, mono",
        PROCESSES,
        "process events",
    )
    done = ask(
        "WITH begun AS (SELECT boot, proc, min(mono) AS exec FROM events"
        f" WHERE {where} AND class IN ('exec', 'task') GROUP BY boot, proc)"
        " SELECT boot, proc, any_value(parent) parent, any_value(pid) pid, any_value(name) name,"
        " any_value(exe) exe, class, object, dest_name, count(*) n,"
        f" count(*) FILTER (ret < 0 AND ret != -{errno.EINPROGRESS}) failed,"
        f" count(*) FILTER (ret = -{errno.ENOENT}) absent,"
        f" count(*) FILTER (flags & {_WRITES} != 0 OR flags & {_CREATES} != 0) written,"
        " sum(CASE WHEN class IN ('flow', 'send') THEN num ELSE 0 END)::BIGINT sent,"
        " sum(CASE WHEN class = 'flow' THEN num2 ELSE 0 END)::BIGINT received,"
        " mono < exec AS early, min(mono) mono, min(time) AS first,"
        " CASE WHEN class = 'policy' THEN flags END AS said, bit_or(labels) AS labels"
        f" FROM events LEFT JOIN begun USING (boot, proc) WHERE {where}"
        f" AND class NOT IN {_LIFE_CLASSES} GROUP BY boot, proc, class, object, dest_name, early,"
        " said ORDER BY boot, mono",
        OBJECTS,
        "distinct objects",
    )
    span = _Span(since, until)
    found = _findings(reader, span, call)
    processes = _processes(lives, done)
    # A server whose exec lies before the call is not its container's runtime.
    entering = _entering(processes, done) if call is None else {}
    _place_deeds(processes, done, entering)
    loose = _place_findings(processes, found)
    if call is None:
        _place_calls(processes, ask(_CALLS.format(where=where), CALLS, "calls of processes"))
    return Story(
        _workload(reader),
        _forest(processes, entering),
        loose,
        _counted(reader, span),
        _losses(reader, span),
        cut,
    )


def flat(story: Story) -> dict[str, Any]:
    """The story as plain values. Processes are a list, parents before their children, each with
    the key of the one above it as drawn (`above`): nesting would be as deep as workloads like."""
    rows: list[dict[str, Any]] = []
    stack: list[tuple[Process, int | None]] = [(one, None) for one in reversed(story.processes)]
    while stack:
        process, above = stack.pop()
        stack.extend((child, process.proc) for child in reversed(process.children))
        alone = msgspec.structs.replace(process, children=[])
        row = msgspec.to_builtins(alone)
        del row["children"]
        rows.append(row | {"above": above})
    value: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(story, processes=[]))
    return value | {"processes": rows}


Key = tuple[int, int]


def _processes(lives: list[dict[str, Any]], done: list[dict[str, Any]]) -> dict[Key, Process]:
    found: dict[Key, Process] = {}

    def get(row: dict[str, Any]) -> Process:
        key = (row["boot"], row["proc"])
        if key not in found:
            found[key] = Process(
                row["proc"], row["pid"], row["parent"], row["name"] or "?", exe=row["exe"]
            )
        return found[key]

    for row in lives:
        process = get(row)
        _label(process, row)
        if row["class"] in ("exec", "task"):
            process.name, process.exe = row["name"] or process.name, row["exe"]
            process.commands = [*process.commands, row["cmdline"] or row["name"] or "?"]
            process.started = process.started or row["time"]
            process.marks = sorted({*process.marks, *(row["proc_mark_names"] or ())})
        elif row["class"] == "exit":
            process.ended, process.exit_status = row["time"], row["flags"]
        elif row["class"] == "fork" and row["num"]:
            child = (row["boot"], row["num"])
            if child not in found:
                found[child] = Process(
                    row["num"], row["num"] & 0x3FFFFF, row["proc"], row["name"] or "?",
                    exe=row["exe"], started=row["time"],
                )  # fmt: skip
    for row in done:
        _label(get(row), row)
    return found


def _label(process: Process, row: dict[str, Any]) -> None:
    if row["labels"]:
        process.labels = list(names_of(bits_of(process.labels) | row["labels"]))


def _entering(processes: dict[Key, Process], done: list[dict[str, Any]]) -> dict[Key, bool]:
    """Processes that came from outside the container, and whether they never ran a program of it.

    Until its first exec here such a process runs its runtime's program (runc's init). That is told
    by descent, and not by a name that a workload could take.
    """
    outside: set[Key] = set()
    # Parents stand before their children: a fork's event is earlier than what the child does.
    for (boot, proc), process in processes.items():
        above = (boot, process.parent or 0)
        parent = processes.get(above)
        if parent is None or parent is process or (above in outside and not parent.commands):
            outside.add((boot, proc))
    early = [row for row in done if row["early"] and (row["boot"], row["proc"]) in outside]
    # A process whose exec lies before the window has none either: only the program tells them.
    programs = {row["exe"] for row in early}
    return {
        key: not processes[key].commands
        for key in outside
        if processes[key].commands or processes[key].exe in programs
    }


def _place_deeds(
    processes: dict[Key, Process], done: list[dict[str, Any]], entering: dict[Key, bool]
) -> None:
    touched: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    missed: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in done:
        key, object_ = (row["boot"], row["proc"]), row["object"] or "?"
        process = processes[key]
        if entering.get(key, False) or (row["early"] and key in entering):
            process.setup = [*process.setup, Deed(row["class"], object_, row["n"])]
        elif row["class"] in FILE_CLASSES:
            # A label sticks to the process, so only the path says which file was the secret.
            if classify_path(object_) is None or row["n"] == row["failed"]:
                touched[key].append(row)
            else:
                process.secrets = [*process.secrets, Deed(row["class"], object_, row["n"])]
        elif row["class"] in NET_CLASSES:
            process.connections = _joined(process.connections, row, object_)
        elif row["class"] == "policy":
            process.stopped = [*process.stopped, _stop(row, object_)]
        elif row["class"] == "exec_failed" and row["absent"] == row["n"]:
            missed[key].append(row)
        elif row["class"] not in ("mmap", "socket", "dup", "mprotect", "call"):
            process.deeds = [*process.deeds, Deed(row["class"], object_, row["n"])]
    for key, rows in touched.items():
        processes[key].files = _grouped(rows)
    for key, rows in missed.items():
        processes[key].deeds = [*processes[key].deeds, *_searched(processes[key], rows)]


def _stop(row: dict[str, Any], object_: str) -> Stop:
    action, done = row["said"] & 0xFFFF, row["said"] >> 16
    return Stop(
        POLICY_ACTIONS.get(action, "?"), POLICY_DONE.get(done, "?"), object_, row["dest_name"],
        row["n"], row["first"],
    )  # fmt: skip


def _searched(process: Process, rows: list[dict[str, Any]]) -> list[Deed]:
    """Programs that were looked for and were not there. A search along PATH is one deed, of the
    bare name; one that ended in the program is none."""
    programs = {command.split(" ", 1)[0] for command in process.commands} | {process.exe or ""}
    ran = {program.rpartition("/")[2][:_COMM] for program in programs}
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[(row["object"] or "?").rpartition("/")[2]].append(row)
    return [
        Deed(
            "exec_failed",
            name if len(group) > 1 else group[0]["object"] or "?",
            sum(row["n"] for row in group),
        )
        for name, group in groups.items()
        if name[:_COMM] not in ran
    ]


def _joined(held: list[Connection], row: dict[str, Any], address: str) -> list[Connection]:
    """A flow is the end of a connection that has its line: its bytes belong there."""
    what = "connect" if row["class"] in ("flow", "send") else row["class"]
    for one in held:
        if one.address == address and (one.what == what or row["class"] == "flow"):
            one.bytes_out += row["sent"]
            one.bytes_in += row["received"]
            one.name = one.name or row["dest_name"]
            one.failed += row["failed"]
            if row["class"] != "flow":
                one.count += row["n"]
            return held
    made = Connection(
        what, address, row["dest_name"], row["n"], row["failed"], row["sent"], row["received"]
    )
    return [*held, made]


def _grouped(rows: list[dict[str, Any]]) -> list[Files]:
    """By directory; by its first two parts where there are too many directories."""
    for depth in (64, 3, 2, 1):
        groups: dict[str, Files] = {}
        for row in rows:
            path = row["object"] or "?"
            parts = path.split("/")
            directory = "/".join(parts[: min(len(parts) - 1, depth + 1)]) or "/"
            group = groups.setdefault(directory, Files(directory))
            failed, count = row["failed"], row["n"]
            group.failed += failed
            if row["class"] != "open":
                group.other += count - failed
            elif row["written"]:
                group.written += count - failed
            else:
                group.read += count - failed
            if path not in group.names:
                group.names = [*group.names, path]
        if len(groups) <= 8:
            break
    return list(groups.values())


def _place_findings(
    processes: dict[Key, Process], found: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Attach findings to their processes; returns those that have none here."""
    loose: list[dict[str, Any]] = []
    by_proc = {proc: process for (_, proc), process in processes.items()}
    by_pid: dict[int, list[Process]] = defaultdict(list)
    for one in processes.values():
        by_pid[one.pid].append(one)
    for finding in found:
        process = by_proc.get(finding.get("proc") or -1)
        if process is None:
            process = _at(by_pid.get(finding.get("pid") or -1, []), finding["time"])
        if process is None:
            loose.append(finding)
        else:
            process.findings = [*process.findings, finding]
    return loose


_CALLS = """
SELECT e.boot, e.proc, c.server, c.name, c.id, e.by_time, bool_and(e.ambiguous) AS shared
FROM (
    SELECT boot, proc, call, ambiguous, false AS by_time FROM call_events
    WHERE {where} AND class != 'call'
    UNION ALL SELECT boot, proc, call, ambiguous, true FROM calls_by_time
    WHERE {where} AND class NOT IN ('call', 'signal', 'exit')
) e JOIN calls c ON c.id = e.call
GROUP BY ALL ORDER BY min(c.begun)
"""


def _place_calls(processes: dict[Key, Process], rows: list[dict[str, Any]]) -> None:
    for row in rows:
        process = processes.get((row["boot"], row["proc"]))
        if process is not None:
            server = f"{row['server']}: " if row["server"] else ""
            text = f"{'~' if row['shared'] else ''}{server}{row['name']} ({row['id']:016x})"
            if row["by_time"]:
                process.calls_by_time = [*process.calls_by_time, text]
            else:
                process.calls = [*process.calls, text]


def _at(same_pid: list[Process], moment: datetime) -> Process | None:
    """The one of several processes of one pid that lived at that time."""
    for process in same_pid:
        begun = process.started is None or process.started <= moment
        if begun and (process.ended is None or process.ended >= moment):
            return process
    return same_pid[-1] if len(same_pid) == 1 else None


def _forest(processes: dict[Key, Process], entering: dict[Key, bool]) -> list[Process]:
    """Parents hold their children; forks that did nothing are left out, twins are folded, and the
    runtime's own processes give way to what they started."""
    roots: list[Process] = []
    for (boot, proc), process in processes.items():
        above = (boot, process.parent or 0)
        parent = processes.get(above)
        if entering.get((boot, proc), False):
            continue
        if parent is not None and entering.get(above, False):
            process.setup = [*parent.setup, *process.setup]
            parent = None
        if parent is None or parent.proc == proc:
            roots.append(process)
        else:
            parent.children = [*parent.children, process]
    return _pruned(roots)


def _pruned(siblings: list[Process]) -> list[Process]:
    # Without recursion: a chain of forks may be longer than Python's stack.
    order, stack = [], list(siblings)
    while stack:
        process = stack.pop()
        order.append(process)
        stack.extend(process.children)
    for process in reversed(order):
        process.children = _folded(process.children)
    return _folded(siblings)


def _folded(siblings: list[Process]) -> list[Process]:
    kept: dict[Any, Process] = {}
    for process in siblings:
        if not process.commands and process.quiet:
            continue
        key: Any = id(process)
        if process.quiet:
            told = (process.commands, process.marks, process.labels)
            key = (process.exit_status, *map(tuple, told))
        if key in kept:
            kept[key].same += process.same
        else:
            kept[key] = process
    return list(kept.values())


def _ids(reader: Reader) -> tuple[list[str], list[int]]:
    scope = reader.scope
    if scope is None:
        return [], []
    return sorted(scope.containers), sorted(cgroup for _, cgroup in scope.cgroups)


class _Span(NamedTuple):
    """A time, as a filter on rows that have a first and a last moment."""

    since: int | None
    until: int | None

    def sql(self, first: str) -> str:
        text = ""
        if self.since is not None:
            text += f" AND last >= make_timestamptz({self.since // 1000}::BIGINT)"
        if self.until is not None:
            text += f" AND {first} <= make_timestamptz({self.until // 1000}::BIGINT)"
        return text


_OF_CONTAINER = "(list_contains($1, container_id) OR list_contains($2::UBIGINT[], cgroup))"


_OF_CALL = "id IN (SELECT finding FROM call_findings WHERE call = $1::UBIGINT)"


def _findings(reader: Reader, span: _Span, call: int | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reader.query(
        "SELECT id, time, last, count, rule, priority, output, pid, proc FROM findings"
        f" WHERE {_OF_CONTAINER if call is None else _OF_CALL}"
        f" AND suppressed_by IS NULL{span.sql('time')} ORDER BY time",
        *(_ids(reader) if call is None else (call,)),
        limit=1000,
    ).table.to_pylist()
    return rows


def _workload(reader: Reader) -> dict[str, Any]:
    containers, cgroups = _ids(reader)
    rows = reader.query(
        "SELECT container_id, name, image, image_digest, pod, namespace, role, runtime, state,"
        " privileged FROM workloads WHERE list_contains($1, container_id)"
        " OR list_contains($2::UBIGINT[], cgroup) ORDER BY state = 'resolved' DESC, updated DESC",
        containers,
        cgroups,
        limit=1,
    ).table.to_pylist()
    return rows[0] if rows else {}


def _counted(reader: Reader, span: _Span) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reader.query(
        "SELECT class, object, sum(count)::BIGINT AS count FROM counts"
        f" WHERE list_contains($1::UBIGINT[], cgroup){span.sql('first')}"
        " GROUP BY ALL ORDER BY count DESC",
        _ids(reader)[1],
        limit=10_000,
    ).table.to_pylist()
    return rows


def _losses(reader: Reader, span: _Span) -> int:
    rows = reader.query(
        "SELECT coalesce(sum(count), 0)::BIGINT AS n FROM losses"
        f" WHERE list_contains($1::UBIGINT[], cgroup){span.sql('first')}",
        _ids(reader)[1],
    ).table.to_pylist()
    return int(rows[0]["n"])
