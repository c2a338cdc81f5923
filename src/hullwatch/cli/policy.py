"""`hullwatch policy`: check, test, explain and compare policies; put a set into force, and back."""

from __future__ import annotations

import difflib
import os
import pwd
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.show import iso, print_json, print_table, quoted, safe, say, short_time

if TYPE_CHECKING:
    from hullwatch.decide.applied import Applied, Entry, Set
    from hullwatch.decide.cases import Case, Result
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.policy import Policy, Problem
    from hullwatch.decide.question import Decision, Question

__all__ = ["register"]

OWN = Path("/etc/hullwatch/policies")

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Policy files (*.cedar) or folders, or the names of sets that ship, such as `agent`."
        f" Default: {OWN}, or all that ship.",
    ),
]
Given = Annotated[list[str], typer.Argument(metavar="PATH...", help="As for `policy check`.")]
Chosen = Annotated[
    list[str] | None,
    typer.Option(
        "--policies",
        metavar="PATH",
        help="Policies to ask, as for `policy check`; may be repeated. Default: the set in force.",
    ),
]
Note = Annotated[str, typer.Option("--note", help="Why, for the log.")]


def register(app: typer.Typer) -> None:
    policy = typer.Typer(
        help="Policies: what may happen. Check, test, explain, compare, put into force, roll back.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    policy.command("list")(list_)
    policy.command("check")(check)
    policy.command("test")(test)
    policy.command("explain")(explain)
    policy.command("diff")(diff)
    policy.command("apply")(apply)
    policy.command("rollback")(rollback)
    policy.command("show")(show)
    policy.command("schema")(schema)
    app.add_typer(policy, name="policy")


def shipped() -> Path | None:
    """The starter sets: package data, or the source tree."""
    import hullwatch

    package = Path(hullwatch.__file__).resolve().parent
    places = (package / "policies", package.parent.parent / "policies")
    return next((path for path in places if path.is_dir()), None)


def chosen(given: list[str] | None) -> list[Path]:
    """Paths of what was named; CommandError where one is not there."""
    from hullwatch.detect.errors import did_you_mean

    pack = shipped()
    if not given:
        found = OWN if OWN.is_dir() else pack
        if found is None:
            raise CommandError("policy: no policies found; give PATH", ExitCode.CONTENT)
        return [found]
    paths: list[Path] = []
    names = {path.stem: path for path in pack.glob("*.cedar")} if pack else {}
    for name in given:
        path = Path(name)
        if not path.exists() and name in names:
            path = names[name]
        if not path.exists():
            hint = did_you_mean(name, names)
            said = f"{name}: no such file or directory, and no set that ships"
            raise CommandError(f"{said} {hint and f'({hint})'}".strip(), ExitCode.CONTENT)
        paths.append(path)
    return paths


def _load(paths: list[Path]) -> Engine:
    from hullwatch.decide.engine import Engine

    with _refusing():
        return Engine.load(paths)


@contextmanager
def _refusing() -> Iterator[None]:
    """What a set's errors are to a person: all of them, and code 6."""
    from hullwatch.decide.applied import AppliedError
    from hullwatch.decide.policy import PolicyError

    try:
        yield
    except PolicyError as error:
        first, *more = map(str, error.problems)
        raise CommandError(first, ExitCode.CONTENT, more) from None
    except AppliedError as error:
        raise CommandError(f"policy: {error}", ExitCode.STORE) from None
    except OSError as error:
        said = error.strerror or str(error)
        raise CommandError(f"{error.filename}: {said}", ExitCode.STORE) from None


def _asked(given: list[str] | None, store: Path) -> Engine:
    """What was named, else the set in force, else what ships."""
    from hullwatch.decide.applied import Applied

    if not given:
        with _refusing():
            found = Applied(store).engine()
        if found is not None:
            return found
        say("no set is in force: these are those that ship (`hullwatch policy apply` changes that)")
    return _load(chosen(given))


def list_(paths: Paths = None, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List policies: of the set in force, or of PATH."""
    rows = [_row(one) for one in _asked(paths, store).policies.values()]
    if json:
        for row in rows:
            print_json(row)
        return
    for row in rows:
        row["actions"] = row["actions"] if len(row["actions"]) <= 3 else ["(many)"]
    print_table(["policy", "does", "mode", "fail", "actions", "review", "place"], rows)


def _row(policy: Policy) -> dict[str, Any]:
    return {
        "policy": policy.id,
        "does": policy.does.value,
        "mode": policy.mode.value,
        "fail": policy.fail.value,
        "actions": list(policy.actions),
        "owner": policy.owner,
        "review": str(policy.review) if policy.review else None,
        "controls": list(policy.controls),
        "approvers": list(policy.approvers),
        "deadline_s": policy.deadline or None,
        "reason": policy.reason,
        "place": str(policy.place),
    }


def check(paths: Paths = None, json: Json = False) -> None:
    """Check policies against the schema. Exit code 6: something is refused, with line and mend."""
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.policy import PolicyError

    errors: Iterable[Problem] = ()
    warnings: list[Problem] = []
    count = 0
    try:
        engine = Engine.load(chosen(paths))
        warnings, count = engine.overdue(), len(engine.policies)
    except PolicyError as error:
        errors = error.problems
    for kind, problems in (("error", errors), ("warning", warnings)):
        for one in problems:
            if json:
                print_json(_problem(kind, one))
            else:
                print(f"{kind}: {safe(one)}")
    wrong = len(tuple(errors))
    if not json:
        print(
            f"{wrong} errors: nothing of it can be used"
            if wrong
            else f"{count} policies can be used, {len(warnings)} warnings"
        )
    if wrong:
        raise typer.Exit(ExitCode.CONTENT)


def _problem(kind: str, problem: Problem) -> dict[str, Any]:
    return {
        "kind": kind,
        "file": problem.place.path,
        "line": problem.place.line,
        "column": problem.place.col,
        "policy": problem.policy,
        "message": problem.message,
        "mend": problem.mend,
    }


def test(paths: Paths = None, json: Json = False) -> None:
    """Run the test cases that stand beside the policies. Exit code 1: a case fails."""
    from hullwatch.decide.cases import case_files, read_cases, run_case

    found = chosen(paths)
    engine = _load(found)
    with _refusing():
        cases = [case for file in case_files(found) for case in read_cases(file)]
    results = [run_case(engine, case) for case in cases]
    failed = [one for one in results if not one.ok]
    for one in results if json else failed:
        _print_result(one, json)
    bare = engine.policies.keys() - {case.policy for case in cases}
    if not json:
        print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if bare:
        named = "; ".join(sorted(bare)[:5])
        say(f"{len(bare)} policies have no case: {named}{' ...' if len(bare) > 5 else ''}")
    if failed or not results:
        raise typer.Exit(ExitCode.NO)


def _print_result(result: Result, as_json: bool) -> None:
    case = result.case
    if as_json:
        print_json(
            {
                "policy": case.policy,
                "case": case.name,
                "file": case.place.path,
                "passed": result.ok,
                "expected": case.expect.value,
                "wanted": result.decision.wanted.value,
                "by": list(result.decision.policies),
                "error": result.error,
            }
        )
    else:
        said = f"{safe(case.policy)}: {safe(case.name)}: {safe(result.error)}"
        print(f"FAIL  {safe(case.place)}: {said}")


def explain(
    question: Annotated[
        str,
        typer.Argument(metavar="[JSON]", help="The question; `-` reads it. Or give the options."),
    ] = "",
    principal: Annotated[
        str, typer.Option("--principal", metavar="KIND::ID", help="Who: Agent::coder.")
    ] = "",
    action: Annotated[str, typer.Option("--action", metavar="ACTION", help="exec, ...")] = "",
    resource: Annotated[
        str, typer.Option("--resource", metavar="KIND::ID", help="What: Binary::/bin/sh.")
    ] = "",
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="NAME=VALUE",
            help="May be repeated; sets by commas: labels=secret,untrusted. labels are none unless"
            " given.",
        ),
    ] = None,
    approved: Annotated[bool, typer.Option("--approved", help="A person said yes to it.")] = False,
    policies: Chosen = None,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Explain a decision: what is done about a question, which policies decide, and why.

    Example: hullwatch policy explain --principal Agent::coder --action exec
    --resource Binary::/bin/sh --context labels=untrusted
    """
    from hullwatch.decide.cases import question_from

    try:
        given = _json(question) if question else {}
        given |= {
            name: value
            for name, value in (
                ("principal", principal),
                ("action", action),
                ("resource", resource),
            )
            if value
        }
        said = {"labels": [], **(given.get("context") or {}), **_context(context or [])}
        asked = question_from({**given, "context": said})
    except (ValueError, TypeError) as error:
        raise CommandError(f"policy explain: {error}", ExitCode.USAGE) from None
    engine = _asked(policies, store)
    _print_decision(engine, asked, approved, json)


def _json(text: str) -> dict[str, Any]:
    import msgspec

    try:
        found = msgspec.json.decode(sys.stdin.read() if text == "-" else text)
    except msgspec.DecodeError as error:
        raise ValueError(f"the question is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("the question must be an object with principal, action and resource")
    return found


def _context(words: Iterable[str]) -> dict[str, Any]:
    from hullwatch.decide.schema import CONTEXT

    said: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ValueError(f"--context {word}: write NAME=VALUE")
        kind = CONTEXT[name].type if name in CONTEXT else ""
        if kind == "Set<String>":
            said[name] = [one for one in value.split(",") if one]
        elif kind == "Long":
            said[name] = int(value)
        elif kind == "Bool":
            if value not in ("true", "false"):
                raise ValueError(f"--context {word}: true or false")
            said[name] = value == "true"
        else:
            said[name] = value
    return said


def _print_decision(engine: Engine, asked: Question, approved: bool, as_json: bool) -> None:
    decision = engine.decide(asked, approved=approved)
    answer = engine.answer(asked)
    rows = [
        {
            **_row(one),
            "decides": one.id in decision.policies,
            "said": "failed"
            if one.id in answer.failed
            else "holds"
            if one.id in answer.matched
            else "does not hold",
        }
        for one in answer.asked
    ]
    if as_json:
        print_json({"decision": _decision(decision), "question": asked, "policies": rows})
        return
    print(f"{decision.effect}   {safe(decision.reason)}")
    if decision.wanted is not decision.effect:
        print(f"wanted   {decision.wanted}: were all policies enforced")
    for name in decision.policies:
        one = engine.policies[name]
        about = [f"{one.mode}s" if one.mode == "observe" else "", one.owner and f"of {one.owner}"]
        more = ", ".join(filter(None, about))
        print(f"\n{safe(one.id)}  ({safe(one.place)}{more and f', {safe(more)}'})")
        if name in answer.failed:
            print(f"  could not be evaluated, and fails {one.fail}")
        for line in one.text.splitlines():
            print(f"  {safe(line)}")
    other = [row for row in rows if not row["decides"]]
    if other:
        print("\nasked too")
        for row in other:
            print(f"  {row['said']:<14} {safe(row['policy'])}: {row['does']}, {row['mode']}")


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "effect": decision.effect.value,
        "wanted": decision.wanted.value,
        "policies": list(decision.policies),
        "failed": list(decision.failed),
        "reason": decision.reason,
        "version": decision.version,
    }


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

    with _refusing():
        return _load(paths), [case for file in case_files(paths) for case in read_cases(file)]


def _older(against: list[str] | None, store: Path) -> tuple[Engine, list[Case]]:
    from hullwatch.decide.applied import Applied

    applied = Applied(store)
    with _refusing():
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
            "before": _decision(before),
            "after": _decision(after),
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
    from hullwatch.decide.cases import case_files, run_case

    found = chosen(paths)
    files = [file for path in found for file in _files(path)]
    with _refusing():
        try:
            new = Set.read(files, case_files(found))
        except UnicodeDecodeError:
            _load(found)  # says which
            raise CommandError("policy apply: a file of cases is not UTF-8") from None
        # What was read is what is checked, tested and kept, whatever becomes of the files.
        engine = new.engine()
        results = [run_case(engine, case) for case in new.tests()]
    if not engine.policies:
        raise CommandError("policy apply: no policy in the given files", ExitCode.CONTENT)
    failed = [one for one in results if not one.ok]
    for one in failed:
        _print_result(one, json)
    if failed:
        raise CommandError(f"policy apply: {len(failed)} cases fail; nothing was changed")
    for late in engine.overdue():
        say(f"warning: {late}")
    with _refusing():
        entry = Applied(store).apply(new, time.time_ns(), _who(), note)
    _print_entry(entry, engine, len(results), json)


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.cedar")) if path.is_dir() else [path]


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

    with _refusing():
        applied = Applied(store)
        entry = applied.rollback(version, time.time_ns(), _who(), note)
        engine = applied.set(entry.version).engine()
    _print_entry(entry, engine, 0, json)


def _who() -> str:
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

    with _refusing():
        applied = Applied(store)
        entries = applied.log()
        if version:
            _print_set(applied, entries, version, json)
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


def _print_set(applied: Applied, entries: list[Entry], version: str, as_json: bool) -> None:
    fits = [one.version for one in entries if one.version.startswith(version)]
    if not fits:
        raise CommandError(f"policy show: no set {version} was in force")
    found: Set = applied.set(fits[-1])
    for text, path in found.policies:
        if as_json:
            print_json({"version": fits[-1], "file": path, "text": text})
            continue
        print(f"// {safe(path)}")
        for line in text.splitlines():
            print(safe(line))


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The tables of docs/write-a-policy.md.")
    ] = False,
) -> None:
    """Print the schema: all that a policy may speak of, with its meaning, in Cedar's syntax."""
    from hullwatch.decide.schema import cedar, tables

    print(tables() if markdown else cedar(), end="")
