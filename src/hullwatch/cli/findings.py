"""`hullwatch findings`: list, show one with its evidence, follow, what is loud (top.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from hullwatch.cli.alert import step_text
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import (
    CONTROL,
    DEFAULT_STORE,
    Container,
    Json,
    Limit,
    Rules,
    Since,
    Store,
)
from hullwatch.cli.show import console, iso, print_json, quoted, safe, say, short_time
from hullwatch.cli.when import parse_time

__all__ = ["finding_text", "register", "stored"]

_NEAR = 10**9  # ns: around the moment of a finding
_STYLES = ("dim", "", "", "yellow", "red", "bold red", "bold red", "bold red")


def register(app: typer.Typer) -> None:
    app.command("findings")(findings)


def findings(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[list | show ID | top]", help="Nothing: list.")
    ] = None,
    store: Store = DEFAULT_STORE,
    since: Since = None,
    container: Container = None,
    min_severity: Annotated[
        str, typer.Option("--min-severity", metavar="PRIORITY", help="debug ... emergency.")
    ] = "debug",
    limit: Limit = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    suppressed: Annotated[
        bool, typer.Option("--suppressed", help="Those that are kept quiet, and only those.")
    ] = False,
    by: Annotated[
        str, typer.Option("--by", metavar="WHAT", help="top: by rule, workload or image.")
    ] = "rule",
    apply: Annotated[
        int | None,
        typer.Option("--apply", metavar="N", help="top: add the N-th proposal as a suppression."),
    ] = None,
    owner: Annotated[
        str, typer.Option("--owner", metavar="WHO", help="top --apply: who answers for it.")
    ] = "",
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="top --apply: why it is no attack.")
    ] = "",
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="top --apply: how long; 30d.")
    ] = "",
    rules: Rules = None,
    json: Json = False,
) -> None:
    """List findings, newest last. `show ID` explains one. `top` says which rules are loud (of the
    last 7 days, or --since), and proposes an exception for each, tried on history.

    Exit code 1: no such finding.
    """
    from hullwatch.store.catalog import Catalog

    wish, *idents = words or ["list"]
    if wish == "show" and len(idents) != 1:
        raise CommandError("findings show: give one finding's id", ExitCode.USAGE)
    if wish not in ("show", "list", "top") or (wish != "show" and idents):
        raise CommandError(
            "findings: say `list`, `show ID`, `top`, or nothing: list", ExitCode.USAGE
        )
    if wish != "top" and (apply is not None or by != "rule"):
        raise CommandError("--by and --apply are options of `findings top`", ExitCode.USAGE)
    begin = parse_time(since, "--since")
    with Catalog(store) as catalog:
        if wish == "show":
            from hullwatch.store.calls import names

            asked = _one(catalog, idents[0])
            spans = asked.get("spans") or ([asked["span"]] if asked.get("span") else [])
            calls = [name for span in spans for name in names(catalog.link, span)]
            timed = () if spans else _by_time(store, catalog, asked)
            _show(asked, tuple(dict.fromkeys(calls)), timed, json)
            return
        wanted = _Wanted(catalog, begin, container, min_severity, suppressed)
        if wish == "top":
            from hullwatch.cli.rules import load_all
            from hullwatch.cli.top import Answer, top

            top(
                [row for row in stored(catalog) if wanted(row)],
                load_all(rules),
                store,
                since=begin,
                by=by,
                limit=min(limit, 10) if limit == 100 else limit,
                apply=None if apply is None else Answer(apply, owner, reason, expires),
                as_json=json,
            )
            return
        rows = [row for row in stored(catalog) if wanted(row)]
        rows.sort(key=lambda row: row["last"] or row["time"] or 0)
        if follow and since is None:
            rows = []
        for row in rows[-limit:]:
            _print(row, json)
        if len(rows) > limit:
            say(f"{len(rows) - limit} older findings left out; --limit shows more")
        if follow:
            told = {row["id"]: row["count"] for row in stored(catalog)}
            for row in _live(store, dict(told), suppressed):
                # A growing count is a line at each tenfold; JSON has every state.
                if wanted(row) and (json or row["count"] >= 10 * told.get(row["id"], 0)):
                    told[row["id"]] = row["count"]
                    _print(row, json)
        elif not json:
            say("`hullwatch findings show ID` explains one" if rows else "no such findings")


class _Wanted:
    """The filters of the command line."""

    def __init__(
        self,
        catalog: Any,
        since: int | None,
        container: str | None,
        severity: str,
        suppressed: bool,
    ) -> None:
        from hullwatch.store.finding import PRIORITIES, container_of, rank

        if severity.lower() not in PRIORITIES:
            raise CommandError(
                f"--min-severity {severity}: one of {', '.join(PRIORITIES)}", ExitCode.USAGE
            )
        self.rank = PRIORITIES[severity.lower()]
        self._rank, self._container = rank, container_of
        self.since = since or 0
        self.suppressed = suppressed
        self.scope = catalog.scope(container) if container else None

    def __call__(self, row: dict[str, Any]) -> bool:
        if self._rank(row.get("priority")) < self.rank:
            return False
        if bool(row.get("suppressed_by")) is not self.suppressed:
            return False
        if (row.get("last") or row.get("time") or 0) < self.since:
            return False
        return self.scope is None or self._container(row) in self.scope.containers


def stored(catalog: Any) -> list[dict[str, Any]]:
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
    close = [row for row in stored(catalog) if str(row["id"]).startswith(ident)]
    exact = [row for row in close if row["id"] == ident]
    if not close:
        raise CommandError(f"finding {ident}: no such finding; `hullwatch findings` lists them")
    if len(close) > 1 and not exact:
        names = ", ".join(str(row["id"]) for row in close[:5])
        raise CommandError(f"finding {ident}: several begin so: {names}")
    return (exact or close)[0]


def _live(store: Path, seen: dict[str, int], suppressed: bool) -> Iterator[dict[str, Any]]:
    """New findings, and known ones whose count has grown: from the agent, else from the store.
    What is suppressed is in the store only."""
    from hullwatch.control import ControlError, follow

    try:
        for value in follow(store / CONTROL, "findings") if not suppressed else ():
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
            for row in stored(catalog):
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
    if more := _more(row):
        text.append(f"  (and {more})", "bold")
    text.append(f"  [{safe(row['id'])}]", "dim")
    return text


def _more(row: dict[str, Any]) -> str:
    """What folded into it besides repeats of the same, in words."""
    shapes, distinct = row.get("shapes") or 0, row.get("distinct") or 1
    if shapes:
        return f"at least {shapes - 1} more shapes: this rule is loud here"
    if distinct > 1 and row.get("shape") not in (None, "", row.get("object")):
        return f"{_least(row)}{distinct - 1} more like {safe(row['shape'])}"
    return f"{_least(row)}{distinct - 1} more" if distinct > 1 else ""


def _least(row: dict[str, Any]) -> str:
    """Kept evidence is counted exactly; the rest is not less than what is said."""
    return "at least " if (row.get("distinct") or 1) > len(row.get("evidence") or ()) else ""


def _evidence(row: dict[str, Any]) -> Iterator[str]:
    kept = row.get("evidence") or ()
    if len(kept) < 2:
        return
    yield f"evidence   {_least(row)}{row.get('distinct')} distinct"
    for one in kept:
        what = "  ".join(filter(None, (safe(one["object"]), safe(one["command"], 100))))
        yield f"  {one['count']:>7} x  {short_time(one['last'], True)}  {what}"
    if (more := (row.get("distinct") or 1) - len(kept)) > 0:
        yield f"  and at least {more} more: `hullwatch hunt` finds them in the events"


def _by_time(store: Path, catalog: Any, row: dict[str, Any]) -> tuple[str, ...]:
    """Calls of OTLP that ran when it was met first, and may be what it was done for."""
    if not catalog.rows("SELECT 1 FROM calls WHERE source = 'otlp' LIMIT 1"):
        return ()
    from hullwatch.store.calls import by_time
    from hullwatch.store.query import Reader

    with Reader(store, row["time"] - _NEAR, row["time"] + _NEAR) as reader:
        return tuple(by_time(reader, row["id"]))


def _show(
    row: dict[str, Any], calls: tuple[str, ...], timed: tuple[str, ...], as_json: bool
) -> None:
    """calls: those in which it was met, in words; timed: those that ran at the time."""
    if as_json:
        told = {"calls": list(calls), "calls_by_time": list(timed)}
        print_json(row | {name: value for name, value in told.items() if value})
        return
    console().print(finding_text(row))
    print()
    for name, value in _facts(row):
        print(f"{name:<11}{safe(value)}")
    for at, call in enumerate(calls):
        print(f"{'tool call' if not at else '':<11}{safe(call)}")
    for at, call in enumerate(timed):
        print(f"{'perhaps' if not at else '':<11}{safe(call)}, by its time")
    for at, step in enumerate(row.get("steps") or []):
        print(f"{'steps' if not at else '':<11}{safe(step.get('step'))}: {step_text(step)}")
    chain = [one for one in row.get("processes") or [] if isinstance(one, dict)]
    if chain:
        print("processes")
    for depth, one in enumerate(reversed(chain)):
        mark = "  <- did it" if depth == len(chain) - 1 else ""
        command = one.get("cmdline") or one.get("name") or "?"
        print(f"  {'  ' * depth}{safe(one.get('name'))}[{one.get('pid')}]  {safe(command)}{mark}")
    for line in _evidence(row):
        print(line)
    for name in ("fields", *sorted(row.keys() - _KNOWN)):
        more: Any = row.get(name)
        if isinstance(more, dict | list) and more:
            print(safe(name))
            _nested(more, 1)
        elif more not in (None, "", [], {}, 0):
            print(f"{safe(name):<11}{safe(more)}")
    _next_step(row, chain, calls or timed)


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is said first, as far as it is known."""
    count = row.get("count") or 1
    first, last = iso(row.get("first")), iso(row.get("last"))
    yield from (("folded", more) for more in [_more(row)] if more)
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
            ("labels", ", ".join(map(str, row.get("labels") or ()))),
            ("container", where or row.get("container_id") or pending),
            ("image", " ".join(filter(None, (row.get("image"), row.get("image_digest"))))),
            ("pod", pod),
            ("user", row.get("uid") if (row.get("uid") or 0) >= 0 else None),
            ("rule", f"{row.get('source') or ''} {row.get('rule_hash') or ''}".strip()),
            ("quiet by", row.get("suppressed_by")),
            ("tags", ", ".join(map(str, row.get("tags") or ()))),
        )
        if value not in (None, "", 0)
    )


_KNOWN = frozenset(
    "id time first last count rule priority severity output tags source rule_hash event object"
    " object2 processes uid container_id container_full_id container_name image image_digest pod"
    " namespace cgroup state span spans call why fields steps evidence distinct shapes shape fold"
    " suppressed_by labels".split()
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


def _next_step(row: dict[str, Any], chain: list[dict[str, Any]], calls: tuple[str, ...]) -> None:
    from hullwatch.store.finding import container_of, pid_of

    steps = [
        (f"hullwatch rules explain {quoted(row.get('rule') or '')}", "what the rule looks for")
    ]
    if (pid := pid_of(row)) is not None:
        steps.insert(0, (f"hullwatch events --pid {pid}", "what this process did"))
    if calls:
        ident = calls[0].rpartition("(")[2].rstrip(")")
        steps.insert(0, (f"hullwatch call {ident}", "all this tool call did"))
    if container := container_of(row):
        steps.insert(0, (f"hullwatch tree {safe(container)[:12]}", "all this container did"))
    width = max(len(command) for command, _ in steps)
    print("next")
    for command, why in steps:
        print(f"  {command:<{width}}  # {why}")
