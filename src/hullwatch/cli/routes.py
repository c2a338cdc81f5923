"""`hullwatch routes`: which workload sends prompts to which provider and model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hullwatch.cli.options import DEFAULT_STORE, Container, Json, Since, Store, Until
from hullwatch.cli.show import print_json, print_table, say
from hullwatch.cli.when import parse_time

__all__ = ["register"]

_ROUTES = """
SELECT coalesce(container, 'the host') AS workload, image, server AS provider, name AS model,
    json_extract_string(body, '$."gen_ai.response.model"') AS answered_by,
    json_extract_string(body, '$."server.address"') AS address,
    count(*)::BIGINT AS calls, count(*) FILTER (status = 'error') AS errors,
    sum(TRY_CAST(json_extract_string(body, '$."gen_ai.usage.input_tokens"') AS BIGINT))::BIGINT
        AS tokens_in,
    sum(TRY_CAST(json_extract_string(body, '$."gen_ai.usage.output_tokens"') AS BIGINT))::BIGINT
        AS tokens_out,
    count(DISTINCT json_extract_string(body, '$."hullwatch.api_key.hash"')) AS keys,
    string_agg(DISTINCT source, ', ' ORDER BY source) AS told_by,
    min(begun) AS first, max(begun) AS last
FROM called WHERE kind = 'model' AND {where} GROUP BY ALL ORDER BY workload, calls DESC
"""


def register(app: typer.Typer) -> None:
    app.command("routes")(routes)


def routes(
    store: Store = DEFAULT_STORE,
    since: Since = None,
    until: Until = None,
    container: Container = None,
    new: Annotated[
        str | None,
        typer.Option("--new", metavar="WHEN", help="Only routes first seen since then: 1d, 2h."),
    ] = None,
    json: Json = False,
) -> None:
    """List prompt routes: which workload asks which provider for which model, which model answered,
    how often, with how many tokens and different API keys, first and last time."""
    from hullwatch.store.query import Reader

    begin, end = parse_time(since, "--since"), parse_time(until, "--until")
    where = ["TRUE"]
    for sign, moment in ((">=", begin), ("<=", end)):
        if moment is not None:
            where.append(f"begun {sign} make_timestamptz({moment // 1000}::BIGINT)")
    with Reader(store, begin, end, container) as reader:
        if reader.scope is not None:
            cgroups = ", ".join(str(cgroup) for _, cgroup in sorted(reader.scope.cgroups)) or "0"
            where.append(f"cgroup IN ({cgroups})")
        sql = _ROUTES.format(where=" AND ".join(where))
        if (first := parse_time(new, "--new")) is not None:
            since_then = f"make_timestamptz({first // 1000}::BIGINT)"
            sql = f"SELECT * FROM ({sql}) WHERE first >= {since_then}"
        table = reader.query(sql, limit=10_000).table
        warnings = tuple(reader.warnings)
    for warning in warnings:
        say(warning)
    rows: list[dict[str, Any]] = table.to_pylist()
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(table.column_names, rows)
    else:
        say("no model calls are known; frameworks tell of them: docs/calls.md")
