"""`hullwatch rules health`: which rules fire, which are silent, and which cannot match here."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.options import DEFAULT_STORE, Json, Rules, Store
from hullwatch.cli.show import iso, print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.detect.reach import Sight
    from hullwatch.detect.ruleset import RuleSet
    from hullwatch.store.catalog import Catalog

__all__ = ["health"]

_DAY = 86_400 * 10**9
_STATES = {
    "refused": "cannot be used: `hullwatch rules check` says why",
    "cannot match": "no event of this tier, mode or processor can meet it",
    "silent": "has not fired in that time, and was there all of it",
    "too young": "has not fired, and has not been loaded for that long",
    "not loaded": "no agent has run it with this store",
    "fired": "has fired in that time",
    "disabled": "is switched off",
}


def health(
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, help="How long without firing is silent.")
    ] = 30,
    rules: Rules = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Say of each rule when it fired last, and of those that never will, why.

    A rule that is silent is either not needed, broken, or watching for what has not come yet: try
    its cases (`hullwatch rules test`) and its replica. A changed rule begins anew.
    """
    from hullwatch.cli.rules import default_rules, load_all
    from hullwatch.store.catalog import Catalog

    loaded = load_all(rules)
    tested = _tested(rules or default_rules())
    with Catalog(store) as catalog:
        sight = _sight(catalog)
        rows = _rows(loaded, catalog, sight, days, tested)
    if json:
        for row in rows:
            print_json(row)
        return
    columns = ["state", "rule", "last", "findings", "events", "since", "cases"]
    print_table(columns, rows)
    for row in rows:
        if row["why"]:
            print(f"{safe(row['rule'])}: {safe(row['why'])}")
    counts = Counter(row["state"] for row in rows)
    for state, meaning in _STATES.items():
        if counts[state]:
            say(f"{counts[state]} {state}: {meaning}")
    if bare := sum(not row["cases"] for row in rows):
        say(f"{bare} have no test case")


def _rows(
    loaded: RuleSet, catalog: Catalog, sight: Sight, days: int, tested: set[str]
) -> list[dict[str, Any]]:
    from hullwatch.detect.reach import unreachable

    begin = time.time_ns() - days * _DAY
    fired = {
        name: (last, findings, events)
        for name, last, findings, events in catalog.rows(
            "SELECT rule, max(last), sum(last >= ?1), sum(CASE WHEN last >= ?1 THEN count END)"
            " FROM findings GROUP BY rule",
            begin,
        )
    }
    since: dict[str, tuple[str, int]] = {}
    if catalog.rows("SELECT 1 FROM sqlite_master WHERE name = 'rules'"):
        since = {
            name: (hash_, moment)
            for name, hash_, moment in catalog.rows("SELECT name, hash, since FROM rules")
        }
    never = unreachable(loaded, sight)
    rows = []
    for rule in loaded.rules:
        last, findings, events = fired.get(rule.name, (None, 0, 0))
        known, moment = since.get(rule.name, ("", 0))
        moment = moment if known == rule.hash else 0
        if not rule.enabled:
            state = "disabled"
        elif findings:
            state = "fired"
        elif rule.name in never:
            state = "cannot match"
        elif not moment:
            state = "not loaded"
        else:
            state = "silent" if moment <= begin else "too young"
        rows.append(
            {
                "state": state,
                "rule": rule.name,
                "last": iso(last)[:19],
                "findings": findings,
                "events": events or 0,
                "since": iso(moment)[:19] if moment else "",
                "cases": rule.name in tested,
                "why": never.get(rule.name, "") if rule.enabled else "",
            }
        )
    rows += [
        {
            "state": "refused",
            "rule": error.item or str(error.place),
            "last": "",
            "findings": 0,
            "events": 0,
            "since": "",
            "cases": False,
            "why": str(error),
        }
        for error in loaded.errors
    ]
    order = list(_STATES)
    return sorted(rows, key=lambda row: (order.index(row["state"]), row["rule"]))


def _sight(catalog: Catalog) -> Sight:
    """Of the last agent; without one, of this kernel in detect mode."""
    import os

    from hullwatch.detect.reach import Sight
    from hullwatch.sensor.tier import Tier, read_facts

    machine = os.uname().machine
    for tier, mode in catalog.rows(
        "SELECT tier, mode FROM sessions WHERE tier IN ('lsm', 'tracepoint')"
        " ORDER BY session DESC LIMIT 1"
    ):
        return Sight(Tier(tier), mode == "record", machine)
    return Sight(read_facts().tier, False, machine)


def _tested(paths: list[Path]) -> set[str]:
    """Names of rules that have a case beside them."""
    from hullwatch.cli.rules import case_files, tested_in
    from hullwatch.detect.errors import RuleError

    found: set[str] = set()
    for file in case_files(paths):
        # `hullwatch rules test` says what is wrong with it.
        with contextlib.suppress(RuleError):
            found |= tested_in(file)
    return found
