"""`hullwatch findings`: list, show one with its evidence, follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Container, Json, Limit, Since, Store
from hullwatch.cli.show import console, iso, print_json, quoted, safe, say, short_time
from hullwatch.cli.when import parse_time

__all__ = ["finding_text", "register"]

_STYLES = ("dim", "", "", "yellow", "red", "bold red", "bold red", "bold red")


def register(app: typer.Typer) -> None:
    app.command("findings")(findings)


def findings(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[list | show ID]", help="Nothing: list.")
    ] = None,
    store: Store = DEFAULT_STORE,
    since: Since = None,
    container: Container = None,
    min_severity: Annotated[
        str, typer.Option("--min-severity", metavar="PRIORITY", help="debug ... emergency.")
    ] = "debug",
    limit: Limit = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    json: Json = False,
) -> None:
    """List findings, newest last; `show ID` explains one. Exit code 1: no such finding."""
    from hullwatch.store.catalog import Catalog

    wish, *idents = words or ["list"]
    if wish == "show" and len(idents) != 1:
        raise CommandError("findings show: give one finding's id", ExitCode.USAGE)
    if wish not in ("show", "list") or (wish == "list" and idents):
        raise CommandError("findings: say `list`, `show ID`, or nothing: list", ExitCode.USAGE)
    begin = parse_time(since, "--since")
    with Catalog(store) as catalog:
        if wish == "show":
            _show(_one(catalog, idents[0]), json)
            return
        wanted = _Wanted(catalog, begin, container, min_severity)
        rows = [row for row in _stored(catalog) if wanted(row)]
        rows.sort(key=lambda row: row["last"] or row["time"] or 0)
        if follow and since is None:
            rows = []
        for row in rows[-limit:]:
            _print(row, json)
        if len(rows) > limit:
            say(f"{len(rows) - limit} older findings left out; --limit shows more")
        if follow:
            for row in _live(store, {row["id"]: row["count"] for row in _stored(catalog)}):
                if wanted(row):
                    _print(row, json)
        elif not json:
            say("`hullwatch findings show ID` explains one" if rows else "no such findings")


class _Wanted:
    """The filters of the command line."""

    def __init__(
        self, catalog: Any, since: int | None, container: str | None, severity: str
    ) -> None:
        from hullwatch.store.finding import PRIORITIES, container_of, rank

        if severity.lower() not in PRIORITIES:
            raise CommandError(
                f"--min-severity {severity}: one of {', '.join(PRIORITIES)}", ExitCode.USAGE
            )
        self.rank = PRIORITIES[severity.lower()]
        self._rank, self._container = rank, container_of
        self.since = since or 0
        self.scope = catalog.scope(container) if container else None

    def __call__(self, row: dict[str, Any]) -> bool:
        if self._rank(row.get("priority")) < self.rank:
            return False
        if (row.get("last") or row.get("time") or 0) < self.since:
            return False
        return self.scope is None or self._container(row) in self.scope.containers


def _stored(catalog: Any) -> list[dict[str, Any]]:
    """Findings as their makers wrote them, with the counts of their folding."""
    import msgspec

    from hullwatch.store.reserve import read_reserve

    found = {
        ident: msgspec.json.decode(body)
        | {"id": ident, "first": first, "last": last, "count": count}
        for ident, first, last, count, body in catalog.rows(
            "SELECT id, first, last, count, body FROM findings ORDER BY last"
        )
    }
    for data in read_reserve(catalog.root / "reserve"):
        body = msgspec.json.decode(data)
        found.setdefault(body["id"], {"count": 1, "first": None, "last": None} | body)
    return list(found.values())


def _one(catalog: Any, ident: str) -> dict[str, Any]:
    close = [row for row in _stored(catalog) if str(row["id"]).startswith(ident)]
    exact = [row for row in close if row["id"] == ident]
    if not close:
        raise CommandError(f"finding {ident}: no such finding; `hullwatch findings` lists them")
    if len(close) > 1 and not exact:
        names = ", ".join(str(row["id"]) for row in close[:5])
        raise CommandError(f"finding {ident}: several begin so: {names}")
    return (exact or close)[0]


def _live(store: Path, seen: dict[str, int]) -> Iterator[dict[str, Any]]:
    """New findings, and known ones whose count has grown: from the agent, else from the store."""
    from hullwatch.control import ControlError, follow

    try:
        for value in follow(store / CONTROL, "findings"):
            if value is None:
                continue
            if "dropped" in value:
                say(f"{value['dropped']} findings came too fast to show; they are stored")
                continue
            seen[value["id"]] = value.get("count") or 1
            yield value
    except ControlError as error:
        say(f"{error}; watching the store instead")
    from hullwatch.store.catalog import Catalog

    with Catalog(store) as catalog:
        while True:
            for row in _stored(catalog):
                if seen.get(row["id"]) != row["count"]:
                    seen[row["id"]] = row["count"]
                    yield row
            time.sleep(0.5)


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        console().print(finding_text(row))


def finding_text(row: dict[str, Any]) -> Any:
    """A rich Text of one line: when, how bad, how often, where, what. Escaped."""
    from rich.text import Text

    from hullwatch.store.finding import container_of, rank

    priority = str(row.get("priority") or "?")
    count = row.get("count") or 1
    times = f" x{count}" if count > 1 else ""
    container = str(row.get("container_name") or (container_of(row) or "host")[:12])
    text = Text(f"{short_time(row.get('last') or row.get('time'), True)}  ")
    text.append(f"{safe(priority):<9}", _STYLES[rank(priority)])
    text.append(f" {safe(container, 24):<12}  {safe(row.get('rule') or '')}{times}: ", "bold")
    text.append(safe(row.get("output") or ""))
    text.append(f"  [{safe(row['id'])}]", "dim")
    return text


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    console().print(finding_text(row))
    print()
    for name, value in _facts(row):
        print(f"{name:<11}{safe(value)}")
    chain = [one for one in row.get("processes") or [] if isinstance(one, dict)]
    if chain:
        print("processes")
    for depth, one in enumerate(reversed(chain)):
        mark = "  <- did it" if depth == len(chain) - 1 else ""
        command = one.get("cmdline") or one.get("name") or "?"
        print(f"  {'  ' * depth}{safe(one.get('name'))}[{one.get('pid')}]  {safe(command)}{mark}")
    for name in ("fields", *sorted(row.keys() - _KNOWN)):
        more: Any = row.get(name)
        if isinstance(more, dict | list) and more:
            print(safe(name))
            _nested(more, 1)
        elif more not in (None, "", [], {}, 0):
            print(f"{safe(name):<11}{safe(more)}")
    _next_step(row, chain)


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is said first, as far as it is known."""
    count = row.get("count") or 1
    first, last = iso(row.get("first")), iso(row.get("last"))
    yield "when", first if count == 1 or first == last else f"{first} to {last}, {count} times"
    # The two objects of an open are the kernel's path and the caller's text: mostly the same.
    said = dict.fromkeys(str(row[name]) for name in ("object", "object2") if row.get(name))
    event = " ".join((str(row.get("event") or ""), *said)).strip()
    where = " ".join(
        str(row[name])
        for name in ("container_name", "container_full_id", "container_id")[:2]
        if row.get(name)
    )
    pod = f"{row.get('namespace') or '?'}/{row['pod']}" if row.get("pod") else ""
    pending = row.get("state") if row.get("state") in ("pending", "unknown") else ""
    yield from (
        (name, str(value))
        for name, value in (
            ("event", event),
            ("why", row.get("why")),
            ("container", where or row.get("container_id") or pending),
            ("image", " ".join(filter(None, (row.get("image"), row.get("image_digest"))))),
            ("pod", pod),
            ("tool call", row.get("span")),
            ("user", row.get("uid") if (row.get("uid") or 0) >= 0 else None),
            ("rule", f"{row.get('source') or ''} {row.get('rule_hash') or ''}".strip()),
            ("tags", ", ".join(map(str, row.get("tags") or ()))),
        )
        if value not in (None, "", 0)
    )


_KNOWN = frozenset(
    "id time first last count rule priority severity output tags source rule_hash event object"
    " object2 processes uid container_id container_full_id container_name image image_digest pod"
    " namespace cgroup state span why fields".split()
)


def _nested(value: Any, depth: int) -> None:
    """Evidence is whatever the rule had: shown as it is, nested by indentation."""
    pad = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                print(f"{pad}{safe(key)}")
                _nested(item, depth + 1)
            elif item not in (None, "", [], {}):
                print(f"{pad}{safe(key):<20} {safe(item)}")
    else:
        for item in value:
            print(f"{pad}- {safe(item)}")


def _next_step(row: dict[str, Any], chain: list[dict[str, Any]]) -> None:
    from hullwatch.store.finding import container_of, pid_of

    steps = [
        (f"hullwatch rules explain {quoted(row.get('rule') or '')}", "what the rule looks for")
    ]
    if (pid := pid_of(row)) is not None:
        steps.insert(0, (f"hullwatch events --pid {pid}", "what this process did"))
    if container := container_of(row):
        steps.insert(0, (f"hullwatch tree {safe(container)[:12]}", "all this container did"))
    width = max(len(command) for command, _ in steps)
    print("next")
    for command, why in steps:
        print(f"  {command:<{width}}  # {why}")
