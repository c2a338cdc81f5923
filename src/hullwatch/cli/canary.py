"""`hullwatch canary`: credentials that nobody has a use for, put in reach; any use is a finding.

A canary is a file and a rule. The rule's file says in its first line what was planted.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hullwatch.agent.planted import FOLDER, FOLDER_BY, KEY, NAME, Planted, first_line, read
from hullwatch.cli.errors import CommandError, ExitCode, the_one
from hullwatch.cli.options import Json
from hullwatch.cli.show import print_json, print_table, say

__all__ = ["planted_values", "register"]

_PLAIN = re.compile(r"/[\w./@+=:, -]{1,1000}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,250}")
_DAY = 86_400
_MAX_FILE = 64 << 10  # bytes

_RULE = """\
{mark}
- rule: Canary {id} touched
  desc: >
    A credential that nobody has a use for was opened, or its file was moved, linked or removed. It was planted
    ({form}) for this: whoever did it was looking for credentials. Read `hullwatch findings show` for the process
    and the tool call, `hullwatch secrets seen` for where it talked next. To plant it anew: `hullwatch canary`.
  condition: >
    (fs.path.name in ({paths}) or fs.path.source in ({paths})) and evt.res != ENOENT and {where}
  output: Canary touched | canary={id} file=%fs.path.name how=%evt.type call=%hw.call.name process=%proc.name command=%proc.cmdline parent=%proc.pname container=%container.name image=%container.image
  priority: CRITICAL
  tags: [hullwatch, host, container, agent, canary, ASI03, LLM02, mitre_credential_access, T1552.001, AML.T0055]
"""  # noqa: E501

if TYPE_CHECKING:
    from hullwatch.agent.secrets.key import Key

Into = Annotated[
    Path,
    typer.Option(
        "--into",
        metavar="DIR",
        envvar=FOLDER_BY,
        help="Where the rules of canaries are.",
        readable=False,
    ),
]


def register(app: typer.Typer) -> None:
    canary = typer.Typer(
        help="Put credentials in reach that nobody has a use for: any use is a finding.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    canary.command("plant")(plant)
    canary.command("list")(list_)
    canary.command("remove")(remove)
    app.add_typer(canary, name="canary")


def plant(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to make; an absolute path.")
    ],
    form: Annotated[
        str | None,
        typer.Option("--as", metavar="FORM", help="What it looks like; default: by its name."),
    ] = None,
    seen_as: Annotated[
        str | None,
        typer.Option("--seen-as", metavar="PATH", help="Its path in the container, where another."),
    ] = None,
    container: Annotated[
        str | None,
        typer.Option("--container", metavar="NAME", help="Only uses in this container count."),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="UID[:GID]", help="Whose it is: the workload's user."),
    ] = None,
    parents: Annotated[
        bool, typer.Option("--parents", "-p", help="Make the folders above it, too.")
    ] = False,
    into: Into = FOLDER,
    json: Json = False,
) -> None:
    """Make a file with credentials that open nothing, and the rule that tells of its use.

    Forms: aws, env, git, npm, pypi, huggingface, ssh, pod, key. Nothing that is there is
    overwritten. The agent reads rules when it starts.

    Example: hullwatch canary plant /srv/agent-home/.aws/credentials --seen-as
    /home/agent/.aws/credentials --container agent --owner 1000
    """
    from hullwatch.agent.secrets.canaries import marks
    from hullwatch.agent.secrets.canary import FORMS, content, form_of

    path = seen_as or str(file)
    for name, given in (("FILE", str(file)), ("--seen-as", path)):
        if not _PLAIN.fullmatch(given) or os.path.normpath(given) != given or given[1:2] == "/":
            raise CommandError(
                f"{name} {given!r}: give an absolute path without .., quotes or control characters",
                ExitCode.USAGE,
            )
    if seen_as is not None and container is None:
        raise CommandError("--seen-as: in which --container is it seen so?", ExitCode.USAGE)
    if container is not None and not _NAME.fullmatch(container):
        raise CommandError(f"--container {container!r}: no name of a container", ExitCode.USAGE)
    chosen = form or form_of(path)
    if chosen not in FORMS:
        said = f"--as {form}: no such form" if form else f"{path}: its name does not say its form"
        raise CommandError(f"{said}; give --as with one of {', '.join(FORMS)}", ExitCode.USAGE)
    ids = _ids(owner)
    planted = Planted(secrets.token_hex(4), chosen, str(file), path, container or "", 0, 0, 0, 0)
    planted.made = int(time.time())
    text = content(chosen)
    planted.marks = marks(chosen, text, _key(into))
    with _folder(file.parent, make=parents, ids=ids) as folder:
        try:
            planted.size, planted.ino, planted.changed = _write(folder, file.name, text, ids)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from error
        try:
            rule = _write_rule(into, planted)
        except BaseException:
            os.unlink(file.name, dir_fd=folder)  # no canary without its rule
            raise
    if json:
        print_json(_row(planted) | {"rule": str(rule)})
    else:
        print(f"{planted.id}  {chosen} at {file}, told of by {rule}")
        say("in force when the agent starts the next time")


def list_(into: Into = FOLDER, json: Json = False) -> None:
    """List canaries, and whether each is still there as it was planted."""
    rows = [_row(one) | {"state": _state(one)} for one in _all(into)]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(["id", "state", "form", "file", "path", "container"], rows)
    else:
        say(f"no canaries in {into}; `hullwatch canary plant FILE` makes one")


def remove(
    ident: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    into: Into = FOLDER,
    json: Json = False,
) -> None:
    """Take a canary back: its file, if it is still the one that was planted, and its rule."""
    if not re.fullmatch("[0-9a-f]{1,8}", ident):
        raise CommandError(f"canary {ident!r}: an id is 1 to 8 hexadecimal digits", ExitCode.USAGE)
    one = the_one(_all(into), ident, "canary", "hullwatch canary list", lambda one: one.id)
    state = _state(one, take=True)
    try:
        _rule(into, one.id).unlink()
    except OSError as error:
        raise CommandError(f"{_rule(into, one.id)}: {error.strerror}") from error
    if json:
        print_json(_row(one) | {"state": state, "removed": True})
        return
    print(f"{one.id} removed")
    if state == "there":
        say("an agent that runs tells of this, too: it has the rule until it starts again")
    else:
        say(f"{one.file}: {state}, and left alone")


def planted_values(folders: Iterable[Path]) -> tuple[str, ...]:
    """The secrets in canaries that are as they were planted, by all rules in these folders: who
    keeps content takes them out."""
    from hullwatch.agent.secrets import detect

    found: dict[str, None] = {}
    files = [file for folder in folders for file in sorted(folder.glob("**/*.yaml"))]
    planted, problems = read(file for file in files if NAME.fullmatch(file.name))
    for problem in problems:
        say(problem)
    for _, one in planted:
        try:
            if _state(one) != "there":
                continue
            with _folder(Path(one.file).parent) as folder:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with open(os.open(Path(one.file).name, flags, dir_fd=folder), "rb") as file:
                    text = file.read(_MAX_FILE).decode("ascii", "replace")
        except (CommandError, OSError) as error:
            say(f"canary {one.id}: its values are taken out by their kind only: {error}")
            continue
        found |= {text[start:end]: None for _, start, end in detect(text)}
    return tuple(found)


# --- files --------------------------------------------------------------------------------


def _ids(owner: str | None) -> tuple[int, int]:
    if owner is None:
        return -1, -1
    found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", owner)
    if not found:
        raise CommandError(f"--owner {owner!r}: give UID or UID:GID, numbers", ExitCode.USAGE)
    return int(found[1]), int(found[2] or found[1])


@contextmanager
def _folder(path: Path, *, make: bool = False, ids: tuple[int, int] = (-1, -1)) -> Iterator[int]:
    """A descriptor of a folder. No link on the way is followed: a volume is the workload's, and we
    may be root."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open("/", flags)
    try:
        for number, part in enumerate(path.parts[1:], 2):
            here = Path(*path.parts[:number])
            try:
                made = make and _made(part, at)
                below = os.open(part, flags, dir_fd=at)
                if made:
                    _give(below, ids)
            except OSError as error:
                link = error.errno in (errno.ELOOP, errno.ENOTDIR)
                why = "a link or no folder; give the real path" if link else error.strerror
                mend = "; --parents makes it" if error.errno == errno.ENOENT else ""
                raise CommandError(f"{here}: {why}{mend}") from error
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _made(name: str, folder: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _give(folder: int, ids: tuple[int, int]) -> None:
    """A folder that we have just made; not what somebody put in its place meanwhile."""
    about = os.fstat(folder)
    if about.st_uid == os.geteuid() and not about.st_mode & 0o077 and not os.listdir(folder):
        os.fchown(folder, *ids)


def _write(folder: int, name: str, text: str, ids: tuple[int, int]) -> tuple[int, int, int]:
    """Size, inode and ns of the last change of what was made: mode 0600, and as old as such files
    are. All of it or nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fchown(fd, *ids)
            age = time.time() - (5 + secrets.randbelow(80)) * _DAY - secrets.randbelow(_DAY)
            os.utime(fd, (age, age))
            about = os.fstat(fd)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    return about.st_size, about.st_ino, about.st_mtime_ns


def _state(one: Planted, *, take: bool = False) -> str:
    """there, another file, or gone; take: what is there is removed."""
    name = Path(one.file).name
    try:
        with _folder(Path(one.file).parent) as folder:
            state = _state_in(folder, name, one)
            if take and state == "there":
                os.unlink(name, dir_fd=folder)
    except CommandError:
        return "gone"
    except OSError as error:
        raise CommandError(f"{one.file}: {error.strerror}") from error
    return state


def _state_in(folder: int, name: str, one: Planted) -> str:
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return "gone"
    is_it = (about.st_size, about.st_ino, about.st_mtime_ns) == (one.size, one.ino, one.changed)
    return "there" if is_it and stat.S_ISREG(about.st_mode) else "another file"


def _rule(into: Path, ident: str) -> Path:
    return into / f"{ident}.yaml"


def _write_rule(into: Path, one: Planted) -> Path:
    path = _rule(into, one.id)
    paths = [one.path]
    if one.path.startswith("/var/run/"):  # where that is a link, the kernel's path is this
        paths.append(one.path.removeprefix("/var"))
    # The same path in another container is another file.
    where = f'container.name = "{one.container}"'
    if not one.container:
        where = (
            f"(container.id = host or (evt.type in (open, openat, openat2) and fd.ino = {one.ino}))"
        )
    text = _RULE.format(
        mark=first_line(one),
        id=one.id,
        form=one.form,
        paths=", ".join(f'"{path}"' for path in paths),
        where=where,
    )
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    return path


def _all(into: Path) -> list[Planted]:
    """All canaries, oldest first. What is no rule of one is said and left out."""
    found, problems = read(sorted(into.glob("*.yaml")))
    for problem in problems:
        say(problem)
    return [one for _, one in found]


def _key(into: Path) -> Key:
    from hullwatch.agent.secrets.key import Key, KeyUnusable

    try:
        into.mkdir(mode=0o755, parents=True, exist_ok=True)
        return Key.load(into / KEY)
    except OSError as error:
        raise CommandError(f"{into}: {error.strerror}") from error
    except KeyUnusable as error:
        raise CommandError(str(error)) from error


def _row(one: Planted) -> dict[str, Any]:
    """What of a canary is for people."""
    row: dict[str, Any] = msgspec.to_builtins(one)
    del row["marks"]
    return row
