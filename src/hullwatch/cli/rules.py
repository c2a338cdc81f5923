"""`hullwatch rules`: list, check, test, explain and convert detection rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.health import health
from hullwatch.cli.options import Json, Rules
from hullwatch.cli.show import print_json, print_table, quoted, safe, say

if TYPE_CHECKING:
    from hullwatch.detect.cases import Result
    from hullwatch.detect.ruleset import Rule, RuleSet

__all__ = ["case_files", "default_rules", "load_all", "register", "tested_in"]

Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATH]...", readable=False, help="Rule files or folders."),
]


def register(app: typer.Typer) -> None:
    rules = typer.Typer(
        help="List, check, test, explain and convert detection rules; see which of them fire.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    rules.command("list")(list_)
    rules.command("check")(check)
    rules.command("test")(test)
    rules.command("explain")(explain)
    rules.command("convert")(convert)
    rules.command("health")(health)
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


def load_all(paths: list[Path] | None) -> RuleSet:
    """The given rules or the default ones; CommandError where there are none."""
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
        "desc": " ".join(rule.definition.desc.split()),
        "place": str(rule.place),
        "hash": rule.hash,
    }


def list_(
    rules: Rules = None,
    json: Json = False,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="As docs/rules.md has it: what each rule sees, and what it maps to."
        ),
    ] = False,
) -> None:
    """List the rules that can run."""
    loaded = load_all(rules)
    if markdown:
        from hullwatch.detect.catalogue import table

        print(table(loaded))
        return
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
    paths: Paths = None,
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Check rule files. Exit code 6: something is refused, with file, line and mend."""
    loaded = load_all([*(rules or []), *(paths or [])] or None)
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
    paths: Paths = None,
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Run the test cases that stand beside the rules. Exit code 1: a case fails."""
    from hullwatch.detect.cases import run_cases
    from hullwatch.detect.errors import RuleError

    chosen = [*(rules or []), *(paths or [])] or default_rules()
    loaded = load_all(chosen)
    files = case_files(chosen)
    total = failed = 0
    try:
        for result in run_cases(loaded, files):
            total, failed = total + 1, failed + (not result.ok)
            _print_result(result, json)
    except RuleError as error:
        raise CommandError(str(error), ExitCode.CONTENT) from None
    tested = {case_rule for file in files for case_rule in tested_in(file)}
    bare = [rule.name for rule in loaded.rules if rule.name not in tested]
    if not json:
        print(f"{total - failed} passed, {failed} failed")
    if bare:
        say(f"{len(bare)} rules have no case: {'; '.join(bare[:5])}{' ...' if bare[5:] else ''}")
    for refused in loaded.errors:
        say(f"refused: {refused}")
    if failed or not total:
        raise typer.Exit(ExitCode.NO)
    if loaded.errors:
        raise typer.Exit(ExitCode.CONTENT)


def case_files(paths: list[Path]) -> list[Path]:
    """The files of cases that stand beside rules, as far as there are any."""
    from hullwatch.detect.ruleset import TEST_SUFFIX

    return [
        file
        for path in paths
        for file in (
            sorted(path.rglob(f"*{TEST_SUFFIX}"))
            if path.is_dir()
            else [path.with_name(path.name.removesuffix(path.suffix) + TEST_SUFFIX)]
        )
        if file.exists()
    ]


def tested_in(file: Path) -> set[str]:
    """Names of the rules that a file has cases for; RuleError."""
    from hullwatch.detect.cases import read_cases

    return {case.rule for case in read_cases(file)}


def _print_result(result: Result, as_json: bool) -> None:
    case = result.case
    if as_json:
        print_json(
            {
                "rule": case.rule,
                "case": case.name,
                "file": case.place.path,
                "passed": result.ok,
                "expected": "match" if case.expect else "no match",
                "matched": result.matched,
                "also": list(result.also),
                "error": result.error,
            }
        )
    elif not result.ok:
        said = result.error or (
            "matched, and should not" if result.matched else "did not match, and should"
        )
        print(f"FAIL  {safe(case.place)}: {safe(case.rule)}: {safe(case.name)}: {safe(said)}")


def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The rule's name, or a part of it.")],
    rules: Rules = None,
    json: Json = False,
) -> None:
    """Explain one rule: what it looks for, and what decides it."""
    from dataclasses import asdict

    from hullwatch.detect.explain import explain as explained

    loaded = load_all(rules)
    found = explained(loaded, _find(loaded, name).name)
    if json:
        print_json(asdict(found))
        return
    print(f"{safe(found.name)}  ({safe(found.priority.lower())}, {safe(found.place)})")
    print(f"\n{safe(' '.join(found.desc.split()))}\n")
    if found.steps:
        print(f"sequence   {safe(found.joined)}")
        for step in found.steps:
            print(f"  {safe(step.id)}{': ' if step.count else ''}{safe(step.count)}")
            for line in step.condition.splitlines():
                print(f"    {safe(line)}")
    else:
        print("condition")
        for line in found.expanded.splitlines():
            print(f"  {safe(line)}")
    print(f"events     {', '.join(found.classes)}")
    if found.tags:
        print(f"tags       {safe(', '.join(found.tags))}")
    for at, (ident, title) in enumerate(found.frameworks.items()):
        print(f"{'maps to' if not at else '':<10} {ident}: {title}")
    for title, uses in (("macros", found.macros), ("lists", found.lists)):
        for at, use in enumerate(uses):
            print(f"{title if not at else '':<10} {safe(use.name)}: {safe(use.condition, 160)}")
    for at, field in enumerate(found.fields):
        print(f"{'fields' if not at else '':<10} {safe(field.name)}: {safe(field.doc)}")
    print(f"kernel     {safe(found.verdict)}")
    for warning in found.warnings:
        print(f"warning    {safe(warning)}")
    name = found.name.replace("'", "''")
    sql = f"SELECT * FROM findings WHERE rule = '{name}'"
    print(f"\nnext\n  hullwatch hunt {quoted(sql)}")


def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", readable=False, help="Sigma files or folders."),
    ],
    json: Json = False,
) -> None:
    """Print what Sigma rules become, as a rule file that you can read, edit and load.

    Sigma files need no conversion to be used: give them to --rules as they are. Exit code 6:
    something is refused, with file, line and mend (on stderr).

    Example: hullwatch rules convert sigma/rules/linux > linux.yaml
    """
    from hullwatch.detect.ruleset import read_files
    from hullwatch.detect.sigma import is_sigma, read_sigma
    from hullwatch.detect.sigma.written import as_yaml

    texts, errors = read_files(paths)
    sigma = read_sigma([one for one in texts if is_sigma(one[0])])
    for item in sigma.items:
        if json:
            print_json({"place": str(item.place), **item.body})
        else:
            print(as_yaml(item))
    refused = [*errors, *sigma.errors]
    for problem in (*refused, *sigma.warnings):
        say(safe(problem))
    if refused:
        raise typer.Exit(ExitCode.CONTENT)
    if not sigma.items:
        raise CommandError("rules convert: no Sigma rule in the given files", ExitCode.CONTENT)


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
