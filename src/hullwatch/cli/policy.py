"""`hullwatch policy`: check, test and explain policies; put a set into force, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.hindsight import backtest
from hullwatch.cli.inforce import apply, diff, rollback, show
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import (
    Paths,
    chosen,
    decision_row,
    in_force_or,
    load,
    print_result,
    refusing,
)
from hullwatch.cli.release import release
from hullwatch.cli.show import print_json, print_table, safe, say
from hullwatch.cli.suggest import suggest

if TYPE_CHECKING:
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.policy import Policy, Problem
    from hullwatch.decide.question import Question

__all__ = ["register"]

Chosen = Annotated[
    list[str] | None,
    typer.Option(
        "--policies",
        metavar="PATH",
        help="Policies to ask, as for `policy check`; may be repeated. Default: the set in force.",
    ),
]


def register(app: typer.Typer) -> None:
    policy = typer.Typer(
        help="Policies: what may happen. Suggest, check, test, try on history, explain, apply.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    policy.command("list")(list_)
    policy.command("check")(check)
    policy.command("test")(test)
    policy.command("explain")(explain)
    policy.command("suggest")(suggest)
    policy.command("backtest")(backtest)
    policy.command("diff")(diff)
    policy.command("apply")(apply)
    policy.command("rollback")(rollback)
    policy.command("show")(show)
    policy.command("release")(release)
    policy.command("schema")(schema)
    app.add_typer(policy, name="policy")


def list_(paths: Paths = None, store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """List policies: of the set in force, or of PATH."""
    rows = [_row(one) for one in in_force_or(paths, store).policies.values()]
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
        "people": policy.people,
        "answer": policy.answer,
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
    engine = load(found)
    with refusing():
        cases = [case for file in case_files(found) for case in read_cases(file)]
    results = [run_case(engine, case) for case in cases]
    failed = [one for one in results if not one.ok]
    for one in results if json else failed:
        print_result(one, json)
    bare = engine.policies.keys() - {case.policy for case in cases}
    if not json:
        print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if bare:
        named = "; ".join(sorted(bare)[:5])
        say(f"{len(bare)} policies have no case: {named}{' ...' if len(bare) > 5 else ''}")
    if failed or not results:
        raise typer.Exit(ExitCode.NO)


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
    engine = in_force_or(policies, store)
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
            if not value.removeprefix("-").isdecimal():
                raise ValueError(f"--context {word}: a whole number")
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
        print_json({"decision": decision_row(decision), "question": asked, "policies": rows})
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


def schema(
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The tables of docs/write-a-policy.md.")
    ] = False,
) -> None:
    """Print the schema: all that a policy may speak of, with its meaning, in Cedar's syntax."""
    from hullwatch.decide.schema import CONTEXT, ENTITIES, cedar, tables

    if json:
        for owner, attributes in {"context": CONTEXT, **ENTITIES}.items():
            for one in attributes.values():
                print_json({"of": owner, **one._asdict()})
        return
    print(tables() if markdown else cedar(), end="")
