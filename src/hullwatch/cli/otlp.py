"""`hullwatch otlp check`: what of an OTLP export would be understood, for authors of frameworks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import Json
from hullwatch.cli.show import iso, print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.agent.otlp.received import Where
    from hullwatch.agent.otlp.span import Export
    from hullwatch.context.call import Call

__all__ = ["read_exports", "register"]

_MAX_FILE = 64 << 20
_SHOWN = 40  # names of dropped attributes


def register(app: typer.Typer) -> None:
    otlp = typer.Typer(
        help="Traces of instrumented frameworks, as calls.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )

    @otlp.callback()
    def group() -> None:
        """Keeps a single command a subcommand."""

    group.__doc__ = "Traces of instrumented frameworks, as calls."
    otlp.command("check")(check)
    app.add_typer(otlp, name="otlp")


def check(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An ExportTraceServiceRequest in JSON (one a line, as the collector's file"
            " exporter writes them, or one in all) or protobuf, also gzipped; - is stdin.",
        ),
    ],
    json: Json = False,
) -> None:
    """Show which calls an OTLP export holds, and which attributes would be dropped.

    Exit code 1: spans, but no calls among them; 6: no such export.
    """
    from hullwatch.agent.otlp.mapping import calls_of, where_of

    dropped: Counter[str] = Counter()
    spans = rejected = uncounted = 0
    rows: list[dict[str, Any]] = []
    for export in read_exports(_bytes(file), file):
        spans += len(export.spans)
        rejected += export.rejected
        for span in export.spans:
            uncounted += span.uncounted
        for span, call in calls_of(export.spans):
            dropped.update(span.skipped)
            rows.append(_row(call, where_of(span.resource), list(span.skipped)))
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        columns = ["kind", "name", "server", "status", "ms", "begin", "pid", "service"]
        print_table(columns, rows)
    for line in _remarks(spans, len(rows), rejected, uncounted, {} if json else dropped):
        say(line)
    if not rows:
        raise CommandError(f"{safe(file)}: no call that is understood, in {spans} spans")


def read_exports(data: bytes, name: str) -> Iterator[Export]:
    """One export of protobuf or JSON, or several of JSON lines. CommandError with the place."""
    from hullwatch.agent.otlp import jsonform, wire
    from hullwatch.agent.otlp.inflate import Oversize, inflate
    from hullwatch.agent.otlp.names import RESOURCE, WANTED
    from hullwatch.agent.otlp.span import Limits, Unreadable

    limits = Limits(message=_MAX_FILE, inflated=_MAX_FILE, objects=1_000_000)
    place = safe(name)
    try:
        if data[:2] == b"\x1f\x8b":
            data = inflate(data, _MAX_FILE)
        if data.lstrip()[:1] != b"{":
            yield wire.read(data, WANTED, RESOURCE, limits)
            return
        lines = data.splitlines()
        each = lines if all(line.strip()[:1] in (b"{", b"") for line in lines[:2]) else [data]
        for at, line in enumerate(each, 1):
            place = f"{safe(name)}:{at}"
            if line.strip():
                yield jsonform.read(line, WANTED, RESOURCE, limits)
    except (Unreadable, Oversize) as error:
        raise CommandError(
            f"{place}: {safe(error)}; an ExportTraceServiceRequest is wanted", ExitCode.CONTENT
        ) from None


def _bytes(file: str) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise CommandError(f"{safe(file)}: {error.strerror}", ExitCode.CONTENT) from None
    if len(data) > _MAX_FILE:
        raise CommandError(f"{safe(file)}: more than {_MAX_FILE >> 20} MiB", ExitCode.CONTENT)
    return data


def _row(call: Call, where: Where, dropped: list[str]) -> dict[str, Any]:
    return {
        "kind": call.kind,
        "name": call.name,
        "server": call.server,
        "status": call.status if not call.error else f"{call.status} ({call.error})",
        "ms": round((call.end - call.begin) / 1e6, 3),
        "begin": iso(call.begin),
        "pid": where.pid or None,
        "container": where.container_id,
        "service": where.service,
        "id": f"{call.id:016x}",
        "parent": f"{call.parent:016x}" if call.parent else "",
        "attributes": call.attributes,
        "dropped": dropped,
    }


def _remarks(
    spans: int, calls: int, rejected: int, uncounted: int, dropped: dict[str, int]
) -> Iterator[str]:
    yield f"{spans} spans, {calls} of them calls"
    if rejected:
        yield f"{rejected} spans rejected: without sane ids and times, or too many in one message"
    if uncounted:
        yield f"{uncounted} attributes not looked at: too many on one span"
    if dropped:
        names = sorted(dropped, key=lambda name: (-dropped[name], name))
        more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"of calls, dropped: {', '.join(names[:_SHOWN])}{more}"
