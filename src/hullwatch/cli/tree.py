"""`hullwatch tree CONTAINER`: what a workload did, drawn as its process tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError
from hullwatch.cli.events import scope_sql
from hullwatch.cli.options import DEFAULT_STORE, Json, Since, Store, Until
from hullwatch.cli.ruled import with_policies
from hullwatch.cli.show import console, print_json, safe, say, short_time, size
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from rich.tree import Tree

    from hullwatch.store.story import Connection, Files, Process, Stop, Story

__all__ = ["as_tree", "draw", "register"]


def register(app: typer.Typer) -> None:
    app.command("tree")(tree)


def tree(
    container: Annotated[
        str, typer.Argument(metavar="CONTAINER", help="Container id, name or [NS/]POD.")
    ],
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    all_files: Annotated[bool, typer.Option("--files", help="Name every file.")] = False,
    json: Json = False,
) -> None:
    """Draw what a workload did: processes, files, connections, secrets and findings."""
    from hullwatch.store.query import Reader
    from hullwatch.store.story import flat, tell

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    with Reader(store, begin, end, container) as reader:
        where = scope_sql(reader.scope)
        for sign, value in ((">=", begin), ("<=", end)):
            if value is not None:
                where += f" AND time {sign} make_timestamptz({value // 1000}::BIGINT)"
        story = with_policies(tell(reader, where, begin, end), store)
        warnings = tuple(reader.warnings)
    for warning in (*warnings, *story.cut):
        say(warning)
    if json:
        print_json(flat(story))
    elif not (story.processes or story.findings or story.counted):
        raise CommandError(f"tree {container}: nothing is stored of it in that time")
    else:
        draw(story, container, all_files)


def draw(story: Story, container: str, all_files: bool = False) -> None:
    """Print it as a tree. container: what to call it where its name is not known."""
    work = story.workload
    title = safe(work.get("name") or container)
    facts = [safe(work[key]) for key in ("image", "pod", "namespace", "role") if work.get(key)]
    ident = safe((work.get("container_id") or "")[:12])
    root = as_tree(story, f"{title}  {ident}  {'  '.join(facts)}".rstrip(), all_files)
    console().print(root, soft_wrap=False)


def as_tree(story: Story, title: str, all_files: bool = False) -> Tree:
    """The story below a title (already safe)."""
    from rich.tree import Tree

    root = Tree(_text(title, "bold"))
    # Without recursion: a process chain may be deeper than Python's stack.
    stack = [(process, root) for process in reversed(story.processes)]
    while stack:
        process, above = stack.pop()
        node = _process(above, process, all_files)
        stack.extend((child, node) for child in reversed(process.children))
    for finding in story.findings:
        root.add(_finding(finding))
    if story.counted:
        total = sum(row["count"] for row in story.counted)
        text = f"counted, not stored one by one: {total} events of {len(story.counted)} objects"
        node = root.add(_text(text, "dim"))
        for row in story.counted if all_files else story.counted[:3]:
            node.add(_text(f"{row['count']} x {row['class']} {safe(row['object'])}", "dim"))
    if story.losses:
        root.add(
            _text(f"{story.losses} events of this container were lost: `hullwatch status`", "red")
        )
    return root


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(text, style=style, overflow="fold")


def _process(above: Tree, process: Process, all_files: bool) -> Tree:
    commands = [safe(command, 0 if all_files else 160) for command in process.commands]
    line = f"{safe(process.name)}[{process.pid}]"
    if commands:
        line += "  " + "  =>  ".join(commands)
    else:
        line += "  (forked)"
    if process.same > 1:
        line += f"  x{process.same}"
    if process.started:
        line += f"  {short_time(process.started)[11:]}"
    if process.exit_status is not None and process.exit_status:
        status = process.exit_status
        line += f"  signal {status & 127}" if status & 127 else f"  exit {status >> 8 & 255}"
    node = above.add(_text(line, "bold"))
    if process.setup:
        node.add(_text(_setup(process, all_files), "dim"))
    calls = [*process.calls, *(f"{text}, by its time" for text in process.calls_by_time)]
    shown = calls if all_files else calls[:3]
    for text in shown:
        node.add(_text(f"call     {safe(text)}", "green"))
    if len(calls) > len(shown):
        more = len(calls) - len(shown)
        node.add(_text(f"call     and {more} more (--files names them)", "green"))
    notable = [mark for mark in process.marks if mark in _MARKS]
    for mark in notable:
        node.add(_text(f"! {_MARKS[mark]}", "yellow"))
    if process.labels:
        node.add(_text(f"labels   {safe(', '.join(process.labels))}", "magenta"))
    for finding in process.findings:
        node.add(_finding(finding))
    for one in process.stopped:
        node.add(_text(_stop(one), "dim" if one.done == "observed" else "bold red"))
    for secret in process.secrets:
        node.add(
            _text(f"secret   {secret.what} {safe(secret.object)}{_times(secret.count)}", "magenta")
        )
    for connection in process.connections:
        node.add(_text(_connection(connection), "cyan"))
    plain = [] if all_files else [files for files in process.files if _is_start_up(files)]
    for files in process.files:
        if files not in plain:
            for text in _files(files, all_files):
                node.add(_text(text))
    if plain:
        names = sum(len(files.names) for files in plain)
        node.add(_text(f"files    {names} libraries and the like, read or looked for", "dim"))
    for deed in process.deeds:
        node.add(_text(f"{deed.what:<8} {safe(deed.object)}{_times(deed.count)}", "yellow"))
    return node


_MARKS = {
    "memfd": "runs from memory (memfd)",
    "deleted": "its program file is deleted",
    "upper": "its program was written in the container, not shipped in the image",
    "setid": "setuid or setgid program",
}


def _setup(process: Process, every: bool) -> str:
    """What the runtime did to make the container: one line, or each deed with --files."""
    count = sum(deed.count for deed in process.setup)
    if not every:
        return f"before:  the runtime's own set-up, {count} events (--files names them)"
    lines = [f"{deed.what} {safe(deed.object)}{_times(deed.count)}" for deed in process.setup]
    return "\n".join(("before:  the runtime's own set-up", *(f"  {line}" for line in lines)))


def _finding(finding: dict[str, Any]) -> Any:
    text = (
        f"FINDING  {safe(finding['priority'])}: {safe(finding['rule'])}{_times(finding['count'])}"
    )
    return _text(f"{text}  ({safe(finding['id'])})", "bold red")


def _connection(one: Connection) -> str:
    name = f"{safe(one.name)} ({safe(one.address)})" if one.name else safe(one.address)
    text = f"{one.what:<8} {name}{_times(one.count)}"
    if one.bytes_out or one.bytes_in:
        text += f", {size(one.bytes_out)} out, {size(one.bytes_in)} in"
    return text + (f", {one.failed} failed" if one.failed else "")


def _stop(one: Stop) -> str:
    what = "WOULD STOP" if one.done == "observed" else "STOPPED "
    name = f"{safe(one.name)} ({safe(one.object)})" if one.name else safe(one.object)
    how = {"killed": ", killed before it ran", "dropped": ", its packets dropped"}.get(one.done, "")
    text = f"{what} {one.action} {name}{_times(one.count)}{how}"
    if one.policies:
        text += f", by {safe(', '.join(one.policies))}"
    return f"{text}: {safe(one.reason)}" if one.reason else text


_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/locale")
_LOADER = {"/etc/ld.so.cache", "/etc/localtime", "/usr/pyvenv.cfg"}


def _is_start_up(files: Files) -> bool:
    """Every program reads libraries: worth a line only where they were changed."""
    if files.written or files.other:
        return False
    return _LOADER.issuperset(files.names) or f"{files.directory}/".startswith(
        tuple(f"{directory}/" for directory in _LIBRARIES)
    )


def _files(files: Files, every: bool) -> list[str]:
    kinds = [
        f"{count} {word}"
        for count, word in (
            (files.read, "read"),
            (files.written, "written"),
            (files.other, "changed"),
            (files.failed, "failed"),
        )
        if count
    ]
    if every or len(files.names) <= 2:
        return [f"file     {safe(name)}  ({', '.join(kinds)})" for name in files.names]
    directory = safe(files.directory.rstrip("/"))
    return [f"files    {directory}/ {len(files.names)} files ({', '.join(kinds)})"]


def _times(count: int) -> str:
    return f"  x{count}" if count > 1 else ""
