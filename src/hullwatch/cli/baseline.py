"""`hullwatch baseline`: what images normally do; learn, show, diff, lock, export."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.profiles import (
    Found,
    changing,
    entry_value,
    find,
    find_seen,
    profile_value,
    read_all,
)
from hullwatch.cli.show import iso, print_json, print_table, safe, say, short_time
from hullwatch.cli.when import parse_duration, parse_time

if TYPE_CHECKING:
    from hullwatch.detect.baseline.values import EntryRow

__all__ = ["register"]

Image = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="Digest or its beginning, image, or a part of its name."),
]
_COLUMNS = ["kind", "name", "count", "containers", "first", "last"]


def register(app: typer.Typer) -> None:
    baseline = typer.Typer(
        help="What each image normally executes, reads, writes, contacts: learn it, look at it,"
        " lock it, and be told of what is outside it.\n\nThe agent learns by itself. A day in the"
        " life of a profile: `list`, `show IMAGE`, `lock IMAGE`, and then `diff IMAGE` when a"
        " finding says drift.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for name, command in (
        ("list", list_),
        ("show", show),
        ("learn", learn),
        ("diff", diff),
        ("lock", lock),
        ("unlock", unlock),
        ("forget", forget),
        ("export", export),
    ):
        baseline.command(name)(command)
    app.add_typer(baseline, name="baseline")


def list_(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List the images that have a profile, and whether it is locked."""
    rows = [profile_value(found) for found in read_all(store)]
    if json:
        for row in rows:
            print_json(row)
        return
    for row in rows:
        row["image"] = row["name"] if row["name"] == row["image"] else f"{row['name']} {row['key']}"
        row["since"] = short_time(row["first_ns"], True) if row["first_ns"] else None
    print_table(["image", "state", "since", "entries", "containers", "drift"], rows)
    if not rows:
        say("no image has done anything yet; `hullwatch up` learns, as does `baseline learn`")


def show(
    image: Image,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="exec, read, write, connect, listen or dns."),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show all that an image is known to do: how often, in how many containers, since when.

    A name such as /usr/lib/* stands for the rest of a directory with too many names to keep.
    count: events that were seen; repeats that the kernel counted by itself are not among them,
    unless they came by `baseline learn`.
    """
    found = find(store, image)
    entries = [row for row in found.entries if kind in (None, row.kind)]
    _check_kind(kind)
    if json:
        print_json(profile_value(found))
        for row in entries:
            print_json(entry_value(found, row))
        return
    value = profile_value(found)
    print(f"image       {safe(value['name'])}")
    if value["key"] != value["name"]:
        print(f"key         {safe(found.profile.image)}")
    print(f"state       {value['state']}{_since(found)}")
    for accepted in value["accepted"]:
        print(f"accepted    {accepted[0]} {safe(accepted[1])}")
    print()
    _table(found, entries)


def _since(found: Found) -> str:
    profile = found.profile
    if profile.locked is not None:
        return f" at {iso(profile.locked)}"
    return f" since {iso(profile.first)}" if profile.first else ""


def _table(found: Found, entries: list[EntryRow], mark: str = "") -> None:
    rows = [entry_value(found, row) for row in entries]
    for row in rows:
        row["first"], row["last"] = (row[name][:19].replace("T", " ") for name in ("first", "last"))
        row["containers"] = len(row["containers"])
        row["kind"] = f"{mark}{row['kind']}"
        if row["tried"]:
            row["name"] += "  (tried; nothing may have left)"
    order = {name: at for at, name in enumerate(_order())}
    rows.sort(key=lambda row: (order[row["kind"].removeprefix(mark)], row["name"]))
    print_table(_COLUMNS, rows)


def _order() -> list[str]:
    from hullwatch.detect.baseline.kinds import KINDS

    return [kind.name for kind in KINDS]


def _check_kind(kind: str | None) -> None:
    if kind is not None and kind not in _order():
        raise CommandError(f"--kind {kind}: one of {', '.join(_order())}", ExitCode.USAGE)


def learn(
    image: Image,
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="How far back: 7d, 12h, or ISO 8601.")
    ] = "7d",
    learning: Annotated[
        str | None,
        typer.Option(
            "--learning",
            metavar="TIME",
            help="For so long after its first event, nothing of the image is first seen (10m).",
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Learn a profile, or more of it, from the events that the store still has.

    Learning the same history twice changes nothing. A running agent takes it in within a second.
    """
    from hullwatch.detect.baseline.baselines import Baselines
    from hullwatch.store.baselines import judge, put
    from hullwatch.store.behaviour import read_history

    begin = parse_time(since, "--since") or 0
    wait = None if learning is None else int(parse_duration(learning, "--learning") * 1e9)
    found = find_seen(store, image)
    history = read_history(store, found.profile.image, begin, _progress)
    for warning in history.warnings:
        say(warning)
    baselines = Baselines()
    baselines.load(found.profile, found.entries)
    before = len(found.entries)
    for row in sorted(history.rows, key=lambda one: one.first):
        baselines.learn(row)
    changes = baselines.changes()
    profile = found.profile
    with changing(store) as link:
        put(link, changes)
        judge(link, profile.image, profile.locked, profile.accepted, wait or profile.learning)
    after = find(store, profile.image)
    value = profile_value(after) | {
        "learnt": len(after.entries) - before,
        "read": history.containers,
        "unclear": history.unclear,
    }
    if json:
        print_json(value)
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in value["kinds"].items())
    print(f"{safe(value['name'])}: {kinds or 'nothing'}")
    say(f"{value['learnt']} of them new, from {history.containers} containers")
    if history.unclear:
        say(f"{history.unclear} things were only counted, and no event of them is left: not learnt")
    say(f"next: hullwatch baseline show {image}")


def _progress(done: int, total: int) -> None:
    if total > 1:
        say(f"{done} of {total} containers read")


def diff(
    image: Image,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGE]", help="Compare with this one instead of the lock."),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show what an image has done since it was locked and that is not in its profile.

    With two images (two digests of one repository, say): what the second does and the first
    did not, marked +, and what only the first did, marked -. Exit code 1: there is a difference.
    """
    from hullwatch.detect.baseline.policy import outside

    old = find(store, image)
    marks: list[tuple[str, Found, list[EntryRow]]]
    if other is None:
        if old.profile.locked is None:
            raise CommandError(
                f"{image}: its profile is not locked, so there is nothing to compare with;"
                " `hullwatch baseline lock` it, or give a second image"
            )
        marks = [("+", old, outside(old.profile, old.entries, old.entries))]
    else:
        new = find(store, other)
        marks = [
            ("+", new, outside(old.profile._replace(locked=None), old.entries, new.entries)),
            ("-", old, outside(new.profile._replace(locked=None), new.entries, old.entries)),
        ]
    if json:
        for mark, found, rows in marks:
            for row in rows:
                print_json({"change": mark} | entry_value(found, row))
    else:
        for mark, found, rows in marks:
            if rows:
                _table(found, rows, mark)
    if any(rows for _, _, rows in marks):
        raise typer.Exit(ExitCode.NO)
    if not json:
        say("no difference")


def lock(
    image: Image,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept",
            metavar="'KIND NAME'",
            help="Take this in as well: 'exec /bin/x', 'read /data/*' (the directory), "
            "'write /data/**' (all below), 'connect *.example.com:443'. May be repeated.",
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="WHEN", help="Lock as of then: what came later is drift."),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Lock a profile: what was first seen until now is normal, all else is drift from here on.

    A profile that is locked already is locked anew, with all that was seen in between; with
    --accept alone its time stays, and only what is named comes in.
    """
    from hullwatch.detect.baseline.policy import in_profile, unbounded

    found = find(store, image)
    profile = found.profile
    accepted = {*profile.accepted, *map(_accepted, accept or ())}
    moment = parse_time(at, "--at")
    if moment is None:
        stays = accept and profile.locked is not None
        moment = profile.locked if stays else time.time_ns()
    _judge(store, found, moment, sorted(accepted), json)
    after = find(store, profile.image)
    for kind in unbounded(in_profile(after.profile, after.entries)):
        say(f"{kind}: more was seen than a profile holds, so nothing of it can be drift")
    if moment is not None and profile.first and moment - profile.first < 3600 * 10**9:
        say("this image has been watched for less than an hour: expect drift that is none")


def _accepted(text: str) -> tuple[str, str]:
    kind, _, name = text.strip().partition(" ")
    if kind not in _order() or not name.strip():
        raise CommandError(
            f"--accept {text!r}: say KIND NAME, KIND one of {', '.join(_order())}", ExitCode.USAGE
        )
    return kind, name.strip()


def unlock(image: Image, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Unlock a profile: nothing is drift any more; learning has never stopped."""
    found = find(store, image)
    _judge(store, found, None, list(found.profile.accepted), json)


def _judge(
    store: Path, found: Found, locked: int | None, accepted: list[tuple[str, str]], as_json: bool
) -> None:
    from hullwatch.store.baselines import judge

    with changing(store) as link:
        judge(link, found.profile.image, locked, accepted, found.profile.learning)
    after = profile_value(find(store, found.profile.image))
    if as_json:
        print_json(after)
    else:
        print(f"{safe(after['name'])}: {after['state']}, {after['entries']} entries")


def forget(image: Image, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Forget all that was learnt of an image, and its lock; learning begins anew."""
    from hullwatch.store.baselines import forget as forget_

    found = find(store, image)
    with changing(store) as link:
        forget_(link, found.profile.image)
    value: dict[str, Any] = {"image": found.profile.image, "forgotten": len(found.entries)}
    if json:
        print_json(value)
    else:
        print(f"{safe(found.profile.name)}: {len(found.entries)} entries forgotten")


def export(
    image: Image,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.yaml", help="Write here, cases beside it."),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a profile as a rule file: what is not in it is a finding, on any machine.

    With --output, FILE.test.yaml is written beside it. Check with `hullwatch rules check FILE`
    and `hullwatch rules test FILE`; run with `hullwatch up --rules FILE`.
    """
    from hullwatch.detect.baseline.policy import as_cases, as_rules
    from hullwatch.detect.ruleset import TEST_SUFFIX

    found = find(store, image)
    if found.profile.locked is None:
        say("the profile is not locked: all that was seen until now is taken as normal")
    text = as_rules(found.profile, found.entries)
    if json:
        print_json({"image": found.profile.image, "rules": text})
    elif output is None:
        print(text, end="")
    if output is None:
        return
    beside = output.with_name(output.name.removesuffix(output.suffix) + TEST_SUFFIX)
    try:
        output.write_text(text)
        beside.write_text(as_cases(found.profile, found.entries))
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}", ExitCode.NO) from None
    say(f"{output} and {beside} written; next: hullwatch rules test {output}")
