"""`hullwatch policy diff`, `apply`, `rollback` and `show`: the set that is in force."""

from __future__ import annotations

import difflib
import os
import pwd
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import Given, chosen, decision_row, load, print_result, refusing
from hullwatch.cli.show import iso, print_json, print_table, quoted, safe, say, short_time

if TYPE_CHECKING:
    from hullwatch.decide.applied import Applied, Entry, Set
    from hullwatch.decide.cases import Case
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.question import Question

__all__ = ["apply", "diff", "rollback", "show", "who"]

Note = Annotated[str, typer.Option("--note", help="Why, for the log.")]


def diff(
    paths: Given,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="PATH|VERSION",
            help="What to compare with; may be repeated. Default: the set in force.",
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """What a set would change: its policies, and answers to cases. Exit code 1: something differs.

    Example: hullwatch policy diff policies/agent.cedar
    """
    new, new_cases = _with_cases(chosen(paths))
    old, old_cases = _older(against, store)
    cases = {_key(case.question): case for case in (*old_cases, *new_cases)}
    rows = [*_texts(old, new), *_answers(old, new, cases.values())]
    if json:
        for row in rows:
            print_json(row)
    else:
        for row in rows:
            _print_change(row)
        answers = sum(row["kind"] == "answer" for row in rows)
        print(
            f"{len(rows) - answers} policies differ; {answers} of {len(cases)} cases have another"
            " answer"
        )
    if rows:
        raise typer.Exit(ExitCode.NO)


def _key(question: Question) -> str:
    import msgspec

    return msgspec.json.encode(question, order="deterministic").decode()


def _with_cases(paths: list[Path]) -> tuple[Engine, list[Case]]:
    from hullwatch.decide.cases import case_files, read_cases

    with refusing():
        return load(paths), [case for file in case_files(paths) for case in read_cases(file)]


def _older(against: list[str] | None, store: Path) -> tuple[Engine, list[Case]]:
    from hullwatch.decide.applied import Applied

    applied = Applied(store)
    with refusing():
        entries = applied.log()
        if not against:
            if not entries:
                raise CommandError("policy diff: no set is in force; give --against PATH")
            version = entries[-1].version
        elif len(against) > 1 or Path(against[0]).exists():
            return _with_cases(chosen(against))
        else:
            fits = [one.version for one in entries if one.version.startswith(against[0])]
            if not fits:
                return _with_cases(chosen(against))
            version = fits[-1]
        found = applied.set(version)
        return found.engine(), found.tests()


def _texts(old: Engine, new: Engine) -> Iterator[dict[str, Any]]:
    for name in sorted(old.policies.keys() | new.policies.keys()):
        before, after = old.policies.get(name), new.policies.get(name)
        was, is_ = (one.text.splitlines() if one else [] for one in (before, after))
        if was == is_:
            continue
        lines = difflib.unified_diff(was, is_, lineterm="", n=1)
        yield {
            "kind": "policy",
            "policy": name,
            "change": "changed" if before and after else "added" if after else "removed",
            "lines": [line for line in lines if not line.startswith(("---", "+++", "@@"))],
        }


def _answers(old: Engine, new: Engine, cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    for case in cases:
        before, after = old.decide(case.question), new.decide(case.question)
        if (before.effect, before.wanted) == (after.effect, after.wanted):
            continue
        yield {
            "kind": "answer",
            "policy": case.policy,
            "case": case.name,
            "before": decision_row(before),
            "after": decision_row(after),
        }


def _print_change(row: dict[str, Any]) -> None:
    if row["kind"] == "policy":
        print(f"{row['change']:<8} {safe(row['policy'])}")
        for line in row["lines"]:
            print(f"    {safe(line)}")
        return

    def told(decision: dict[str, Any]) -> str:
        by = ", ".join(decision["policies"])
        observed = decision["wanted"] != decision["effect"]
        said = decision["effect"] + (f" (wanted {decision['wanted']})" if observed else "")
        return f"{said} by {safe(by)}" if by else said

    print(f"answer   {safe(row['policy'])}: {safe(row['case'])}")
    print(f"    {told(row['before'])} -> {told(row['after'])}")


def apply(
    paths: Given,
    note: Note = "",
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put a set into force: exactly these files, instead of the set before.

    Refused are a set that fails `policy check` (exit code 6) or `policy test` (exit code 1).

    Example: hullwatch policy apply agent model-server --note "first sets"
    """
    from hullwatch.decide.applied import Applied, Set
    from hullwatch.decide.cases import run_case

    with refusing():
        new = Set.read(chosen(paths))
        # What was read is what is checked, tested and kept, whatever becomes of the files.
        engine = new.engine()
        results = [run_case(engine, case) for case in new.tests()]
    if not engine.policies:
        raise CommandError("policy apply: no policy in the given files", ExitCode.CONTENT)
    failed = [one for one in results if not one.ok]
    for one in failed:
        print_result(one, json)
    if failed:
        raise CommandError(f"policy apply: {len(failed)} cases fail; nothing was changed")
    for late in engine.overdue():
        say(f"warning: {late}")
    with refusing():
        entry = Applied(store).apply(new, time.time_ns(), who(), note)
    _print_entry(entry, engine, len(results), json)


def rollback(
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="Or its beginning. Default: the one before.")
    ] = "",
    note: Note = "",
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Put the set into force that was before; once more, the one before that."""
    from hullwatch.decide.applied import Applied

    with refusing():
        applied = Applied(store)
        entry = applied.rollback(version, time.time_ns(), who(), note)
        engine = applied.set(entry.version).engine()
    _print_entry(entry, engine, 0, json)


def who() -> str:
    """Who asked for it; behind sudo the person, not root."""
    name = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    if name:
        return name
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _print_entry(entry: Entry, engine: Engine, cases: int, as_json: bool) -> None:
    if as_json:
        print_json({**_entry(entry), "policies": len(engine.policies), "cases": cases})
        return
    tested = f", {cases} cases passed" if entry.what == "apply" else ""
    print(f"{entry.version[:12]} is in force: {len(engine.policies)} policies{tested}")


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "at": iso(entry.at),
        "what": entry.what,
        "version": entry.version,
        "by": entry.by,
        "note": entry.note,
        "chain": entry.chain,
    }


def show(
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="Or its beginning. Default: all changes.")
    ] = "",
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Show which sets were in force, by whom and why; or the text of one."""
    from hullwatch.decide.applied import Applied

    with refusing():
        applied = Applied(store)
        entries = applied.log()
        found = _named(applied, entries, version) if version else None
    if found:
        _print_set(found, json)
        return
    if not entries:
        raise CommandError("policy show: no set was put into force; `hullwatch policy apply` does")
    for at, entry in enumerate(entries):
        if json:
            print_json({**_entry(entry), "in_force": at == len(entries) - 1})
    if not json:
        rows = [
            [short_time(one.at, True), one.what, one.version[:12], one.by, one.note]
            for one in entries
        ]
        print_table(["time", "what", "version", "by", "note"], rows)
        print(f"\nin force: {entries[-1].version[:12]}")
        print(f"next\n  hullwatch policy show {quoted(entries[-1].version[:12])}")


def _named(applied: Applied, entries: list[Entry], version: str) -> Set:
    fits = [one.version for one in entries if one.version.startswith(version)]
    if not fits:
        raise CommandError(f"policy show: no set {version} was in force")
    return applied.set(fits[-1])


def _print_set(found: Set, as_json: bool) -> None:
    for text, path in found.policies:
        if as_json:
            print_json({"file": path, "text": text})
            continue
        print(f"// {safe(path)}")
        for line in text.splitlines():
            print(safe(line))
