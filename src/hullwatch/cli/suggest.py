"""`hullwatch policy suggest`: what a workload was seen to do, as policies with their cases."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.inforce import who
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import refusing
from hullwatch.cli.profiles import Found, find_seen
from hullwatch.cli.show import print_json, quoted, say

if TYPE_CHECKING:
    from hullwatch.decide.cases import Result
    from hullwatch.store.catalog import Catalog

__all__ = ["suggest"]

_REVIEW = timedelta(days=90)
_MAX_WORKLOADS = 8  # names of one image


class _Meant(NamedTuple):
    """names: of the containers that permits are for; cgroups: where they ran, (boot, cgroup).
    image: that they ran last."""

    found: Found
    names: tuple[str, ...]
    cgroups: list[tuple[int, int]]
    image: str


def suggest(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD", help="A container's name, or an image as in `baseline`."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.cedar", help="Write here. Default: NAME.cedar."
        ),
    ] = None,
    enforce: Annotated[
        bool, typer.Option("--enforce", help='Without @mode("observe"): it blocks once applied.')
    ] = False,
    image: Annotated[
        bool, typer.Option("--image", help="Permit only while the container has its present image.")
    ] = False,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="NAME", help="Who answers for it. Default: you."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    store: Store = DEFAULT_STORE,
    json: Json = False,
) -> None:
    """Write a policy from a baseline: permits for what was seen, so that all else would be blocked.

    Beside FILE.cedar its cases are written, FILE.test.yaml, and both are checked. The permits are
    for containers of these names, and only observe unless --enforce is given.

    hullwatch policy suggest agent -o agent.cedar

    hullwatch policy backtest agent.cedar --workload agent
    """
    from hullwatch.decide.suggest import Terms
    from hullwatch.decide.suggest import suggest as written

    meant = _meant(store, workload)
    seen = _seen(store, meant)
    if not any(seen.values()):
        raise CommandError(
            f"policy suggest: nothing is known of {workload}; `hullwatch up` learns, or"
            f" `hullwatch baseline learn {quoted(meant.found.profile.image)}`"
        )
    if image and not meant.image:
        raise CommandError(f"policy suggest: the image of {workload} is not known; omit --image")
    terms = Terms(
        workloads=meant.names,
        owner=owner or who(),
        review=date.today() + _REVIEW,
        image=meant.image if image else "",
        enforce=enforce,
        about=_about(meant, seen),
    )
    made = written(seen, terms)
    path = output or Path(re.sub(r"[^A-Za-z0-9_.-]", "-", meant.names[0]).lstrip(".-") + ".cedar")
    beside = path.with_name(path.name.removesuffix(path.suffix) + ".test.yaml")
    results = _checked(made.policies, made.cases, path, beside)
    _write({path: made.policies, beside: made.cases}, force)
    counts = {kind: len(names) for kind, names in seen.items()}
    policies = len({one.case.policy for one in results})
    if json:
        print_json(
            {
                "file": str(path),
                "cases_file": str(beside),
                "workloads": list(meant.names),
                "policies": policies,
                "cases": len(results),
                "seen": counts,
                "warnings": list(made.warnings),
            }
        )
        return
    each = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    print(f"{path}: {policies} policies for {', '.join(meant.names)}, from {each}")
    print(f"{beside}: {len(results)} cases, all pass")
    for warning in made.warnings:
        say(f"look at {warning}")
    say(f"next: hullwatch policy backtest {quoted(str(path))}")


def _meant(store: Path, text: str) -> _Meant:
    """A container by its name; else all of an image, by their names."""
    from hullwatch.store.behaviour import IMAGE
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.tables import unsigned

    sql = (
        f"SELECT boot, cgroup, name, image, {IMAGE} FROM workloads WHERE state = 'resolved'"
        " AND coalesce(name, '') != '' AND {} = ? ORDER BY updated DESC"
    )
    with Catalog(store) as catalog:
        rows = catalog.rows(sql.format("name"), text)
        found = find_seen(store, rows[0][4] if rows else text)
        if not rows:
            rows = catalog.rows(sql.format(IMAGE), found.profile.image)
    names = tuple(dict.fromkeys(row[2] for row in rows))
    if not names:
        raise CommandError(f"policy suggest: no container of {text} has a name, to bind permits to")
    if len(names) > _MAX_WORKLOADS:
        some = ", ".join(names[:_MAX_WORKLOADS])
        raise CommandError(f"policy suggest: {text} has {len(names)} containers: name one ({some})")
    return _Meant(found, names, [(boot, unsigned(cgroup)) for boot, cgroup, *_ in rows], rows[0][3])


def _seen(store: Path, meant: _Meant) -> dict[str, dict[Any, int]]:
    """Names to how often, by kind of decide/suggest.py: of the baseline, and of calls."""
    from hullwatch.detect.baseline.policy import in_profile
    from hullwatch.store.actions import unproved
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.query import Reader

    profile, entries = meant.found
    counts = {(row.kind, row.name): row.count for row in entries}
    allowed = in_profile(profile, (one for one in entries if not one.tried))
    seen: dict[str, dict[Any, int]] = {
        kind: {name: counts.get((kind, name), 0) for name in allowed[kind]}
        for kind in ("exec", "write", "connect")
    }
    with Catalog(store) as catalog:
        seen |= _calls(catalog, meant)
    with Reader(store, timeout=600) as reader:
        # What a TLS client calls its server is no name that a permit could go by.
        boots, cgroups = ([key[at] for key in meant.cgroups] for at in (0, 1))
        ends = reader.query(unproved(), boots, cgroups, 0, time.time_ns() // 1000).table
        for row in ends.to_pylist():
            seen["connect"].setdefault(row["address"], row["n"])
    return seen


def _calls(catalog: Catalog, meant: _Meant) -> dict[str, dict[Any, int]]:
    from hullwatch.store.tables import unsigned

    found: dict[str, Counter[tuple[str, str]]] = {"tool": Counter(), "model": Counter()}
    mine = set(meant.cgroups)
    for boot, cgroup, kind, server, name, count in catalog.rows(
        "SELECT boot, cgroup, kind, coalesce(server, ''), coalesce(name, ''), count(*) FROM calls"
        " WHERE kind IN ('tool', 'model') GROUP BY 1, 2, 3, 4, 5"
    ):
        if (boot, unsigned(cgroup or 0)) in mine:
            found[kind][server, name] += count
    return {kind: dict(counted) for kind, counted in found.items()}


def _about(meant: _Meant, seen: dict[str, dict[Any, int]]) -> tuple[str, ...]:
    profile = meant.found.profile
    locked = "locked" if profile.locked is not None else "not locked: all that was seen counts"
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in seen.items())
    return (
        f"Containers: {', '.join(meant.names)}. Image: {profile.name or profile.image}.",
        f"Seen: {counts}. The baseline is {locked}.",
    )


def _checked(policies: str, cases: str, path: Path, beside: Path) -> list[Result]:
    from hullwatch.decide.cases import cases_of, run_case
    from hullwatch.decide.engine import Engine

    with refusing():
        engine = Engine.of([(policies, str(path))])
        results = [run_case(engine, case) for case in cases_of(cases, str(beside))]
    for one in results:
        if not one.ok:
            raise CommandError(f"policy suggest: {one.case.policy}: {one.case.name}: {one.error}")
    return results


def _write(texts: dict[Path, str], force: bool) -> None:
    for path in texts:
        if path.exists() and not force:
            raise CommandError(f"{path} is there; --force replaces it", ExitCode.USAGE)
    try:
        for path, text in texts.items():
            path.write_text(text)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}", ExitCode.NO) from None
