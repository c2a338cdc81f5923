"""`hullwatch findings top`: what is loud, and an exception for it that was tried on history."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.show import iso, print_json, quoted, safe, say

if TYPE_CHECKING:
    from hullwatch.detect.proposal import Proposal
    from hullwatch.detect.ruleset import RuleSet
    from hullwatch.store.noise import Loud

__all__ = ["Answer", "top"]

_DAY = 86_400 * 10**9
_HISTORY = 2_000  # findings of a rule that a proposal is tried on, the newest


class Answer(NamedTuple):
    """What `--apply` takes: which of the list, and who answers for it."""

    number: int
    owner: str
    reason: str
    expires: str


def top(
    bodies: Sequence[dict[str, Any]],
    loaded: RuleSet,
    store: Path,
    *,
    since: int | None,
    by: str,
    limit: int,
    apply: Answer | None,
    as_json: bool,
) -> None:
    """Over stored findings that were told. CommandError for wrong options."""
    from hullwatch.store.noise import GROUPS, loudest

    if by not in GROUPS:
        raise CommandError(f"--by {by}: one of {', '.join(GROUPS)}", ExitCode.USAGE)
    until = time.time_ns()
    begin = until - 7 * _DAY if since is None else since
    spoken = [
        body
        for body in bodies
        if not body.get("suppressed_by") and (body.get("last") or body.get("time") or 0) >= begin
    ]
    found = loudest(spoken, by, begin, until)[:limit] if spoken else []
    made = [(one, _proposal(one, spoken, loaded)) for one in found]
    if apply is not None:
        _apply(made, apply, loaded, store, as_json)
        return
    for number, (one, proposal) in enumerate(made, 1):
        if as_json:
            print_json(_value(number, one, proposal))
        else:
            for line in _text(number, one, proposal):
                print(line)
    if not as_json:
        say("`--apply N --owner WHO --reason WHY --expires 30d` applies one" if made else "quiet")


def _proposal(one: Loud, bodies: Sequence[dict[str, Any]], loaded: RuleSet) -> Proposal | str:
    """Or why there is none."""
    from hullwatch.detect.errors import RuleError
    from hullwatch.detect.proposal import propose

    history = [body for body in bodies if body.get("rule") == one.rule]
    try:
        return propose(one.rule, one.bodies[-_HISTORY:], history[-_HISTORY:], loaded)
    except RuleError as problem:
        return str(problem)


def _value(number: int, one: Loud, proposal: Proposal | str) -> dict[str, Any]:
    value = {
        "number": number,
        "rule": one.rule,
        "where": one.where,
        "findings": one.findings,
        "events": one.events,
        "share": round(one.share, 4),
        "trend": one.trend,
    }
    if isinstance(proposal, str):
        return value | {"condition": "", "why_not": proposal}
    return value | {
        "condition": proposal.condition,
        "tried": proposal.tried._asdict(),
        "warnings": list(proposal.warnings),
        "command": _command(one.rule, proposal.condition) if proposal.condition else "",
    }


def _text(number: int, one: Loud, proposal: Proposal | str) -> Iterator[str]:
    from hullwatch.cli.suppress import tried_text

    where = f"  in {safe(one.where)}" if one.where else ""
    plural = "" if one.findings == 1 else "s"
    yield (
        f"{number:>2}  {safe(one.rule)}{where}: {one.findings} finding{plural} of {one.events}"
        f" events, {100 * one.share:.0f} % of all, {one.trend}"
    )
    if isinstance(proposal, str):
        yield f"    no proposal: {safe(proposal)}"
    elif not proposal.condition:
        yield "    no proposal: no program, object and image are the same in most of these"
    else:
        yield f"    proposed  {safe(proposal.condition)}"
        yield f"    tried     {safe(tried_text(proposal.tried).splitlines()[0])}"
        for warning in proposal.warnings:
            yield f"    look      {safe(warning)}"
        yield f"    apply     {_command(one.rule, proposal.condition)}"


def _command(rule: str, condition: str) -> str:
    """The words of a shell that add it."""
    return (
        f"hullwatch suppress add --rule {quoted(rule)} --when {quoted(condition)}"
        " --owner WHO --reason WHY --expires 30d"
    )


def _apply(
    made: Sequence[tuple[Loud, Proposal | str]],
    answer: Answer,
    loaded: RuleSet,
    store: Path,
    as_json: bool,
) -> None:
    from hullwatch.cli.suppress import make, tried_text, write

    if not 1 <= answer.number <= len(made):
        raise CommandError(f"--apply {answer.number}: there are {len(made)}", ExitCode.USAGE)
    one, proposal = made[answer.number - 1]
    if isinstance(proposal, str) or not proposal.condition:
        raise CommandError(f"--apply {answer.number}: nothing was proposed for {one.rule!r}")
    new = make(
        loaded, one.rule, proposal.condition, False, answer.owner, answer.reason, answer.expires
    )
    for warning in proposal.warnings:
        say(warning)
    write(store, new)
    if as_json:
        print_json(_value(answer.number, one, proposal) | {"id": new.id})
        return
    print(tried_text(proposal.tried))
    print(
        f"{new.id}  in force until {iso(new.expires)[:16].replace('T', ' ')} UTC: {safe(one.rule)}"
    )
