"""`hullwatch findings`: list, show one with its evidence, follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Container, Json, Limit, Since, Store
from hullwatch.cli.show import console, iso, print_json, safe, say, short_time
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

    words = [word for word in words or [] if word != "list"]
    if words[:1] == ["show"]:
        words = words[1:]
        if len(words) != 1:
            raise CommandError("findings show: give one finding's id", ExitCode.USAGE)
    with Catalog(store) as catalog:
        if words:
            _show(_one(catalog, words[0]), json)
            return
        wanted = _Wanted(catalog, parse_time(since), container, min_severity)
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
        elif not json and rows:
            say("`hullwatch findings show ID` explains one")


class _Wanted:
    """The filters of the command line."""

    def __init__(
        self, catalog: Any, since: int | None, container: str | None, severity: str
    ) -> None:
        from hullwatch.store.state import PRIORITIES

        if severity.lower() not in PRIORITIES:
            raise CommandError(
                f"--min-severity {severity}: one of {', '.join(PRIORITIES)}", ExitCode.USAGE
            )
        self.rank = PRIORITIES[severity.lower()]
        self.ranks = PRIORITIES
        self.since = since or 0
        self.scope = catalog.scope(container) if container else None

    def __call__(self, row: dict[str, Any]) -> bool:
        if self.ranks.get(str(row.get("priority") or "").lower(), 0) < self.rank:
            return False
        if (row.get("last") or row.get("time") or 0) < self.since:
            return False
        return self.scope is None or _deep(row, "container_id") in self.scope.containers


def _deep(row: dict[str, Any], name: str) -> Any:
    evidence = row.get("evidence")
    return row.get(name) or (evidence.get(name) if isinstance(evidence, dict) else None)


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

    from hullwatch.store.state import PRIORITIES

    priority = str(row.get("priority") or "?")
    rank = PRIORITIES.get(priority.lower(), 0)
    count = row.get("count") or 1
    times = f" x{count}" if count > 1 else ""
    container = str(_deep(row, "container") or _deep(row, "container_id") or "host")[:12]
    text = Text(f"{short_time(row.get('last') or row.get('time'), True)}  ")
    text.append(f"{safe(priority):<9}", _STYLES[rank])
    text.append(f" {safe(container):<12}  {safe(row.get('rule') or '')}{times}: ", "bold")
    text.append(safe(row.get("output") or ""))
    text.append(f"  [{safe(row['id'])}]", "dim")
    return text


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    out = console()
    out.print(finding_text(row))
    print()
    for name in ("first", "last"):
        if row.get(name):
            print(f"{name:<10} {iso(row[name])}")
    print(f"{'count':<10} {row.get('count') or 1}")
    if row.get("tags"):
        print(f"{'tags':<10} {', '.join(safe(tag) for tag in row['tags'])}")
    print("evidence")
    _value(row.get("evidence") or {}, 1)
    for name in sorted(row.keys() - _KNOWN):
        if row[name] not in (None, "", [], {}, 0):
            print(f"{safe(name):<10} {safe(row[name])}")
    _next_step(row)


_KNOWN = frozenset(
    {"id", "time", "first", "last", "count", "rule", "priority", "output", "tags", "evidence"}
)


def _value(value: Any, depth: int) -> None:
    """Evidence is whatever the rule had: shown as it is, nested by indentation."""
    pad = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                print(f"{pad}{safe(key)}")
                _value(item, depth + 1)
            elif item not in (None, "", [], {}):
                print(f"{pad}{safe(key):<16} {safe(item)}")
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                parts = [f"{key}={item[key]}" for key in item if item[key] not in (None, "", [])]
                print(f"{pad}- {safe(' '.join(parts))}")
            else:
                print(f"{pad}- {safe(item)}")


def _next_step(row: dict[str, Any]) -> None:
    container = _deep(row, "container_id")
    print("\nnext")
    if container:
        print(f"  hullwatch tree {safe(container)[:12]}        what this container did")
    pid = _deep(row, "pid")
    if isinstance(pid, int):
        print(f"  hullwatch events --pid {pid}        what this process did")
    print(f"  hullwatch rules explain '{safe(row.get('rule') or '')}'")
