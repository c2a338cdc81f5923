"""`hullwatch backtest [RULES...]`: what rules would have found in what is stored."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Progress, Store, Until
from hullwatch.cli.progress import progress_line
from hullwatch.cli.show import iso, print_json, print_table, safe, say, short_time
from hullwatch.cli.up import load_rules
from hullwatch.cli.when import parse_time

if TYPE_CHECKING:
    from hullwatch.backtest import Backtest, Report
    from hullwatch.detect.ruleset import RuleSet
    from hullwatch.store.catalog import Catalog
    from hullwatch.tally import Line, Tally

__all__ = ["cgroups_of", "register"]

STORED = "findings"


def register(app: typer.Typer) -> None:
    app.command("backtest")(backtest)


def backtest(
    rules: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RULES]...",
            readable=False,
            help="Rule files or folders. Default: the pack, then /etc/hullwatch/rules.",
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option("--since", metavar="WHEN", help="From then on: 2h, 7d ago, or ISO 8601."),
    ] = "7d",
    until: Until = None,
    container: Container = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="NAME", help="Containers of this image; * stands for any."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Only these rules; * stands for any text."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="RULES",
            help="Say what differs from these rules; `findings`: from what was found at the time.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=0, max=100, help="Findings shown of each rule.")
    ] = 3,
    store: Store = DEFAULT_STORE,
    progress: Progress = None,
    json: Json = False,
) -> None:
    """Run rules over stored history, by the same engine as live: what would have fired, and where.

    Reads the store only; an agent may be running. An agent that was not started with --record
    keeps what its own rules might want and counts the rest: each rule for which something was only
    counted is named.

    Ends with 0; with --against: 0 if nothing differs, 1 if something does.

    hullwatch backtest my-rules/ --since 1d --container agent
    hullwatch backtest my-rules/ --against /etc/hullwatch/rules
    """
    from hullwatch.backtest import Backtest
    from hullwatch.store.catalog import Catalog

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    end = end or time.time_ns()  # the agent may be writing
    sets = [_chosen(load_rules(rules), rule)]
    if against is not None and against != STORED:
        sets.append(_chosen(load_rules([Path(against)]), rule))
    with Catalog(store) as catalog:
        cgroups = cgroups_of(catalog, container, image)
    run = Backtest(store, sets, begin, end, cgroups, samples)
    try:
        shown = sys.stderr.isatty() if progress is None else progress
        report = run.run(progress_line() if shown else lambda done, of: None)
        other = run.tallies[-1] if len(sets) > 1 else None
        if against == STORED:
            other = run.stored(samples)
        _show(run, report, other, json)
    finally:
        run.close()


def _chosen(rules: RuleSet, names: Sequence[str] | None) -> RuleSet:
    """Only the rules of these names."""
    if not names:
        return rules
    rules.rules = [
        one for one in rules.rules if any(fnmatchcase(one.name, pattern) for pattern in names)
    ]
    if not rules.rules:
        raise CommandError(f"--rule {' '.join(names)}: no such rule is loaded", ExitCode.NO)
    return rules


def cgroups_of(
    catalog: Catalog, container: str | None, image: str | None
) -> frozenset[tuple[int, int]] | None:
    """(boot, cgroup) of what is meant; None: nothing was said. ContainerUnknown, CommandError."""
    from hullwatch.store.tables import unsigned

    found = None
    if container is not None:
        found = catalog.scope(container).cgroups
    if image is not None:
        rows = catalog.rows(
            "SELECT boot, cgroup FROM workloads WHERE image GLOB ?1 OR image_repository GLOB ?1"
            " OR image_digest = ?1",
            image,
        )
        if not rows:
            raise CommandError(f"--image {image}: no container of it is known here", ExitCode.NO)
        of_image = frozenset((boot, unsigned(cgroup)) for boot, cgroup in rows)
        found = of_image if found is None else found & of_image
    return found


def _show(run: Backtest, report: Report, other: Tally | None, as_json: bool) -> None:
    lines = run.tallies[0].lines()
    more, fewer = run.compared(other) if other is not None else ([], [])
    if as_json:
        for kind, found in (("rule", lines), ("added", more), ("removed", fewer)):
            for line in found:
                print_json({"kind": kind, **_plain(line)})
        print_json({"kind": "summary", **_plain(report)})
    else:
        _table(lines)
        if other is not None:
            _difference(more, fewer)
        for text in summary(report):
            say(text)
    if more or fewer:
        raise typer.Exit(ExitCode.NO)


def _plain(value: object) -> dict[str, object]:
    """Times as ISO 8601; the rest as it is."""
    import msgspec

    def text(name: str, held: object) -> object:
        if name in ("first", "last", "time", "partial_until") and isinstance(held, int):
            return iso(held) if held else None
        if isinstance(held, dict):
            return {key: text(key, item) for key, item in held.items()}
        if isinstance(held, list | tuple):
            return [text("", item) for item in held]
        return held

    return {key: text(key, item) for key, item in msgspec.to_builtins(value).items()}


def _table(lines: list[Line]) -> None:
    if not lines:
        print("nothing would have fired")
        return
    print_table(
        ("rule", "priority", "workload", "matches", "findings", "first", "last"),
        [
            (
                *(line.rule, line.priority, line.workload, line.matches, line.findings),
                *(short_time(moment, seconds_only=True) for moment in (line.first, line.last)),
            )
            for line in lines
        ],
    )
    for line in lines:
        if line.samples:
            print(f"\n{safe(line.rule)} in {safe(line.workload)}")
            _samples(line)


def _samples(line: Line) -> None:
    for sample in line.samples:
        print(f"  {short_time(sample.time)}  {safe(sample.output)}")


def _difference(more: list[Line], fewer: list[Line]) -> None:
    print()
    if not more and not fewer:
        print("nothing differs")
    for sign, lines in (("+", more), ("-", fewer)):
        for line in lines:
            print(
                f"{sign} {safe(line.rule)} in {safe(line.workload)}:"
                f" {line.findings} findings, {line.matches} matches more"
            )
            _samples(line)


def summary(report: Report) -> list[str]:
    """What was read, and what was not: one sentence a line."""
    said = []
    if not report.events:
        said.append("no events are stored of that time")
    else:
        span = f"{short_time(report.first, True)} to {short_time(report.last, True)}"
        said.append(
            f"{report.rules} rules over {report.events:,} events, {span}:"
            f" {report.matches:,} matches, {report.findings:,} findings"
        )
    detect = [one for one in report.sessions if one.mode != "record"]
    if detect:
        said.append(
            f"{sum(one.events for one in detect):,} of these events were kept in detect mode: what"
            " the rules of that time could not match was counted; `hullwatch up --record` keeps all"
        )
    for one in report.counted:
        objects = ", ".join(one.objects)
        said.append(
            f"{one.count:,} {one.cls} in {one.workload} were counted, not kept:"
            f" {one.rule!r} may have matched there ({objects})"
        )
    if not report.counted_whole:
        said.append("more was counted than is looked at here: only the largest counts were")
    if report.repeats:
        said.append(f"{report.repeats:,} repeats were counted, not kept: matches may be more")
    if report.losses:
        each = ", ".join(f"{count:,} {what}" for what, count in report.losses.items())
        said.append(f"lost at that time: {each}")
    if report.partial:
        said.append(
            f"{report.partial:,} processes from before {short_time(report.partial_until, True)} are"
            " known only in part: an earlier version stored them"
        )
    if report.strangers:
        said.append(
            f"{report.strangers:,} processes are known only in part: their beginnings are no"
            " longer stored"
        )
    if report.unknown:
        said.append(f"{report.unknown:,} processes are known by nothing but what they did")
    if report.left_out:
        said.append(f"{report.left_out:,} matches of further rules and workloads are left out")
    return said + report.gone
