"""`hullwatch suppress`: keep findings quiet, with an owner, a reason and an end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode, the_one
from hullwatch.cli.options import DEFAULT_STORE, Json, Rules, Store
from hullwatch.cli.show import iso, print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.detect.proposal import Tried
    from hullwatch.detect.ruleset import RuleSet
    from hullwatch.detect.suppress import Suppression
    from hullwatch.store.state import State

__all__ = ["make", "register", "tried_text", "write", "writing"]

_DAY = 86_400 * 10**9
_MAX_TEXT = 500

Rule = Annotated[
    str, typer.Option("--rule", metavar="NAME", help="A rule's name, or a pattern: 'Shell *'.")
]
Owner = Annotated[str, typer.Option("--owner", metavar="WHO", help="Who answers for it.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why it is no attack.")]
Expires = Annotated[
    str, typer.Option("--expires", metavar="TIME", help="How long: 12h, 30d; a year at most.")
]
Ident = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")]


def register(app: typer.Typer) -> None:
    suppress = typer.Typer(
        help="Keep findings quiet: with an owner, a reason and an end. They are stored all the"
        " same: `hullwatch findings --suppressed`.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    suppress.command("add")(add)
    suppress.command("list")(list_)
    suppress.command("show")(show)
    suppress.command("remove")(remove)
    app.add_typer(suppress, name="suppress")


def add(
    rule: Rule,
    owner: Owner,
    reason: Reason,
    expires: Expires,
    when: Annotated[
        str,
        typer.Option(
            "--when",
            metavar="CONDITION",
            help="What of it, in the rules' language:"
            " 'proc.name = git and container.image.repository = acme/builder'.",
        ),
    ] = "",
    all_: Annotated[
        bool, typer.Option("--all", help="Without --when: everything the rule finds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it and try it on stored findings only.")
    ] = False,
    rules: Rules = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Keep quiet what a rule finds under a condition. A running agent follows within a second.

    The condition is tried on the stored findings first, and what it would have silenced is said.
    Exit code 6: the condition cannot be used, with its place.
    """
    from hullwatch.cli.findings import stored
    from hullwatch.cli.rules import load_all
    from hullwatch.store.catalog import Catalog

    loaded = load_all(rules)
    one = make(loaded, rule, when, all_, owner, reason, expires)
    with Catalog(store) as catalog:
        tried = _try(one, [row for row in stored(catalog) if not row.get("suppressed_by")], loaded)
    if not dry_run:
        write(store, one)
    if json:
        print_json(_row(one, {}) | {"tried": tried and tried._asdict(), "written": not dry_run})
        return
    if all_:
        say(f"this quiets everything that {rule!r} finds, in every container")
    if tried is not None:
        print(tried_text(tried))
    if not dry_run:
        print(f"{one.id}  in force until {iso(one.expires)[:16].replace('T', ' ')} UTC")
        print(f"next\n  hullwatch suppress show {one.id}    # what it has kept quiet")
        print(f"  hullwatch suppress remove {one.id}  # speak again")


def list_(
    store: Store = DEFAULT_STORE,
    removed: Annotated[
        bool, typer.Option("--removed", help="Those that were taken back, too.")
    ] = False,
    json: Json = False,
) -> None:
    """List suppressions: who, why, until when, and what they kept quiet."""
    rows = [_row(one, hits) for one, hits in _all(store) if removed or not one.removed]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        columns = ["id", "state", "days_left", "hits", "last_hit", "owner", "rule", "when"]
        print_table(columns, rows)
        say("`hullwatch suppress show ID` has the reason")
    else:
        say("no suppressions; `hullwatch findings top` proposes some where a rule is loud")


def show(ident: Ident, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Show one suppression and the findings that it kept quiet. Exit code 1: no such one."""
    from hullwatch.cli.findings import finding_text, stored
    from hullwatch.cli.show import console
    from hullwatch.store.catalog import Catalog

    one, hits = _find(store, ident)
    row = _row(one, hits)
    with Catalog(store) as catalog:
        quiet = [found for found in stored(catalog) if found.get("suppressed_by") == one.id]
    if json:
        print_json(row | {"findings": [found["id"] for found in quiet]})
        return
    for name, value in row.items():
        if value not in (None, ""):
            print(f"{name.replace('_', ' '):<11}{safe(value)}")
    for found in quiet[-20:]:
        console().print(finding_text(found))
    if len(quiet) > 20:
        say(f"the newest 20 of {len(quiet)}; `hullwatch findings --suppressed` has all")


def remove(ident: Ident, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Take one back: what it kept quiet is told again. Exit code 1: no such one."""
    from hullwatch.store import suppressions

    one, hits = _find(store, ident)
    if one.removed:
        raise CommandError(f"suppression {one.id}: removed already")
    moment = time.time_ns()
    with writing(store) as state:
        suppressions.remove(state, one.id, moment)
    if json:
        print_json(_row(one, hits) | {"removed": iso(moment), "state": "removed"})
    else:
        print(f"{one.id} removed; it kept {hits.get('hits', 0)} events quiet")


# --- one suppression ----------------------------------------------------------------------


def make(
    loaded: RuleSet, rule: str, when: str, all_: bool, owner: str, reason: str, expires: str
) -> Suppression:
    """Checked against the rules; CommandError says what is wrong with it."""
    from hullwatch.cli.when import parse_duration
    from hullwatch.detect.accounts import HostAccounts
    from hullwatch.detect.row import Env
    from hullwatch.detect.suppress import MAX_DAYS, Suppression, Suppressions

    for name, text in (("--owner", owner), ("--reason", reason)):
        if not text.strip() or len(text) > _MAX_TEXT:
            raise CommandError(
                f"{name}: give one, of at most {_MAX_TEXT} characters", ExitCode.USAGE
            )
    if bool(when.strip()) == all_:
        raise CommandError(
            "suppress add: give --when CONDITION, or --all to quiet the whole rule", ExitCode.USAGE
        )
    seconds = parse_duration(expires, "--expires")
    if not 0 < seconds <= MAX_DAYS * 86_400:
        raise CommandError(f"--expires {expires}: at most a year", ExitCode.USAGE)
    now = time.time_ns()
    one = Suppression(
        id=secrets.token_hex(4),
        rule=rule,
        condition=" ".join(when.split()),
        owner=owner.strip(),
        reason=" ".join(reason.split()),
        created=now,
        expires=now + int(seconds * 1e9),
    )
    for _, problem in Suppressions(loaded, [one], Env(HostAccounts())).errors:
        raise CommandError(f"suppress add: {problem}", ExitCode.CONTENT)
    return one


def write(store: Path, one: Suppression) -> None:
    from hullwatch.detect.suppress import MAX_SUPPRESSIONS
    from hullwatch.store import suppressions

    with writing(store) as state:
        in_force = [each for each in suppressions.read(state.link, one.created) if not each.removed]
        if len(in_force) >= MAX_SUPPRESSIONS:
            raise CommandError(
                f"{MAX_SUPPRESSIONS} suppressions are in force; remove some, or mend the rules"
            )
        suppressions.add(state, one)


def _try(one: Suppression, history: list[dict[str, Any]], loaded: RuleSet) -> Tried | None:
    from hullwatch.detect.proposal import try_on
    from hullwatch.detect.suppress import names

    return try_on(
        one.rule,
        one.condition,
        [row for row in history if names(one.rule, str(row.get("rule")))],
        loaded,
    )


def tried_text(tried: Tried) -> str:
    """What a condition would have done to the stored findings, in a sentence."""
    if tried.untested:
        return f"not tried on history: findings do not keep {', '.join(tried.untested)}"
    partly = f", and parts of {tried.partly} more" if tried.partly else ""
    said = (
        f"of the stored findings of this rule it would have kept quiet {tried.findings}{partly}"
        f" ({tried.events} events); {tried.left_findings} remain ({tried.left_events} events)"
    )
    return "\n".join((said, *(f"  silenced are {other}" for other in tried.others)))


# --- the table ----------------------------------------------------------------------------


@contextmanager
def writing(store: Path) -> Iterator[State]:
    """The store's SQLite side for one write; the agent may write at the same time."""
    import os
    import sqlite3

    from hullwatch.store.errors import StoreError, StoreMissing
    from hullwatch.store.state import State

    path = store / "state.db"
    if not path.exists():
        raise StoreMissing(store, "no store here", "start `hullwatch up`, or give --store DIR")
    os.umask(0o077)
    try:
        state = State(path)
    except sqlite3.Error as error:
        raise StoreError(path, str(error), "run as root") from error
    try:
        yield state
    except sqlite3.Error as error:
        raise StoreError(path, str(error), "try again") from error
    finally:
        state.close()


def _all(store: Path) -> list[tuple[Suppression, dict[str, Any]]]:
    """Every suppression there ever was, oldest first, and what it kept quiet."""
    from hullwatch.store import suppressions
    from hullwatch.store.catalog import Catalog

    with Catalog(store) as catalog:
        if not catalog.rows("SELECT 1 FROM sqlite_master WHERE name = 'suppressions'"):
            return []  # written by an older version only
        hits = {
            ident: {"hits": count, "findings": findings, "last_hit": last}
            for ident, count, findings, last in catalog.rows(
                "SELECT suppressed_by, sum(count), count(*), max(last) FROM findings"
                " WHERE suppressed_by IS NOT NULL GROUP BY suppressed_by"
            )
        }
        return [(one, hits.get(one.id, {})) for one in suppressions.read(catalog.link)]


def _find(store: Path, ident: str) -> tuple[Suppression, dict[str, Any]]:
    listed = "hullwatch suppress list"
    return the_one(_all(store), ident, "suppression", listed, lambda one: one[0].id)


def _row(one: Suppression, hits: Mapping[str, Any]) -> dict[str, Any]:
    now = time.time_ns()
    state = "removed" if one.removed else "in force" if one.in_force(now) else "expired"
    return {
        "id": one.id,
        "state": state,
        "rule": one.rule,
        "when": one.condition or "(all)",
        "owner": one.owner,
        "reason": one.reason,
        "created": iso(one.created),
        "expires": iso(one.expires),
        "days_left": max(one.expires - now, 0) // _DAY if state == "in force" else 0,
        "removed": iso(one.removed) if one.removed else "",
        "hits": hits.get("hits", 0),
        "findings": hits.get("findings", 0),
        "last_hit": iso(hits["last_hit"]) if hits.get("last_hit") else "",
    }
