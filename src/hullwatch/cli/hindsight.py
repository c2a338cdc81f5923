"""`hullwatch policy backtest`: what policies would have stopped, by what is stored."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.backtest import cgroups_of
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Progress, Store, Until
from hullwatch.cli.policies import chosen, refusing
from hullwatch.cli.progress import progress_line
from hullwatch.cli.show import iso, print_json, print_table, safe, say, short_time
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from hullwatch.decide.engine import Engine
    from hullwatch.hindsight import Report
    from hullwatch.stopped import Line

__all__ = ["backtest", "cgroups_named"]

APPLIED = "applied"


def backtest(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="As for `policy check`; `applied` is the set in force, alone or with others."
            " Default: that, or what `policy check` looks at.",
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option("--since", metavar="WHEN", help="From then on: 2h, 7d ago, or ISO 8601."),
    ] = "7d",
    until: Until = None,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="NAME",
            help="Only of this container (id, name, pod) or image; * stands for any text.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, max=100, help="Examples shown of each line.")
    ] = 3,
    store: Store = DEFAULT_STORE,
    progress: Progress = None,
    json: Json = False,
) -> None:
    """Ask policies about what already happened: what they would have blocked or challenged.

    Reads the store only; an agent may be running. Policies that only observe count as if they were
    enforced. What history cannot answer is said on stderr.

    Ends with 0 if nothing would have been stopped, and 1 if something would.

    hullwatch policy backtest my-agent.cedar --since 7d

    hullwatch policy backtest applied new.cedar --workload agent
    """
    from hullwatch.hindsight import Hindsight
    from hullwatch.store.catalog import Catalog

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    engine = _engine(paths, store)
    with Catalog(store) as catalog:
        cgroups = None if workload is None else cgroups_named(catalog, workload)
    run = Hindsight(store, engine, begin, end or time.time_ns(), cgroups, limit)
    try:
        shown = sys.stderr.isatty() if progress is None else progress
        report = run.run(progress_line() if shown else lambda done, of: None)
        lines = run.stopped.lines()
    finally:
        run.close()
    _show(lines, report, json)
    if lines:
        raise typer.Exit(ExitCode.NO)


def _engine(paths: list[str] | None, store: Path) -> Engine:
    """The set in force and what was named, as one set."""
    from hullwatch.decide.applied import Applied
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.source import read_files

    named = [one for one in paths or () if one != APPLIED]
    texts: list[tuple[str, str]] = []
    with refusing():
        applied = Applied(store)
        entry = applied.current() if APPLIED in (paths or [APPLIED]) else None
        if entry is not None:
            texts += applied.set(entry.version).policies
        elif paths and APPLIED in paths:
            raise CommandError("policy backtest: no set is in force; give PATH")
        found, problems = read_files(chosen(named)) if named or not texts else ([], [])
        engine = Engine.of([*texts, *found], problems)
    if not engine.policies:
        raise CommandError("policy backtest: no policy in the given files", ExitCode.CONTENT)
    return engine


def cgroups_named(catalog: Any, text: str) -> frozenset[tuple[int, int]]:
    """(boot, cgroup) of the containers of a name, or else of an image."""
    from hullwatch.store.errors import ContainerUnknown

    try:
        return cgroups_of(catalog, text, None) or frozenset()
    except ContainerUnknown as unknown:
        try:
            return cgroups_of(catalog, None, text) or frozenset()
        except CommandError:
            raise unknown from None


def _show(lines: list[Line], report: Report, as_json: bool) -> None:
    if as_json:
        for line in lines:
            print_json({"kind": "line", **_plain(line)})
        print_json({"kind": "summary", **_plain(report)})
        return
    if not lines:
        print("nothing would have been stopped")
    else:
        print_table(
            ("effect", "policy", "workload", "action", "times", "distinct", "first", "last"),
            [
                (
                    *(line.effect + _observed(line), _by(line), line.workload, line.action),
                    *(line.times, line.distinct, *map(_short, (line.first, line.last))),
                )
                for line in lines
            ],
        )
    for line in lines:
        print(
            f"\n{line.effect} of {safe(line.action)} in {safe(line.workload)}: {safe(_why(line))}"
        )
        for one in line.examples:
            calls = f"  for {', '.join(one.calls)}" if one.calls else ""
            print(f"  {_short(one.time)}  {one.pid}  {safe(one.object)}  by {safe(one.process)}"
                  f"{safe(calls)}")  # fmt: skip
    for text in summary(report):
        say(text)


def _observed(line: Line) -> str:
    return " (observed)" if line.enforced != line.effect else ""


def _by(line: Line) -> str:
    return ", ".join(line.policies) or "(no permit)"


def _why(line: Line) -> str:
    return f"{_by(line)}: {line.reason}" if line.policies else line.reason


def _short(moment: int) -> str:
    return short_time(moment, seconds_only=True)


def _plain(value: object) -> dict[str, Any]:
    """Times as ISO 8601; the rest as it is."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(value)
    for row in (found, *found.get("examples", ())):
        for name in ("first", "last", "time"):
            if name in row:
                row[name] = iso(row[name]) if row[name] else None
    return found


def summary(report: Report) -> list[str]:
    """What was asked, how fast, and what history cannot answer: one sentence a line."""
    said = []
    if not report.events + report.calls:
        said.append("nothing is stored of that time that these policies speak of")
    else:
        span = f"{_short(report.first)} to {_short(report.last)}"
        rate = report.events / max(report.reading + report.asking, 1e-9)
        answers = report.distinct / max(report.asking, 1e-9)
        said.append(
            f"{report.policies} policies, {report.events:,} events and {report.calls:,} calls,"
            f" {span}: {report.asked:,} questions, {report.distinct:,} of them distinct"
        )
        said.append(f"{rate:,.0f} events a second, {answers:,.0f} distinct questions a second")
    for one in report.unknown:
        named = ", ".join(one.attributes)
        said.append(f"{one.policy} reads {named}, which history does not have: taken as missing")
    for policy, count in report.failed.items():
        said.append(f"{policy} could not be evaluated for {count:,} events; its `fail` counted")
    for held in report.counted:
        by = ", ".join(held.policies) or "no permit"
        said.append(
            f"{held.count:,} events in {held.workload} were counted, not kept: as {held.action},"
            f" {held.effect} by {by}, as far as the object tells ({', '.join(held.objects)})"
        )
    if report.only_counted:
        said.append(
            f"{report.only_counted:,} events in all were only counted: without process, labels or"
            " tool call; `hullwatch up --record` keeps them"
        )
    if report.repeats:
        said.append(f"{report.repeats:,} repeats were counted, not kept: times may be more")
    if report.lost:
        said.append(f"{report.lost:,} events have no object, as its text was lost: not asked")
    if report.strangers:
        said.append(f"{report.strangers:,} events are of containers nobody knows: not asked")
    if report.losses:
        each = ", ".join(f"{count:,} {what}" for what, count in report.losses.items())
        said.append(f"lost at that time: {each}")
    if report.left_out:
        said.append(f"{report.left_out:,} events of further lines are left out")
    return [*said, *report.warnings]
