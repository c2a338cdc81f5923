"""`hullwatch rules`: list, check, test and explain detection rules."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json
from hullwatch.cli.show import print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.detect.ruleset import Rule, RuleSet

__all__ = ["default_rules", "register"]

Rules = Annotated[
    list[Path] | None,
    typer.Option(
        "--rules",
        metavar="PATH",
        envvar="HULLWATCH_RULES",
        help="Rule file or directory; may be repeated. Default: the pack that ships.",
    ),
]


def register(app: typer.Typer) -> None:
    rules = typer.Typer(
        help="List, check, test and explain detection rules.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    rules.command("list")(list_)
    rules.command("check")(check)
    rules.command("test")(test)
    rules.command("explain")(explain)
    app.add_typer(rules, name="rules")


def default_rules() -> list[Path]:
    """The administrator's rules after the pack that ships (package data, or the source tree)."""
    import hullwatch

    package = Path(hullwatch.__file__).resolve().parent
    shipped = (package / "rules", package.parent.parent / "rules")
    found = (
        [next(path for path in shipped if path.is_dir())]
        if any(path.is_dir() for path in shipped)
        else []
    )
    own = Path("/etc/hullwatch/rules")
    return [*found, *([own] if own.is_dir() else [])]


def _load(paths: list[Path] | None) -> RuleSet:
    from hullwatch.detect.ruleset import load

    chosen = paths or default_rules()
    if not chosen:
        raise CommandError("rules: no rules found; give --rules PATH", ExitCode.CONTENT)
    missing = [path for path in chosen if not path.exists()]
    if missing:
        raise CommandError(f"{missing[0]}: no such file or directory", ExitCode.CONTENT)
    return load(chosen)


def _row(rule: Rule) -> dict[str, Any]:
    from hullwatch.sensor.events import CLASSES

    return {
        "rule": rule.name,
        "priority": rule.priority.lower(),
        "enabled": rule.enabled,
        "events": [CLASSES[cls].name for cls in rule.classes if cls in CLASSES],
        "tags": list(rule.tags),
        "place": str(rule.place),
        "hash": rule.hash,
    }


def list_(rules: Rules = None, json: Json = False) -> None:
    """List the rules that can run."""
    loaded = _load(rules)
    rows = [_row(rule) for rule in loaded.rules]
    if json:
        for row in rows:
            print_json(row)
    else:
        for row in rows:
            row["events"] = row["events"] if len(row["events"]) <= 6 else ["(many)"]
        print_table(["rule", "priority", "enabled", "events", "place"], rows)
    if loaded.errors:
        say(f"{len(loaded.errors)} refused: `hullwatch rules check` says why")


def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or directories.")] = None,
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Check rule files. Exit code 6: something is refused, with file, line and mend."""
    loaded = _load([*(rules or []), *(paths or [])] or None)
    for kind, problems in (("error", loaded.errors), ("warning", loaded.warnings)):
        for problem in problems:
            if json:
                print_json(_problem(kind, problem))
            else:
                print(f"{kind}: {safe(problem)}")
    if not json:
        print(
            f"{len(loaded.rules)} rules can run, {len(loaded.errors)} errors,"
            f" {len(loaded.warnings)} warnings"
        )
    if loaded.errors:
        raise typer.Exit(ExitCode.CONTENT)


def _problem(kind: str, problem: Any) -> dict[str, Any]:
    place = problem.place
    return {
        "kind": kind,
        "file": place.path,
        "line": place.line,
        "column": place.col,
        "item": problem.item,
        "message": problem.message,
        "mend": getattr(problem, "mend", ""),
    }


def test(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or directories.")] = None,
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Run the test cases that stand beside the rules. Exit code 1: a case fails."""
    if importlib.util.find_spec("hullwatch.detect.cases") is None:
        raise CommandError("rules test: this build has no case runner", ExitCode.CONTENT)
    from hullwatch.detect import cases

    chosen = [*(rules or []), *(paths or [])] or default_rules()
    results = [_result(result) for result in cases.run(chosen)]
    for result in results:
        if json:
            print_json(result)
        elif not result["passed"]:
            print(f"FAIL  {safe(result['case'])}: {safe(result['message'])}")
    failed = sum(not result["passed"] for result in results)
    if not json:
        print(f"{len(results) - failed} passed, {failed} failed")
    if failed or not results:
        raise typer.Exit(ExitCode.NO)


def _result(result: Any) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(result)
    return value


def explain(
    name: Annotated[str, typer.Argument(help="The rule's name, or a part of it.")],
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Explain one rule: what it looks for, in which events, and what it prints."""
    from hullwatch.detect.language.ast import show

    loaded = _load(rules)
    rule = _find(loaded, name)
    row = _row(rule) | {
        "description": " ".join(rule.desc.split()),
        "output": rule.definition.output,
        "macros": list(rule.macros),
        "fields": sorted(rule.sources),
        "condition": show(rule.condition),
    }
    if json:
        print_json(row)
        return
    for key, value in row.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{key:<12} {safe(text)}")
    print(f"\nnext\n  hullwatch hunt \"SELECT * FROM findings WHERE rule = '{_sql(rule.name)}'\"")
    if os.isatty(1) and rule.place.line:
        print(f"  ${{EDITOR:-vi}} +{rule.place.line} {safe(rule.place.path)}")


def _sql(text: str) -> str:
    return safe(text).replace("'", "''").replace('"', '\\"')


def _find(loaded: RuleSet, name: str) -> Rule:
    exact = [rule for rule in loaded.rules if rule.name.lower() == name.lower()]
    close = exact or [rule for rule in loaded.rules if name.lower() in rule.name.lower()]
    if len(close) == 1:
        return close[0]
    if close:
        names = "; ".join(rule.name for rule in close[:6])
        raise CommandError(f"rules explain: {name!r} may be: {names}")
    refused = [error for error in loaded.errors if name.lower() in error.item.lower()]
    if refused:
        raise CommandError(f"rules explain: refused: {refused[0]}", ExitCode.CONTENT)
    raise CommandError(f"rules explain: no rule {name!r}; `hullwatch rules list` names them")
